"""The adapter with dropout on the weights of its up-projection: a control for split projections."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.peft.method import TRAINING, Method
from mosa.peft.methods.adapter import Adapter
from mosa.peft.routing import Passes


class DropConnect(Adapter):
    """The dense adapter, whose up-projection drops random weights in every training pass.

    Split projections with N experts also use only 1/N of the weights in a pass, but always the same ones
    together. With rate 1 - 1/N, this method has the same sparsity without the fixed partition. Kept
    weights are divided by 1 - rate, so evaluation uses all weights unchanged.
    """

    name: ClassVar[str] = "dropconnect"
    reference: ClassVar[str] = "Wan et al., DropConnect, ICML 2013; on the adapter's up-projection"

    rate: float = Field(
        default=0.75,
        ge=0,
        lt=1,
        description="Share of the weights dropped in each pass.",
        json_schema_extra=TRAINING,
    )

    def apply(self, model: nn.Module, seed: int) -> None:
        super().apply(model, seed)
        for branch in self.branches(model):
            branch.up = DropConnectLinear(branch.up, self.rate, model.peft.passes)

    def fold(self, model: nn.Module) -> Method:
        for branch in self.branches(model):
            branch.up = branch.up.merged()
        return self.as_plain(Adapter)


class DropConnectLinear(nn.Linear):
    """A Linear that drops weights at random in training; all images of a pass share the draw.

    Args:
        linear: The layer that is replaced; its parameters are shared.
        rate: Share of the weights dropped.
        passes: How many passes the batch stacks.

    Shape:
        (passes * batch, ..., in) -> (passes * batch, ..., out).
    """

    draws = True  # see mosa.peft.routing.is_stochastic

    def __init__(self, linear: nn.Linear, rate: float, passes: Passes) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.rate, self.passes = rate, passes

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return torch.cat(
            [
                F.linear(part, F.dropout(self.weight, self.rate), self.bias)
                for part in x.chunk(self.passes.count)
            ]
        )

    def merged(self) -> nn.Linear:
        """Return the plain Linear with these parameters."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)
