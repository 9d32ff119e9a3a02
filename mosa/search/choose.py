"""The choice among trials, its rule, and the table of what was chosen. No torch."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from mosa.base.errors import UserError, unreadable
from mosa.base.files import written_atomically
from mosa.data.metrics import EXACT, METRICS, SHARES, Metric
from mosa.experiment.curves import is_number
from mosa.experiment.declared import Declared, option
from mosa.experiment.manifest import Meant, with_choice
from mosa.experiment.space import TOP1
from mosa.experiment.specification import Specification
from mosa.experiment.validation import Places, explain

TRIALS_VERSION = 2


def metric_of(search: Mapping[str, Any]) -> Metric:
    """Return the metric that the trials of a search are compared by.

    Args:
        search: How the trials were made. Its metric may be of a plugin that is not used here.
    """
    name = search.get("metric", TOP1)
    higher = search.get("higher_is_better", True)
    return METRICS.get(name) or Metric(name, name, "", higher, 4, _not_here, "Of a plugin.")


def _not_here(*_: Any) -> float:
    raise NotImplementedError


def rule_of(search: Mapping[str, Any]) -> str:
    """Return how the choice is made among the trials of a search, in words."""
    metric = metric_of(search)
    return (
        f"{'highest' if metric.higher_is_better else 'lowest'} {metric.title} on val, mean over seeds and "
        "tasks; on a tie the lower loss on val, then the earlier trial"
    )


def shown_score(search: Mapping[str, Any], score: float, more: int = 0) -> str:
    """Return a score of a search as it is printed, with its unit: "74.1 %"."""
    metric = metric_of(search)
    return f"{metric.shown(score, more)} {metric.unit}".rstrip()


class Scored(Declared):
    """What has a score on val: its top-1, unless its file names another."""

    score: float | None = option(
        None, description="What trials are compared by, a mean; null if a trial diverged, or if it is top-1."
    )

    @model_validator(mode="before")
    @classmethod
    def _by_default_top1(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and entry.get("score") is None and "top1" in entry:
            return entry | {"score": entry["top1"]}
        return entry


class TriedTrial(Scored):
    """A trial."""

    options: dict[str, Any] = option(description="Options of the method that were tried.")
    training: dict[str, Any] = option(description="Keys of the recipe that were tried.")
    status: Literal["complete", "pruned", "diverged"] = option(description="How it ended.")
    epochs: int = option(ge=1, description="Epochs of its last round.")
    top1: float | None = option(description="Top-1 on val in percent, mean over seeds; null if it diverged.")
    loss: float | None = option(description="Mean cross-entropy on val; null if it diverged.")
    seconds: float = option(0.0, description="Time of its last round.")
    scores: list[float] = option([], description="The score of each training: fold by fold, seed by seed.")
    extended: bool = option(False, description="Whether it lies beyond the grid, which grew by it.")
    examples: int = option(0, ge=0, description="Images of val that each was compared on.")
    note: str = option("", description="Why it diverged.")

    @model_validator(mode="after")
    def _has_scores(self) -> "TriedTrial":
        if self.status != "diverged" and (self.top1 is None or self.loss is None):
            raise PydanticCustomError("expected", "expected", {"expected": "top1 and loss to be numbers"})
        return self


class Trials(Declared):
    """All trials of a variant on a task."""

    version: Literal[2] = option(description="Version of this form.")
    specification: str = option(description="Digest of the specification that is searched for.")
    task: str = option(min_length=1, description="Full name of the task.")
    backbone: str = option(min_length=1, description="Name of the backbone.")
    variant: str = option(min_length=1, description="Name of the variant.")
    method: str = option(min_length=1, description="Name of the method.")
    search: dict[str, Any] = option(description="How the trials were made.")
    trials: Annotated[list[TriedTrial], Field(min_length=1)] = option(description="The trials, in order.")


class Chosen(Declared):
    """What was chosen."""

    options: dict[str, Any] = option(description="Options of the method.")
    training: dict[str, Any] = option(description="Keys of the recipe.")


class Choice(Declared):
    """What final runs take."""

    version: Literal[2] = option(description="Version of this form.")
    tasks: list[str] = option(description="Full names of the tasks that it was chosen on.")
    backbone: str = option(description="Name of the backbone.")
    variant: str = option(description="Name of the variant.")
    rule: str = option(description="How it was chosen.")
    chosen: Chosen = option(description="What was chosen.")


def best_first(
    entries: Sequence[Mapping[str, Any]], indices: Iterable[int], search: Mapping[str, Any]
) -> list[int]:
    """Return the indices of trials, the best first: see `rule_of`."""
    sign = -1 if search.get("higher_is_better", True) else 1
    exact = {at: [round(entries[at][name], EXACT) for name in ("score", "loss")] for at in indices}
    return sorted(exact, key=lambda at: (sign * exact[at][0], exact[at][1], at))


def choose(paths: Iterable[Path]) -> dict[str, Any]:
    """Choose one trial of a variant, for one task or for several by their mean.

    Args:
        paths: Results of `mosa.search.trials.run_search`: one variant and backbone, one file per task.

    Returns:
        The choice: `chosen` has the `options` and `training` that final runs take, `score` its mean on val,
        `standard_error` the standard error of that (None where it is not known), `trials` all trials, and
        `at_edge` names the numbers whose chosen value is the smallest or largest that was tried.

    Raises:
        UserError: A file is not what was expected, the files are not of one search, or no trial was
            trained to its end on all tasks.
    """
    files = {str(path): read_trials(path) for path in paths}
    first, *others = files.items()
    tried = [(trial["options"], trial["training"]) for trial in first[1]["trials"]]
    tasks = {first[1]["task"]: first[0]}
    for path, other in others:
        if (same := tasks.setdefault(other["task"], path)) != path:
            raise UserError(f"{path}: of {other['task']}, as {same} is; give one file for each task")
        for key in ("backbone", "variant", "search"):
            if other[key] != first[1][key]:
                raise UserError(
                    f"{path}: another {key} than {first[0]}; choose among the trials of one search"
                )
        if [(trial["options"], trial["training"]) for trial in other["trials"]] != tried:
            raise UserError(f"{path}: other trials than {first[0]}; choose among the trials of one search")
    search = first[1]["search"]
    trials = [
        _over_tasks(each, search) for each in zip(*(file["trials"] for file in files.values()), strict=True)
    ]
    complete = [index for index, trial in enumerate(trials) if trial["status"] == "complete"]
    if not complete:
        raise UserError(
            f"{first[0]}: no trial was trained to its end on every task; try smaller learning rates"
        )
    best = best_first(trials, complete, search)[0]
    chosen = {key: trials[best][key] for key in ("options", "training")}
    return {
        "tasks": list(tasks),
        "backbone": first[1]["backbone"],
        "variant": first[1]["variant"],
        "method": first[1]["method"],
        "rule": rule_of(search),
        "search": search,
        "chosen": chosen,
        "score": trials[best]["score"],
        "top1": trials[best]["top1"],
        "standard_error": trials[best]["standard_error"],
        "at_edge": _at_edge(chosen, trials),
        "trials": trials,
    }


def _over_tasks(entries: Sequence[Mapping[str, Any]], search: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial by its means over tasks, see `_standard_error`."""
    states = {entry["status"] for entry in entries}
    known = all(entry["top1"] is not None for entry in entries)
    return {
        "options": entries[0]["options"],
        "training": entries[0]["training"],
        "extended": entries[0]["extended"],
        "status": next((state for state in ("diverged", "pruned") if state in states), "complete"),
        "epochs": entries[0]["epochs"],
        "score": fmean(entry["score"] for entry in entries) if known else None,
        "top1": fmean(entry["top1"] for entry in entries) if known else None,
        "loss": fmean(entry["loss"] for entry in entries) if known else None,
        "standard_error": _standard_error(entries, search),
        "notes": [entry["note"] for entry in entries if entry["note"]],
    }


