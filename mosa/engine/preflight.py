"""Whether data, weights and methods of a config are in order, before anything is trained."""

import copy
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from mosa.base.errors import UserError
from mosa.data.images import decode
from mosa.data.layouts import Entry, Report, Source, read_source
from mosa.data.layouts.source import Problem
from mosa.data.task import OWN, Task
from mosa.experiment.expand import (
    backbone_image_size,
    config_tasks,
    expand,
    left_out,
    normalization_of,
    root_of,
)

_SHOWN = 5  # problems of one kind of place that are printed; the others are counted


@dataclass
class Finding:
    """What was found of one task or one weights file.

    Attributes:
        name: Full name of the task, or of the backbone.
        place: Folder or file.
        summary: Counts and classes, or the architecture.
        digest: Of the lists and images, or of the file; shortened.
        problems: What is wrong, the errors first.
    """

    name: str
    place: str
    summary: str = ""
    digest: str = ""
    problems: list[Problem] = field(default_factory=list)

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
        One finding for each task that lies on disk, and for each backbone.
    """
    findings = [_check_task(task, config, quick, threads) for task in config_tasks(config) if task.on_disk]
    return findings + [_check_backbone(name, entry, config) for name, entry in config["backbones"].items()]


def _check_task(task: Task, config: Mapping[str, Any], quick: bool, threads: int) -> Finding:
    root, report = root_of(task, config["paths"]["data"]), Report()
    source = read_source(task, root, report)
    finding = Finding(task.full_name, str(source.root if source else root))
    if source is not None:
        counts = " / ".join(str(len(source.splits[split])) for split in ("train", "val", "test"))
        finding.summary = f"{counts} images, {source.num_classes} classes"
        if not quick:
            finding.digest = _check_images(source, report, threads, own=task.benchmark == OWN)
    finding.problems = sorted(report.problems, key=lambda problem: problem.severity)
    return finding


def _check_images(source: Source, report: Report, threads: int, own: bool) -> str:
    """Decode every image, look for the same one in two splits, and return a digest of lists and images."""

    def examine(entry: Entry) -> tuple[bytes, str | None]:
        if isinstance(entry.image, np.ndarray):
            return hashlib.sha256(entry.image.tobytes()).digest(), None
        try:
            decode(entry.image)
            return hashlib.sha256(entry.image.read_bytes()).digest(), None
        except (UserError, OSError) as error:
            return b"", str(error)

    total = hashlib.sha256()
    seen: dict[bytes, tuple[str, str]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for split in ("train", "val", "test"):
            entries = iter(source.splits[split])
            while chunk := list(islice(entries, 256)):
                for entry, (digest, error) in zip(chunk, pool.map(examine, chunk), strict=True):
                    total.update(digest + entry.label.to_bytes(8, "big"))
                    if error is not None:
                        report.error(entry.place, error)
                        continue
                    other, place = seen.setdefault(digest, (split, entry.place))
                    if split == "test" and other != "test":
                        # Published benchmarks have some, and their numbers are with them.
                        note = report.error if own else report.warning
                        note(
                            entry.place, f"the same image is in {other} ({place}); take it out of one of them"
                        )
    return total.hexdigest()[:12]


def _check_backbone(name: str, backbone: Mapping[str, Any], config: Mapping[str, Any]) -> Finding:
    from mosa.backbones.build import build_backbone
    from mosa.backbones.kinds import name_of
    from mosa.peft import attach

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
        place, _, message = first.rpartition(": ") if first.startswith(finding.place) else ("", "", first)
        finding.problems = [Problem("error", place or finding.place, "\n".join([message, *table]))]
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
        try:
            attach(copy.deepcopy(model), one.method, **one.options)
        except UserError as error:
            finding.problems.append(Problem("error", f"variant {one.variant}", str(error)))
    for pair, reason in left_out(config).items():
        backbone_name, _, variant = pair.partition(", ")
        if backbone_name == name:
            finding.problems.append(
                Problem("warning", f"variant {variant}", f"{reason}: it has no runs here")
            )
    return finding


def table(findings: list[Finding]) -> str:
    """Return the findings as one table, and below it every problem with what to do."""
    rows = [("", "name", "found", "digest", "place")]
    rows += [(f.state, f.name, f.summary or "-", f.digest or "-", f.place) for f in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    ]
    for finding in findings:
        for severity in ("error", "warning", "note"):
            problems = [problem for problem in finding.problems if problem.severity == severity]
            if problems:
                lines += ["", f"{finding.name}: {len(problems)} {severity}{'s' * (len(problems) > 1)}"]
            lines += [f"  {problem.place}: {problem.message}" for problem in problems[:_SHOWN]]
            if len(problems) > _SHOWN:
                lines.append(f"  ... and {len(problems) - _SHOWN} more")
    return "\n".join(lines)
