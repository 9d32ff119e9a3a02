"""How much memory training takes: counted tensor by tensor, without computing one of them."""

import math
import sys
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mosa.backbones.build import build_backbone
from mosa.base.errors import UserError
from mosa.base.grid import aligned
from mosa.engine.batches import RESIDENT_SHARE
from mosa.engine.loop import autocast
from mosa.engine.machine import Machine
from mosa.engine.optimizer import build_optimizer
from mosa.experiment.config import config_tasks, expand
from mosa.experiment.recipe import Recipe
from mosa.experiment.specification import Specification
from mosa.peft import attach, build_method, example_batches
from mosa.peft.losses import tuning_loss
from mosa.peft.structure import copied

CARDS = (8, 16, 24, 48, 80)  # GB
RESERVED = 1.0  # GiB of a card for CUDA's context, workspaces and gaps
_BATCHES = (16, 64)  # between and beyond which memory is linear in the images


class StepMemory(NamedTuple):
    """Bytes that are held at the worst moment of a step, and between two steps."""

    peak: int
    resting: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, while it is active, and the most that were.

    Attributes:
        now: Bytes of the storages that are alive.
        peak: The most bytes there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor until it is freed; one that shares its storage counts once."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def step_memory(
    model: nn.Module, image_size: int, batch_size: int, training: Recipe, machine: Machine
) -> StepMemory:
    """Count the bytes that training steps of a model hold: weights, gradients, AdamW's state, activations.

    The model is copied into tensors that have a shape but no content, so nothing is computed, and it need
    not fit anywhere. What a kernel needs for itself is not seen.

    Args:
        model: A model with a method attached; it is left as it is.
        image_size: Side of the square input, in pixels.
        batch_size: Images of a step.
        training: The recipe, of which the precision counts.
        machine: How it is done, of which gradient checkpointing counts.
    """
    fake = FakeTensorMode()
    model = _without_content(model, fake).train()
    if machine.gradient_checkpointing:
        model.set_grad_checkpointing(True)
    live = LiveBytes()
    with fake, live:
        for tensor in (*model.parameters(), *model.buffers()):
            live.add(tensor)
        images = torch.empty(batch_size, 3, image_size, image_size)
        labels = torch.zeros(batch_size, dtype=torch.long)
        optimizer = build_optimizer(model, training)
        for _ in range(2):  # the second has AdamW's state from its beginning
            with autocast(images.device, training.precision):
                loss = tuning_loss(model, images, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            del loss
        return StepMemory(live.peak, live.now)


def _without_content(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Copy a model with tensors that have no content."""
    own = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    memo = {}
    for key, tensor in own.items():
        empty = fake.from_tensor(tensor.detach())
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[key] = empty
    return copied(model, memo)


def fitting(model: nn.Module, image_size: int, training: Recipe, machine: Machine) -> tuple:
    """Return a function from images of a step to bytes, and one from bytes to the images that fit."""
    small, large = (step_memory(model, image_size, size, training, machine).peak for size in _BATCHES)
    image = (large - small) / (_BATCHES[1] - _BATCHES[0])
    fixed = small - image * _BATCHES[0]
    return (lambda images: fixed + image * images), (lambda size: max(0, math.floor((size - fixed) / image)))


def memory_table(config: Mapping[str, Any], machine: Machine) -> str:
    """Return a table of what each backbone and variant of a loaded config takes, and the images that fit.

    Each takes seconds to count, and is announced on stderr.

    Args:
        config: The config.
        machine: How runs are done, of which gradient checkpointing counts.

    Raises:
        UserError: A method does not fit a backbone.
    """
    classes = max(task.num_classes or 0 for task in config_tasks(config)) or 100
    found: dict[tuple[str, str], list[Specification]] = {}
    for run in expand(config):
        alike = found.setdefault((run.specification.backbone.name, run.specification.variant), [])
        if all(_what_counts(run.specification) != _what_counts(other) for other in alike):
            alike.append(run.specification)
    lines = [("backbone", "variant", "precision", "batch", "GiB", *(f"{card} GB" for card in CARDS))]
    rows = [(one, len(alike) > 1) for alike in found.values() for one in alike]
    for number, (specification, by_task) in enumerate(rows, start=1):
        name = f"{specification.variant} ({specification.task})" if by_task else specification.variant
        said = f"{specification.backbone.name}, {name}"
        print(f"counting {number} of {len(rows)}: {said}", file=sys.stderr, flush=True)
        lines.append((specification.backbone.name, name, *_memory_cells(specification, classes, machine)))
    text = aligned(lines, "lllr")
    checkpointing = ", with gradient checkpointing" if machine.gradient_checkpointing else ""
    text += ["", f"GiB: of a step of `batch` images{checkpointing}. Last columns: images of a step that fit."]
    text += [f"{RESERVED:g} GiB of a card is left for CUDA's context and workspaces. A small set of images"]
    text += [f"lies on it too, if it takes at most 1/{RESIDENT_SHARE} of what is free as the run begins."]
    return "\n".join(text) + "\n"


def _what_counts(specification: Specification) -> tuple[Any, ...]:
    """Return what may differ between tasks and changes the memory of a step."""
    training = specification.training
    return specification.options, training.batch_size, training.precision, _rates(training)


def _rates(training: Recipe) -> dict[str, float | None]:
    """Return the rates of the backbone's own dropout, whose masks are kept for the backward."""
    return {name: getattr(training, name) for name in ("drop_path", "drop_rate", "attention_drop_rate")}


def _memory_cells(specification: Specification, classes: int, machine: Machine) -> list[str]:
    backbone, training = specification.backbone, specification.training
    model, built = build_backbone(
        backbone.architecture, "random", classes, image_size=backbone.image_size, **_rates(training)
    )
    try:
        method = build_method(specification.method, **specification.options)
        attach(model, method, restorable=False, data=example_batches(model))
    except UserError as error:
        raise UserError(f"backbone {backbone.name}, variant {specification.variant}: {error}") from None
    size_of, images_in = fitting(model, built.image_size, training, machine)
    fits = [images_in(1e9 * card - 2**30 * RESERVED) for card in CARDS]
    gib = size_of(training.batch_size) / 2**30
    cells = [training.precision, training.batch_size, f"{gib:.2f}" if gib >= 0.1 else f"{gib:.2g}", *fits]
    return list(map(str, cells))
