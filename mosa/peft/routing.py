"""Which expert computes which forward pass, and where in the model the passes of a step separate."""

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from mosa.base.errors import UserError
from mosa.base.seeding import generator
from mosa.base.timm import DropPath, PatchDropout, PatchDropoutWithIndices
from mosa.peft.blocks import stream_of
from mosa.peft.parallel import check_reduced, is_distributed

REMEMBERED = 64  # forwards within activation checkpoints whose experts are kept for their repetition


class Passes:
    """How many passes the current forward stacks along the batch: pass p owns the p-th chunk.

    Two passes over the same images are one batched forward. Everything before the first stochastic
    module is the same in both, so it is computed once: `separate` is a pre-hook of that module and
    repeats the batch there.

    What is said of a forward holds until its end, and again during its backward, in which activation
    checkpointing repeats the forwards of blocks. So forwards and backwards may come in any order, and a part
    of the model that is called by itself never sees the passes or experts of an earlier step.

    Attributes:
        count: Passes of the current forward.
        requested: Passes of the next forward.
        features: Outputs of the first blocks, each of shape (passes * batch, ...), if the loss compares them.
        router: Draws the experts of each forward; None: the method has none.
        gradients: Whether gradients were on when the current forward began.
        trained: Training forwards in a group of processes so far.
    """

    def __init__(self) -> None:
        self.count = 1
        self.trained = 0
        self.requested = 1
        self.features: list[Tensor] = []
        self.router: Router | None = None
        self.gradients = False

    def register(self, model: nn.Module) -> list[RemovableHandle]:
        """Hook onto the model, and return the handles."""
        return [
            model.register_forward_pre_hook(self.begin),
            model.register_forward_hook(self.end, always_call=True),
        ]

    def begin(self, model: nn.Module, inputs: Any) -> None:
        """Apply the request to the forward that is about to start: a forward pre-hook of the model."""
        self.count, self.requested = self.requested, 1
        self.features = []
        self.gradients = torch.is_grad_enabled()
        if self.gradients and not _is_exporting() and not torch.jit.is_tracing():
            _look(model)
        if model.training and is_distributed() and not in_backward():
            self.trained += 1
            check_reduced(model, look=self.trained & (self.trained - 1) == 0)  # in forward 1, 2, 4, 8, ...

    def end(self, model: nn.Module, inputs: Any, output: Any) -> None:
        """Forget the forward, and have its backward bring it back: a forward hook of the model."""
        if isinstance(output, Tensor) and output.requires_grad:
            choice = None if self.router is None else self.router.choice
            output.register_hook(partial(self._resume, self.count, choice))
        if in_backward():
            _at_the_end_of_the_backward(self._finish)
        else:
            self.forget()

    def _resume(self, count: int, choice: Tensor | None, gradient: Tensor) -> None:
        """Bring a forward back whose backward begins: a hook of its output."""
        self.count = count
        if self.router is not None and choice is not None:
            self.router.use(choice)
            self.router.resumed = choice
        _at_the_end_of_the_backward(self._finish)

    def forget(self) -> None:
        """Leave nothing of a forward for the next call."""
        self.count = 1
        if self.router is not None:
            self.router.forget()

    def _finish(self) -> None:
        """Leave nothing of a backward, in which blocks may have been repeated."""
        self.forget()
        self.features = []

    def keep_features(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        """Keep a block's output for the comparison of two passes: a forward hook.

        Raises:
            UserError: The block is in a reentrant checkpoint, where its output has no gradient.
        """
        if self.count > 1 and self.gradients and not torch.is_grad_enabled():
            raise UserError(
                "feature_consistency gets no gradient through a block in a reentrant checkpoint: use "
                "checkpoints that are not (timm.layers.set_reentrant_ckpt(False)), or feature_consistency=0"
            )
        if block.training or self.count > 1:
            self.features.append(stream_of(output))

    def separate(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Repeat the batch for each pass, (batch, ...) -> (count * batch, ...): a forward pre-hook."""
        return (repeat_batch(inputs[0], self.count), *inputs[1:])


@dataclass
class Draw:
    """The experts of a forward within an activation checkpoint, and what its repetition shares with it.

    Attributes:
        choice: The experts, (projections, passes).
        random: Digest of the state of torch's generator, which the checkpoint restores.
        images: The memory of the input.
        repeated: Whether a backward has repeated the forward.
    """

    choice: Tensor
    random: int
    images: weakref.ref[torch.UntypedStorage] | None
    repeated: bool = False


class Drawing(Protocol):
    """A layer with experts, which a router draws for."""

    training: bool
    experts: int
    active: Tensor | None

    @property
    def weight(self) -> Tensor: ...


class Router(nn.Module):
    """Draws, before each training forward, one expert per split projection and pass, uniformly.

    All images of a batch share the draw (stochastic activation in MoSA). The router has its own
    generator, which is saved with `model.state_dict()`, so a resumed run continues the same sequence.
    Because it draws once per forward, and not in each projection, the recomputation of activation
    checkpointing uses the same experts. A forward of the whole model that a checkpoint repeats in the
    backward draws none: it gets those of its first time.

    Args:
        passes: How many passes a forward stacks.
        seed: Seeds the draws.
        every_expert: Draw for each projection a random order of all experts, one for each pass.

    Attributes:
        projections: The layers with experts, in the order in which they are drawn for.
        choice: The last draw, of shape (projections, passes), on the model's device.
        resumed: The draw of the forward whose backward is running.
        holds: Whether forwards keep the last draw: while a step is captured as a CUDA graph.
        draws: Earlier draws that a checkpoint may ask for again.
    """

    def __init__(self, passes: Passes, seed: int, every_expert: bool = False) -> None:
        super().__init__()
        self.passes, self.every_expert = passes, every_expert
        self.generator = generator(seed, "routing")
        self.projections: list[Drawing] = []  # a list, because they are registered in their blocks
        self.choice: Tensor | None = None
        self.resumed: Tensor | None = None
        self.holds = False
        self.draws: deque[Draw] = deque(maxlen=REMEMBERED)
        self.hooks: list[RemovableHandle] = []
        passes.router = self

    def register(self, model: nn.Module) -> None:
        """Become a part of the model, and draw before its forwards."""
        model.router = self
        self.hooks.append(model.register_forward_pre_hook(self.draw, with_kwargs=True))

    def remove(self, model: nn.Module) -> None:
        """Take back `register`."""
        for hook in self.hooks:
            hook.remove()
        self.passes.router = None
        del model.router

    def draw(self, model: nn.Module, inputs: Any, named: Any = None) -> None:
        """Choose the experts of the forward that is about to start: a forward pre-hook of the model.

        Raises:
            UserError: A checkpoint repeats a forward whose experts cannot be told, or torch.export traces it.
        """
        if not model.training and not any(projection.training for projection in self.projections):
            return
        if _is_exporting():
            raise UserError(
                "a model in training mode would be exported with the experts of a single draw; call "
                "model.eval() first"
            )
        if self.holds:
            self.use(cast(Tensor, self.choice))
        elif in_backward():
            self.use(self._repeated(inputs, named).choice)
        else:
            # One copy to the device for all projections: the host would wait for a GPU to read the numbers.
            device = self.projections[0].weight.device
            choice = self._drawn(self.passes.count).to(device, non_blocking=True)
            self.use(choice)
            if in_checkpoint():
                self.draws.append(Draw(choice, _random(), _memory(inputs, named)))

    def use(self, choice: Tensor) -> None:
        """Have the projections read their experts from a draw on the device, (projections, passes)."""
        self.choice = choice
        for projection, active in zip(self.projections, choice, strict=True):
            projection.active = active

    def forget(self) -> None:
        """Leave the projections without experts until the next forward."""
        self.resumed = None
        for projection in self.projections:
            projection.active = None

    def draw_into(self, choice: Tensor) -> None:
        """Choose the experts of a forward that is replayed, in the memory that it reads."""
        choice.copy_(self._drawn(choice.shape[1]), non_blocking=True)

    def _drawn(self, passes: int) -> Tensor:
        """Return the number of an expert for each projection and pass, on the CPU."""
        experts, shape = self.projections[0].experts, (len(self.projections), passes)
        if self.every_expert and passes == experts:
            return torch.rand(shape, generator=self.generator, device="cpu").argsort(dim=1)
        return torch.randint(experts, shape, generator=self.generator, device="cpu")

    def _repeated(self, inputs: Any, named: Any) -> Draw:
        """Return the draw of the forward that a checkpoint repeats."""
        random, memory, passes = _random(), _memory(inputs, named), self.passes.count
        like = [draw for draw in self.draws if draw.random == random and draw.choice.shape[1] == passes]
        same = [draw for draw in like if memory and draw.images and draw.images() is memory()] or like
        due = [draw for draw in same if not draw.repeated] or same[-1:]  # again, with retain_graph
        if len(due) > 1:  # the backward of one of them is running, and its output may have said so
            due = [draw for draw in due if draw.choice is self.resumed] or due
        if not due:
            raise UserError(
                "activation checkpointing repeats a forward whose experts are not known any more: leave its "
                f"preserve_rng_state at True, and call backward within {REMEMBERED} forwards"
            )
        if any(not torch.equal(draw.choice, due[0].choice) for draw in due):
            raise UserError(
                "activation checkpointing repeats one of several forwards of the same images, and nothing "
                "tells which: call backward before the next forward, or do them at once by forward_passes"
            )
        due[0].repeated = True
        return due[0]

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "draws": deque(maxlen=REMEMBERED)}  # no backward is that of a copy


def _look(model: nn.Module) -> None:
    """Keep what is unfrozen now as it is before a forward that may train it."""
    watch = getattr(vars(model).get("peft"), "watch", None)
    if watch is not None:
        watch.look()


def _is_exporting() -> bool:
    """Return whether torch.export traces what is called; torch.jit.trace says itself that outputs differ."""
    told = getattr(torch.compiler, "is_exporting", None)  # from torch 2.7 on
    return told is not None and cast(bool, told())


def in_backward() -> bool:
    """Return whether a backward is running: a forward within it is one that a checkpoint repeats."""
    return torch._C._current_graph_task_id() != -1


def in_checkpoint() -> bool:
    """Return whether a backward may repeat the forward that is about to start.

    Under an activation checkpoint, gradients are off, or hooks pack what is saved for the backward. Before
    torch 2.8, nothing says whether there are such hooks.
    """
    autograd: Any = torch._C
    hooks = getattr(autograd._autograd, "_top_saved_tensors_default_hooks", None)
    return not torch.is_grad_enabled() or hooks is None or hooks(False) is not None


def _at_the_end_of_the_backward(function: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(function)


def _random() -> int:
    return hash(torch.get_rng_state().numpy().tobytes())


def _memory(inputs: Any, named: Any) -> weakref.ref[torch.UntypedStorage] | None:
    """Return a reference to the memory of the first tensor of a call."""
    tensors = (value for value in (*inputs, *(named or {}).values()) if isinstance(value, Tensor))
    return next((weakref.ref(tensor.untyped_storage()) for tensor in tensors), None)


def repeat_batch(x: Tensor, count: int) -> Tensor:
    """Stack `count` copies of a batch along its first dimension."""
    return x if count == 1 else x.repeat(count, *[1] * (x.dim() - 1))


def drawn(active: Tensor | None) -> Tensor:
    """Return the experts of a layer's passes.

    Raises:
        RuntimeError: None are drawn.
    """
    if active is None:
        raise RuntimeError(
            "no expert is drawn: call the whole model, whose pre-hook draws them, and not a part of it or "
            "forward_features; or call model.eval()"
        )
    return active


def linear_per_pass(x: Tensor, weights: Tensor, biases: Tensor | None) -> Tensor:
    """Apply a different linear map to each pass.

    Args:
        x: Input of shape (passes * batch, ..., in), the chunks of `batch` rows being the passes.
        weights: Weights of shape (passes, out, in).
        biases: Biases of shape (passes, out), or None.

    Returns:
        Output of shape (passes * batch, ..., out).
    """
    if len(weights) == 1:
        return F.linear(x, weights[0], None if biases is None else biases[0])
    rows = x.reshape(len(weights), -1, x.shape[-1])
    if biases is None:
        outputs = torch.bmm(rows, weights.mT)
    else:
        outputs = torch.baddbmm(biases.unsqueeze(1), rows, weights.mT)
    return outputs.view(*x.shape[:-1], -1)


def is_stochastic(module: nn.Module) -> bool:
    """Return whether a module draws random numbers in training, other than experts."""
    if getattr(module, "draws", False):
        return True
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, DropPath):
        return bool(module.drop_prob)
    return isinstance(module, PatchDropout | PatchDropoutWithIndices) and module.prob > 0
