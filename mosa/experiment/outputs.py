"""Which tables and plots an experiment has: what the workflow needs to know before any of them is made.

The registry is in `mosa.results.registry`, which needs pandas. `mosa schema` writes it as data to
mosa/schemas/outputs.json, which is read here. No torch, no pandas.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from mosa.base.files import SCHEMAS
from mosa.experiment.config import Run
from mosa.experiment.curves import option_curves, settings_of
from mosa.experiment.specification import Specification

OUTPUTS = SCHEMAS / "outputs.json"
KINDS = ("tables", "plots")


@dataclass(frozen=True)
class Output:
    """A table or plot, as data.

    Attributes:
        name: Its name: the stem of its files.
        formats: The formats in which it is written: the suffixes of its files, without the dot.
        embedded: The one of them that Snakemake's report shows.
        label: Its title in that report.
        caption: What it shows, in a sentence.
        when: Name of the condition under which there is one, see `CONDITIONS`.
    """

    name: str
    formats: tuple[str, ...]
    embedded: str
    label: str
    caption: str
    when: str = "always"

    @property
    def files(self) -> list[str]:
        """The names of its files."""
        return [f"{self.name}.{suffix}" for suffix in self.formats]

    @property
    def described(self) -> str:
        """What it shows, and when there is one, without a full stop."""
        words = CONDITIONS[self.when].words
        return self.caption.removesuffix(".") + (f"; {words}" if words else "")


class Condition(NamedTuple):
    """When there is an output.

    Attributes:
        words: What documentation adds to the output's caption; empty for one that is always there.
        holds: Function of a loaded config and its runs.
    """

    words: str
    holds: Callable[[Mapping[str, Any], list[Run]], bool]


def _published_benchmark(config: Mapping[str, Any], runs: list[Run]) -> bool:
    return not set(config["benchmarks"]).isdisjoint(_data()["published_benchmarks"])


def _swept_option(config: Mapping[str, Any], runs: list[Run]) -> bool:
    if config["tune"]:  # which may give every value another recipe
        return False
    # A section of the plot is one benchmark on one backbone.
    sections: dict[tuple[str, str], dict[str, dict[str, Specification]]] = {}
    for one in {id(run.specification): run.specification for run in runs}.values():
        section = sections.setdefault((one.task.partition("/")[0], one.backbone.name), {})
        section.setdefault(one.variant, {})[one.task] = one
    return any(map(_has_curve, sections.values()))


def _has_curve(section: Mapping[str, Mapping[str, Specification]]) -> bool:
    found = {}
    for variant, by_task in section.items():
        parts = {task: (one.options, one.training.model_dump()) for task, one in by_task.items()}
        found[variant] = next(iter(by_task.values())).method, settings_of(parts), {}
    return bool(option_curves(found))


def _several_backbones(config: Mapping[str, Any], runs: list[Run]) -> bool:
    return len(config["backbones"]) > 1


CONDITIONS = {
    "always": Condition("", lambda config, runs: True),
    "published_benchmark": Condition("only for benchmarks with published numbers", _published_benchmark),
    "swept_option": Condition("only where there is such an option", _swept_option),
    "several_backbones": Condition("only for two backbones or more", _several_backbones),
}


@cache
def _data() -> dict[str, Any]:
    return json.loads(OUTPUTS.read_text(encoding="utf-8"))


def read_outputs(kind: str) -> list[Output]:
    """Return all tables or plots of the package, by name.

    Args:
        kind: "tables" or "plots".
    """
    return [_output(entry) for entry in _data()[kind]]


def _output(entry: Mapping[str, Any]) -> Output:
    return Output(**entry | {"formats": tuple(entry["formats"])})


def expected_outputs(kind: str, config: Mapping[str, Any], runs: Iterable[Run]) -> list[Output]:
    """Return the tables or plots that an experiment will have, by name.

    Args:
        kind: "tables" or "plots".
        config: A loaded config.
        runs: All its runs.
    """
    runs = list(runs)
    outputs = (*read_outputs(kind), *own_outputs(kind, config))
    return [output for output in outputs if CONDITIONS[output.when].holds(config, runs)]


def own_outputs(kind: str, config: Mapping[str, Any]) -> list[Output]:
    """Return the tables or plots that the plugins of a loaded config add, in their order.

    Args:
        kind: "tables" or "plots".
        config: A loaded config.
    """
    return [_output(one) for plugin in config["plugins"] for one in plugin[kind]]
