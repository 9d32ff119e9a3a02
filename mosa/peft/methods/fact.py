"""FacT: changes of all weights of a ViT as one tensor, in a factorised form."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import block_width, find_blocks
from mosa.peft.layers import InPlaceOf, unchangeable
from mosa.peft.method import TRAINING, Method, above

LAYERS = ("qkv", "proj", "fc1", "fc2")


class Fact(Method):
    """All weights of the blocks, cut into squares of d x d, change by W_j' = W_j + s V S_j U.

    U and V are shared by all squares of all layers. A block has 12: one each of q, k, v and proj, four each
    of fc1 and fc2. With form tt (tensor train), every square has its own core S_j; with form tk (Tucker),
    S_j = sum_p P_pj C_p for all squares, with one core tensor C. V is zero, so the model starts as the
    backbone. After merging, only the backbone's weights are left. Tuned parameters of a ViT of depth L:
    2 d r + 12 L r^2 in form tt, 2 d r + 12 L r + r^3 in form tk.

    In the released code of form tk, a reshape mixes the cores of the four squares of fc1, and of fc2; here,
    each square has its own S_j, as in the paper.
    """

    name: ClassVar[str] = "fact"
    reference: ClassVar[str] = (
        "Jie & Deng, FacT, AAAI 2023, arXiv 2212.03145, FacT-TT and FacT-TK; initial values and dropout: "
        "its released code, which takes rank and scale from a file for each data set"
    )
    merges_away: ClassVar = True
    families: ClassVar[tuple[str, ...]] = ("ViT",)
    families_reason: ClassVar[str] = "its factors are shared by all blocks, which need the same width"

    form: Literal["tt", "tk"] = Field(default="tt", description="Factorisation: tensor train or Tucker.")
    rank: int = Field(default=16, ge=1, description="Rank r: channels between U and V.")
    scale: float = Field(default=1.0, description="Factor s of the change.")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate between S and V.", json_schema_extra=TRAINING
    )

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        widths = sorted({block_width(block) for block in find_blocks(model)})
        if len(widths) > 1:
            return f"{type(model).__name__} has blocks of {len(widths)} widths: {self.families_reason}"
        for owner, name in _places(model):
            layer = getattr(owner, name, None)
            if not isinstance(layer, nn.Linear):
                return f"{type(owner).__name__} has no Linear layer {name!r}, whose weight it changes"
            if layer.in_features % widths[0] or layer.out_features % widths[0]:
                shape = f"{layer.out_features}x{layer.in_features}"
                return f"the weight of {name}, {shape}, cannot be cut into squares of the width {widths[0]}"
        if reason := above("rank", self.rank, widths[0], "the width of the blocks"):
            return reason
        return unchangeable(model, (getattr(owner, name) for owner, name in _places(model)))

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "fact")
        places = _places(model)
        layers = [getattr(owner, name) for owner, name in places]
        squares = [_squares(layer, block_width(find_blocks(model)[0])) for layer in layers]
        model.fact = Factors(block_width(find_blocks(model)[0]), sum(squares), self, rng).to(layers[0].weight)
        first = 0
        for (owner, name), layer, count in zip(places, layers, squares, strict=True):
            setattr(owner, name, FactLinear(layer, model.fact, first, self, rng))
            first += count

    def fold(self, model: nn.Module) -> None:
        for owner, name in _places(model):
            setattr(owner, name, getattr(owner, name).merged())
        del model.fact

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        width = block_width(find_blocks(model)[0])
        squares = sum(_squares(getattr(owner, name), width) for owner, name in _places(model))
        cores = squares * self.rank**2 if self.form == "tt" else squares * self.rank + self.rank**3
        return 2 * width * self.rank + cores


def _places(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the changed layers of a model, each as its owner and its name, from input to output."""
    return [
        (block.attn if name in ("qkv", "proj") else block.mlp, name)
        for block in find_blocks(model)
        for name in LAYERS
    ]


def _squares(layer: nn.Linear, width: int) -> int:
    return (layer.out_features // width) * (layer.in_features // width)


class Factors(nn.Module):
    """What all layers share: U and V, and with form tk the core tensor and the weights of its slices.

    Args:
        width: Channels d.
        squares: Number of squares of all layers.
        options: The options of FacT.
        rng: Draws the initial values.
    """

    def __init__(self, width: int, squares: int, options: Fact, rng: torch.Generator) -> None:
        super().__init__()
        rank = options.rank
        self.u = nn.Linear(width, rank, bias=False)
        self.v = nn.Linear(rank, width, bias=False)
        nn.init.kaiming_uniform_(self.u.weight, a=math.sqrt(5), generator=rng)
        nn.init.zeros_(self.v.weight)
        if options.form == "tk":
            self.core = nn.Parameter(torch.empty(rank, rank, rank))
            self.slices = nn.Parameter(torch.empty(rank, squares))
            nn.init.xavier_uniform_(self.core, generator=rng)
            nn.init.xavier_uniform_(self.slices, generator=rng)

    def cores(self, first: int, count: int) -> Tensor:
        """Return S_j of `count` squares with form tk, (count, r, r): outputs, then inputs."""
        return torch.einsum("abp,pj->jba", self.core, self.slices[:, first : first + count])


class FactLinear(InPlaceOf):
    """A Linear layer of m d -> n d channels that changes by s (I_n x V) S (I_m x U), S being (n r, m r).

    Args:
        linear: The layer that is replaced.
        factors: What all layers share; it belongs to the model, not to this layer.
        first: Number of the layer's first square.
        options: The options of FacT.
        rng: Draws the core.

    Shape:
        (..., m d) -> (..., n d).
    """

    def __init__(
        self, linear: nn.Linear, factors: Factors, first: int, options: Fact, rng: torch.Generator
    ) -> None:
        super().__init__(linear)
        self.shared, self.first, self.scale = (factors,), first, options.scale  # a tuple hides it
        self.width, self.rank = factors.u.in_features, options.rank
        self.rows, self.columns = self.out_features // self.width, self.in_features // self.width
        self.drop = nn.Dropout(options.dropout)
        self.core = None
        if options.form == "tt":
            core = nn.Linear(self.columns * self.rank, self.rows * self.rank, bias=False)
            nn.init.kaiming_uniform_(core.weight, a=math.sqrt(5), generator=rng)
            self.core = core.to(linear.weight)
        self.train(linear.training)

    def core_weight(self) -> Tensor:
        """Return S, (n r, m r)."""
        if self.core is not None:
            return self.core.weight
        cores = self.shared[0].cores(self.first, self.rows * self.columns)
        return cores.unflatten(0, (self.rows, self.columns)).transpose(1, 2).flatten(2).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        (shared,) = self.shared
        inner = shared.u(x.unflatten(-1, (self.columns, self.width))).flatten(-2)
        inner = self.drop(nn.functional.linear(inner, self.core_weight()))
        change = shared.v(inner.unflatten(-1, (self.rows, self.rank))).flatten(-2)
        return super().forward(x) + self.scale * change

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a plain Linear with the change added to its weight, which is modified in place."""
        (shared,) = self.shared
        squares = self.core_weight().view(self.rows, self.rank, self.columns, self.rank)
        change = torch.einsum("or,nrms,si->nomi", shared.v.weight, squares, shared.u.weight)
        self.weight += self.scale * change.reshape(self.weight.shape)
        return self.plain()
