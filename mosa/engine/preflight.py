"""Whether data, weights and methods of a config are in order, before anything is trained."""

import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from mosa.base.errors import UserError
from mosa.base.grid import aligned
from mosa.base.plugins import blamed
from mosa.base.words import count
from mosa.data.images import decode_for
from mosa.data.layouts import Entry, Problem, Report, Source, read_source
from mosa.data.layouts.checks import Overlap, same_file, tell_overlaps
from mosa.data.naming import SPLITS, few
from mosa.data.task import OWN, Task
from mosa.experiment.expand import (
    backbone_image_size,
    config_tasks,
    expand,
    left_out,
    normalization_of,
    root_of,
)
from mosa.experiment.specification import Specification
from mosa.peft.structure import copied

_MANY = 2000  # images from which on decoding is announced
_SHOWN = 5  # problems of one kind of place that are printed; the others are counted


@dataclass
class Finding:
    """What was found of one task, or of one weights file.

    Attributes:
        name: Full name of the task, or of the backbone; of a benchmark, where several tasks are missing.
        place: Folder or file.
        summary: Counts and classes, or the architecture.
        digest: Of the lists and images, or of the file; shortened.
        problems: What is wrong, the errors first.
        notes: What was decided for the user, and what is not read though nothing is wrong with it.
    """

    name: str
    place: str
    summary: str = ""
    digest: str = ""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """One word: ok, warning, or error; notes are ok."""
        severities = {problem.severity for problem in self.problems} - {"note"}
        return "error" if "error" in severities else "warning" if severities else "ok"


def check(config: Mapping[str, Any], quick: bool = False, threads: int = 1) -> list[Finding]:
    """Check every task and weights file that a config needs, and that its methods fit its backbones.

    Args:
        config: A loaded config.
        quick: Read the lists and see that the files are there, but open none of the images.
        threads: Threads that decode.

    Returns:
        One finding for each task that lies on disk, and for each backbone; one for all tasks of a benchmark
        whose folders are missing, and for all weights files that are.
    """
    findings = []
    present, missing = _find_folders(config)
    for root, tasks in missing.items():
        findings.append(_missing(root, tasks, present))
    for task in present:
        with _blaming(task.full_name, str(root_of(task, config["paths"]["data"])), findings):
            findings.append(_check_task(task, config, quick, threads))
    absent = _missing_weights(config["backbones"])
    if len(absent) > 1:
        findings.append(_without_weights(absent))
    present_backbones = [name for name in config["backbones"] if len(absent) < 2 or name not in absent]
    for name in present_backbones:
        entry = config["backbones"][name]
        with _blaming(name, entry["weights"], findings):
            findings.append(_check_backbone(name, entry, config))
    return findings


@contextmanager
def _blaming(name: str, place: str, findings: list[Finding]) -> Iterator[None]:
    """Where a check ends because a plugin raises, have that as its finding."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = blamed(error)
        if reason is None:
            raise
        findings.append(Finding(name, place, problems=[Problem("error", place, reason)]))


def _find_folders(config: Mapping[str, Any]) -> tuple[list[Task], dict[Path, list[Task]]]:
    """Return the tasks to check one by one, and by root those of which several have no folder."""
    tasks = [task for task in config_tasks(config) if task.on_disk]
    missing: dict[Path, list[Task]] = defaultdict(list)
    for task in tasks:
        root = root_of(task, config["paths"]["data"])
        folders = [root / name for name in task.folders or ("",)]  # a union has none of its own
        if task.benchmark != OWN and not any(map(os.path.isdir, folders)):
            missing[root].append(task)
    # A union alone is several tasks, too.
    several = {root: found for root, found in missing.items() if len(found) > 1 or found[0].layout == "union"}
    gone = {task.full_name for found in several.values() for task in found}
    return [task for task in tasks if task.full_name not in gone], several


def _missing(root: Path, tasks: list[Task], present: list[Task]) -> Finding:
    """Say once that several tasks of a benchmark have no folder."""
    key = "fgvc" if tasks[0].layout == "union" else tasks[0].benchmark
    names = few([task.full_name for task in tasks])
    if os.path.isdir(root):
        others = sum(task.benchmark == tasks[0].benchmark for task in present)
        message = (
            f"has no folders for {len(tasks)} of {count(len(tasks) + others, 'task')} ({names}); put them "
            f"there as docs/data.md shows (it says where to get them), or set paths.data.{key}"
        )
    else:
        message = (
            f"no such folder; put the tasks of the config there ({len(tasks)}: {names}), as docs/data.md "
            f"shows (it says where to get them), or set paths.data.{key}"
        )
    summary = f"{count(len(tasks), 'task is', 'tasks are')} missing"
    return Finding(key, str(root), summary, problems=[Problem("error", str(root), message)])


def _missing_weights(backbones: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the weights files that are not there, by the name of the backbone."""
    places = {name: backbone["weights"] for name, backbone in backbones.items()}
    files = {name: place for name, place in places.items() if "." in place and not place.startswith("hub:")}
    return {name: place for name, place in files.items() if not os.path.exists(place)}


