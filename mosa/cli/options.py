"""What the verbs share: types of arguments, and options that several take."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosa.base.errors import UserError, expected, reason_of, shown, suggest, unknown, unreadable
from mosa.base.files import WORKFLOW

if TYPE_CHECKING:
    import pandas as pd


class Place(click.Path):
    """A path; one that begins with ~, which the shell did not replace, is refused as in a config."""

    def convert(self, value, param, ctx):
        """Return the path, or refuse it."""
        if str(value).startswith("~") and not os.path.lexists(value):
            self.fail(f"{shown(str(value))}: expected a path that is written out, as nothing here replaces ~")
        return super().convert(value, param, ctx)


FILE = Place(path_type=Path, dir_okay=False)
FOLDER = Place(path_type=Path, file_okay=False)
ANY = Place(path_type=Path)


class Written(Place):
    """A file to write, whose name says what it is: another name may be another file's.

    Args:
        ending: Suffix that its name must have, such as `.html`.
    """

    def __init__(self, ending: str) -> None:
        super().__init__(path_type=Path, dir_okay=False)
        self.ending = ending

    def convert(self, value, param, ctx):
        """Return the path, or refuse another suffix."""
        path = super().convert(value, param, ctx)
        if path.suffix != self.ending:
            self.fail(f"{shown(str(path))}: expected a name that ends with {self.ending}", param, ctx)
        return path


class Options(click.ParamType):
    """Options as a JSON object: '{"bottleneck": 16}'."""

    name = "json"

    def convert(self, value, param, ctx):
        """Parse the object, or fail with what was expected."""
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError) as error:
            reason = f"{shown(value)} is not JSON ({reason_of(error)})"
            self.fail(f"{reason}; expected an object such as '{{\"lr\": 0.001}}'")
        if not isinstance(parsed, dict):
            self.fail(f"{shown(value)} is not a JSON object; expected one such as '{{\"lr\": 0.001}}'")
        return parsed


class OneOf(click.Choice):
    """One of some names; another one is refused as everywhere: with few names, and the nearest."""

    def get_invalid_choice_message(self, value, ctx):
        """Return what is said of another name."""
        return f"{value!r}: {expected(value, self.choices)}"


def refuse_to_overwrite(output: Path, read: Iterable[Path]) -> None:
    """Refuse an output that is one of the files that a command reads, or a record.

    Raises:
        UserError: It is.
    """
    from mosa.experiment.manifest import peek

    if not output.exists():
        return
    if any(one.exists() and one.samefile(output) for one in read):
        raise UserError(f"--output {output}: is a file that is read; take another name")
    if output.suffix == ".json" and peek(output) is not None:
        raise UserError(f"--output {output}: is the record of a run; take another name")


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """Parse whole numbers from 0 on, comma-separated, each once."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise click.BadParameter(f"{value!r}: expected whole numbers from 0 on, each once, such as 0,1,2")
    return [int(part) for part in parts]


def read_text(path: Path) -> str:
    """Read a text file, or fail with one sentence."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({unreadable(error)})") from None


def listed(manifest: Path) -> list[Path]:
    """Return the paths that a file lists, one per line."""
    return [Path(line) for line in read_text(manifest).splitlines() if line]


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead, for scripts.")


def echo_json(value: object) -> None:
    """Print a value as JSON: dataclasses and named tuples as objects, paths as text."""
    click.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


CONFIGFILE = click.option(
    "--configfile",
    "files",
    type=FILE,
    multiple=True,
    help="Config, as for snakemake: merged over config.yaml, and over the ones before. Repeatable.",
)


def _use_plugins(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Use the plugins that a command names; those of a config, or of a specification, take their place."""
    if value:
        from mosa.experiment.plugins import load_plugins

        load_plugins(value)
    return value


_OWN_CODE = {
    "multiple": True,
    "type": click.Path(),
    "callback": _use_plugins,
    "expose_value": False,
    "help": "Your own code: a file, such as my_metric.py, or a module; see docs/plugins.md. Repeatable.",
}
PLUGIN = click.option("--plugin", "plugins", **_OWN_CODE)
# The workflow names those that commands need which show records; a run takes those of its specification.
SHOWING = click.option("--plugin", "plugins", envvar="MOSA_PLUGINS", **_OWN_CODE)

ALONE = click.option("--alone", is_flag=True, help="Read the given files only, not config.yaml before them.")


def config_of(files: tuple[Path, ...], alone: bool) -> dict:
    """Read the config that `snakemake --configfile FILES` would run."""
    return load_files(config_files(files, alone))


