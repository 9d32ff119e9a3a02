"""The record of a run: written once, validated both ways, loaded many at a time as a table."""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastjsonschema
import jsonschema
from jsonschema.protocols import Validator

from mosa.base.errors import UserError
from mosa.base.files import SCHEMAS, written_atomically

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 3
SCHEMA = SCHEMAS / "record.schema.json"

# Columns of the table of records, and where in a record each stands.
COLUMNS = {
    "benchmark": "run.benchmark",
    "group": "run.group",
    "task": "run.task",
    "backbone": "run.backbone",
    "architecture": "backbone.architecture",
    "weights": "backbone.weights",
    "weights_kind": "backbone.kind",
    "variant": "run.variant",
    "method": "method.name",
    "seed": "run.seed",
    "train_split": "protocol.train_split",
    "eval_split": "protocol.eval_split",
    "protocol": "protocol.name",
    "protocol_version": "protocol.version",
    "top1": "metrics.top1",
    "loss": "metrics.loss",
    "adapter_parameters": "parameters.adapter",
    "head_parameters": "parameters.head",
    "total_parameters": "parameters.total",
    "trained_parameters": "parameters.trained",
    "model_parameters": "parameters.model",
    "train_flops_per_image": "flops.train_per_image",
    "inference_flops_per_image": "flops.inference_per_image",
    "train_examples": "data.train_examples",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "lr": "training.lr",
    "fraction": "training.fraction",
    "passes": "training.passes",
    "prepare_seconds": "seconds.prepare",
    "train_seconds": "seconds.train",
    "eval_seconds": "seconds.eval",
    "total_seconds": "seconds.total",
    "images_per_second": "images_per_second",
    "peak_memory_mib": "peak_memory_mib",
    "options": "method.options",
    "train_loss": "metrics.train_loss",
    "per_set": "metrics.per_set",
    "recipe": "training",
    "versions": "versions",
    "device": "device.name",
    "commit": "git.commit",
    "dirty": "git.dirty",
    "data_digest": "data.digest",
    "weights_sha256": "backbone.sha256",
    "created": "created",
}
JSON_COLUMNS = {
    **dict.fromkeys(("options", "per_set", "recipe", "versions"), dict),
    "train_loss": list,
    "dirty": bool | None,
}
NUMBERS = {
    *("seed", "protocol_version", "top1", "loss", "epochs", "batch_size", "lr", "passes"),
    *(column for column in COLUMNS if column.endswith(("_parameters", "_seconds", "_flops_per_image"))),
    *("train_examples", "fraction"),
    *("images_per_second", "peak_memory_mib"),
}


@cache
def _validator() -> Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))


@cache
def _conforms() -> Callable[[Any], bool]:
    """Return the schema compiled to a function: 30 times as fast, but it explains little."""
    schema = json.loads(SCHEMA.read_text())
    del schema["$schema"]  # a later draft than it knows; the keywords in use are the same
    check = fastjsonschema.compile(schema, use_default=False, use_formats=False)

    def conforms(record: Any) -> bool:
        try:
            check(record)
        except fastjsonschema.JsonSchemaValueException:
            return False
        return True

    return conforms


def validate_record(record: Any, source: str) -> None:
    """Check a record against the schema.

    Args:
        record: The parsed JSON.
        source: Names the record in the error, such as its path.

    Raises:
        UserError: The record does not conform; the first problem is told.
    """
    if _conforms()(record):
        return
    error = jsonschema.exceptions.best_match(_validator().iter_errors(record))
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "the record"
        message = error.message if len(error.message) < 200 else error.message[:200] + " ..."
        raise UserError(f"{source}: not a valid record, {where}: {message}")


