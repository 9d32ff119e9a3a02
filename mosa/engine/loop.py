"""One training loop for every method, and one evaluation."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mosa.base.errors import Shortage, UserError, plain
from mosa.base.seeding import derive_seed, generator
from mosa.base.words import count
from mosa.data.metrics import METRICS, SHIPPED, Metric
from mosa.engine.batches import Images
from mosa.engine.diverged import Diverged
from mosa.engine.events import Events
from mosa.engine.optimizer import build_optimizer
from mosa.engine.resume import (
    Interrupted,
    ResumeFile,
    load_trained_state,
    random_state,
    set_random_state,
    trained_state,
)
from mosa.engine.step_graph import StepGraph, use_device_lr
from mosa.experiment.recipe import Recipe
from mosa.peft.losses import tuning_loss

EVALUATION_BATCH = 256  # images; fewer where they do not fit into the memory of a GPU
T = TypeVar("T")
Validate: TypeAlias = Callable[[], dict[str, float | None]]


@dataclass
class Progress:
    """What the loop reports of itself.

    Attributes:
        train_loss: Mean loss of each epoch.
        terms: Of a loss that is a sum, the mean of each weighted term in each epoch, by name.
        val: Metrics of val after each epoch, by name, where they were asked for.
        images: Images seen, counted once per step whatever the number of passes.
        seconds: Wall time of the loop.
        accumulation: Number of parts that a step is split into, as they do not fit into memory together.
    """

    train_loss: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    val: dict[str, list[float | None]] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    accumulation: int = 1

    def curves(self) -> dict[str, dict[str, list]]:
        """Return the curves that are known of every epoch; a resumed run may lack the first."""
        epochs = len(self.train_loss)
        return {
            kind: {name: values for name, values in curves.items() if len(values) == epochs}
            for kind, curves in (("terms", self.terms), ("val", self.val))
        }


def fit(
    model: nn.Module,
    data: Images,
    options: Recipe,
    seed: int,
    label: str = "train",
    resume: ResumeFile | None = None,
    graph: bool = False,
    events: Events | None = None,
    validate: Validate | None = None,
) -> Progress:
    """Train the tuned part of a model, in place, for a fixed number of epochs.

    AdamW; linear warm-up, then cosine to zero, both per step, the first step having a rate above zero.
    Nothing is selected on the way: the model that comes out is that of the last epoch. A step that does not
    fit into the GPU's memory is done in two parts, or four, ..., whose gradients add up to the same batch's.

    Args:
        model: A model with a method attached (`mosa.peft.attach`).
        data: The training split.
        options: The recipe.
        seed: Seeds the order of the images, and dropout.
        label: Names the run in the progress display.
        resume: Where the state is saved, and found again; None: nowhere.
        graph: Replay whole steps as CUDA graphs, see `mosa.engine.step_graph`; none is done in parts then.
        events: Where each epoch is reported beside the display; None: nowhere.
        validate: Returns metrics of val by name, and leaves random numbers alone; called after each epoch.

    Returns:
        Losses, images and time.

    Raises:
        Diverged: The loss became NaN or infinite.
        Interrupted: A signal asked to stop; the state is saved.
    """
    return _Training(model, data, options, seed, label, resume, graph, events, validate).run()


class _Training:
    """The state of a training run; arguments as for `fit`."""

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        options: Recipe,
        seed: int,
        label: str,
        resume: ResumeFile | None,
        graph: bool,
        events: Events | None,
        validate: Validate | None,
    ) -> None:
        self.model, self.data, self.options, self.label, self.resume = model, data, options, label, resume
        self.steps_per_epoch = math.ceil(len(data) / options.batch_size)
        self.steps = options.epochs * self.steps_per_epoch
        warmup = round(options.warmup_epochs * self.steps_per_epoch)
        self.optimizer = build_optimizer(model, options)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: lr_factor(step, self.steps, warmup)
        )
        self.order = generator(seed, "order")
        torch.manual_seed(derive_seed(seed, "dropout"))
        model.train()
        self.progress = Progress()
        self.first, self.done, self.total = 1, 0, 0.0  # epoch; steps and loss within it
        self.drawn = self.order.get_state()  # before the order of the epoch was drawn
        self.recent: deque[float] = deque(maxlen=5)
        self.graph, self.events, self.validate = graph, events, validate
        self.terms: dict[str, Tensor] = {}  # of the loss, summed over the images of the epoch, on the device
        self.step_graph: StepGraph | None = None

    def _step_graph(self) -> StepGraph:
        """Return what does the steps as CUDA graphs."""
        options = self.options
        if not options.bias_correction:
            raise UserError(
                f"{self.label}: compile step_graph needs bias_correction: true; set compile: none"
            )
        use_device_lr(self.optimizer, self.data.device)

        def compute(images: Tensor, labels: Tensor, terms: dict[str, Tensor]) -> Tensor:
            with autocast(labels.device, options.precision, cache_enabled=False):
                return tuning_loss(self.model, images, labels, options.label_smoothing, terms)

        return StepGraph(self.model, self.optimizer, compute)

    def run(self) -> Progress:
        """Train to the last epoch."""
        self._restore()
        if self.graph:
            self.step_graph = self._step_graph()
        if self.events:
            self.events.begin(self.first)
        self.start = time.perf_counter() - self.progress.seconds
        with (
            closing(self.events) if self.events else nullcontext(),
            self.resume.listening() if self.resume else nullcontext(),
            Display(
                self.label, self.steps, self.options.epochs, self.schedule.last_epoch, self.progress.seconds
            ) as display,
        ):
            for epoch in range(self.first, self.options.epochs + 1):
                self._epoch(epoch, display)
                if self.resume and epoch < self.options.epochs and self.resume.is_due():
                    self._save(epoch + 1)
        self.progress.seconds = time.perf_counter() - self.start
        return self.progress

    def _epoch(self, epoch: int, display: "Display") -> None:
        self.drawn = self.order.get_state()
        permutation = torch.randperm(len(self.data), generator=self.order)
        for images, labels in self.data.batches(self.options.batch_size, permutation, epoch, self.done):
            value = self._step(images, labels, epoch)
            self.done += 1
            self.total += value * len(labels)
            self.progress.images += len(labels)
            display.step(value, self.progress.images, epoch)
            if self.resume and self.resume.stopped_by is not None:
                self._save(epoch)
                raise Interrupted(self.resume.stopped_by, self.resume.path)
        loss = self.total / len(self.data)
        self.progress.train_loss.append(loss)
        display.epoch(epoch, loss, self.progress.images)
        terms = {name: value.item() / len(self.data) for name, value in self.terms.items()}
        _extend(self.progress.terms, terms)
        self.done, self.total, self.terms, self.drawn = 0, 0.0, {}, self.order.get_state()
        val = {}
        if self.validate:
            val = self.validate()
            _extend(self.progress.val, val)
            self.model.train()
        if self.events:
            self.events.epoch(epoch, loss, terms or {"ce": loss}, self._first_lr(epoch), val)

    def _first_lr(self, epoch: int) -> float:
        """Return the rate of an epoch's first step; a run that went on within it has not done that step."""
        factor = self.schedule.lr_lambdas[0]((epoch - 1) * self.steps_per_epoch)
        return float(self.schedule.base_lrs[0]) * factor

    def _step(self, images: Tensor, labels: Tensor, epoch: int) -> float:
        """Do one step of the optimiser, and return its loss."""
        if self.step_graph is not None:
            loss = self.step_graph(images, labels)
            _add(self.terms, self.step_graph.terms, len(labels))
        else:
            loss = _backward(self.model, images, labels, self.options, self.progress, self.label, self.terms)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        value = loss.item()  # the host waits for the GPU here, with all of the step in its queue
        if not math.isfinite(value):
            raise Diverged(
                f"{self.label}: the loss is {value} at epoch {epoch}, step {self.schedule.last_epoch + 1} "
                f"of {self.steps} (lr {self.schedule.get_last_lr()[0]:.3g}, last losses "
                f"{', '.join(f'{previous:.4g}' for previous in self.recent) or 'none'}); try a smaller lr"
            )
        self.schedule.step()
        self.recent.append(value)
        return value

    def _restore(self) -> None:
        """Go on from the resume file, if there is one."""
        state = self.resume.load() if self.resume else None
        if state is None:
            return
        try:
            load_trained_state(self.model, state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.order.set_state(state["order"])
            set_random_state(state["random"])
            self.first, self.done, self.total = state["epoch"], state["done"], state["total"]
            self.terms = {name: value.to(self.data.device) for name, value in state["terms"].items()}
            self.progress = Progress(**state["progress"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            raise UserError(f"{self.resume.path}: is damaged; delete it and run again") from None
        at = f"step {self.done + 1} of" if self.done < self.steps_per_epoch else "after its"
        print(
            f"{self.label}: goes on at epoch {self.first}, {at} {count(self.steps_per_epoch, 'step')}",
            file=sys.stderr,
        )

    def _save(self, epoch: int) -> None:
        self.progress.seconds = time.perf_counter() - self.start
        self.resume.save(
            {
                "model": trained_state(self.model),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "order": self.drawn,
                "random": random_state(),
                "epoch": epoch,
                "done": self.done,
                "total": self.total,
                "terms": self.terms,
                "progress": asdict(self.progress),
            }
        )


def _backward(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: Recipe,
    progress: Progress,
    label: str,
    terms: dict[str, Tensor],
) -> Tensor:
    """Compute the gradients of a batch, in as many parts as its memory needs, and return its loss.

    The terms of a loss that is a sum of several, summed over images, are added to `terms`.
    """
    while True:
        try:
            found: list[tuple[dict[str, Tensor], int]] = []
            total = torch.zeros((), device=labels.device)
            parts = zip(images.chunk(progress.accumulation), labels.chunk(progress.accumulation), strict=True)
            for part, targets in parts:
                with autocast(labels.device, options.precision):
                    of_part: dict[str, Tensor] = {}
                    loss = tuning_loss(model, part, targets, options.label_smoothing, of_part)
                    found.append((of_part, len(part)))
                if progress.accumulation > 1:
                    loss = loss * (len(part) / len(images))
                loss.backward()
                total += loss.detach()
            for of_part, number in found:
                _add(terms, of_part, number)
            return total
        except torch.OutOfMemoryError as error:
            if progress.accumulation >= len(images):
                raise Shortage(
                    f"{label}: not even one image fits into the GPU's memory ({error}); take a larger GPU"
                ) from None
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        progress.accumulation *= 2
        print(
            f"{label}: out of memory; a step of {len(images)} is done in {progress.accumulation} parts",
            file=sys.stderr,
        )


def _add(terms: dict[str, Tensor], found: dict[str, Tensor], images: int) -> None:
    """Add the terms of a loss to their sums over images; one that has a single term is that term."""
    if len(found) > 1:
        for name, value in found.items():
            terms[name] = terms.get(name, 0) + value * images


def _extend(curves: dict[str, list], values: Mapping[str, float | None]) -> None:
    for name, value in values.items():
        curves.setdefault(name, []).append(value)


def autocast(
    device: torch.device, precision: str, cache_enabled: bool | None = None
) -> AbstractContextManager:
    """Return the context in which a model computes in a precision, "float32" or "bfloat16"."""
    enabled = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache_enabled)


def in_large_batches(compute: Callable[[int], T]) -> T:
    """Call a function with a number of images for a batch; with half as many where they do not fit.

    Raises:
        Shortage: Not even one image fits into the GPU's memory.
    """
    size = EVALUATION_BATCH
    while True:
        try:
            return compute(size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise Shortage(
                    f"not even one image fits into the GPU's memory ({error}); take a larger GPU"
                ) from None
        torch.cuda.empty_cache()
        size //= 2
        print(f"out of memory; trying batches of {size}", file=sys.stderr)


def lr_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at a step, counted from 0: linear warm-up, then cosine.

    Step `warmup - 1` and step `warmup` have the full rate; after the last step it would be zero.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def predict(model: nn.Module, data: Images, precision: str = "float32") -> tuple[Tensor, Tensor]:
    """Return a model's logits on a split, in evaluation mode.

    Returns:
        Logits, float32 (images, classes), and labels, int64 (images,), both on the CPU.
    """
    model.eval()

    def compute(size: int) -> tuple[Tensor, Tensor]:
        logits, labels = [], []
        with torch.inference_mode(), autocast(data.device, precision):
            for images, wanted in data.batches(size):
                logits.append(model(images).float())
                labels.append(wanted)
        # Copied once: asking for each batch would make the host wait for a GPU.
        return torch.cat(logits).cpu(), torch.cat(labels).cpu()

    return in_large_batches(compute)


def measure(
    logits: Tensor, labels: Tensor, of_set: Any = None, sets: Sequence[str] = (), metric: str = "top1"
) -> dict[str, Any]:
    """Measure predictions.

    Args:
        logits, labels: As `predict` returns them.
        of_set: In a union, for each image the index of its data set (images,).
        sets: Names of the data sets.
        metric: The metric of each data set.

    Returns:
        Every metric of `mosa.data.metrics` by its name, `examples`, and `per_set`.
    """
    of_set = torch.as_tensor(of_set) if sets else None
    own = METRICS[metric].compute
    per_set = {
        name: own(logits[of_set == number], labels[of_set == number]) for number, name in enumerate(sets)
    }
    found = {name: _reported(one, logits, labels) for name, one in METRICS.items()}
    return found | {"examples": len(labels), "per_set": per_set}


def value_of(metric: Metric, logits: Tensor, labels: Tensor) -> float | None:
    """Return a metric of predictions; None: it is not finite."""
    value = _reported(metric, logits, labels)
    return value if value is not None and math.isfinite(value) else None


def _reported(metric: Metric, logits: Tensor, labels: Tensor) -> float | None:
    """Return a metric; one of a plugin may have no value, and does not change what others see."""
    if metric.name in SHIPPED:
        return metric.compute(logits, labels)
    try:
        value = float(metric.compute(logits.clone(), labels.clone()))
    except Exception as error:
        raise UserError(
            f"metric {metric.name!r} raises {plain(f'{type(error).__name__}: {error}')}; correct its plugin"
        ) from error
    return value if math.isfinite(value) else None


def try_metrics(classes: int) -> None:
    """See that the metrics of plugins can be computed, before anything is trained.

    Args:
        classes: Number of classes.

    Raises:
        UserError: One raises.
    """
    for metric in METRICS.values():
        if metric.name not in SHIPPED:
            labels = torch.arange(2 * classes) % classes
            _reported(metric, torch.eye(classes).repeat(2, 1), labels)


class Display:
    """A progress bar on a terminal; in a log, at most ten lines."""

    def __init__(self, label: str, steps: int, epochs: int, done: int = 0, seconds: float = 0.0) -> None:
        self.label, self.epochs = label, epochs
        self.start = time.perf_counter() - seconds
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=done, desc=label, unit="step", leave=False) if terminal else None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, loss: float, images: int, epoch: int) -> None:
        """Show a training step."""
        if self.bar is not None:
            rate = images / (time.perf_counter() - self.start)
            self.bar.set_postfix_str(
                f"epoch {epoch}/{self.epochs}, loss {loss:.3f}, {rate:.0f} images/s", refresh=False
            )
            self.bar.update()

    def epoch(self, epoch: int, loss: float, images: int) -> None:
        """Write a line for every tenth of the epochs, where there is no bar."""
        if self.bar is None and (epoch == self.epochs or epoch % math.ceil(self.epochs / 10) == 0):
            elapsed = time.perf_counter() - self.start
            left = elapsed / epoch * (self.epochs - epoch)
            print(
                f"{self.label}: epoch {epoch}/{self.epochs}, loss {loss:.4f}, {images / elapsed:.0f} "
                f"images/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