def load_files(found: Sequence[Path], overrides: dict[str, Any] | None = None) -> dict:
    """Load what `config_files` returned, with what the command line sets over it.

    Raises:
        UserError: Something is wrong with it; it says where a config of the package is merged over one's own.
    """
    from mosa.experiment.config import read_config

    try:
        return read_config(*found, overrides=overrides)
    except UserError as error:
        if "is missing" in str(error) and not (found[0].parent / "config.yaml").is_file():
            raise UserError(
                f"{error} ({found[0]} stands alone, as there is no config.yaml here to merge it over; `mosa "
                "init` writes one)"
            ) from None
        ours = [file for file in found if file.absolute().is_relative_to(WORKFLOW / "configs")]
        if not ours or found[0].samefile(WORKFLOW / "config.yaml") or found[0] in ours:
            raise
        raise UserError(
            f"{error} ({ours[0].name} of the package is merged over {found[0]} here; use it in a folder "
            "without a config.yaml, where it is merged over the demo's)"
        ) from None


def config_files(files: Sequence[Path], alone: bool = False, folder: Path = Path()) -> list[Path]:
    """Return the files that make a config, the strongest last.

    Args:
        files: Those that were named. Of the package's, such as configs/vtab1k.yaml, the name is enough.
        alone: Whether they are not laid over the config.yaml of the folder.
        folder: The working directory of the workflow.

    Raises:
        UserError: One of them is not there, or there is none.
    """
    found, base = [_find_config(file) for file in files], folder / "config.yaml"
    if base.is_file() and not alone:
        return found if found and found[0].samefile(base) else [base, *found]
    if alone and not found:
        raise UserError("--alone: no config is named; name one with --configfile, or leave --alone out")
    if not found:
        raise UserError(f"{base}: no such config; `mosa init` writes one, --configfile names another")
    ours = not alone and found[0].is_relative_to(WORKFLOW / "configs")
    return [WORKFLOW / "config.yaml", *found] if ours else found  # these are laid over the demo's


def _find_config(file: Path) -> Path:
    packaged = WORKFLOW / "configs" / file.name
    if file.is_file():
        return file
    if file.parent.name in ("", "configs") and packaged.is_file():
        return packaged
    names = [f"configs/{path.name}" for path in (WORKFLOW / "configs").glob("*.yaml")]
    raise UserError(f"{file}: no such config{suggest(file.as_posix(), names)}")


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    """Parse names, comma-separated."""
    if value is None:
        return None
    found = [name.strip() for name in value.split(",")]
    if not all(found):
        raise click.BadParameter(f"{value!r}: expected names, such as linear,adapter")
    twice = next((name for number, name in enumerate(found) if name in found[:number]), None)
    if twice is not None:
        raise click.BadParameter(f"{twice!r} is listed twice; list it once")
    return found


def take_records(
    records: Path, variants: list[str] | None, unfinished: bool, metric: str | None
) -> "pd.DataFrame":
    """Read the records that are shown, and refuse names that none of them has.

    Raises:
        UserError: The records cannot be read, or there are none; no record has a variant or the metric.
    """
    from mosa.data.metrics import get_metric
    from mosa.results.frame import read_table

    if metric is not None:
        get_metric(metric)
    frame = read_table(records)
    if frame.empty:
        raise UserError(f"{records}: has no records; expected one finished run at least")
    known = sorted(frame["variant"].unique())
    for name in () if unfinished else variants or ():
        if name not in known:
            raise unknown("variant", name, known)
    if metric is not None and frame[metric].isna().all():
        raise UserError(f"{records}: no record has the metric {metric!r}; it is newer than they are")
    return frame


RECORDS = click.option(
    "--records", type=ANY, required=True, help="Folder of records, or the CSV of `mosa collect`."
)
VARIANTS = click.option(
    "--variants", callback=names, help="Variants of the main comparison, comma-separated, in this order."
)
UNFINISHED = click.option(
    "--unfinished",
    is_flag=True,
    help="Show variants that have no record yet as missing, instead of refusing their names.",
)
REFERENCE = click.option(
    "--reference", help="Variant to compare the others with; by default adapter, or without it the first."
)
METRIC = click.option("--metric", help="Metric to compare by; by default the one that the tasks report.")


def shows_records(command):
    """Add what every verb has that shows records."""
    for option in (SHOWING, REFERENCE, METRIC, UNFINISHED, VARIANTS, RECORDS):
        command = option(command)
    return command
