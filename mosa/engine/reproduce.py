"""Reproducing a record: the run is trained again from the record alone, and compared."""

import json
import math
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mosa.base.errors import UserError
from mosa.data import make_pack
from mosa.data.catalogue import get_task
from mosa.data.metrics import SHARES, SHIPPED, get_metric
from mosa.data.task import OWN, task_from_config
from mosa.engine.machine import Machine
from mosa.engine.run import execute
from mosa.experiment.declared import differences
from mosa.experiment.expand import Run
from mosa.experiment.plugins import use_for
from mosa.experiment.protocol import get_preset
from mosa.experiment.specification import Specification
from mosa.experiment.validation import methods_on_features
from mosa.records import load_record

COMPARED = ("metrics", "parameters", "data", "backbone")
ENVIRONMENT = ("device", "versions", "git")
# What a record may be older than; it is null there.
_ADDED = {"data.classes", *(f"metrics.{name}" for name in SHIPPED)}
BIT_EQUAL = "bit-equal"
_NOISE = 2.0  # standard deviations within which two runs are called equal


class Reproduction(NamedTuple):
    """What came of training a run again.

    Attributes:
        verdict: "bit-equal", "equal within seed noise" or "different".
        difference: The first thing that differs, in words; "": nothing does.
        noise: What seed noise is taken to be, in words.
        environment: What differs in the environment, in words.
        record: The new record.
    """

    verdict: str
    difference: str
    noise: str
    environment: list[str]
    record: dict[str, Any]


def reproduce(path: Path, packs: Path | None = None, threads: int | None = None) -> Reproduction:
    """Train the run of a record again, from the record alone, and compare.

    Args:
        path: The record.
        packs: Folder of the packs; one that is missing is made there. None: a temporary folder.
        threads: CPU threads; None: as many as the record says, which bit-equality needs.

    Raises:
        UserError: The record is wrong or of another version of the protocol, its data or weights are not
            here, or they are others.
    """
    old = load_record(path)
    specification = Specification.model_validate(old["specification"])
    use_for(specification)
    version = get_preset(specification.protocol.name).version
    if specification.protocol.version != version:
        raise UserError(
            f"{path}: is of version {specification.protocol.version} of the protocol, and this code has "
            f"{version}; check out the commit that the record names ({old['git']['commit']})"
        )
    device = old["device"]
    machine = Machine(
        device=device["type"],
        threads=threads or device["threads"],
        compile=device["compile"],
        channels_last=device["channels_last"],
        gradient_checkpointing=device["gradient_checkpointing"],
    )
    with tempfile.TemporaryDirectory() as folder:
        pack = _pack(specification, packs or Path(folder))
        # A record does not say whether its run kept features, with which the sums are in another order.
        found = []
        for features in [
            Path(folder) / "features",
            *([None] if specification.method in methods_on_features() else []),
        ]:
            run, record = Run(specification, old["seed"]), Path(folder) / "record.json"
            new = execute(run, pack, record, replace(machine, features=features))
            found.append(compare(old, new, path))
            if found[-1].verdict == BIT_EQUAL:
                return found[-1]
    return found[0]


def _pack(specification: Specification, folder: Path) -> Path:
    """Return the pack of a specification; make it if it is not there."""
    data, path = specification.data, folder / specification.data.pack
    if path.is_file():
        return path
    benchmark, _, name = specification.task.partition("/")
    task = task_from_config(name, data.own) if benchmark == OWN else get_task(specification.task)
    make_pack(
        task,
        path,
        Path(data.root) if data.root else None,
        specification.backbone.image_size or 224,
        get_preset(specification.protocol.name).interpolation_for(task.resize),
        content=data.source,
        cache=folder,
    )
    return path


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run must give again; what is only said of the weights may be newer than the record."""
    backbone = {key: value for key, value in record["backbone"].items() if key not in ("guessed", "notes")}
    return {key: record[key] for key in COMPARED} | {"backbone": backbone}


def compare(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> Reproduction:
    """Compare a record with one of the same run that was made anew.

    Seed noise is the spread over the records of the run's seeds that lie together, with the old one or with
    the new one in its place, whichever is less, so that neither widens what it is judged by; where there are
    fewer than two, the binomial error of an accuracy on so many images. Of another metric it is not known
    then, and nothing but an equal score is within it.

    Args:
        old: The record.
        new: The new one.
        path: Where the old one lies.
    """
    found = differences(_compared(old), _compared(new))
    found = {key: pair for key, pair in found.items() if pair[0] is not None or key not in _ADDED}
    environment = differences({key: old[key] for key in ENVIRONMENT}, {key: new[key] for key in ENVIRONMENT})
    changes = [f"{key} was {ours!r}, and is {theirs!r}" for key, (ours, theirs) in environment.items()]
    if not found:
        return Reproduction(BIT_EQUAL, "", "", changes, dict(new))
    key, (ours, theirs) = next(iter(found.items()))
    first = f"{key} was {_short(ours)}, and is {_short(theirs)}"
    metric = old["metric"]
    spread, noise = _noise(old, new, path)
    scores = old["metrics"][metric], new["metrics"][metric]
    near = scores[0] == scores[1] or (None not in scores and abs(scores[0] - scores[1]) <= _NOISE * spread)
    same_data = not any(key.startswith(("data", "backbone", "parameters")) for key in found)
    verdict = "equal within seed noise" if near and same_data else "different"
    return Reproduction(verdict, first, noise, changes, dict(new))


def _noise(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> tuple[float, str]:
    """Return the spread of the reported metric over seeds, and how it was had."""
    metric = get_metric(old["metric"])
    found: dict[int, float] = {}
    for other in sorted(path.parent.glob("seed*.json")):
        try:
            record = load_record(other)
        except UserError:
            continue
        value = record["metrics"][metric.name]
        if record["specification_digest"] == old["specification_digest"] and value is not None:
            found[record["seed"]] = value
    if len(found) > 1:
        others = [value for seed, value in found.items() if seed != old["seed"]]
        own = [value for record in (old, new) if (value := record["metrics"][metric.name]) is not None]
        spread = min(statistics.stdev([*others, value]) for value in own) if own else 0.0
        shown = metric.shown(spread, more=1)
        return spread, f"{metric.title} has a standard deviation of {shown} over {len(others) + 1} seeds"
    if metric.name not in SHARES:
        return 0.0, f"unknown for {metric.title}, as no two records of the run's seeds lie together"
    share, images = old["metrics"][metric.name] / 100, old["metrics"]["examples"]
    spread = 100 * math.sqrt(share * (1 - share) / images)
    shown = metric.shown(spread, more=1)
    return spread, f"the binomial error of {metric.title} on {images} images is {shown}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