def write_record(record: dict[str, Any], path: Path) -> None:
    """Validate a record and write it atomically: the file appears whole or not at all.

    Raises:
        UserError: The record does not conform, or the file cannot be written.
    """
    validate_record(record, str(path))
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_record(path: Path) -> dict[str, Any]:
    """Read and validate a record.

    Raises:
        UserError: The file cannot be read, is not JSON, or does not conform.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the record ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and run again") from None
    validate_record(record, str(path))
    return record


def load_records(paths: Iterable[Path]) -> "pd.DataFrame":
    """Load records as a table, one row per run, sorted by identity.

    Returns:
        The columns of `COLUMNS`, and `path`.

    Raises:
        UserError: A record is invalid, or two describe the same run.
    """
    import pandas as pd

    rows: dict[tuple, dict[str, Any]] = {}
    for path in paths:
        row = _row(load_record(path), path)
        identity = tuple(
            row[column] for column in ("benchmark", "task", "backbone", "variant", "seed", "eval_split")
        )
        if identity in rows:
            raise UserError(f"{path}: the same run as {rows[identity]['path']}; keep one of the two")
        rows[identity] = row
    ordered = [rows[identity] for identity in sorted(rows)]
    return pd.DataFrame(ordered, columns=[*COLUMNS, "path"])


def _row(record: dict[str, Any], path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column, where in COLUMNS.items():
        value: Any = record
        for key in where.split("."):
            value = value[key]
        row[column] = value
    return row | {"path": str(path)}


def find_records(directory: Path) -> list[Path]:
    """Return the record files below a directory, in order.

    Raises:
        UserError: There is none.
    """
    paths = sorted(path for path in Path(directory).rglob("seed*.json") if path.is_file())
    if not paths:
        raise UserError(f"{directory}: no records below it; expected .../<variant>/seed<n>.json, one per run")
    return paths


def collect(paths: Iterable[Path], output: Path, placed: bool = False) -> "pd.DataFrame":
    """Load records and write them as one CSV, lists and mappings as JSON.

    Args:
        paths: The records.
        output: The CSV to write.
        placed: Whether each has to lie where its identity says, as the workflow's do:
            .../benchmark/task/backbone/variant/seed<n>.json.

    Returns:
        The table.

    Raises:
        UserError: A record is invalid or lies in another's place, or two describe the same run.
    """
    frame = load_records(paths)
    for row in frame.itertuples():
        place = (row.benchmark, row.task, row.backbone, row.variant, f"seed{row.seed}.json")
        if placed and Path(row.path).parts[-5:] != place:
            raise UserError(f"{row.path}: the record of {'/'.join(place)}; delete it and run again")
    written = frame.copy()
    for column in JSON_COLUMNS:
        written[column] = [json.dumps(value, sort_keys=True) for value in written[column]]
    with written_atomically(output) as temporary:
        written.to_csv(temporary, index=False)
    return frame


def read_table(source: Path) -> "pd.DataFrame":
    """Read records from a directory of them, or from a CSV that `collect` wrote.

    Raises:
        UserError: There is nothing to read, or it is not what was expected.
    """
    import pandas as pd

    if source.is_dir():
        return load_records(find_records(source))
    try:
        # A name such as "NA" or a digest of digits alone must stay what it is.
        text = {column: "str" for column in (*COLUMNS, "path") if column not in NUMBERS}
        nullable = {column: [""] for column in ("commit", "weights_sha256", "weights_kind")}
        frame = pd.read_csv(source, dtype=text, keep_default_na=False, na_values=nullable)
    except OSError as error:
        raise UserError(
            f"{source}: cannot be read ({error.strerror}); expected a folder of records or a CSV"
        ) from None
    except ValueError as error:
        raise UserError(f"{source}: not a CSV ({error}); expected one that `mosa collect` wrote") from None
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise UserError(f"{source}: no column {missing[0]!r}; collect the records again with `mosa collect`")
    try:
        for column in JSON_COLUMNS:
            frame[column] = [json.loads(value) for value in frame[column]]
            wrong = [value for value in frame[column] if not isinstance(value, JSON_COLUMNS[column])]
            if wrong:
                raise ValueError(f"{wrong[0]!r} in column {column!r}")
        for column in NUMBERS:
            frame[column] = pd.to_numeric(frame[column])
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: damaged ({error}); collect the records again with `mosa collect`"
        ) from None
    return frame
