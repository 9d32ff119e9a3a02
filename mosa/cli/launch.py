"""`mosa run`: the workflow of this package from any folder, and mistakes in the command line as sentences."""

import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import NoReturn

from mosa.base.errors import UserError, suggest
from mosa.base.extras import require
from mosa.base.files import WORKFLOW
from mosa.cli.options import config_files, load_files

_SNAKEFILE = WORKFLOW / "Snakefile"
_PAIRS = ("resources", "default-resources", "set-resources", "set-threads", "groups", "group-components")
_REPORTING = {"all", "report", "write_report", "partial"}  # rules that need the extra `report`


def run_workflow(words: Sequence[str], files: Sequence[Path] = ()) -> NoReturn:
    """Run `snakemake` with the workflow of this package in this process; ends with its exit status.

    Args:
        words: Targets and options of Snakemake.
        files: Configs, the strongest last.

    Raises:
        UserError: Something about the command line or the config is wrong, or an extra is not installed.
    """
    require("workflow")
    from snakemake.cli import main

    arguments = command_line(words, files)
    sys.argv = ["snakemake", *arguments]  # which rules/targets.smk reads
    main(arguments)
    raise AssertionError("snakemake's main ends the process")


def command_line(words: Sequence[str], files: Sequence[Path] = ()) -> list[str]:
    """Return the arguments for Snakemake, checked; see `run_workflow`."""
    _check_overrides(words)
    _check_pairs(words)
    words = list(_with_profiles(words))
    given = _parse(["--snakefile", str(_SNAKEFILE), *words])
    if Path(given.snakefile) != _SNAKEFILE:
        raise UserError("--snakefile: `mosa run` has its own; call snakemake for another workflow")
    for target in given.targets:
        if Path(target).suffix in (".yaml", ".yml") and Path(target).is_file():
            raise UserError(f"{target} is a config, and no target; give --configfile before it")
    configs = _configs(files, Path(given.directory or "."), given)
    if not given.software_deployment_method and (not given.targets or _REPORTING & set(given.targets)):
        require("report")
    local = given.executor in (None, "local")
    cores = ["--cores", "all"] if local and given.cores is None and given.jobs is None else []
    # The Snakefile takes one argument: after it, a target is not taken for a config.
    return [*(["--configfile", *configs] if configs else []), *cores, "--snakefile", str(_SNAKEFILE), *words]


def _configs(files: Sequence[Path], folder: Path, given: Namespace) -> list[str]:
    """Find the configs, and load them as the workflow will, so that what is wrong is told at once."""
    from snakemake.cli import parse_config

    found = config_files(files, given.replace_workflow_config, folder)
    load_files(found, parse_config(given.config))
    return [str(file) for file in (found[1:] if found[0] == folder / "config.yaml" else found)]


def _with_profiles(words: Sequence[str]) -> Iterator[str]:
    """Yield the words, with the path of the package's profile for one such as profiles/slurm."""
    for word in words:
        option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        path = Path(value)
        ours = path.parent == Path("profiles") and not path.exists() and (WORKFLOW / path).is_dir()
        yield f"{option}{equals}{WORKFLOW / path}" if ours else word


def _check_overrides(words: Sequence[str]) -> None:
    """Refuse what Snakemake ends over with a traceback: KEY.KEY=VALUE, and a target after --config."""
    inside = False
    for word in words:
        inside = word in ("--config", "-C") or (inside and not word.startswith("-"))
        value = word.removeprefix("--config=")
        if word in ("--config", "-C") or not (inside or value != word):
            continue
        key, equals, text = value.partition("=")
        if not equals:
            raise UserError(f"--config {value}: expected KEY=VALUE; targets go before --config")
        first, *others = key.split(".")
        if others:
            for name in reversed(others):
                text = f"{{{name}: {text}}}"
            raise UserError(f"--config {value}: expected a key without a dot; write '{first}={text}'")


def _check_pairs(words: Sequence[str]) -> None:
    """Refuse words without a value for NAME=VALUE, over which Snakemake ends without their name."""
    option = ""
    for word in words:
        if word.startswith("-"):
            option = word if word.removeprefix("--") in _PAIRS else ""
        elif option and "=" not in word:
            raise UserError(f"{option} {word}: expected NAME=VALUE; targets go before {option}")
        elif option == "--set-resources" and ":" not in word.partition("=")[0]:
            raise UserError(f"{option} {word}: expected RULE:NAME=VALUE, such as train:runtime=4h")


def _parse(arguments: list[str]) -> Namespace:
    """Parse arguments as Snakemake does, with its profiles.

    Raises:
        UserError: They are not what Snakemake takes.
    """
    from snakemake.cli import get_argument_parser, parse_args

    said = StringIO()
    try:
        with redirect_stderr(said):
            _, given = parse_args(arguments)
    except SystemExit as end:
        if not end.code:
            raise
        reason = " ".join(re.split("[Ee]rror: ", said.getvalue())[-1].split())
        wrong = reason.removeprefix("unrecognized arguments: ").split()[0]
        options = [name for action in get_argument_parser()._actions for name in action.option_strings]
        near = suggest(wrong, options) if reason.startswith("unrecognized") else ""
        raise UserError(f"snakemake does not take this: {reason}{near}") from None
    except Exception as error:  # of many types, and of no meaning beyond their sentence
        raise UserError(f"snakemake does not take this: {' '.join(str(error).split())}") from None
    return given
