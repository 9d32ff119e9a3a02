"""RepAdapter: linear adapters that are merged into the layers after them."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import find_blocks, part_of, sites_of
from mosa.peft.layers import unchangeable
from mosa.peft.method import TRAINING, Method


class LinearAdapters(Method):
    """Base of the methods that adapt the inputs of attention and MLP linearly, so that it merges.

    A subclass names the attribute of a layer that holds its adapter, and inserts them by `insert`.
    """

    attribute: ClassVar[str]
    merges_away: ClassVar = True
    families: ClassVar[tuple[str, ...]] = (
        *("ViT", "PostNormViT", "Swin", "EVA", "BEiT", "SwinV2", "RelPos", "XCiT", "Hiera"),
    )
    families_reason: ClassVar[str] = "it adapts the input of one layer of queries, keys and values"

    @property
    def wraps_qkv(self) -> bool:
        return True

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        for block in find_blocks(model):
            sites = sites_of(block)
            for whose, path in ((sites.attention, sites.qkv), (sites.mlp, sites.fc1)):
                if not isinstance(part_of(block, path), nn.Linear):
                    owner, name = type(part_of(block, whose)).__name__, path.rpartition(".")[2]
                    return f"{owner} has no Linear layer {name!r}, whose input it adapts"
        layers = [layer for block in find_blocks(model) for layer in adapted_layers(block)]
        return unchangeable(model, layers)

    def insert(self, layer: nn.Linear, adapter: nn.Module) -> None:
        """Have an adapter change the input of a layer."""
        adapter.to(layer.weight).handle = layer.register_forward_pre_hook(adapter.modify)
        setattr(layer, self.attribute, adapter)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        for block in find_blocks(model):
            for layer in adapted_layers(block):
                adapter = getattr(layer, self.attribute)
                matrix, shift = adapter.as_affine()
                if layer.bias is not None:
                    layer.bias += layer.weight @ shift
                layer.weight += layer.weight @ matrix
                adapter.handle.remove()
                delattr(layer, self.attribute)

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]


class RepAdapter(LinearAdapters):
    """A linear adapter before attention and before the MLP, which merges into them: x' = x + s U (D x).

    U is block-diagonal in `groups`, D is Xavier-uniform, U and the biases are zero, so the model starts as
    the backbone. Because it is linear, W x' + b is a plain Linear layer again: after merging, only the
    backbone's modules are left. A layer without a bias gets an adapter without biases, because merging
    must not add one. Tuned parameters per block, with biases: 2 (d r + r + d r / groups + d).

    The released code adds the norms of all U to the loss, which is left out here. `scale` is chosen there
    for each data set.
    """

    name: ClassVar[str] = "repadapter"
    reference: ClassVar[str] = (
        "Luo et al., Towards Efficient Visual Adaption via Structural Re-parameterization, arXiv "
        "2302.08106; defaults: its released code"
    )
    attribute: ClassVar[str] = "rep"

    bottleneck: int = Field(default=8, ge=1, description="Channels r between D and U.")
    groups: int = Field(default=2, ge=1, description="Groups of U; a divisor of r and of the width.")
    scale: float = Field(default=1.0, description="Factor s of the branch.")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate between D and U.", json_schema_extra=TRAINING
    )

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        for layer in (layer for block in find_blocks(model) for layer in adapted_layers(block)):
            for name, size in (("bottleneck", self.bottleneck), ("width", layer.in_features)):
                if size % self.groups:
                    return f"groups={self.groups}: expected a divisor of the {name} {size}"
        return None

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "repadapter")
        for block in find_blocks(model):
            for layer in adapted_layers(block):
                self.insert(layer, LinearAdapter(layer, self, rng))

    def block_parameters(self, block: nn.Module) -> int:
        return sum(
            layer.in_features * (self.bottleneck + self.bottleneck // self.groups)
            + (layer.bias is not None) * (self.bottleneck + layer.in_features)
            for layer in adapted_layers(block)
        )


def adapted_layers(block: nn.Module) -> list[nn.Linear]:
    """Return the layers that read what goes into the attention and into the MLP of a block."""
    return [part_of(block, path) for path in (sites_of(block).qkv, sites_of(block).fc1)]


class LinearAdapter(nn.Module):
    """The branch of one Linear layer's input.

    Args:
        layer: The layer.
        options: The method's options.
        rng: Draws the initial weights.

    Shape:
        (..., width) -> (..., width).
    """

    def __init__(self, layer: nn.Linear, options: RepAdapter, rng: torch.Generator) -> None:
        super().__init__()
        width, bias = layer.in_features, layer.bias is not None
        self.down = nn.Linear(width, options.bottleneck, bias)
        self.drop = nn.Dropout(options.dropout)
        self.up = nn.Linear(options.bottleneck // options.groups, width, bias)  # each output reads its group
        self.groups, self.scale = options.groups, options.scale
        nn.init.xavier_uniform_(self.down.weight, generator=rng)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.down(x)).unflatten(-1, (self.groups, -1))
        up = self.up.weight.unflatten(0, (self.groups, -1))
        branch = torch.einsum("...gi,goi->...go", hidden, up).flatten(-2)
        return x + self.scale * (branch if self.up.bias is None else branch + self.up.bias)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Return M (width, width) and v (width,) such that the branch is x -> x + M x + v."""
        up = torch.block_diag(*self.up.weight.chunk(self.groups))
        shift = 0 if self.up.bias is None else self.scale * (up @ self.down.bias + self.up.bias)
        return self.scale * up @ self.down.weight, shift

    def modify(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Adapt the layer's input (a forward pre-hook)."""
        return (self(inputs[0]), *inputs[1:])
