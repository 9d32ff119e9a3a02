"""Split projections: a Linear whose weights are divided among experts (MoSA, section 3.2)."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.peft.routing import Router, drawn, linear_per_pass

MAX_EXPERTS = 256  # the index of a weight's expert is one byte
Merge = Literal["mean", "sum", "single", "ensemble"]
Structure = Literal["random", "rows", "columns"]

# Whether an ensemble is evaluated here: its batch stacks a pass for each expert. Each thread has its own.
averaged: ContextVar[bool] = ContextVar("averaged", default=False)


class SplitLinear(nn.Module):
    """A Linear with N experts, each of which owns a disjoint part of the weights.

    Expert i computes with ``W_i = where(expert_of == i, W, W0)``: its own entries have their trained
    values, all others their initial values. There is one trainable `weight` W of the dense layer's size,
    and one byte per weight for the number of its expert; W0 is kept only if it is not zero. Biases are
    not split by default: each expert has its own.

    In training, the `Router` draws the expert that computes each pass of the batch. In evaluation the
    experts are merged: the mean of the W_i is ``(W + (N - 1) W0) / N``.

    Args:
        linear: The layer to split; its weights are the initial ones, W0.
        experts: Number of experts N, 1 to min(256, number of weights).
        router: Draws the active experts; this layer registers itself with it.
        rng: Draws the partition.
        split_bias: Divide the bias among the experts as well, instead of one full bias per expert.
        merge: "mean" of the experts (the expectation over the routing), "sum" of their changes (W
            itself), "single" (the first expert alone), or "ensemble" (never merged: in evaluation, too,
            each pass has its expert).
        structure: "random" entries, or whole "rows" (outputs) or "columns" (inputs) for each expert.

    Shape:
        (passes * batch, ..., in) -> (passes * batch, ..., out).

    Attributes:
        active: The expert of each pass of the current forward, (passes,), set by the router; None: outside.

    Raises:
        UserError: There are fewer weights (or, with `split_bias`, biases) than experts.
    """

    weight_expert_of: Tensor
    weight_initial: Tensor | None
    bias: Any  # a Parameter if it is split, a ParameterList with one for each expert, or None
    bias_expert_of: Tensor
    bias_initial: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        experts: int,
        router: Router,
        rng: torch.Generator,
        split_bias: bool = False,
        merge: Merge = "mean",
        structure: Structure = "random",
    ) -> None:
        super().__init__()
        self.experts = experts
        self.merge = merge
        self.structure: Structure = structure
        self.active: Tensor | None = None
        self.weight = linear.weight
        self._add_partition("weight", linear.weight, rng)
        self.split_bias = split_bias
        if linear.bias is None:
            self.bias = None
        elif split_bias:
            self.bias = linear.bias
            self._add_partition("bias", linear.bias, rng)
        else:  # one vector each, so that a bias stays one-dimensional and is not decayed
            self.bias = nn.ParameterList([nn.Parameter(linear.bias.detach().clone()) for _ in range(experts)])
        router.projections.append(self)

    def _add_partition(self, name: str, tensor: Tensor, rng: torch.Generator) -> None:
        expert_of = partition(tensor.shape, self.experts, rng, self.structure).to(tensor.device)
        initial = tensor.detach().clone() if tensor.detach().count_nonzero() else None
        self.register_buffer(f"{name}_expert_of", expert_of)
        self.register_buffer(f"{name}_initial", initial)

    def expert_weights(self, experts: Tensor) -> Tensor:
        """Return W_i of several experts, given by their numbers: (experts, out, in)."""
        return _own_entries(self.weight, self.weight_expert_of, self.weight_initial, experts)

    def expert_biases(self, experts: Tensor) -> Tensor | None:
        """Return the biases of several experts, given by their numbers: (experts, out), or None."""
        if self.bias is None:
            return None
        if self.split_bias:
            return _own_entries(self.bias, self.bias_expert_of, self.bias_initial, experts)
        # Stacked, the biases of the idle experts get a zero gradient rather than none, so that the
        # optimiser treats them as it treats the idle weights.
        return torch.stack(tuple(self.bias)).index_select(0, experts)

    def expert_weight(self, expert: int) -> Tensor:
        """Return W_i, (out, in)."""
        return self.expert_weights(self._vector(expert))[0]

    def expert_bias(self, expert: int) -> Tensor | None:
        """Return the bias of an expert, (out,), or None."""
        biases = self.expert_biases(self._vector(expert))
        return None if biases is None else biases[0]

    def _vector(self, expert: int) -> Tensor:
        return torch.tensor([expert], device=self.weight.device)

    def merged_weight(self) -> Tensor:
        """Return the weight of the merged layer, (out, in)."""
        if self.merge == "single":
            return self.expert_weight(0)
        return self._merged(self.weight, self.weight_initial)

    def merged_bias(self) -> Tensor | None:
        """Return the bias of the merged layer, (out,), or None."""
        if self.bias is None:
            return None
        if self.merge == "single":
            return self.expert_bias(0)
        if self.split_bias:
            return self._merged(self.bias, self.bias_initial)
        return torch.stack(tuple(self.bias)).mean(0)

    def _merged(self, tensor: Tensor, initial: Tensor | None) -> Tensor:
        if self.merge == "sum":
            return tensor
        if initial is not None:
            tensor = tensor + (self.experts - 1) * initial
        return tensor / self.experts

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.merge != "ensemble":
            return F.linear(x, self.merged_weight(), self.merged_bias())
        everyone = self.merge == "ensemble" and averaged.get()
        active = torch.arange(self.experts, device=x.device) if everyone else drawn(self.active)
        return linear_per_pass(x, self.expert_weights(active), self.expert_biases(active))

    def merged(self) -> nn.Linear:
        """Return the merged layer as a plain Linear with the same device, dtype and mode."""
        out_features, in_features = self.weight.shape
        bias = self.merged_bias()
        linear = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(self.merged_weight().detach().clone())
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach().clone())
        return linear.train(self.training)

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}, experts={self.experts}"


def too_many_experts(
    shape: Sequence[int], experts: int, structure: Structure = "random", option: str = "experts"
) -> str | None:
    """Return why a tensor cannot be divided among a number of experts, or None if it can.

    At most 256 experts are possible, and at most as many as there are entries, rows or columns.

    Args:
        shape: Shape of the tensor.
        experts: Number of experts.
        structure: What one expert owns, see `SplitLinear`.
        option: Name of the method's option that set the number.
    """
    size = torch.Size(_unit_shape(shape, structure)).numel()
    if 1 <= experts <= min(MAX_EXPERTS, size):
        return None
    what = "entries" if structure == "random" else structure
    return (
        f"{option}={experts}: expected 1 to {min(MAX_EXPERTS, size)}, because the tensor of shape "
        f"{'x'.join(map(str, shape))} has {size} {what} to divide and the number of an expert is one byte"
    )


def partition(
    shape: Sequence[int], experts: int, rng: torch.Generator, structure: Structure = "random"
) -> Tensor:
    """Cut the entries of a tensor into disjoint random groups of equal size (+-1).

    One uniform score per entry (or per row or column) is drawn and ranked; the ranks are cut into
    `experts` equal pieces.

    Returns:
        The group of each entry: uint8, of the given shape, values 0 to experts - 1.

    Raises:
        UserError: `experts` is not in 1 ... min(256, number of entries, or of rows or columns).
    """
    if reason := too_many_experts(shape, experts, structure):
        raise UserError(reason)
    units = torch.Size(_unit_shape(shape, structure))
    size = units.numel()
    order = torch.rand(size, generator=rng, dtype=torch.float64).argsort(stable=True)
    groups = torch.empty(size, dtype=torch.uint8)
    groups[order] = (torch.arange(size) * experts // size).to(torch.uint8)
    return groups.view(units).expand(torch.Size(shape)).contiguous()


def _unit_shape(shape: Sequence[int], structure: Structure) -> tuple[int, ...]:
    """Return the shape of the units that are divided: entries, rows or columns; a vector has only entries."""
    if structure == "random" or len(shape) == 1:
        return tuple(shape)
    return (shape[0], 1) if structure == "rows" else (1, shape[1])


def _own_entries(tensor: Tensor, expert_of: Tensor, initial: Tensor | None, experts: Tensor) -> Tensor:
    own = expert_of == experts.view(-1, *[1] * tensor.dim())
    return torch.where(own, tensor, tensor.new_zeros(()) if initial is None else initial)
