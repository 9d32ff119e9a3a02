"""Records as a table: one row per run, as a DataFrame or a CSV; its columns are declared with the record."""

import fnmatch
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, get_args, get_origin

import pandas as pd

from mosa.base.errors import UserError
from mosa.base.files import digest_of_file, written_atomically
from mosa.base.plugins import in_use
from mosa.data.metrics import METRICS, SHIPPED
from mosa.experiment.declared import Declared
from mosa.experiment.recipe import Recipe
from mosa.records import Record, columns_of, load_record
from mosa.results.learned import COLUMN, learned_nothing

# Columns that are not one field of the record each.
DERIVED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "benchmark": lambda record: record["specification"]["task"].partition("/")[0],
    "task": lambda record: record["specification"]["task"].partition("/")[2],
    COLUMN: learned_nothing,
    "normalization": lambda record: "guessed" if record["backbone"].get("guessed") else "known",
}
_OF_SPECIFICATION = {
    "backbone": "specification.backbone.name",
    "architecture": "specification.backbone.architecture",
    "weights": "specification.backbone.weights",
    "variant": "specification.variant",
    "display_name": "specification.variant",  # until `mosa collect` lays the config's names over it
    "method": "specification.method",
    "options": "specification.options",
    "recipe": "specification.training",
    "protocol": "specification.protocol.name",
    "protocol_version": "specification.protocol.version",
}


# Columns of the table of records, and where in a record each stands; every option of the recipe is one.
COLUMNS = (
    dict.fromkeys(DERIVED, "")
    | _OF_SPECIFICATION
    | dict(columns_of(Record))
    | {name: f"specification.training.{name}" for name in Recipe.model_fields}
)
_KEYS = {name: where.split(".") if where else [] for name, where in COLUMNS.items()}


def _type_of(where: str) -> Any:
    """Return the type of what stands at a place of the record, without None."""
    if not where:
        return str
    model: Any = Record
    for key in where.split("."):
        model = model.model_fields[key].annotation
        if get_origin(model) is UnionType:
            model = next(kind for kind in get_args(model) if kind is not NoneType)
    return model


def _is_plain(kind: Any, *types: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, types) and not issubclass(kind, bool)


_TYPES = {name: _type_of(where) for name, where in COLUMNS.items()}
NUMBERS = {name for name, kind in _TYPES.items() if _is_plain(kind, int, float)}
JSON_COLUMNS = {
    name: bool | None if kind is bool else list if get_origin(kind) is list else dict
    for name, kind in _TYPES.items()
    if kind is bool or get_origin(kind) in (list, dict) or (_is_plain(kind, Declared))
}
_NULLABLE = ("commit", "weights_sha256", "weights_kind", "predictions_sha256", "model_sha256")


def load_records(paths: Iterable[Path]) -> pd.DataFrame:
    """Load records as a table, one row per run, sorted by identity.

    Returns:
        The columns of `COLUMNS`, and `path`.

    Raises:
        UserError: A record is invalid, or two describe the same run.
    """
    return to_frame((load_record(path), path) for path in paths)


def to_frame(records: Iterable[tuple[dict[str, Any], Path]]) -> pd.DataFrame:
    """Return records with their paths as a table, one row per run, sorted by identity.

    Raises:
        UserError: Two records describe the same run.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    for record, path in records:
        row = _row(record, path)
        identity = tuple(
            row[name] for name in ("benchmark", "task", "backbone", "variant", "seed", "eval_split")
        )
        if identity in rows:
            raise UserError(f"{path}: the same run as {rows[identity]['path']}; keep one of the two")
        rows[identity] = row
    ordered = [rows[identity] for identity in sorted(rows)]
    frame = pd.DataFrame(ordered, columns=[*COLUMNS, *own_metrics(), "path"])
    nothing = [name for name in (*NUMBERS, *own_metrics()) if frame[name].isna().all()]
    return frame.astype(dict.fromkeys(nothing, float))  # as from a CSV


def _row(record: dict[str, Any], path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, keys in _KEYS.items():
        value: Any = record
        for key in keys:
            value = value[key]
        row[name] = value if keys else DERIVED[name](record)
    if earlier := record["device"].get("earlier"):
        row["device"] = ", then ".join([*earlier, row["device"]])
    return row | _own_values(record) | {"path": str(path)}


def _own_values(record: dict[str, Any]) -> dict[str, float | None]:
    """Return the values of the plugins' metrics; None where there is none, or other code computed it."""
    code = {name: plugin.sha256 for plugin in in_use() for name in plugin.names("metric")}
    found: dict[str, float | None] = dict.fromkeys(own_metrics())
    for one in record["specification"]["measures"] if found else ():
        for name in found.keys() & set(one["metrics"]):
            if code.get(name, one["sha256"]) == one["sha256"]:
                found[name] = record["metrics"].get(name)
    return found


