"""DoRA: low-rank adaptation of the direction of weights, and their magnitude."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import find_blocks
from mosa.peft.methods.lora import Lora, LoraLinear


class Dora(Lora):
    """Weights are cut into magnitude and direction: W' = m (W + s B A) / |W + s B A|, for each output.

    |.| is the norm of a row, and m, one number for each row, starts as |W|, so the model starts as the
    backbone. The norm is a constant for the gradient. A and B start as LoRA's. After merging, only the
    backbone's weights are left. Tuned parameters per block: r (in + out) + out for each target.
    """

    name: ClassVar[str] = "dora"
    reference: ClassVar[str] = (
        "Liu et al., DoRA, ICML 2024, arXiv 2402.09353, eq. 5 and 11; defaults: those of lora, so that the "
        "two compare"
    )

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "dora")
        for block in find_blocks(model):
            for (owner, name, _), parts in self._layers(block):
                setattr(owner, name, DoraLinear(getattr(owner, name), parts, self, rng))

    def block_parameters(self, block: nn.Module) -> int:
        return sum(shape.parameters + shape.outputs for shape in self.branch_shapes(block))


class DoraLinear(LoraLinear):
    """A `LoraLinear` whose changed rows are rescaled to trained norms.

    Args:
        linear: The layer that is replaced.
        parts: The name of each part's change, or None: (q, None, v) for timm's fused qkv.
        options: The options of DoRA.
        rng: Draws A.

    Shape:
        (..., in) -> (..., out).
    """

    def __init__(
        self, linear: nn.Linear, parts: tuple[str | None, ...], options: Dora, rng: torch.Generator
    ) -> None:
        super().__init__(linear, parts, options, rng)
        self.magnitude = nn.ParameterDict(
            {part: nn.Parameter(self.row_norms(part)) for part in parts if part is not None}
        )

    def rows(self, tensor: Tensor, part: str) -> Tensor:
        """Return a part's rows of the weight or the bias."""
        return tensor.chunk(len(self.parts))[self.parts.index(part)]

    @torch.no_grad()
    def row_norms(self, part: str) -> Tensor:
        """Return |W + s B A| of a part's rows."""
        low_rank = self.low_rank[part]
        changed = self.rows(self.weight, part) + self.scale * low_rank.up.weight @ low_rank.down.weight
        return torch.linalg.vector_norm(changed, dim=1)

    def factor(self, part: str) -> Tensor:
        """Return m / |W + s B A| of a part's rows; 1 for a row of zeros, which has no direction."""
        norms = self.row_norms(part)
        return torch.where(norms > 0, self.magnitude[part] / norms.where(norms > 0, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        chunks = list(nn.Linear.forward(self, x).chunk(len(self.parts), dim=-1))
        for index, part in enumerate(self.parts):
            if part is not None:
                factor = self.factor(part)
                plain = chunks[index] if self.bias is None else chunks[index] - self.rows(self.bias, part)
                # Added, not multiplied, so that a factor of one changes no bit.
                change = (factor - 1) * plain + factor * (self.scale * self.low_rank[part](x))
                chunks[index] = chunks[index] + change
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=-1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        factors = {part: self.factor(part) for part in self.magnitude}
        linear = super().merged()
        for part, factor in factors.items():
            self.rows(linear.weight, part).mul_(factor.unsqueeze(1))
        return linear
