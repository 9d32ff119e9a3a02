"""What is tried: the search spaces of a config, and the trials that they make."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.data.catalogue import get_task
from mosa.data.metrics import get_metric
from mosa.data.task import OWN
from mosa.experiment.declared import Declared
from mosa.experiment.models import SearchSpace
from mosa.experiment.recipe import Recipe, problem_of
from mosa.experiment.specification import Specification
from mosa.experiment.validation import Places, check_option, model_of, validated

TOP1 = "top1"  # what trials are compared by unless their task reports something else


@dataclass(frozen=True)
class Trial:
    """One choice of the hyper-parameters that are searched.

    Attributes:
        options: Of the method.
        training: Of the recipe.
    """

    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def search_path(specification: Specification) -> str:
    """Return the path of the results of a search below the results folder."""
    place = f"{specification.task}/{specification.backbone.name}/{specification.variant}"
    return f"tune/trials/{place}.json"


def check_tune(config: Mapping[str, Any], meant: Iterable[Specification], places: Places) -> None:
    """Refuse a `tune` section that is unfair or has no meaning.

    Args:
        config: The config.
        meant: The specifications of its runs.
        places: Where things stand in its files.

    Raises:
        UserError: An unknown variant or key, a value that the method or the recipe refuses, or variants with
            different numbers of trials.
    """
    tune = config["tune"]
    if tune is None:
        return
    if config["stage"] == "selection":
        raise places.error(("tune",), "is for final runs; drop it, or `stage: selection`")
    for name, space in tune["variants"].items():
        where = ("tune", "variants", name)
        if name not in config["variants"]:
            raise places.error(where, f"unknown variant {name!r}", list(config["variants"]), name)
        method = config["variants"][name]["method"]
        for section, model in _models(method).items():
            for key, values in space[section].items():
                _check_values(values, key, model, tune["search"], (*where, section, key), places)
    for name in config["variants"]:
        if name not in tune["variants"]:
            raise places.error(
                ("tune", "variants"),
                f"{name!r} has no entry; give every variant one, so that the comparison is fair",
            )
    _check_budget(config, places)
    if tune["extend"] and (tune["search"] != "grid" or tune["per"] == "benchmark"):
        raise places.error(
            ("tune", "extend"),
            "grows the grid of a task where its own best value is at an edge; it needs `search: grid` and "
            "`per: task`, and a choice per benchmark needs the same trials on all tasks",
        )
    _check_sweeps(config, places)
    for what in meant:
        _check_warmup(what, tune["variants"].get(what.variant), places)
        if tune["halving"] and tune["halving"]["min_epochs"] >= what.training.epochs:
            raise places.error(
                ("tune", "halving", "min_epochs"),
                f"is no shorter than the {count(what.training.epochs, 'epoch')} of {what.variant} on "
                f"{what.task}, so that nothing is dropped; take fewer, or leave halving out",
            )
    _check_extend(config, places)
    if tune["per"] == "benchmark":
        _check_metrics(config, places)
        _check_lengths(meant, places)
    if tune["halving"] and tune["per"] == "benchmark":
        raise places.error(
            ("tune", "halving"),
            "drops trials by one task, and a choice per benchmark needs them on all; set `per: task`",
        )


def _check_extend(config: Mapping[str, Any], places: Places) -> None:
    """Refuse a grid that is to grow where it cannot: the step is a ratio of positive numbers."""
    tune = config["tune"]
    for name, space in tune["variants"].items() if tune["extend"] else ():
        lists = [values for section in ("training", "options") for values in space[section].values()]
        if not any(len(values) > 1 and all(is_positive(one) for one in values) for values in lists):
            raise places.error(
                ("tune", "extend"),
                f"{name} has no list of two or more positive numbers that could grow; give it one, or leave "
                "extend out",
            )


def _check_metrics(config: Mapping[str, Any], places: Places) -> None:
    """Refuse a choice by the mean over tasks that do not report the same."""
    own = {name: config["tasks"][name]["metric"] for name in config["benchmarks"].get(OWN, [])}
    for name, metric in own.items():
        first, expected = next(iter(own.items()))
        if metric != expected:
            raise places.error(
                ("tasks", name, "metric"),
                f"is {metric!r}, and {expected!r} for {first}: a choice per benchmark is by the mean over "
                "its tasks; give them one metric, or set `tune.per: task`",
            )


def _check_lengths(meant: Iterable[Specification], places: Places) -> None:
    """Refuse a choice by the mean over tasks whose trainings differ in length."""
    first: dict[tuple[str, str], Specification] = {}
    for what in meant:
        other = first.setdefault((what.variant, what.task.partition("/")[0]), what)
        if what.training.epochs != other.training.epochs:
            raise places.error(
                ("tune", "per"),
                f"benchmark: {what.variant} trains for {count(other.training.epochs, 'epoch')} on "
                f"{other.task}, {what.training.epochs} on {what.task}; give them one length, or set `per: "
                "task`",
            )


def _check_sweeps(config: Mapping[str, Any], places: Places) -> None:
    """Refuse to tune an option that a sweep sets: its variants take the choice of their base."""
    for sweep, changes in config["sweeps"].items():
        for name, options in changes.items():
            for option in options.keys() & config["tune"]["variants"][name]["options"].keys():
                raise places.error(
                    ("sweeps", sweep, name, option),
                    f"is tuned, too (tune.variants.{name}.options), and its variants take what is chosen for "
                    f"{name}; leave one of the two out",
                )


def _check_warmup(what: Specification, space: Mapping[str, Any] | None, places: Places) -> None:
    """Refuse a warm-up to be tried that is longer than the training."""
    values = space["training"].get("warmup_epochs") if space else None
    if not values:
        return
    longest = max(values) if isinstance(values, list) else values["high"]
    if problem := problem_of({"epochs": what.training.epochs, "warmup_epochs": longest}):
        raise places.error(
            ("tune", "variants", what.variant, "training", "warmup_epochs"), f"on {what.task}: {problem[1]}"
        )


def _check_values(
    values: Any, key: str, model: type[Declared], search: str, where: tuple, places: Places
) -> None:
    if key not in model.model_fields:
        raise places.error(where, f"unknown key {key!r}", list(model.model_fields), key)
    if model is Recipe and key == "epochs":
        raise places.error(
            where, "all trials train as long as the final runs; give each length a variant of its own"
        )
    if isinstance(values, list):
        for index, value in enumerate(values):
            values[index] = check_option(model, key, value, (*where, index), places)
        return
    if search == "grid":
        raise places.error(where, "a grid takes a list of values; give one, or set `search: sobol`")
    for end in ("low", "high"):
        check_option(model, key, _rounded(values[end], model, key), (*where, end), places)
    if values["low"] >= values["high"]:
        raise places.error(where, f"low ({values['low']}) is not below high ({values['high']})")
    if values.get("log") and values["low"] <= 0:
        raise places.error(where, f"log: true needs low above 0, got {values['low']}")


def _check_budget(config: Mapping[str, Any], places: Places) -> None:
    tune = config["tune"]
    if tune["search"] == "grid":
        if tune["trials"] is not None:
            raise places.error(
                ("tune", "trials"), "a grid has as many trials as its lists make; leave it out"
            )
        if tune["seed"]:
            raise places.error(("tune", "seed"), "a grid draws nothing; leave it out")
    elif tune["trials"] is None:
        raise places.error(
            ("tune", "search"), f"{tune['search']!r} needs `trials`: how many each variant gets"
        )
    sizes = {name: count_trials(tune, name, config["variants"][name]["method"]) for name in tune["variants"]}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise places.error(
            ("tune", "variants"),
            f"give every variant the same number of different trials; they have {counts}",
        )


def count_trials(tune: Mapping[str, Any], variant: str, method: str) -> int:
    """Return the number of different trials of a variant.

    Where a number is continuous, no two of a sample are alike; otherwise the sample is made, and counted.

    Args:
        tune: The `tune` section of a loaded config.
        variant: Name of the variant.
        method: Name of its method.
    """
    space, models = tune["variants"][variant], _models(method)
    if tune["search"] == "grid":
        return grid_size(space)
    ranges = [
        models[section].model_fields[key]
        for section in models
        for key, values in space[section].items()
        if not isinstance(values, list)
    ]
    if any(field.annotation is not int for field in ranges):
        return tune["trials"]
    return len(make_trials(space, method, tune["search"], tune["trials"], tune["seed"]))


def count_trainings(tune: Mapping[str, Any], specification: Specification) -> list[tuple[int, int]]:
    """Return what a search trains at most: in each round, how many models for how many epochs.

    Args:
        tune: The `tune` section of a loaded config.
        specification: The run that is searched for.
    """
    epochs = specification.training.epochs
    trials = count_trials(tune, specification.variant, specification.method)
    halving = tune["halving"] or {"min_epochs": epochs, "factor": 2}
    each = len(tune["seeds"]) * (tune["folds"] or 1)
    rounds = [
        (max(1, trials // halving["factor"] ** number) * each, length)
        for number, length in enumerate(round_lengths(epochs, **halving))
    ]
    return [*rounds, (tune["extend"] * each, epochs)] if tune["extend"] else rounds


def search_settings(tune: Mapping[str, Any], specification: Specification) -> dict[str, Any]:
    """Return how a variant is searched, as the results of its search say it.

    Args:
        tune: The `tune` section of a loaded config.
        specification: The run that is searched for.
    """
    epochs = specification.training.epochs
    halving = tune["halving"] or {"min_epochs": epochs, "factor": 2}
    compared = comparison(metric_of(specification))
    return (
        {
            "kind": tune["search"],
            "space": tune["variants"][specification.variant],
            "trials": tune["trials"],
            "seed": tune["seed"],
            "seeds": tune["seeds"],
            "rounds": round_lengths(epochs, **halving),
            "factor": halving["factor"],
        }
        | {name: tune[name] for name in ("folds", "extend") if tune[name]}
        | compared
        | measured_by(metric_of(specification), specification)
    )


def metric_of(specification: Specification) -> str:
    """Return the name of the metric that a run's task reports, by which trials are compared."""
    own = specification.data.own
    return own["metric"] if own else get_task(specification.task).metric


