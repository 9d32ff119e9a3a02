"""Verifying records: each against its own digests, its seed, its pack, its weights, and what is meant."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mosa.backbones.build import digest_of_weights
from mosa.backbones.hub import HUB, cached_file
from mosa.base.errors import UserError
from mosa.base.files import digest_of_file
from mosa.base.plugins import digest_of_plugin
from mosa.base.words import count
from mosa.data.packs import Pack
from mosa.data.predictions import contradiction
from mosa.data.task import kept_path
from mosa.experiment.specification import Specification
from mosa.records import check_specification, load_record

KEPT = ("predictions", "model")  # files beside a record, whose digests it names
_NAME = re.compile(r"seed(\d+)\.json")


class Wanted(NamedTuple):
    """A record to verify.

    Attributes:
        path: Where it lies.
        meant: The specification that it has to have; None: its own is taken.
    """

    path: Path
    meant: Specification | None = None


class Verdict(NamedTuple):
    """What verifying a record found.

    Attributes:
        path: The record.
        problems: What is not in order, one sentence each.
        unchecked: What could not be compared because it does not lie here: "pack", "weights", "plugin", or
            what the run kept.
    """

    path: Path
    problems: list[str]
    unchecked: list[str]


def verify(records: Iterable[Wanted], packs: Path) -> list[Verdict]:
    """Verify records.

    Args:
        records: The records.
        packs: Folder of the packs.

    Returns:
        A verdict for each record, in their order.
    """
    digests: dict[str, str | UserError | None] = {}
    weights: dict[tuple[str, str], str | None] = {}
    return [_verify(wanted, packs, digests, weights) for wanted in records]


def _verify(
    wanted: Wanted,
    packs: Path,
    digests: dict[str, str | UserError | None],
    weights: dict[tuple[str, str], str | None],
) -> Verdict:
    try:
        record = load_record(wanted.path)
        if wanted.meant is not None:
            check_specification(record, wanted.meant, wanted.path)
    except UserError as error:
        return Verdict(wanted.path, [str(error)], [])
    problems, unchecked = _misplaced(record, wanted.path), []
    data, backbone = record["specification"]["data"], record["specification"]["backbone"]
    if data["pack"] not in digests:
        digests[data["pack"]] = _pack_digest(packs / data["pack"])
    found = digests[data["pack"]]
    if isinstance(found, UserError):
        problems.append(str(found))
    else:
        _compare(found, record["data"]["digest"], "pack", packs / data["pack"], problems, unchecked)
    place = (backbone["architecture"], backbone["weights"])
    if record["backbone"]["sha256"] is not None:
        if place not in weights:
            weights[place] = _weights_digest(*place)
        _compare(
            weights[place], record["backbone"]["sha256"], "weights", backbone["weights"], problems, unchecked
        )
    for kind, recorded in record["kept"].items():
        if kind in KEPT and recorded is not None:
            _check_kept(kept_path(wanted.path, kind), recorded, kind, record["metrics"], problems, unchecked)
    used = wanted.meant.plugins if wanted.meant else []
    places = {one.sha256: one.path for one in used}  # where the file is by now
    for plugin in record["specification"]["plugins"]:
        place = places.get(plugin["sha256"]) or plugin["path"] or plugin["name"]
        problems += _plugin_problem(plugin["sha256"], place, unchecked)
    return Verdict(wanted.path, [f"{wanted.path}: {problem}" for problem in problems], unchecked)


def _misplaced(record: Mapping[str, Any], path: Path) -> list[str]:
    """Return what is wrong with where a record lies: that its name, or its place in a runs/, is another's."""
    named = _NAME.fullmatch(path.name)
    if named and int(named[1]) != record["seed"]:
        return [f"is the record of seed {record['seed']}, expected {named[1]}; delete it and run again"]
    place = Path(Specification.model_validate(record["specification"]).record_path(record["seed"]))
    depth = len(place.parts)
    found = Path(*path.absolute().parts[-depth:])
    if found.parts[0] == place.parts[0] and found != place:
        return [f"is the record of {place}; delete it and run again"]
    return []


def _check_kept(
    path: Path,
    recorded: str,
    kind: str,
    metrics: Mapping[str, Any],
    problems: list[str],
    unchecked: list[str],
) -> None:
    if not path.is_file():
        unchecked.append(kind)
    elif (found := digest_of_file(path)) != recorded:
        problems.append(
            f"{path.name} had the digest {recorded[:16]}, and has {found[:16]}; put that file back, or "
            "delete the record and run the workflow again"
        )
    elif kind == "predictions" and (reason := contradiction(path, metrics)):
        problems.append(reason)


def _compare(
    found: str | None, recorded: str, what: str, place: object, problems: list[str], unchecked: list[str]
) -> None:
    if found is None:
        unchecked.append(what)
    elif found != recorded:
        problems.append(
            f"its {what} had the digest {recorded[:16]}, and {place} has {found[:16]}; put that file back, "
            "or run the workflow again, which repeats the run"
        )


def _plugin_problem(recorded: str, place: str, unchecked: list[str]) -> list[str]:
    """Return what is wrong with the code that a run used: that it is other code now."""
    try:
        found = digest_of_plugin(place)
    except UserError:
        unchecked.append("plugin")
        return []
    problems: list[str] = []
    _compare(found, recorded, "plugin", place, problems, unchecked)
    return problems


def _pack_digest(path: Path) -> str | UserError | None:
    """Return the digest of a pack's content, computed anew, or why it cannot be; None: there is no pack."""
    if not path.is_file():
        return None
    try:
        return Pack(path).content_digest()
    except UserError as error:
        return error


def _weights_digest(architecture: str, weights: str) -> str | None:
    """Return the digest of a file of weights; None: it is not here, nor is it fetched from the hub."""
    if weights.startswith(HUB):
        file = cached_file(architecture, weights)
        return digest_of_file(file) if file else None
    try:
        return digest_of_weights(architecture, weights)
    except UserError:
        return None


def describe(verdicts: Iterable[Verdict]) -> tuple[list[str], bool]:
    """Return the lines that report verdicts, and whether all is in order."""
    verdicts = list(verdicts)
    lines = [problem for verdict in verdicts for problem in verdict.problems]
    good = sum(not verdict.problems for verdict in verdicts)
    for what in ("pack", "weights", "plugin", *KEPT):
        number = sum(what in verdict.unchecked for verdict in verdicts)
        if number:
            whose = count(number, "record: its", "records: their")
            lines.append(f"{whose} {what} could not be compared, as the file is not here")
    lines.append(f"{good} of {count(len(verdicts), 'record is', 'records are')} in order")
    return lines, good == len(verdicts)