def own_metrics() -> list[str]:
    """Return the names of the metrics of the plugins in use; each is a column of numbers.

    Raises:
        UserError: There is another column of this name.
    """
    found = [name for name in METRICS if name not in SHIPPED]
    taken = next((name for name in found if name in COLUMNS or name == "path"), None)
    if taken is not None:
        raise UserError(f"metric {taken!r}: the table of records has a column of this name; take another")
    return found


def find_records(directory: Path) -> list[Path]:
    """Return the record files below a directory, in order; of a results folder, those of its runs/.

    Raises:
        UserError: There is none, or a folder cannot be read.
    """
    runs = Path(directory) / "runs"  # beside it may be the results of others
    directory = runs if runs.is_dir() else Path(directory)
    paths = []
    for folder, folders, names in os.walk(directory, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(folder, name) for name in fnmatch.filter(names, "seed*.json")]
    paths = sorted(path for path in paths if path.is_file())
    if not paths:
        raise UserError(f"{directory}: no records below it; expected .../<variant>/seed<n>.json, one per run")
    return paths


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}), and may have records") from None


def write_table(frame: pd.DataFrame, output: Path) -> None:
    """Write the table of records as CSV, lists and mappings as JSON."""
    written = frame.copy()
    for name in JSON_COLUMNS:
        written[name] = [json.dumps(value, sort_keys=True) for value in written[name]]
    with written_atomically(output) as temporary:
        written.to_csv(temporary, index=False)


def _check_digest(source: Path) -> None:
    """Refuse a CSV that is not the one that `mosa collect` wrote, where the digest lies beside it."""
    made_from = source.with_suffix(".made-from")
    lines = made_from.read_text(encoding="utf-8").split() if made_from.is_file() else []
    if len(lines) > 1 and source.is_file() and digest_of_file(source) != lines[1]:
        raise UserError(
            f"{source}: was changed since `mosa collect` wrote it; collect the records again, or give a "
            "table of your own another name"
        )


def read_table(source: Path) -> pd.DataFrame:
    """Read records from a directory of them, or from a CSV of `write_table`.

    Raises:
        UserError: There is nothing to read, or it is not what was expected.
    """
    if source.is_dir():
        return load_records(find_records(source))
    _check_digest(source)
    try:
        # A name such as "NA" or a digest of digits alone must stay what it is.
        text = {name: "str" for name in (*COLUMNS, "path") if name not in NUMBERS}
        empty = {name: [""] for name in (*_NULLABLE, *NUMBERS, *own_metrics())}
        frame = pd.read_csv(source, dtype=text, keep_default_na=False, na_values=empty)
    except OSError as error:
        raise UserError(
            f"{source}: cannot be read ({error.strerror}); expected a folder of records or a CSV"
        ) from None
    except ValueError as error:
        raise UserError(f"{source}: not a CSV ({error}); expected one that `mosa collect` wrote") from None
    missing = [name for name in (*COLUMNS, *own_metrics()) if name not in frame]
    if missing:
        raise UserError(f"{source}: no column {missing[0]!r}; collect the records again with `mosa collect`")
    try:
        for name, kind in JSON_COLUMNS.items():
            frame[name] = [json.loads(value) for value in frame[name]]
            wrong = [value for value in frame[name] if not isinstance(value, kind)]
            if wrong:
                raise ValueError(f"{wrong[0]!r} in column {name!r}")
        for name in (*NUMBERS, *own_metrics()):
            frame[name] = pd.to_numeric(frame[name])
        for path in frame["path"]:
            if not isinstance(path, str) or not path.endswith(".json"):
                raise ValueError(f"{path!r} in column 'path'")
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: damaged ({error}); collect the records again with `mosa collect`"
        ) from None
    return frame
