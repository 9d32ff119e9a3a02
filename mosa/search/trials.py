"""A search: every trial of a variant on a task, trained on train and evaluated on val, in one process."""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from mosa.base.errors import UserError
from mosa.base.files import written_atomically
from mosa.base.words import count
from mosa.data.packs import Pack
from mosa.engine.diverged import Diverged
from mosa.engine.machine import CPU, Machine
from mosa.engine.run import execute
from mosa.experiment.alive import name_of
from mosa.experiment.expand import Run
from mosa.experiment.manifest import with_choice
from mosa.experiment.recipe import problem_of
from mosa.experiment.space import TOP1, Trial, beyond, comparison, make_trials, measured_by, round_lengths
from mosa.experiment.specification import Specification
from mosa.records import check_specification, load_record
from mosa.search.choose import TRIALS_VERSION, best_first, describe, shown_score


@dataclass(frozen=True)
class Search:
    """How a variant is searched.

    Attributes:
        space: `training` and `options`, with lists or ranges of values.
        kind: "grid", "random" or "sobol".
        trials: Number of trials, for "random" and "sobol".
        seed: Seeds the sample.
        seeds: Seeds that every trial is trained with.
        folds: Parts of train + val, each compared on once, trained on the others; None: trained on train,
            compared on val.
        extend: Trials by which a grid may grow where its best value is at an edge, see `beyond`.
        min_epochs: Epochs of the first round of successive halving; None: every trial is trained in full.
        factor: One in `factor` trials goes on to the next round, which has `factor` times the epochs.
        metric: What trials are compared by, a name in `mosa.data.metrics`.
    """

    space: Mapping[str, Any]
    kind: str = "grid"
    trials: int | None = None
    seed: int = 0
    seeds: Sequence[int] = (0,)
    folds: int | None = None
    extend: int = 0
    min_epochs: int | None = None
    factor: int = 2
    metric: str = TOP1


def run_search(
    run: Run, search: Search, pack: Path, folder: Path, output: Path, machine: Machine = CPU
) -> dict[str, Any]:
    """Run all trials of a search and write their results.

    Each training leaves a record in `folder`, named by a digest of all that decides its result; one that is
    there already is taken as it is, so that a search that was stopped goes on, and one that grows does what
    is new. Only train and val are read: test is closed.

    With `min_epochs`, successive halving (Jamieson and Talwalkar 2016): all trials are trained for so many
    epochs, the best 1 / factor of them anew for factor times as many, until the full length.

    Args:
        run: The run whose hyper-parameters are searched; its seed and stage are replaced.
        search: What is tried.
        pack: The packed task.
        folder: Where the trainings' records are kept.
        output: Where the results are written, atomically, at the end.
        machine: How the trainings are done here.

    Returns:
        What was written; `trials` has an entry for each trial, in order.

    Raises:
        UserError: An option, the pack or the weights are wrong, or every trial diverged.
    """
    what = run.specification
    trials = make_trials(search.space, what.method, search.kind, search.trials, search.seed)
    full = what.training.epochs
    entries = [
        {"options": trial.options, "training": trial.training, "status": "complete"} for trial in trials
    ]
    rounds = round_lengths(full, search.min_epochs or full, search.factor)
    alive = list(range(len(trials)))
    for number, epochs in enumerate(rounds):
        for index in alive:
            entries[index] |= _try(run, trials[index], epochs, search, pack, folder, machine)
            name = f"{what.task} {what.variant} trial {index + 1}/{len(trials)}, {count(epochs, 'epoch')}"
            print(f"{name}: {_outcome(entries[index], search)}", file=sys.stderr, flush=True)
        alive = _survivors(entries, alive, search, number, last=number == len(rounds) - 1)
    if not alive:
        left = " that was left" if {entry["status"] for entry in entries} != {"diverged"} else ""
        raise UserError(f"{what.task} {what.variant}: every trial{left} diverged; try smaller learning rates")
    trained = functools.partial(_try, run, search=search, pack=pack, folder=folder, machine=machine)
    _extend(what, trials, entries, alive, search, trained)
    result = {
        "version": TRIALS_VERSION,
        "specification": what.digest,
        "task": what.task,
        "backbone": what.backbone.name,
        "variant": what.variant,
        "method": what.method,
        "search": _described(search, rounds) | measured_by(search.metric, what),
        "trials": entries,
    }
    with written_atomically(output) as temporary:
        temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return result