def _standard_error(entries: Sequence[Mapping[str, Any]], search: Mapping[str, Any]) -> float | None:
    """Return the standard error of a trial's mean score on val; None if it is not known.

    Seeds share the images of val, so the binomial error of these is added to what differs between seeds.
    Folds have images of their own, and what differs between them holds both; but a few folds agree by chance,
    so the error is not less than the binomial error of all their images. Of a score that is no share of the
    images, what these add is not known: only folds tell.

    Args:
        entries: The trial on each task.
        search: How it was made.
    """
    if not all(entry["scores"] and entry["examples"] for entry in entries):
        return None
    means = [fmean(scores) for scores in zip(*(entry["scores"] for entry in entries), strict=True)]
    folds, images = search.get("folds"), 0.0
    is_share = search.get("metric", TOP1) in SHARES
    if not is_share and not folds:
        return None
    for entry in entries if is_share else ():
        share = fmean(entry["scores"]) / 100
        images += 1e4 * share * (1 - share) / (entry["examples"] * (folds or 1)) / len(entries) ** 2
    if folds:
        size = len(means) // folds
        means = [fmean(means[start : start + size]) for start in range(0, len(means), size)]
    between = variance(means) / len(means) if len(means) > 1 else 0.0
    return math.sqrt(max(between, images) if folds else between + images)