def _without_weights(absent: Mapping[str, str]) -> Finding:
    """Say once that several weights files are missing."""
    message = (
        f"no such files, of {count(len(absent), 'backbone')} ({few(list(absent))}); download the weights to "
        "these paths (docs/weights.md says where they are), or set `weights` of each backbone"
    )
    problem = Problem("error", few(list(absent.values())), message)
    summary = f"{count(len(absent), 'file is', 'files are')} missing"
    return Finding("weights", "-", summary, problems=[problem])


def _check_task(task: Task, config: Mapping[str, Any], quick: bool, threads: int) -> Finding:
    root, report = root_of(task, config["paths"]["data"]), Report()
    source = read_source(task, root, report)
    finding = Finding(task.full_name, str(source.root if source else root))
    if source is not None:
        counts = " / ".join(str(len(source.splits[split])) for split in SPLITS)
        finding.summary = f"{counts} images, {count(source.num_classes, 'class', 'classes')}"
        finding.notes += source.notes
        if not quick:
            finding.digest = _check_images(task, source, report, threads)
    finding.notes += report.notes
    finding.problems = sorted(report.problems, key=lambda problem: problem.severity)
    return finding


class _Examined(NamedTuple):
    """An image: SHA-256 of its file and of its pixels, what is odd, and why it cannot be decoded."""

    file: bytes
    pixels: bytes
    notes: Sequence[str] = ()
    error: str | None = None


def _examine(entry: Entry, resize: str) -> _Examined:
    notes: list[str] = []
    try:
        if isinstance(entry.image, np.ndarray):
            digest = hashlib.sha256(entry.image.tobytes()).digest()
            return _Examined(digest, digest)
        image = decode_for(entry.image, resize, notes)
        pixels = hashlib.sha256(b"%d %d " % image.size + image.tobytes()).digest()
        return _Examined(hashlib.sha256(entry.image.read_bytes()).digest(), pixels, notes)
    except (UserError, OSError) as error:
        return _Examined(b"", b"", error=str(error))


