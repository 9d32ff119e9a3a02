"""DTL: disentangled transfer learning."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.peft.method import needs
from mosa.peft.places import keep_grid
from mosa.peft.side import Side, SideNetwork, draw, model_width


class Dtl(Side):
    """A compact side network of low-rank matrices, fed back into the later blocks.

    h_(i+1) = h_i + B_i A_i z_i, for z_i the input of block i and h_0 = 0. To the output of block i >= M,
    counted from 0, theta(h_(i+1)) is added, with theta(h) = h sigmoid(beta h). DTL+ convolves theta(h) on the
    grid of patches before, with one filter for each channel, which all blocks share. No gradient passes
    through the first M + 1 blocks, but through those after them. B is zero, so the model starts as the
    backbone. Nothing is merged. Tuned parameters: 2 L d r; DTL+ has k^2 d more.

    The released code classifies by the mean of the patches; here, the backbone's own pooling stays.
    """

    name: ClassVar[str] = "dtl"
    reference: ClassVar[str] = (
        "Fu et al., DTL, AAAI 2024, arXiv 2312.07856; defaults: the scripts of its released code for VTAB"
    )

    rank: int = Field(default=2, ge=1, description="Rank r of the side network's matrices.")
    start: int | None = Field(
        default=None, ge=0, description="Blocks M that are not fed back into; null: half of the blocks."
    )
    beta: float = Field(default=100.0, gt=0, description="Steepness of theta.")
    plus: bool = Field(default=False, description="DTL+: convolve what is fed back.")
    kernel: int = Field(
        default=3, ge=1, description="Side k of the filters of DTL+, odd.", json_schema_extra=needs(plus=True)
    )

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        depth = len(model.blocks)
        if self._start(depth) >= depth:
            return f"start={self.start}: expected at most {depth - 1}, which feeds back into the last block"
        if self.plus and self.kernel % 2 == 0:
            return f"kernel={self.kernel}: expected an odd number"
        return None

    def _start(self, depth: int) -> int:
        return depth // 2 if self.start is None else self.start

    def network(self, model: nn.Module, rng: torch.Generator) -> "Compact":
        depth, prefix = len(model.blocks), model.num_prefix_tokens
        grid = model.patch_embed.grid_size
        return Compact(self, model_width(model), depth, self._start(depth), prefix, grid, rng)

    def apply(self, model: nn.Module, seed: int) -> None:
        super().apply(model, seed)
        if self.plus:
            keep_grid(model)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        width, depth = model_width(model), len(model.blocks)
        return 2 * depth * width * self.rank + self.plus * self.kernel**2 * width


class Compact(SideNetwork):
    """The network of `Dtl`.

    Args:
        options: The method's options.
        width: Channels d of the tokens.
        depth: Number of blocks L.
        start: Number of blocks M that are not fed back into.
        prefix: Tokens before those of patches.
        grid: Rows and columns of patches.
        rng: Draws the initial values.
    """

    def __init__(
        self,
        options: Dtl,
        width: int,
        depth: int,
        start: int,
        prefix: int,
        grid: tuple[int, int],
        rng: torch.Generator,
    ) -> None:
        super().__init__(list(range(start + 2)))
        self.beta, self.prefix, self.grid = options.beta, prefix, grid
        self.matrices = nn.ModuleList(LowRank(width, options.rank, rng) for _ in range(depth))
        self.filters = None
        if options.plus:
            k = options.kernel
            self.filters = nn.Conv2d(width, width, k, padding=k // 2, groups=width, bias=False)
            bound = 1 / k  # of k x k inputs, as torch draws it
            nn.init.uniform_(self.filters.weight, -bound, bound, generator=rng)

    def forward(self, tokens: Iterable[Tensor], rest: Iterable[nn.Module]) -> Tensor:
        tokens, matrices = iter(tokens), iter(self.matrices)
        x = next(tokens)
        h = torch.zeros_like(x)
        for z in tokens:
            h, x = h + next(matrices)(x), z
        x = x + self.fed_back(h)
        for block, matrix in zip(rest, matrices, strict=True):
            h = h + matrix(x)
            x = block(x) + self.fed_back(h)
        return x

    def fed_back(self, h: Tensor) -> Tensor:
        """Return theta(h), for DTL+ convolved on the grid of patches."""
        h = h * torch.sigmoid(self.beta * h)
        if self.filters is None:
            return h
        patches = h[:, self.prefix :].mT.unflatten(2, self.grid)
        return torch.cat((h[:, : self.prefix], self.filters(patches).flatten(2).mT), dim=1)


class LowRank(nn.Sequential):
    """The product B A, of which B is zero at the start.

    Shape:
        (..., width) -> the same.
    """

    def __init__(self, width: int, rank: int, rng: torch.Generator) -> None:
        super().__init__(nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False))
        draw(self, rng)
        nn.init.zeros_(self[1].weight)