def comparison(metric: str) -> dict[str, Any]:
    """Return how trials are compared, as the results of a search say it: nothing for top-1."""
    if metric == TOP1:
        return {}
    return {"metric": metric, "higher_is_better": get_metric(metric).higher_is_better}


def measured_by(metric: str, specification: Specification) -> dict[str, str]:
    """Return the digest of the plugin that computes a metric of a run: nothing for one of the package."""
    found = [one.sha256 for one in specification.measures if metric in one.metrics]
    return {"measured_by": found[0]} if found else {}


def round_lengths(epochs: int, min_epochs: int, factor: int) -> list[int]:
    """Return the epochs of each round of successive halving, the last one being the full length."""
    rounds = []
    while min_epochs < epochs:
        rounds.append(min_epochs)
        min_epochs *= factor
    return [*rounds, epochs]


def grid_size(space: Mapping[str, Any]) -> int:
    """Return the number of combinations of a space of lists."""
    return math.prod(len(values) for section in ("training", "options") for values in space[section].values())


def make_trials(
    space: Mapping[str, Any], method: str, search: str = "grid", trials: int | None = None, seed: int = 0
) -> list[Trial]:
    """Return the trials of a space, in the order in which they are run.

    A longer sample begins with the shorter one of the same seed, and every variant of an experiment gets the
    same points of the unit cube, so a search can be extended, and is the same draw for all.

    Args:
        space: `training` and `options`: for each key a list, or a range {low, high, log}.
        method: Name of the method that the options are of; decides which values are whole numbers.
        search: "grid" (every combination, the last key fastest), "random" or "sobol" (scrambled, Owen 1998).
        trials: Number of trials, for "random" and "sobol"; a trial that is drawn twice is kept once.
        seed: Seeds the sample.
    """
    keys = [(section, key) for section in ("training", "options") for key in space[section]]
    values = [space[section][key] for section, key in keys]
    if search == "grid":
        points = list(product(*values))
    else:
        models = _models(method)
        points = [
            tuple(
                _at(value, x, models[section], key)
                for (section, key), value, x in zip(keys, values, row, strict=True)
            )
            for row in _unit_cube(search, trials or 1, len(keys), seed)
        ]
    found: list[Trial] = []
    for point in points:
        trial = Trial()
        for (section, key), value in zip(keys, point, strict=True):
            getattr(trial, section)[key] = value
        if trial not in found:
            found.append(trial)
    return found


