"""What the verbs share: types of arguments, and options that several take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mosa.base.errors import UserError, expected, reason_of, shown, unknown

if TYPE_CHECKING:
    import pandas as pd

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
ANY = click.Path(path_type=Path)


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


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """Parse whole numbers, comma-separated."""
    try:
        return [int(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected whole numbers, such as 0,1,2") from None


def read_text(path: Path) -> str:
    """Read a text file, or fail with one sentence."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def listed(manifest: Path) -> list[Path]:
    """Return the paths that a file lists, one per line."""
    return [Path(line) for line in read_text(manifest).splitlines() if line]


CONFIGFILE = click.option(
    "--configfile",
    "files",
    type=FILE,
    multiple=True,
    help="Config, as for snakemake: merged over config.yaml, and over the ones before. Repeatable.",
)


ALONE = click.option("--alone", is_flag=True, help="Read the given files only, not config.yaml before them.")


def config_of(files: tuple[Path, ...], alone: bool) -> dict:
    """Read the config that `snakemake --configfile FILES` would run."""
    from mosa.experiment.config import read_config

    base = Path("config.yaml")
    return read_config(*([base] if base.is_file() and base not in files and not alone else []), *files)


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
    for name in variants or () if not unfinished else ():
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
