"""Train all runs of experiments on one machine, many side by side and in turn in each process.

    python benchmarks/side_by_side.py configs/trial.yaml --device cuda --compile step_graph

For small models, whose start takes longer than their training, and for a GPU that many of them share.
Records, searches and choices lie where the workflow expects them, so `snakemake` takes them as they are and
makes the tables. What is there already is not trained again. Experiments come one after the other, and within
one the variants in their order, except that those which --first names come before all others; after
--minutes nothing is begun any more.
"""

import argparse
import fnmatch
import gc
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mosa.cli.options import config_of
from mosa.data import make_pack
from mosa.engine import run as engine
from mosa.engine.cost.flops import inference_flops, training_flops
from mosa.engine.diverged import Diverged
from mosa.engine.machine import Machine
from mosa.experiment.declared import digest_of_data
from mosa.experiment.expand import Run
from mosa.experiment.manifest import peek, with_choice
from mosa.experiment.recipe import COMPILE
from mosa.experiment.space import make_trials
from mosa.experiment.workflow import Workflow
from mosa.peft.routing import is_stochastic
from mosa.search.choose import choose, read_choice, write_choice
from mosa.search.trials import Search, of_trial, run_search


@dataclass(frozen=True)
class Training:
    """One training: a run, its pack, and its record."""

    run: Run
    pack: Path
    record: Path

    @property
    def images(self) -> int:
        """About what it costs, to begin the longest first."""
        return self.run.specification.training.epochs


@dataclass
class Variant:
    """A variant of an experiment: its searches, then its runs."""

    workflow: Workflow
    name: str
    runs: list[tuple[Path, Run]] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    waits: int = 0

    def pack(self, run: Run) -> Path:
        """Return the pack of a run."""
        return Path(self.workflow.packs, run.specification.data.pack)

    def trainings(self) -> Iterator[Training]:
        """Yield the trainings of its searches."""
        for path, run, search in self.searches():
            trials = make_trials(
                search.space, run.specification.method, search.kind, search.trials, search.seed
            )
            folds = [{"number": number, "of": search.folds} for number in range(search.folds or 0)] or [None]
            for trial, fold, seed in product(trials, folds, search.seeds):
                specification = of_trial(run.specification, trial, run.specification.training.epochs, fold)
                name = digest_of_data([specification.digest, seed])[:16]
                yield Training(Run(specification, seed), self.pack(run), self.folder(path) / f"{name}.json")

    def searches(self) -> Iterator[tuple[Path, Run, Search]]:
        """Yield the searches that its choices are made from: the result, the run that is tuned, and how."""
        for choice in self.choices:
            for path in self.workflow.choices[choice]:
                tune, run = self.workflow.config["tune"], self.workflow.searches[path]
                how = {name: tune[name] for name in ("trials", "seed", "seeds", "folds", "extend")}
                yield Path(path), run, Search(tune["variants"][self.name], tune["search"], **how)

    def folder(self, search: Path) -> Path:
        """Return the folder of the records of a search."""
        results = Path(self.workflow.results)
        return results / "tune" / "records" / search.relative_to(results / "tune" / "trials").with_suffix("")

    def final(self) -> Iterator[Training]:
        """Yield its runs, with what was chosen."""
        for path, run in self.runs:
            specification = run.specification
            if run.choice:
                chosen = read_choice(Path(f"{self.workflow.results}/tune/choices/{run.choice}.json"))[
                    "chosen"
                ]
                specification = with_choice(specification, chosen)
            yield Training(Run(specification, run.seed), self.pack(run), path)


def variants_of(workflow: Workflow) -> list[Variant]:
    """Return the variants of an experiment, in their order."""
    found: dict[str, Variant] = {}
    for path, run in workflow.runs.items():
        name = run.specification.variant
        variant = found.setdefault(name, Variant(workflow, name))
        variant.runs.append((Path(path), run))
        choice = f"{workflow.results}/tune/choices/{run.choice}.json"
        if run.choice and choice not in variant.choices:
            variant.choices.append(choice)
    return list(found.values())


def rank(name: str, first: list[str]) -> int:
    """Return the place of the first pattern that a name has, after which come all without one."""
    found = (place for place, pattern in enumerate(first) if fnmatch.fnmatch(name, pattern))
    return next(found, len(first))


# What a process does


def begin(log: Path) -> None:
    """Prepare a process: what runs report goes to a log, and arithmetic is counted once for alike models."""
    gc.freeze()  # capturing a graph collects garbage, of which there is none in what is imported
    sys.stderr = (log / f"{os.getpid()}.log").open("w")
    engine.training_flops = counted_once(training_flops)
    engine.inference_flops = counted_once(inference_flops)