def beyond(trials: list[Trial], best: Trial, method: str) -> Trial | None:
    """Return the trial by which a grid grows: the best one, with one number a step further.

    The number is the first whose best value is the smallest or largest that was tried; the step has the ratio
    of the last two. None: no number is at an edge, or the next value is not allowed.

    Args:
        trials: What was tried.
        best: The best of them.
        method: Name of the method that the options are of.
    """
    for section, model in _models(method).items():
        for key, value in getattr(best, section).items():
            values = [getattr(trial, section)[key] for trial in trials]
            tried = set(values) if all(map(is_positive, values)) else set()
            if len(tried) < 2:
                continue
            ordered = sorted(tried, key=lambda one: abs(math.log(one / value)))  # from the best value on
            if value not in (min(tried), max(tried)):
                continue
            further = _rounded(float(f"{value * value / ordered[1]:.4g}"), model, key)
            try:
                further = check_option(model, key, further, (section, key), Places())
            except UserError:
                continue
            changed = {section: getattr(best, section) | {key: further}}
            trial = replace(best, **changed)
            if trial not in trials:
                return trial
    return None


def is_positive(value: Any) -> bool:
    """Return whether a value is a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _unit_cube(search: str, rows: int, columns: int, seed: int) -> list[list[float]]:
    import numpy as np

    if search == "random":
        return np.random.default_rng(seed).random((rows, columns)).tolist()
    from scipy.stats import qmc

    power = max(rows - 1, 0).bit_length()  # a Sobol sequence is balanced at powers of two
    return qmc.Sobol(columns, seed=seed).random_base2(power)[:rows].tolist()


def _at(values: Any, x: float, model: type[Declared], key: str) -> Any:
    """Return the value of a list or range at a place in [0, 1)."""
    if isinstance(values, list):
        return values[int(x * len(values))]
    low, high = values["low"], values["high"]
    value = low * (high / low) ** x if values.get("log") else low + (high - low) * x
    return _rounded(float(f"{value:.4g}"), model, key)


def _rounded(value: float, model: type[Declared], key: str) -> float:
    """Return a whole number where only whole ones are allowed."""
    return round(value) if model.model_fields[key].annotation is int else value


def _models(method: str) -> dict[str, type[Declared]]:
    return {"training": Recipe, "options": model_of(method)}


def parse_space(space: Any, method: str, search: str, trials: int | None) -> Mapping[str, Any]:
    """Check a space that comes from the command line, as that of a config, and fill in what it leaves out.

    Args:
        space: The space.
        method: Name of the method.
        search: How trials are made of it.
        trials: How many are asked for.

    Raises:
        UserError: It has another form, a key or a value is not allowed, or a search needs a number of trials.
    """
    found = validated(SearchSpace, space, ("space",), Places()).model_dump()
    for section, model in _models(method).items():
        for key, values in found[section].items():
            _check_values(values, key, model, search, ("space", section, key), Places())
    if search != "grid" and trials is None:
        raise UserError(f"--search {search}: needs --trials: how many")
    if search == "grid" and trials is not None:
        raise UserError("--trials: a grid has as many trials as its lists make; leave it out")
    return found
