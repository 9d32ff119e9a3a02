"""SPT: sensitivity-aware tuning."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.seeding import generator
from mosa.base.timm import DropPath
from mosa.peft.blocks import BlockView, final_norm, find_blocks
from mosa.peft.choice import classified, gradients, taken
from mosa.peft.layers import unchangeable
from mosa.peft.method import TRAINING, Batches, Chosen
from mosa.peft.side import draw

STEPS = range(1, 80)  # twentieths of the budget that are tried as the number of sensitive parameters


class Spt(Chosen):
    """The most sensitive parameters are tuned: one by one where few, by a low-rank change where many.

    The sensitivity of a parameter is its squared gradient, summed over the first batches. Of the t most
    sensitive ones, a matrix that has at least 1 / alpha of the parameters of a low-rank change gets that
    change in their place, W' = W + B A of rank r; a vector that has at least 1 / beta of its size is tuned as
    a whole; other ones are tuned alone. t, in steps of a twentieth of the budget, is what comes closest to
    the budget. Matrices are those of the blocks, timm's fused qkv counting as three; vectors are their
    biases, and the weights and biases of the LayerNorms. The class token is tuned, too. B is zero, so the
    model starts as the backbone; merging puts all of it into the backbone's weights. Tuned parameters: about
    the budget.

    form adapter: instead of a low-rank change, an adapter on the output of the layer, y' = y + Up GELU(Down
    y), with biases; that of the attention's last layer reads its input. It does not merge.

    In the released code, timm's initialisation comes after the method's, so that A and B are both normal with
    a deviation of 0.02; here they start as the paper has them. It also measures sensitivities in training
    mode; here, the model evaluates meanwhile.
    """

    name: ClassVar[str] = "spt"
    reference: ClassVar[str] = (
        "He et al., SPT, ICCV 2023, arXiv 2303.08566, section 3; defaults: its released code for VTAB"
    )
    merges_away: ClassVar = {"form": ["lora"]}
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin")
    families_reason: ClassVar[str] = "it changes the matrices of attention and MLP"
    chosen: ClassVar[tuple[str, ...]] = ("weight_places", "bias_places", "low_rank")

    budget: int = Field(default=400_000, ge=1, description="Tuned parameters to come close to.")
    form: Literal["lora", "adapter"] = Field(
        default="lora",
        description="What sensitive matrices get: a low-rank change, or an adapter on their layer's output.",
        json_schema_extra={"neutral": "lora"},
    )
    rank: int = Field(default=8, ge=1, description="Rank r of a low-rank change, or channels of an adapter.")
    alpha: float = Field(default=10.0, gt=0, description="Preference for low-rank changes of matrices.")
    beta: float = Field(default=5.0, gt=0, description="Preference for vectors as a whole.")
    batches: int = Field(
        default=16,
        ge=1,
        description="Training batches that sensitivities are summed over.",
        json_schema_extra=TRAINING,
    )
    dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Dropout rate of the input of a change, except at the attention's last layer.",
        json_schema_extra={"neutral": 0.0, **TRAINING},
    )
    drop_path: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Rate at which a change is dropped for an image in training.",
        json_schema_extra={"neutral": 0.0, **TRAINING},
    )

    def unfit(self, model: nn.Module) -> str | None:
        return super().unfit(model) or unchangeable(model, _layers(model).values())

    def choose(self, model: nn.Module, batches: Batches, seed: int) -> dict[str, Tensor]:
        layers = _layers(model)
        tensors = [t for layer in layers.values() for t in (layer.weight, layer.bias) if t is not None]
        total = [torch.zeros_like(tensor) for tensor in tensors]
        few = (batch for _, batch in zip(range(self.batches), batches, strict=False))
        for found in gradients(model, tensors, few, _loss):
            torch._foreach_addcmul_(total, found, found)
        fused = {getattr(getattr(block, "attn", None), "qkv", None) for block in find_blocks(model)}
        pieces = [
            piece
            for name, layer in layers.items()
            for piece in self._pieces(name, layer, 3 if layer in fused else 1)
        ]
        ends = torch.tensor([piece.size for piece in pieces], device=total[0].device).cumsum(0)
        flat = torch.cat([gradient.flatten() for gradient in total])
        if not flat.any():
            raise UserError("spt: the gradients of all parameters are zero, so nothing can be chosen")
        largest = min(len(flat), max(STEPS) * self.budget // 20)
        order = flat.topk(largest).indices
        piece_of = torch.searchsorted(ends, order, right=True)
        count = self._closest(model, pieces, piece_of)
        numbers = torch.bincount(piece_of[:count], minlength=len(pieces)).tolist()
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[order[:count]] = True
        choice: dict[str, list[Tensor]] = {}
        for piece, number, part in zip(pieces, numbers, chosen.split([p.size for p in pieces]), strict=True):
            whole = self._whole(piece, number)
            if piece.kind == "weight" and piece.cost:
                flag = torch.tensor([whole], device=flat.device)
                choice.setdefault(f"{piece.layer}.spt.low_rank", []).append(flag)
                part = torch.zeros_like(part) if whole else part
            elif whole:
                part = torch.ones_like(part)
            choice.setdefault(f"{piece.layer}.spt.{piece.kind}_places", []).append(part)
        return {
            name: torch.cat(parts) if name.endswith("low_rank") else torch.cat(parts).nonzero().flatten()
            for name, parts in choice.items()
        }

    def change_size(self, inputs: int, outputs: int) -> int:
        """Return the number of parameters of a matrix's change."""
        if self.form == "adapter":
            return 2 * self.rank * outputs + self.rank + outputs
        return self.rank * (inputs + outputs)

    def _pieces(self, name: str, layer: nn.Module, parts: int) -> list["Piece"]:
        """Return the pieces of a layer, of whose weight so many matrices are the rows."""
        rows = len(layer.weight) // parts
        cost = self.change_size(layer.in_features, rows) if isinstance(layer, nn.Linear) else 0
        pieces = [Piece(name, "weight", layer.weight.numel() // parts, cost)] * parts
        return pieces + [Piece(name, "bias", rows, 0)] * (parts if layer.bias is not None else 0)

    def _whole(self, piece: "Piece", number: int) -> bool:
        """Return whether a piece with so many sensitive parameters is tuned as a whole."""
        return number >= (piece.cost / self.alpha if piece.cost else piece.size / self.beta)

    def _closest(self, model: nn.Module, pieces: list["Piece"], piece_of: Tensor) -> int:
        """Return how many sensitive parameters lead to a number of tuned ones closest to the budget."""
        best, least = 1, float("inf")
        for step in STEPS:
            count = min(len(piece_of), max(1, step * self.budget // 20))
            numbers = torch.bincount(piece_of[:count], minlength=len(pieces)).tolist()
            tuned = sum(
                (piece.cost or piece.size) if self._whole(piece, number) else number
                for piece, number in zip(pieces, numbers, strict=True)
            )
            if abs(tuned + _token(model) - self.budget) <= least:
                best, least = count, abs(tuned + _token(model) - self.budget)
        return best

    def insert(self, model: nn.Module, seed: int, choice: Mapping[str, Tensor]) -> None:
        rng = generator(seed, "spt")
        for name, layer in _layers(model).items():
            layer.spt = Sensitive(layer, name, choice, self, rng).to(layer.weight.device)
            layer.forward = partial(layer.spt.run, layer)
        if _token(model):
            model.cls_token.requires_grad_(True)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> "Spt | None":
        if self.form == "adapter":
            return self
        for layer in _layers(model).values():
            weight, bias = layer.spt.tensors(layer)
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
            for rows, change in layer.spt.changes(layer.weight):
                rows += change[1].weight @ change[0].weight
            del layer.forward, layer.spt
        return None

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        layers = _layers(model).values()
        if not all(hasattr(layer, "spt") for layer in layers):
            return self.budget  # about: the images decide
        return _token(model) + sum(layer.spt.count(layer) for layer in layers)


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images), classified(model, labels, "spt"))


class Piece(NamedTuple):
    """A vector, or a part of a weight's rows, in the order in which sensitivities are laid out.

    Attributes:
        layer: Name of the layer.
        kind: "weight" or "bias".
        size: Number of parameters.
        cost: Parameters of its change; 0: there is none.
    """

    layer: str
    kind: str
    size: int
    cost: int


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the Linear layers and LayerNorms of the blocks, and the final norm, by their names."""
    within = {module for block in find_blocks(model) for module in block.modules()} | {final_norm(model)}
    within -= {part for own in model.modules() if isinstance(own, Sensitive) for part in own.modules()}
    kinds = (nn.Linear, nn.LayerNorm)
    return {
        name: module
        for name, module in model.named_modules()
        if module in within and isinstance(module, kinds) and module.weight is not None
    }


def _token(model: nn.Module) -> int:
    token = getattr(model, "cls_token", None)
    return 0 if token is None else token.numel()


class Sensitive(nn.Module):
    """What is tuned of one layer; the layer's own tensors stay in it, frozen.

    Args:
        layer: A Linear or a LayerNorm.
        name: The layer's name.
        choice: The choice.
        options: The options of SPT.
        rng: Draws the changes.

    Attributes:
        weight_values: The weights that are tuned alone: (1, k), two-dimensional, so that they are decayed
            like a matrix; those of a LayerNorm, (k,). None: there is none.
        bias_values: The biases that are tuned, (k,), or None.
    """

    def __init__(
        self, layer: nn.Module, name: str, choice: Mapping[str, Tensor], options: Spt, rng: torch.Generator
    ) -> None:
        super().__init__()
        is_matrix, prefix = isinstance(layer, nn.Linear), f"{name}.spt."
        for kind in ("weight", "bias"):
            tensor, values, places = getattr(layer, kind), None, None
            if tensor is not None:
                places = taken(choice, f"{prefix}{kind}_places", tensor, tensor.numel())
                values = tensor.detach().flatten()[places]
                values = values.unsqueeze(0) if kind == "weight" and is_matrix else values
            self.register_buffer(f"{kind}_places", places)
            tuned = values is not None and values.numel()
            self.register_parameter(f"{kind}_values", nn.Parameter(values) if tuned else None)
        parts = taken(choice, f"{prefix}low_rank", layer.weight, 2) if is_matrix else None
        self.register_buffer("low_rank", parts)
        last = name.rpartition(".")[2] == "proj"
        self.size, self.beside = options.change_size, options.form == "lora" or last
        self.drop = nn.Dropout(0.0 if last else options.dropout)
        self.drop_path = DropPath(options.drop_path)
        self.change = nn.ModuleDict()
        if is_matrix:
            rows = layer.out_features // len(self.low_rank)
            for part in self.low_rank.nonzero().flatten().tolist():
                change = _change(layer.in_features if self.beside else rows, rows, options, rng)
                self.change[str(part)] = change.to(layer.weight)

    def count(self, layer: nn.Module) -> int:
        """Count the tuned parameters by what was chosen."""
        alone = sum(len(places) for places in (self.weight_places, self.bias_places) if places is not None)
        if self.low_rank is None:
            return alone
        rows = layer.out_features // len(self.low_rank)
        return alone + int(self.low_rank.sum()) * self.size(layer.in_features, rows)

    def tensors(self, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return the layer's weight and bias with the tuned values in their places."""
        found = []
        for kind in ("weight", "bias"):
            tensor, values = getattr(layer, kind), getattr(self, f"{kind}_values")
            if values is not None:
                flat = tensor.flatten().scatter(0, getattr(self, f"{kind}_places"), values.flatten())
                tensor = flat.view_as(tensor)
            found.append(tensor)
        return found[0], found[1]

    def changes(self, weight: Tensor) -> list[tuple[Tensor, nn.Sequential]]:
        """Return the rows of the weight that have a change, each with its change."""
        parts = weight.chunk(1 if self.low_rank is None else len(self.low_rank))
        return [(parts[int(part)], change) for part, change in self.change.items()]

    def run(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Run the layer with what is tuned: the layer's `forward`."""
        weight, bias = self.tensors(layer)
        output = type(layer).forward(BlockView(layer, weight=weight, bias=bias), x)
        if not self.change:
            return output
        chunks = list(output.chunk(len(self.low_rank), dim=-1))
        read = self.drop(x) if self.beside else None  # one draw for q, k and v
        for part, change in self.change.items():
            y = chunks[int(part)]
            chunks[int(part)] = y + self.drop_path(change(self.drop(y) if read is None else read))
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=-1)


def _change(inputs: int, outputs: int, options: Spt, rng: torch.Generator) -> nn.Sequential:
    """Return the change of a matrix: down and up, in form adapter with biases and GELU between them."""
    bias = options.form == "adapter"
    down, up = nn.Linear(inputs, options.rank, bias), nn.Linear(options.rank, outputs, bias)
    change = nn.Sequential(down, nn.GELU(), up) if bias else nn.Sequential(down, up)
    draw(change, rng)
    nn.init.zeros_(up.weight)
    return change
