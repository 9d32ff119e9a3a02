"""Which expert computes which forward pass, and where in the model the passes of a step separate."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mosa.base.seeding import generator
from mosa.base.timm import DropPath, PatchDropout


class Passes:
    """How many passes the current forward stacks along the batch: pass p owns the p-th chunk.

    Two passes over the same images are one batched forward. Everything before the first stochastic
    module is the same in both, so it is computed once: `separate` is a pre-hook of that module and
    repeats the batch there.

    Attributes:
        count: Passes of the current or last forward. It is kept until the next one begins, because
            activation checkpointing recomputes the forward during the backward.
        requested: Passes of the next forward.
        features: Outputs of the first blocks, each of shape (passes * batch, ...), if the loss compares them.
    """

    def __init__(self) -> None:
        self.count = 1
        self.requested = 1
        self.features: list[Tensor] = []

    def begin(self, model: nn.Module, inputs: Any) -> None:
        """Apply the request to the forward that is about to start: a forward pre-hook of the model."""
        self.count, self.requested = self.requested, 1
        self.features = []

    def keep_features(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep a block's output for the comparison of two passes: a forward hook."""
        if block.training and torch.is_grad_enabled():
            self.features.append(output)

    def separate(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Repeat the batch for each pass, (batch, ...) -> (count * batch, ...): a forward pre-hook."""
        return (repeat_batch(inputs[0], self.count if module.training else 1),)


class Router(nn.Module):
    """Draws, before each training forward, one expert per split projection and pass, uniformly.

    All images of a batch share the draw (stochastic activation in MoSA). The router has its own
    generator, which is saved with `model.state_dict()`, so a resumed run continues the same sequence.
    Because it draws once per forward, and not in each projection, the recomputation of activation
    checkpointing uses the same experts.

    Args:
        passes: How many passes a forward stacks.
        seed: Seeds the draws.
        every_expert: Draw for each projection a random order of all experts, one for each pass.

    Attributes:
        projections: The layers with experts, in the order in which they are drawn for.
        choice: The last draw, of shape (projections, passes), on the model's device.
        holds: Whether forwards keep that draw: while a step is captured as a CUDA graph.
    """

    def __init__(self, passes: Passes, seed: int, every_expert: bool = False) -> None:
        super().__init__()
        self.passes, self.every_expert = passes, every_expert
        self.generator = generator(seed, "routing")
        self.projections: list[nn.Module] = []  # a list, because they are registered in their blocks
        self.choice: Tensor | None = None
        self.holds = False

    def draw(self, model: nn.Module, inputs: Any) -> None:
        """Choose the experts of the forward that is about to start: a forward pre-hook of the model."""
        if model.training and not self.holds:
            # One copy to the device for all projections: the host would wait for a GPU to read the numbers.
            device = self.projections[0].weight.device
            self.use(self._drawn(self.passes.count).to(device, non_blocking=True))

    def use(self, choice: Tensor) -> None:
        """Have the projections read their experts from a draw on the device, (projections, passes)."""
        self.choice = choice
        for projection, active in zip(self.projections, choice, strict=True):
            projection.active = active

    def draw_into(self, choice: Tensor) -> None:
        """Choose the experts of a forward that is replayed, in the memory that it reads."""
        choice.copy_(self._drawn(choice.shape[1]), non_blocking=True)

    def _drawn(self, passes: int) -> Tensor:
        """Return the number of an expert for each projection and pass, on the CPU."""
        experts, shape = self.projections[0].experts, (len(self.projections), passes)
        if self.every_expert and passes == experts:
            return torch.rand(shape, generator=self.generator).argsort(dim=1)
        return torch.randint(experts, shape, generator=self.generator)

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


def repeat_batch(x: Tensor, count: int) -> Tensor:
    """Stack `count` copies of a batch along its first dimension."""
    return x if count == 1 else x.repeat(count, *[1] * (x.dim() - 1))


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
    """Return whether a module of a backbone draws random numbers in training."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, DropPath):
        return bool(module.drop_prob)
    return isinstance(module, PatchDropout) and module.prob > 0
