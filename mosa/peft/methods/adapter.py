"""The bottleneck adapter, in its usual places in a block."""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import (
    BlockView,
    block_width,
    channel_dim,
    find_blocks,
    part_of,
    sites_of,
    stream_of,
    with_stream,
)
from mosa.peft.method import TRAINING, BranchShape, Method, needs
from mosa.peft.routing import repeat_batch

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
USUAL_ACTIVATION = {
    "adaptformer": "gelu", "sequential": "gelu", "pfeiffer": "relu", "houlsby": "silu", "residuals": "silu",
}  # fmt: skip
_TWO = ("houlsby", "residuals")  # placements with a branch after the attention, too


class Adapter(Method):
    """A bottleneck branch in every block: A(h) = s Up(drop(act(Down(LN(h))))).

    With h = x + Attn(LN1(x)) and m = MLP(LN2(h)), the placements are

    - adaptformer: y = h + m + A(h), beside the MLP;
    - pfeiffer: y = h + m + A(m), on the output of the MLP, before the residual addition;
    - houlsby: the same, and another one on the output of the attention;
    - sequential: y = h + m + A(h + m), on the output of the block;
    - residuals: the same, and another one on h, as houlsby in MoSA's released code.

    Where norms stand after the sublayers (Swin V2: y = h + LN2(MLP(h))), or a layer scale does, m is the
    MLP's output before them, and so is the attention's; h is the residual stream between the two.

    LN is the branch's own trainable LayerNorm. Down is Kaiming-uniform with zero bias and Up is zero,
    so the model starts as the backbone. ConvNeXt has no attention, so houlsby and residuals do not fit
    it, and its h is the block's input, as is that of blocks whose attention and MLP are parallel. Tuned
    parameters per branch of width d: 2 b d + d + b; LN adds 2 d, and a learned scale 1.
    """

    name: ClassVar[str] = "adapter"
    reference: ClassVar[str] = (
        "Chen et al., AdaptFormer, NeurIPS 2022, arXiv 2205.13535, eq. 2-3; Houlsby et al., 2019, arXiv "
        "1902.00751, fig. 2; Pfeiffer et al., 2021, arXiv 2005.00247, fig. 3. Defaults: MoSA's released code"
    )

    bottleneck: int = Field(default=64, ge=1, description="Channels b between the two projections.")
    placement: Literal["adaptformer", "pfeiffer", "houlsby", "sequential", "residuals"] = Field(
        default="adaptformer", description="Place of the branch in the block."
    )
    scale: float = Field(default=0.1, description="Factor s of the branch.")
    learn_scale: bool = Field(default=False, description="Train the factor, starting from `scale`.")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate after the activation.", json_schema_extra=TRAINING
    )
    norm: bool = Field(default=True, description="Start the branch with its own LayerNorm.")
    norm_eps: float = Field(
        default=1e-5,
        gt=0,
        description="Term added to the variance in that LayerNorm; 1e-6 in MoSA's released code.",
        json_schema_extra={"neutral": 1e-5, **needs(norm=True)},
    )
    activation: Literal["gelu", "relu", "silu"] | None = Field(
        default=None,
        description="Activation of the branch; null: the placement's usual one (gelu for adaptformer and "
        "sequential, relu for pfeiffer, silu for houlsby and residuals).",
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_activation(cls, options: dict[str, Any]) -> dict[str, Any]:
        placement = options.get("placement", "adaptformer")
        if options.get("activation") is None and isinstance(placement, str) and placement in USUAL_ACTIVATION:
            options = options | {"activation": USUAL_ACTIVATION[placement]}
        return options

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        for block in find_blocks(model):
            sites = sites_of(block)
            missing = "attention" if sites.attention is None else None
            if self.placement == "residuals" and sites.attended is None:
                missing = missing or "module between its attention and the addition"
            if self.placement in _TWO and missing:
                return (
                    f"placement {self.placement!r}: {type(block).__name__} has no {missing}, whose output it "
                    f"adapts; take 'pfeiffer', 'adaptformer' or 'sequential'"
                )
        return None

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "adapter")
        for block in find_blocks(model):
            sites = sites_of(block)
            mlp = part_of(block, sites.mlp)
            place = mlp if self.placement in ("pfeiffer", "houlsby") else block
            block.adapter = self.build_branch(block, place, rng)
            if self.placement == "adaptformer":
                block.forward = partial(block.adapter.beside_mlp, block)
            else:
                place.register_forward_hook(block.adapter.add_to_output)
            if self.placement == "houlsby":
                attention = part_of(block, sites.attention)
                block.adapter_attention = self.build_branch(block, attention, rng)
                attention.register_forward_hook(block.adapter_attention.add_to_output)
            elif self.placement == "residuals":
                block.adapter_attention = self.build_branch(block, block, rng)
                block.forward = partial(block.adapter_attention.after_attention, block)

    def build_branch(self, block: nn.Module, place: nn.Module, rng: torch.Generator) -> "Bottleneck":
        """Return the branch of a block, for tensors laid out as the output of `place`."""
        branch = Bottleneck(block_width(block), self, rng, channel_dim(place))
        return branch.to(next(block.parameters()))

    def branches(self, model: nn.Module) -> list[nn.Module]:
        blocks = find_blocks(model)
        names = ("adapter_attention", "adapter") if self.placement in _TWO else ("adapter",)
        return [getattr(block, name) for block in blocks for name in names]

    def fork_point(self, model: nn.Module) -> nn.Module:
        if self.placement in ("pfeiffer", *_TWO):  # the output that it is added to must be per pass, too
            return find_blocks(model)[0]
        return self.branches(model)[0].fork

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        width = block_width(block)
        return [BranchShape(width, self.bottleneck, width, True)] * (1 + (self.placement in _TWO))

    def block_parameters(self, block: nn.Module) -> int:
        width = block_width(block)
        shapes = self.branch_shapes(block)
        return sum(shape.parameters + 2 * width * self.norm + self.learn_scale for shape in shapes)


