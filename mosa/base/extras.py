"""Optional dependencies, and the extra that installs each. Standard library only."""

from collections.abc import Iterable
from importlib.util import find_spec

from mosa.base.errors import UserError

# The packages of each extra that are imported, by the names to import and to install.
EXTRAS = {
    "workflow": {
        "snakemake": "snakemake",
        "pandas": "pandas",
        "scipy": "scipy",
        "matplotlib": "matplotlib",
        "sklearn": "scikit-learn",
    },
    "report": {"jinja2": "jinja2"},
}


def require(*extras: str) -> None:
    """Refuse to go on where packages of extras are not installed.

    Raises:
        UserError: Which are missing, and how to install them.
    """
    found = {extra: [name for name in EXTRAS[extra] if find_spec(name) is None] for extra in extras}
    if any(found.values()):
        raise missing(found.values(), [extra for extra, names in found.items() if names])


def missing_module(name: str | None) -> UserError | None:
    """Return the error for a module that cannot be imported; None: it is of no extra."""
    top = (name or "").partition(".")[0]
    extra = next((extra for extra, names in EXTRAS.items() if top in names), None)
    return missing([[top]], [extra]) if extra else None


def missing(modules: Iterable[Iterable[str]], extras: Iterable[str]) -> UserError:
    """Build the error for modules that are not installed, by extra."""
    names = {name: package for packages in EXTRAS.values() for name, package in packages.items()}
    packages = [names[module] for some in modules for module in some]
    verb = "are" if len(packages) > 1 else "is"
    return UserError(
        f"{', '.join(packages)} {verb} not installed; run: pip install 'mosa-benchmark[{','.join(extras)}]'"
    )
