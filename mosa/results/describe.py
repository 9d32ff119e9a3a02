"""The record as a JSON Schema and as a page of documentation."""

from typing import Any

from mosa.base.grid import markdown_table
from mosa.experiment.schema import keys_table, model_schema
from mosa.records import Record
from mosa.results.frame import COLUMNS, DERIVED
from mosa.results.learned import COLUMN, RULE


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    return model_schema(Record, "record.schema.json", "Run record")


def records_page() -> str:
    """Return the documentation of a record and of the table of records, in Markdown."""
    derived = {name: "`specification.task`" for name in DERIVED}
    derived[COLUMN] = f"why the run counts as no better than a guess, else empty: {RULE}"
    columns = ((f"`{name}`", derived.get(name, f"`{where}`")) for name, where in COLUMNS.items())
    lines = [
        "# Records",
        "",
        "Written by `mosa schema` from the models in `mosa/records.py`; do not edit.",
        "",
        "A run leaves one JSON file, results/runs/<benchmark>/<task>/<backbone>/<variant>/seed<n>.json. It",
        "carries its specification, and digests of that and of its own content: `mosa verify` checks both, "
        "and",
        "`mosa reproduce RECORD` trains the run again from the record alone. Predictions and the tuned model",
        "lie beside it where they are kept: [predictions.md](predictions.md).",
        "",
        keys_table(record_schema()),
        "",
        "## The table of records",
        "",
        "`results/tables/runs.csv` has one row per run, and these columns:",
        "",
        markdown_table(("column", "key of the record"), columns),
    ]
    return "\n".join(lines) + "\n"
