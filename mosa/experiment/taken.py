"""Values of a config that no run takes, because a weaker file has one that counts more."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from mosa.experiment.expand import config_tasks
from mosa.experiment.validation import Places


def check_taken(config: Mapping[str, Any], places: Places) -> None:
    """Refuse options and values of the recipe that have no effect.

    A value may be beaten by one that counts more: that of a variant beats that of all, and that for a task
    beats that of a variant. This is meant within a file, and in a stronger file; in a weaker one it is what
    whoever wrote the value did not see.

    Args:
        config: The config, before what variants leave out is filled in.
        places: Where things stand in its files.

    Raises:
        UserError: A value that all runs it is for take from a weaker file, where some are others.
    """
    beaten: dict[tuple, dict[tuple, Any]] = defaultdict(dict)
    values: dict[tuple, Any] = {}
    for name, variant in config["variants"].items():
        for task in config_tasks(config):
            names = (task.benchmark, task.full_name)
            for sections in (_recipes(config, name, variant, names), _options(name, variant, names)):
                own = {(*path, key): value for path, section in sections for key, value in section.items()}
                winners = {path[-1]: path for path in own}  # the last of a key counts most
                values |= own
                for path in own:
                    winner = winners[path[-1]]
                    beaten[path][winner] = own[winner]
    for path, winners in beaten.items():
        if path in winners or all(value == values[path] for value in winners.values()):
            continue
        weaker = [winner for winner in winners if places.rank(winner) < places.rank(path)]
        if weaker:
            raise places.error(path, f"has no effect, as {_reason(path)} ({'.'.join(weaker[0])}, ...)")


def check_tuned(config: Mapping[str, Any], places: Places) -> None:
    """Refuse values of what is tuned, over which every choice would be laid.

    What a variant has in the file of `tune`, or in a weaker one, is left: it is what a plan counts with.

    Args:
        config: The config, before what variants leave out is filled in.
        places: Where things stand in its files.

    Raises:
        UserError: A value for some tasks, or one of a variant in a file that is stronger than its search.
    """
    spaces = config["tune"]["variants"] if config["tune"] else {}
    for task, shared in config["training_by_task"].items():
        for key in shared:
            if spaces and all(key in space["training"] for space in spaces.values()):
                raise places.error(("training_by_task", task, key), "is tuned for every variant; take it out")
    for name, section in product(config["variants"].keys() & spaces.keys(), ("options", "training")):
        variant, where = config["variants"][name], ("variants", name)
        given = [
            ((*where, "by_task", task, section), one[section]) for task, one in variant["by_task"].items()
        ]
        for path, values in [*given, ((*where, section), variant[section])]:
            for key in values.keys() & spaces[name][section].keys():
                tuned = ("tune", *where, section, key)
                if "by_task" in path or places.rank((*path, key)) > places.rank(tuned):
                    raise places.error(
                        (*path, key), f"is tuned, too ({'.'.join(tuned)}); leave one of the two out"
                    )


def _recipes(
    config: Mapping[str, Any], name: str, variant: Mapping[str, Any], tasks: Iterable[str]
) -> list[tuple[tuple, Mapping[str, Any]]]:
    """Return what is said of a variant's recipe, by the keys that lead there; what counts most is last."""
    shared, own = config["training_by_task"], variant["by_task"]
    return [
        (("training",), config["training"]),
        *((("training_by_task", task), shared[task]) for task in tasks if task in shared),
        (("variants", name, "training"), variant["training"]),
        *(
            (("variants", name, "by_task", task, "training"), own[task]["training"])
            for task in tasks
            if task in own
        ),
    ]


def _options(
    name: str, variant: Mapping[str, Any], tasks: Iterable[str]
) -> list[tuple[tuple, Mapping[str, Any]]]:
    """Return what is said of a variant's options, as `_recipes`."""
    own = variant["by_task"]
    return [
        (("variants", name, "options"), variant["options"]),
        *(
            (("variants", name, "by_task", task, "options"), own[task]["options"])
            for task in tasks
            if task in own
        ),
    ]


def _reason(path: tuple) -> str:
    if path[0] == "variants":
        return "`by_task` counts more, and a weaker file has it for every task; change it there, or drop it"
    return "every variant has a value of its own"
