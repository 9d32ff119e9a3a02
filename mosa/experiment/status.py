"""How far an experiment is: which of its runs are done, running, failed, stale or to do. No torch."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mosa.base.grid import aligned
from mosa.base.words import count
from mosa.data.task import Task
from mosa.experiment.alive import Sign, name_of, read_signs
from mosa.experiment.cost import image_passes, searched_options
from mosa.experiment.expand import Run
from mosa.experiment.failures import EMPTY, ended_with_error, is_of, last_words, log_of
from mosa.experiment.manifest import peek
from mosa.experiment.plan import Rates, counted, tuning_rows
from mosa.experiment.stale import why_stale
from mosa.experiment.workflow import Workflow

# In the order of the table.
STATES = {
    "done": "its record is there, and of the specification that is meant",
    "running": "it gives signs of life",
    "silent": "it started, and gives no sign of life, or was stopped; it goes on when it is started again",
    "failed": "it ended with an error, and left no record",
    "stale": "its record is of another specification; it is made again",
    "to do": "it has not started",
}
_SHOWN = 5  # runs of a state that are listed
_STOPPED = "stopped by "  # begins the last line of a run that a signal stopped
ALL_DONE, TROUBLE, UNFINISHED = 0, 1, 3  # exit status; 2 is a wrong command line


class State(NamedTuple):
    """A run, and how far it is.

    Attributes:
        path: Its record, below the results folder.
        state: A key of `STATES`.
        reason: Why, where there is more to say; else empty.
        run: The run.
        seconds: How long it has been running; 0 unless it is.
    """

    path: str
    state: str
    reason: str
    run: Run
    seconds: float = 0.0


@dataclass(frozen=True)
class Status:
    """How far an experiment is.

    Attributes:
        name: Its name.
        runs: Every run.
        searches: Searches of hyper-parameters that are done, and all of them.
        hours: What is left takes, in hours of one core or GPU, searches included.
        assumed: Whether some of them are at an assumed rate, and not at that of records.
        unit: "core" or "GPU".
        counts: The number of runs in each state.
    """

    name: str
    runs: list[State]
    searches: tuple[int, int] = (0, 0)
    hours: float = 0.0
    assumed: bool = False
    unit: str = "core"
    counts: Counter = field(default_factory=Counter)

    @property
    def exit_status(self) -> int:
        """0: all is done; 1: a run failed, or is silent; 3: runs are to do, or running."""
        if self.counts["failed"] or self.counts["silent"]:
            return TROUBLE
        complete = self.counts["done"] == len(self.runs) and self.searches[0] == self.searches[1]
        return ALL_DONE if complete else UNFINISHED


def status_of(workflow: Workflow) -> Status:
    """Look at what lies on disk."""
    config = workflow.config
    results = Path(workflow.results)
    signs = read_signs(results / "running")
    found = [_state(workflow, results, record, run, signs) for record, run in workflow.runs.items()]
    searches = workflow.searches
    stale = workflow.stale_searches() if searches else set()
    searched = [path for path in searches if Path(path).is_file() and path not in stale]
    hours, assumed = _hours_left(config, results, found, searched)
    unit = "GPU" if config["device"] == "cuda" else "core"
    counts = Counter(one.state for one in found)
    return Status(config["name"], found, (len(searched), len(searches)), hours, assumed, unit, counts)


def _state(workflow: Workflow, results: Path, record: str, run: Run, signs: Mapping[str, Sign]) -> State:
    path, meant = run.path, workflow.meant_digest(run)
    there = peek(Path(record))
    if there is not None and there[0] == meant:
        return State(path, "done", "", run)
    sign = signs.get(name_of(meant, run.seed))
    if sign is not None and sign.alive:
        since = f"on {sign.host}, since {_shown(sign.started)}"
        return State(path, "running", since, run, sign.now - sign.started)
    if sign is not None:
        return State(
            path, "silent", f"started on {sign.host}, no sign of life since {_shown(sign.last)}", run
        )
    log, specification = log_of(results, path), Path(workflow.specification_file(run))
    words = last_words(log) if _is_of(log, specification, meant) else None
    if words is not None and words.text.startswith(_STOPPED):
        return State(path, "silent", words.text, run)
    if words is not None and ended_with_error(log):
        return State(path, "failed", words.text, run)
    if Path(record).exists():
        return State(path, "stale", why_stale(Path(record), run), run)
    if (
        words is not None and words.text != EMPTY and not words.text.endswith(record)
    ):  # killed before its first sign
        return State(path, "silent", f"started, no sign of life since {_shown(log.stat().st_mtime)}", run)
    return State(path, "to do", "", run)


def _is_of(log: Path, specification: Path, digest: str) -> bool:
    """Return whether a log may be of a specification: it names no other, nor is it older than its file."""
    try:
        return log.stat().st_mtime >= specification.stat().st_mtime and is_of(log, digest)
    except OSError:
        return False


def _shown(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _hours_left(
    config: Mapping[str, Any], results: Path, states: list[State], searched: Iterable[str]
) -> tuple[float, bool]:
    """Return the hours that what is left takes, and whether a rate is assumed."""
    tasks: dict[str, Task] = counted(config)
    rates = Rates(results, [one.run for one in states], config["device"] == "cuda")
    hours, assumed = 0.0, False
    for one in states:
        what = one.run.specification
        if one.state in ("done", "failed") or not tasks[what.task].sizes:
            continue
        space = searched_options(config["tune"], what.variant)
        row = rates.row(what, image_passes(what, tasks[what.task], space=space))
        hours += max(0.0, row.hours - one.seconds / 3600)
        assumed |= row.assumed
    done = {Path(path).relative_to(results).as_posix() for path in searched}
    for row in tuning_rows(config, [one.run for one in states], tasks, rates, done).values():
        hours, assumed = hours + row.hours, assumed or row.assumed
    return hours, assumed


def as_json(found: Status) -> str:
    """Return the status as JSON, every run in it."""
    content = {
        "name": found.name,
        "counts": {state: found.counts[state] for state in STATES},
        "searches": dict(zip(("done", "all"), found.searches, strict=True)),
        "hours_left": round(found.hours, 3),
        "rate_assumed": found.assumed,
        "exit_status": found.exit_status,
        "runs": [{"path": one.path, "state": one.state, "reason": one.reason} for one in found.runs],
    }
    return json.dumps(content, indent=1) + "\n"


def as_text(found: Status) -> str:
    """Return the status as tables by variant and by task, and what there is to say of single runs."""
    lines = [f"{found.name}: {found.counts['done']} of {count(len(found.runs), 'run')} done"]
    if found.searches[1]:
        lines.append(f"tuning: {found.searches[0]} of {count(found.searches[1], 'search', 'searches')} done")
    for title, key in (
        ("variant", lambda one: (one.backbone.name, one.variant)),
        ("task", lambda one: tuple(one.task.split("/", 1))),
    ):
        lines += ["", *_table(title, found.runs, key)]
    for state in ("running", "silent", "failed", "stale"):
        some = [one for one in found.runs if one.state == state]
        lines += [""] if some else []
        lines += [f"{state}: {one.path}: {one.reason}" for one in some[:_SHOWN]]
        if len(some) > _SHOWN:
            lines.append(f"{state}: {count(len(some) - _SHOWN, 'more run')}")
    return "\n".join([*lines, "", _left(found)]) + "\n"


def _left(found: Status) -> str:
    if found.exit_status == ALL_DONE:
        return "nothing is left to do"
    text = f"left: about {found.hours:.1f} hours of one {found.unit}"
    text += ", partly at an assumed rate, as there are no records to tell it by yet" if found.assumed else ""
    running = found.counts["running"]
    if running:
        minutes = found.hours / running * 60
        span = count(round(minutes), "minute") if minutes < 90 else f"{minutes / 60:.1f} hours"
        text += f"; with {count(running, 'run')} at once, as now, {span}"
    return text + ("; without failed runs" if found.counts["failed"] else "")


def _table(title: str, runs: Iterable[State], key: Any) -> list[str]:
    counts: dict[tuple[str, ...], Counter] = {}
    for one in runs:
        counts.setdefault(key(one.run.specification), Counter())[one.state] += 1
    first = {"variant": "backbone", "task": "benchmark"}[title]
    rows = [(first, title, "runs", *STATES)]
    rows += [
        (*names, str(found.total()), *(str(found[state] or "-") for state in STATES))
        for names, found in counts.items()
    ]
    return aligned(rows, "llr")