def _extend(
    what: Specification,
    trials: list[Trial],
    entries: list[dict[str, Any]],
    alive: list[int],
    search: Search,
    trained: Callable[..., dict[str, Any]],
) -> None:
    """Add trials beyond the edge of a grid to `trials` and `entries`, while the best one is there.

    Args:
        what: The specification that is searched for.
        trials: What was tried.
        entries: How each ended.
        alive: Indices of those that were trained to the end.
        search: How trials are compared, and how many may be added.
        trained: Trains a trial for a number of epochs, and returns its means.
    """
    for _ in range(search.extend):
        best = best_first(entries, alive, comparison(search.metric))[0]
        trial = beyond(trials, trials[best], what.method)
        if trial is None:
            return
        entry = {"options": trial.options, "training": trial.training, "status": "complete", "extended": True}
        entries.append(entry | trained(trial, what.training.epochs))
        trials.append(trial)
        if entries[-1]["status"] == "complete":
            alive.append(len(trials) - 1)
        name = f"{what.task} {what.variant} trial {len(trials)}, beyond the edge"
        print(f"{name}: {_outcome(entries[-1], search)}", file=sys.stderr, flush=True)


def _described(search: Search, rounds: list[int]) -> dict[str, Any]:
    """Return how trials were made, as `mosa.experiment.space.search_settings` means it."""
    return (
        {
            "kind": search.kind,
            "space": {section: dict(values) for section, values in search.space.items()},
            "trials": search.trials,
            "seed": search.seed,
            "seeds": list(search.seeds),
            "rounds": rounds,
            "factor": search.factor,
        }
        | {name: getattr(search, name) for name in ("folds", "extend") if getattr(search, name)}
        | comparison(search.metric)
    )


def _outcome(entry: Mapping[str, Any], search: Search) -> str:
    score = entry["score"]
    return "diverged" if score is None else f"{shown_score(comparison(search.metric), score, 1)} on val"


def _survivors(
    entries: list[dict[str, Any]], alive: list[int], search: Search, number: int, last: bool
) -> list[int]:
    """Return the trials that go on after a round; mark those that are dropped."""
    alive = [index for index in alive if entries[index]["status"] == "complete"]
    if last:
        return alive
    ranked = best_first(entries, alive, comparison(search.metric))
    kept = ranked[: max(1, len(entries) // search.factor ** (number + 1))]
    for index in set(alive) - set(kept):
        entries[index]["status"] = "pruned"
    return sorted(kept)


def _try(
    run: Run, trial: Trial, epochs: int, search: Search, pack: Path, folder: Path, machine: Machine
) -> dict[str, Any]:
    """Train a trial on every fold with every seed, or take the records that there are; return its means."""
    scores, top1, losses, seconds, examples = [], [], [], 0.0, 0
    folds = [{"number": number, "of": search.folds} for number in range(search.folds or 0)] or [None]
    for fold, seed in product(folds, search.seeds):
        specification = of_trial(run.specification, trial, epochs, fold)
        path = folder / f"{name_of(specification.digest, seed)}.json"
        try:
            record = _existing(path, specification, pack, search.metric) or execute(
                Run(specification, seed), pack, path, machine
            )
        except Diverged as error:
            nothing = dict.fromkeys(("score", "top1", "loss")) | {"scores": [], "examples": 0}
            return {"status": "diverged", "note": str(error), "epochs": epochs} | nothing
        scores.append(_score(record, search.metric, path))
        top1.append(record["metrics"]["top1"])
        losses.append(record["metrics"]["nll"])
        seconds += record["seconds"]["total"]
        examples = record["metrics"]["examples"]
    return {
        "status": "complete",
        "epochs": epochs,
        "score": fmean(scores),
        "top1": fmean(top1),
        "loss": fmean(losses),
        "seconds": seconds,
        "scores": scores,
        "examples": examples,
    }


def _score(record: Mapping[str, Any], metric: str, path: Path) -> float:
    value = record["metrics"].get(metric)
    if value is None:
        raise UserError(f"{path}: has no value of the metric {metric!r}, by which trials are compared")
    return value


def of_trial(
    specification: Specification, trial: Trial, epochs: int, fold: dict[str, int] | None
) -> Specification:
    """Return the specification of a trial; a shorter round has the same schedule, shorter."""
    tried = with_choice(specification, {"options": trial.options, "training": trial.training}).model_dump()
    recipe = tried["training"]
    if problem := problem_of(recipe):
        raise UserError(f"{specification.variant}, {describe(vars(trial))}: {problem[1]}")
    recipe["warmup_epochs"] = recipe["warmup_epochs"] * epochs / recipe["epochs"]
    recipe["epochs"] = epochs
    return Specification.model_validate(tried | {"stage": "selection", "fold": fold})


def _existing(path: Path, specification: Specification, pack: Path, metric: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        record = load_record(path)
        check_specification(record, specification, path)
        if record["data"]["digest"] != Pack(pack).digest:
            raise UserError(f"{path}: was trained on other images than those of {pack}")
        found = Specification.model_validate(record["specification"])
        if measured_by(metric, found) != measured_by(metric, specification):
            raise UserError(f"{path}: has no value of the metric {metric!r} as its plugin defines it now")
    except UserError as error:
        print(f"{error}; it is trained again", file=sys.stderr)
        return None
    return record
