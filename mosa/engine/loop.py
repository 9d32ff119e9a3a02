"""One training loop for every method, and one evaluation."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mosa.base.errors import UserError
from mosa.base.seeding import derive_seed, generator
from mosa.engine.batches import Images
from mosa.engine.resume import (
    Interrupted,
    ResumeFile,
    load_trained_state,
    random_state,
    set_random_state,
    trained_state,
)
from mosa.experiment.config import check_training
from mosa.peft.losses import tuning_loss

EVALUATION_BATCH = 256  # images; fewer where they do not fit into the memory of a GPU
T = TypeVar("T")


class Diverged(UserError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainingOptions:
    """The recipe, which all methods share but for the values that a config gives them.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step; the last step of an epoch takes what is left.
        lr: Peak learning rate.
        weight_decay: Decoupled decay of tensors with two or more dimensions; vectors are not decayed.
        warmup_epochs: Linear warm-up, in epochs, before the cosine.
        label_smoothing: Mass of the uniform distribution in the targets.
        eps: Term added to AdamW's denominator.
        drop_path: Rate of stochastic depth of the backbone's last block.
        drop_rate: Rate of the backbone's own dropout.
        fraction: Share of the training images that is trained on, class by class.
        precision: "float32", or "bfloat16": autocast, in training and evaluation; weights stay float32.
        views: Random crops and flips that each image has in all, which epochs show in turn; 0: new ones in
            every epoch. Linear probing keeps their features (see `mosa.engine.features`).
    """

    epochs: int = 12
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    eps: float = 1e-8
    drop_path: float = 0.0
    drop_rate: float = 0.0
    fraction: float = 1.0
    precision: str = "float32"
    views: int = 0

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> "TrainingOptions":
        """Build from a mapping; what the config would refuse is refused, what is left out has its default."""
        check_training(options)
        return cls(**options)


@dataclass
class Progress:
    """What the loop reports of itself.

    Attributes:
        train_loss: Mean loss of each epoch.
        images: Images seen, counted once per step whatever the number of passes.
        seconds: Wall time of the loop.
        accumulation: In how many parts a step is done, as they do not fit into memory together.
    """

    train_loss: list[float] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    accumulation: int = 1


def fit(
    model: nn.Module,
    data: Images,
    options: TrainingOptions,
    seed: int,
    label: str = "train",
    resume: ResumeFile | None = None,
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

    Returns:
        Losses, images and time.

    Raises:
        Diverged: The loss became NaN or infinite.
        Interrupted: A signal asked to stop; the state is saved.
    """
    steps_per_epoch = math.ceil(len(data) / options.batch_size)
    steps = options.epochs * steps_per_epoch
    groups = decay_groups(model, options.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=options.lr, eps=options.eps, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, steps, round(options.warmup_epochs * steps_per_epoch))
    )
    order = generator(seed, "order")
    torch.manual_seed(derive_seed(seed, "dropout"))
    model.train()
    freeze_statistics(model)

    progress = Progress()
    first, done, total = 1, 0, 0.0
    state = resume.load() if resume else None
    if state is not None:
        load_trained_state(model, state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        order.set_state(state["order"])
        set_random_state(state["random"])
        first, done, total = state["epoch"], state["done"], state["total"]
        progress = Progress(**state["progress"])
        print(f"{label}: goes on at epoch {first}, step {done + 1} of {steps_per_epoch}", file=sys.stderr)
    start = time.perf_counter() - progress.seconds
    recent: deque[float] = deque(maxlen=5)

    def save(epoch: int) -> None:
        progress.seconds = time.perf_counter() - start
        resume.save(
            {
                "model": trained_state(model),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "order": drawn,
                "random": random_state(),
                "epoch": epoch,
                "done": done,
                "total": total,
                "progress": asdict(progress),
            }
        )

    with (
        resume.listening() if resume else nullcontext(),
        Display(label, steps, options.epochs, schedule.last_epoch, progress.seconds) as display,
    ):
        for epoch in range(first, options.epochs + 1):
            drawn = order.get_state()
            permutation = torch.randperm(len(data), generator=order)
            for images, labels in data.batches(options.batch_size, permutation, epoch, done):
                loss = _backward(model, images, labels, options, progress, label)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                value = loss.item()  # the host waits for the GPU here, with all of the step in its queue
                if not math.isfinite(value):
                    raise Diverged(
                        f"{label}: the loss is {value} at epoch {epoch}, "
                        f"step {schedule.last_epoch + 1} of {steps} "
                        f"(lr {schedule.get_last_lr()[0]:.3g}, last losses "
                        f"{', '.join(f'{previous:.4g}' for previous in recent) or 'none'}); try a smaller lr"
                    )
                schedule.step()
                recent.append(value)
                done += 1
                total += value * len(labels)
                progress.images += len(labels)
                display.step(value, progress.images, epoch)
                if resume and resume.stopped_by is not None:
                    save(epoch)
                    raise Interrupted(resume.stopped_by, resume.path)
            progress.train_loss.append(total / len(data))
            done, total, drawn = 0, 0.0, order.get_state()
            display.epoch(epoch, progress.train_loss[-1], progress.images)
            if resume and epoch < options.epochs and resume.is_due():
                save(epoch + 1)
    progress.seconds = time.perf_counter() - start
    return progress


def _backward(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: TrainingOptions,
    progress: Progress,
    label: str,
) -> Tensor:
    """Compute the gradients of a batch, in as many parts as its memory needs, and return its loss."""
    while True:
        try:
            total = torch.zeros((), device=labels.device)
            parts = zip(images.chunk(progress.accumulation), labels.chunk(progress.accumulation), strict=True)
            for part, targets in parts:
                with autocast(labels.device, options.precision):
                    loss = tuning_loss(model, part, targets, options.label_smoothing)
                if progress.accumulation > 1:
                    loss = loss * (len(part) / len(images))
                loss.backward()
                total += loss.detach()
            return total
        except torch.OutOfMemoryError as error:
            if progress.accumulation >= len(images):
                raise UserError(
                    f"{label}: not even one image fits into the GPU's memory ({error}); take a larger GPU"
                ) from None
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        progress.accumulation *= 2
        print(
            f"{label}: out of memory; a step of {len(images)} is done in {progress.accumulation} parts",
            file=sys.stderr,
        )


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Return the context in which a model computes in a precision, "float32" or "bfloat16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def in_large_batches(compute: Callable[[int], T]) -> T:
    """Call a function with a number of images for a batch; with half as many where they do not fit.

    Raises:
        UserError: Not even one image fits into the GPU's memory.
    """
    size = EVALUATION_BATCH
    while True:
        try:
            return compute(size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise UserError(
                    f"not even one image fits into the GPU's memory ({error}); take a larger GPU"
                ) from None
        torch.cuda.empty_cache()
        size //= 2
        print(f"out of memory; batches of {size} are evaluated", file=sys.stderr)


def freeze_statistics(model: nn.Module) -> None:
    """Put every BatchNorm that is not tuned into evaluation mode: its running statistics are frozen too."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(module.training and any(p.requires_grad for p in module.parameters()))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Group the tuned parameters for the optimiser: matrices are decayed, vectors and scalars are not.

    What timm's model itself excludes (position embeddings, class token) is not decayed either.
    """
    excluded = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    tuned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in tuned if p.ndim >= 2 and name not in excluded]
    others = [p for name, p in tuned if p.ndim < 2 or name in excluded]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def lr_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at a step, counted from 0: linear warm-up, then cosine.

    Step `warmup - 1` and step `warmup` have the full rate; after the last step it would be zero.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def evaluate(
    model: nn.Module, data: Images, sets: Sequence[str] = (), precision: str = "float32"
) -> dict[str, Any]:
    """Evaluate a model on a split, in evaluation mode.

    Args:
        model: The model.
        data: The split.
        sets: Names of the data sets that the split is a union of.
        precision: "float32" or "bfloat16", as in `TrainingOptions`.

    Returns:
        `top1` (accuracy in percent), `loss` (mean cross-entropy), `examples`, and `per_set`, the accuracy of
        each data set of a union.
    """
    model.eval()

    def compute(size: int) -> tuple[float, Tensor]:
        losses, hits = [], []
        with torch.inference_mode(), autocast(data.device, precision):
            for images, labels in data.batches(size):
                logits = model(images).float()
                hits.append(logits.argmax(-1) == labels)
                losses.append(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        # Added up in double precision, once: asking for each would make the host wait for a GPU.
        return torch.stack(losses).double().sum().item(), torch.cat(hits).cpu()

    loss, hit = in_large_batches(compute)
    of_set = torch.as_tensor(data.split.sets) if sets else None
    return {
        "top1": 100 * hit.sum().item() / len(data),
        "loss": loss / len(data),
        "examples": len(data),
        "per_set": {
            name: 100 * hit[of_set == number].double().mean().item() for number, name in enumerate(sets)
        },
    }


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
                f"{self.label}: epoch {epoch}/{self.epochs}, loss {loss:.4f}, "
                f"{images / elapsed:.0f} images/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