class Bottleneck(nn.Module):
    """One branch, connected by a hook or by the block's `forward`, so that timm's block stays unchanged.

    It keeps nothing of a call, so that several threads may evaluate a model at once.

    Args:
        width: Channels d of the block.
        options: The adapter's options.
        rng: Draws the initial weights.
        dim: Dimension of the channels, -1 or 1.

    Shape:
        (batch, ..., width) -> (passes * batch, ..., width), where passes is 1 unless they separate
        in this branch; the channels are at `dim`.
    """

    def __init__(self, width: int, options: Adapter, rng: torch.Generator, dim: int = -1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, options.norm_eps) if options.norm else nn.Identity()
        self.down = nn.Linear(width, options.bottleneck)
        self.act = ACTIVATIONS[options.activation]()
        self.drop = nn.Dropout(options.dropout)
        self.up = nn.Linear(options.bottleneck, width)
        self.scale = nn.Parameter(torch.tensor(options.scale)) if options.learn_scale else options.scale
        self.dim = dim
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=rng)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    @property
    def fork(self) -> nn.Module:
        """The first module whose output differs between two passes."""
        return self.drop

    def forward(self, h: Tensor) -> Tensor:
        h = h.movedim(self.dim, -1)
        return (self.scale * self.up(self.drop(self.act(self.down(self.norm(h)))))).movedim(-1, self.dim)

    def beside_mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run a block, and add the branch on h to its output: the block's `forward`."""
        site = sites_of(block).residual
        if site is None:
            return self._add(type(block).forward(block, x, *args, **kwargs), self(x))
        read = []

        def reading(h: Tensor) -> Tensor:
            read.append(h)
            return getattr(block, site)(h)

        output = type(block).forward(BlockView(block, **{site: reading}), x, *args, **kwargs)
        return self._add(output, self(read[0]))

    def add_to_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
        """Add the branch on a module's output to that output (a forward hook)."""
        return self._add(output, self(stream_of(output)))

    def after_attention(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run a block, and add the branch on h to h: the block's `forward`."""
        site = sites_of(block).attended

        def adding(*inputs: Any, **named: Any) -> Any:
            output = getattr(block, site)(*inputs, **named)
            return self._add(output, self(x + stream_of(output)))

        return type(block).forward(BlockView(block, **{site: adding}), x, *args, **kwargs)

    @staticmethod
    def _add(output: Any, branch: Tensor) -> Any:
        stream = stream_of(output)
        stream = repeat_batch(stream, branch.shape[0] // stream.shape[0])  # passes may separate in the branch
        return with_stream(output, stream + branch.view_as(stream))