def counted_once(count: Any) -> Any:
    """Return a function that counts as another, once for all models of one structure and randomness.

    Two passes share what comes before the first draw, so that dropout in the backbone changes the count.
    """
    known: dict[Any, float] = {}

    def counted(model: Any, image_size: int) -> float:
        structure = tuple((name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters())
        method = model.peft.method if hasattr(model, "peft") else None
        random = tuple(name for name, module in model.named_modules() if is_stochastic(module))
        key = image_size, structure, random, method and method.model_dump_json()
        if key not in known:
            known[key] = count(model, image_size)
        return known[key]

    return counted


def train(training: Training, machine: Machine) -> tuple[float, int]:
    """Do a training, and return its seconds and steps; one that diverged leaves its note."""
    start = time.perf_counter()
    recipe = training.run.specification.training
    try:
        record = engine.execute(training.run, training.pack, training.record, machine)
    except Diverged:
        return time.perf_counter() - start, 0
    steps = recipe.epochs * -(-record["data"]["train_examples"] // recipe.batch_size)
    return time.perf_counter() - start, steps


def finish_searches(variant: Variant, machine: Machine) -> None:
    """Write the results of a variant's searches from the records of their trainings, and its choices."""
    for path, run, search in variant.searches():
        run_search(run, search, variant.pack(run), variant.folder(path), path, machine)
    for choice in variant.choices:
        write_choice(choose(map(Path, variant.workflow.choices[choice])), Path(choice))


def is_there(training: Training) -> bool:
    """Return whether the record of a training is there, and of its specification."""
    found = peek(training.record)
    return found is not None and found[0] == training.run.specification.digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", choices=COMPILE, default="none", help="step_graph, for small models")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument(
        "--first", nargs="*", default=[], help="variants that come first, in this order, as patterns: '*_e8'"
    )
    arguments = parser.parse_args()
    start = time.perf_counter()
    workflows = [Workflow.of(config_of((path,), False)) for path in arguments.configs]
    variants = [variant for workflow in workflows for variant in variants_of(workflow)]
    variants.sort(key=lambda variant: rank(variant.name, arguments.first))
    results = Path(workflows[0].results)
    folders = {"resume_folder": results / "resume", "features": results / "features"}
    machine = Machine(arguments.device, compile=arguments.compile, **folders)
    log = results / "logs" / "side_by_side"
    log.mkdir(parents=True, exist_ok=True)
    deadline = start + 60 * arguments.minutes
    with ProcessPoolExecutor(arguments.processes, get_context("fork"), begin, (log,)) as pool:
        make_packs(pool, workflows)
        Schedule(pool, machine, variants, deadline, 2 * arguments.processes).run()


def make_packs(pool: ProcessPoolExecutor, workflows: list[Workflow]) -> None:
    """Make the packs that are missing, without the options that only large images have."""
    made = []
    for workflow in workflows:
        for name, what in workflow.packed.items():
            path, size = Path(workflow.packs, name), what.backbone.image_size
            if not path.exists():
                task = workflow.tasks[what.task]
                made.append(pool.submit(make_pack, task, path, image_size=size, content=what.data.source))
    for done in made:
        done.result()


class Schedule:
    """What is to be done, the first variants first, and what is under way.

    Args:
        pool: The processes.
        machine: How trainings are done.
        variants: In the order in which they are wanted.
        deadline: When nothing is begun any more, on the clock of time.perf_counter.
        width: Trainings that are handed over at a time.
    """

    def __init__(
        self,
        pool: ProcessPoolExecutor,
        machine: Machine,
        variants: list[Variant],
        deadline: float,
        width: int,
    ) -> None:
        self.pool, self.machine, self.variants, self.deadline = pool, machine, variants, deadline
        self.width, self.numbers = width, count()
        self.todo: list[tuple] = []
        self.running: dict[Any, tuple[int, str]] = {}
        self.done, self.seconds, self.steps = 0, 0.0, 0

    def run(self) -> None:
        """Do it all, or what is begun by the deadline, and say how far it came."""
        begin = shown = time.perf_counter()
        for number in range(len(self.variants)):
            self._search(number)
        while self.running or self.todo:
            while self.todo and len(self.running) < self.width and time.perf_counter() < self.deadline:
                *_, number, kind, training = heappop(self.todo)
                self.running[self.pool.submit(train, training, self.machine)] = number, kind
            if not self.running:
                break
            finished, _ = wait(self.running, return_when=FIRST_COMPLETED)
            for one in finished:
                self._finish(one)
            if time.perf_counter() - shown > 10:
                shown = time.perf_counter()
                self._show(shown - begin)
        self._show(time.perf_counter() - begin)
        for number, variant in enumerate(self.variants):
            if variant.waits or any(number == one[2] for one in self.todo):
                print(f"not finished: {variant.workflow.config['name']} {variant.name}")

    def _search(self, number: int) -> None:
        trainings = [one for one in self.variants[number].trainings() if not is_there(one)]
        self._add(number, "search", trainings)
        if not trainings:
            self._choose(number)

    def _choose(self, number: int) -> None:
        variant = self.variants[number]
        if variant.choices:
            self.running[self.pool.submit(finish_searches, variant, self.machine)] = number, "choose"
        else:
            self._final(number)

    def _final(self, number: int) -> None:
        self._add(number, "final", [one for one in self.variants[number].final() if not is_there(one)])

    def _add(self, number: int, kind: str, trainings: list[Training]) -> None:
        self.variants[number].waits = len(trainings)
        for one in trainings:
            heappush(self.todo, (number, -one.images, next(self.numbers), number, kind, one))

    def _finish(self, one: Any) -> None:
        number, kind = self.running.pop(one)
        result = one.result()
        if kind == "choose":
            self._final(number)
            return
        self.done, self.seconds, self.steps = self.done + 1, self.seconds + result[0], self.steps + result[1]
        self.variants[number].waits -= 1
        if not self.variants[number].waits and kind == "search":
            self._choose(number)

    def _show(self, elapsed: float) -> None:
        left = len(self.todo) + len(self.running)
        print(
            f"{elapsed:.0f} s: {self.done} trainings, {left} of those known are left, "
            f"{self.steps / elapsed:.0f} steps/s, {self.seconds / max(self.done, 1):.2f} s each",
            flush=True,
        )


if __name__ == "__main__":
    main()