def write_choice(choice: Mapping[str, Any], output: Path) -> None:
    """Write what final runs take of a choice, atomically; it changes only if they have to be run again.

    The same choice is left as it lies: a newer file would repeat the runs.
    """
    kept = {key: choice[key] for key in ("tasks", "backbone", "variant", "rule", "chosen")}
    text = json.dumps({"version": TRIALS_VERSION} | kept, indent=2, allow_nan=False) + "\n"
    if output.is_file() and output.read_bytes() == text.encode():
        return
    with written_atomically(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _at_edge(chosen: Mapping[str, Mapping[str, Any]], trials: list[dict[str, Any]]) -> list[str]:
    edges = []
    for section, values in chosen.items():
        for key, value in values.items():
            others = (trial[section].get(key) for trial in trials)
            tried = {other for other in others if is_number(other)}
            if len(tried) > 1 and value in (min(tried), max(tried)):
                edges.append(key)
    return edges


def read_trials(path: Path) -> dict[str, Any]:
    """Read a result of `mosa.search.trials.run_search`.

    Raises:
        UserError: The file cannot be read, or is not one.
    """
    return _read(path, Trials, "mosa tune")


def read_choice(path: Path) -> dict[str, Any]:
    """Read the outcome of `write_choice`: `chosen` has `options` and `training`.

    Raises:
        UserError: The file cannot be read, or is not one.
    """
    return _read(path, Choice, "mosa choose")


def _read(path: Path, form: type[Declared], verb: str) -> dict[str, Any]:
    workflows = "tune" in path.parts and path.suffix == ".json"  # otherwise it may be a user's own
    advice = "delete it and run again" if workflows else f"name a file that `{verb}` wrote"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return form.model_validate(content).model_dump()
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, (), Places())}; {advice}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({unreadable(error)}); {advice}") from None


def meant_specification(meant: Meant) -> Specification:
    """Return the specification that a record has to have, with the chosen hyper-parameters, if any.

    Raises:
        UserError: The choice is missing, is not one, or is one for other runs.
    """
    if meant.choice is None:
        return meant.specification
    return chosen_for(meant.specification, meant.choice)


def chosen_for(specification: Specification, path: Path) -> Specification:
    """Lay what was chosen for a run over its specification.

    Args:
        specification: What was searched for, or a variant of a sweep that is made from that.
        path: The choice.

    Raises:
        UserError: The file cannot be read, is no choice, or is one for other runs.
    """
    choice, run = read_choice(path), specification
    base = choice["variant"]
    swept = {f"{base}_{option}{value}".lower() for option, value in run.options.items()}
    for key, got, expected, fits in (
        ("task", run.task, " and ".join(choice["tasks"]), run.task in choice["tasks"]),
        ("backbone", run.backbone.name, choice["backbone"], run.backbone.name == choice["backbone"]),
        ("variant", run.variant, base, run.variant == base or run.variant in swept),
    ):
        if not fits:
            raise UserError(
                f"{path}: a choice for the {key} {expected}, and the run is of {got}; name the choice "
                "that was made for it"
            )
    return with_choice(specification, choice["chosen"])


def describe(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """Return chosen values on one line: "lr 0.03, scale 0.1"."""
    values = chosen["training"] | chosen["options"]
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