def _check_images(task: Task, source: Source, report: Report, threads: int) -> str:
    """Decode the images of all splits, look for the same one twice, and return a digest of all."""
    examine = partial(_examine, resize=task.resize)
    total = hashlib.sha256()
    seen: dict[bytes, tuple[str, Entry]] = {}
    overlaps, ambiguous = [], []
    images = sum(map(len, source.splits.values()))
    if images > _MANY and not sys.stderr.isatty():
        print(f"{task.full_name}: decoding {images:,} images", file=sys.stderr, flush=True)
    bar = tqdm(total=images, unit="image", desc=task.full_name, leave=False, disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(threads) as pool:
        for split in SPLITS:
            entries = iter(source.splits[split])
            while chunk := list(islice(entries, 256)):
                for entry, found in zip(chunk, pool.map(examine, chunk), strict=True):
                    bar.update()
                    total.update(found.file + entry.label.to_bytes(8, "big"))
                    for note in found.notes:
                        report.warning(entry.place, f"{entry.image}: {note}".removeprefix(f"{entry.place}: "))
                    if found.error is not None:  # it names the image, which may be the place itself
                        report.error(entry.place, found.error.removeprefix(f"{entry.place}: "))
                        continue
                    other, first = seen.setdefault(found.pixels, (split, entry))
                    if other != split and not same_file(entry, first):  # which the lists have shown
                        overlaps.append(Overlap(split, entry, other, first))
                    elif other == split and entry.label != first.label:
                        ambiguous.append((entry, first))
    tell_overlaps(task, source, overlaps, report)
    if ambiguous:
        entry, first = ambiguous[0]
        more = count(len(ambiguous) - 1, "more image is", "more images are")
        report.warning(
            entry.place,
            f"the same image is in two classes: {source.name_of(entry.label)} here, and "
            f"{source.name_of(first.label)} in {first.place}"
            + (f"; {more}, too" if len(ambiguous) > 1 else ""),
        )
    return total.hexdigest()[:12]


def _check_backbone(name: str, backbone: Mapping[str, Any], config: Mapping[str, Any]) -> Finding:
    from mosa.backbones.build import build_backbone
    from mosa.backbones.kinds import name_of

    finding = Finding(name, backbone["weights"])
    try:
        model, built = build_backbone(
            backbone["architecture"],
            backbone["weights"],
            num_classes=2,
            kind=backbone["kind"],
            image_size=backbone_image_size(backbone),
            normalization=normalization_of(config, backbone),
        )
    except UserError as error:
        first, *table = str(error).split("\n")
        message = first.removeprefix(f"{finding.place}: ")
        finding.problems = [Problem("error", finding.place, "\n".join([message, *table]))]
        return finding
    statistics = name_of((built.mean, built.std))
    kind = built.kind or "no file"
    finding.summary = f"{built.architecture}, {kind}, {built.image_size} pixels, normalised by {statistics}"
    finding.problems = [Problem("note", finding.place, note) for note in built.notes]
    if built.guess is not None:
        finding.problems.append(Problem("warning", finding.place, built.guess))
    finding.digest = (built.sha256 or "")[:12]
    found = (run.specification for run in expand(config) if run.specification.backbone.name == name)
    methods = {json.dumps([one.method, one.options]): one for one in found}
    for one in methods.values():
        if reason := _unusable(model, one):
            finding.problems.append(Problem("error", f"variant {one.variant}", reason))
    for pair, reason in left_out(config).items():
        backbone_name, _, variant = pair.partition(", ")
        if backbone_name == name:
            finding.problems.append(
                Problem("warning", f"variant {variant}", f"{reason}: it has no runs here")
            )
    return finding


def _unusable(model: nn.Module, what: Specification) -> str | None:
    """Return why the method of a run cannot be attached to a model or merged; None if it can."""
    from mosa.peft import attach, example_batches, merge

    try:
        data = example_batches(model)
        attached = attach(copied(model), what.method, restorable=False, data=data, **what.options)
        if what.plugins:  # a method of the package merges
            merge(attached.eval())
    except UserError as error:
        return str(error)
    except Exception as error:
        reason = blamed(error)
        if reason is None:
            raise
        return f"{reason}; `mosa conformance` shows more"
    return None


def as_data(finding: Finding) -> dict[str, Any]:
    """Return a finding for programs: its attributes, and its state."""
    return {"state": finding.state} | vars(finding)


def table(findings: list[Finding]) -> str:
    """Return the findings as one table, and below it the problems of each, with what to do, and notes."""
    rows = [("", "name", "found", "digest", "place")]
    rows += [(f.state, f.name, f.summary or "-", f.digest or "-", f.place) for f in findings]
    lines = aligned(rows)
    for finding in findings:
        for severity in ("error", "warning", "note"):
            problems = [problem for problem in finding.problems if problem.severity == severity]
            if problems:
                lines += ["", f"{finding.name}: {count(len(problems), severity)}"]
            lines += [f"  {problem.place}: {problem.message}" for problem in problems[:_SHOWN]]
            if len(problems) > _SHOWN:
                lines.append(f"  ... and {len(problems) - _SHOWN} more")
        if finding.notes:
            lines += ["", f"{finding.name}: {count(len(finding.notes), 'note')}"]
            lines += [f"  {note}" for note in finding.notes]
    return "\n".join(lines)
