"""Collecting records: each is verified against the specification that the manifest means."""

from pathlib import Path
from typing import Any

from mosa.base.errors import UserError
from mosa.base.files import digest_of_file, written_atomically
from mosa.data.metrics import SHIPPED
from mosa.experiment.manifest import SHOWN, Meant, digest_of_collected, read_manifest
from mosa.experiment.specification import Specification
from mosa.records import check_specification, load_record
from mosa.results.frame import to_frame, write_table
from mosa.search.choose import meant_specification


def load_meant(meant: Meant) -> dict[str, Any]:
    """Load a record, and refuse it unless it is the one that is meant.

    A metric that another version of a plugin computed has no value.

    Raises:
        UserError: The record is missing, invalid, was changed, or is of another specification or seed, or it
            has no value of the metric that its task reports.
    """
    if not meant.path.exists():
        raise UserError(f"{meant.path}: missing")
    record = load_record(meant.path)
    wanted = meant_specification(meant)
    check_specification(record, wanted, meant.path)
    if record["seed"] != meant.seed:
        raise UserError(
            f"{meant.path}: the record of seed {record['seed']}, expected {meant.seed}; delete it and run "
            "again"
        )
    own = wanted.data.own or {}
    shown = {name: own.get(name, record[name]) for name in SHOWN}
    metric = shown["metric"]
    values = record["metrics"] | dict.fromkeys(_outdated(record, wanted))
    if metric not in SHIPPED and values.get(metric) is None:
        raise UserError(
            f"{meant.path}: has no value of the metric {metric!r}, as its plugin defines it now; delete the "
            "record and run again, or report another metric"
        )
    return record | shown | {"metrics": values}


def _outdated(record: dict[str, Any], wanted: Specification) -> list[str]:
    """Return the metrics that other code of a plugin computed than the code that is meant."""
    known = {name: one["sha256"] for one in record["specification"]["measures"] for name in one["metrics"]}
    meant = {name: one.sha256 for one in wanted.measures for name in one.metrics}
    return [name for name, digest in meant.items() if name in known and known[name] != digest]


def collect(manifest: Path, output: Path, existing: bool = False) -> tuple[int, int, list[str]]:
    """Load the records of a manifest and write them as one CSV.

    Args:
        manifest: The manifest.
        output: The CSV to write; beside it, runs.made-from has a digest of what it was made from, and one of
            the CSV.
        existing: Leave out what is missing or is not what is meant, instead of refusing it.

    Returns:
        How many records are in the CSV, how many are meant, and what was left out and why.

    Raises:
        UserError: A record is missing, invalid, or of another specification, or there is none at all.
    """
    head, meant = read_manifest(manifest)
    records, stale = [], []
    for one in meant:
        try:
            records.append((load_meant(one), one.path))
        except UserError as error:
            if not existing:
                raise
            stale.append(str(error))
    if not records:
        raise UserError(
            f"{manifest}: none of its records exists yet ({len(meant)} meant); run the workflow first"
        )
    frame = to_frame(records)
    write_table(frame.assign(display_name=frame["variant"].replace(head.get("display_names", {}))), output)
    made_from = digest_of_collected(manifest, ((path, record["digest"]) for record, path in records))
    with written_atomically(output.with_suffix(".made-from")) as temporary:
        temporary.write_text(f"{made_from}\n{digest_of_file(output)}\n", encoding="utf-8")
    return len(records), len(meant), [problem for problem in stale if not problem.endswith(": missing")]
