"""DiffFit: biases, norms, and learned scales of attention and MLP."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mosa.peft.blocks import block_width, channel_dim, find_blocks, sites_of
from mosa.peft.layers import unchangeable
from mosa.peft.method import Method
from mosa.peft.methods.bias import Bias
from mosa.peft.methods.norm import Norm


class DiffFit(Method):
    """Biases, norms and scales are tuned: h = x + gamma_1 Attn(LN1(x)), y = h + gamma_2 MLP(LN2(h)).

    gamma_1 and gamma_2 are a scale per channel that starts as one, so the model starts as the backbone; a
    ConvNeXt block has no attention, and only gamma_2. Merging multiplies them into the last projection of
    attention and MLP: only the backbone's modules are left. Tuned parameters of a ViT of width d and depth L:
    15 d L + 3 d.
    """

    name: ClassVar[str] = "difffit"
    reference: ClassVar[str] = (
        "Xie et al., DiffFit, ICCV 2023, arXiv 2304.06648, section 3.2, where the model is a diffusion "
        "transformer; scales per channel: the implementation mkshing/DiffFit-pytorch"
    )
    merges_away: ClassVar = True
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin", "ConvNeXt")
    families_reason: ClassVar[str] = "its scales stand in the blocks of these families"

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        for owner, name in _projections(model):
            if not isinstance(getattr(owner, name, None), nn.Linear | nn.Conv2d):
                return f"{type(owner).__name__} has no layer {name!r}, into which a scale merges"
        return unchangeable(model, (getattr(owner, name) for owner, name in _projections(model)))

    def apply(self, model: nn.Module, seed: int) -> None:
        for parameter in self._selected(model):
            parameter.requires_grad_(True)
        for owner, name in _projections(model):
            layer = getattr(owner, name)
            layer.gamma = Gamma(layer).to(layer.weight)
            layer.gamma.handle = layer.register_forward_hook(layer.gamma.multiply, prepend=True)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        for owner, name in _projections(model):
            layer = getattr(owner, name)
            layer.weight.mul_(layer.gamma.scale.view(-1, *[1] * (layer.weight.dim() - 1)))
            if layer.bias is not None:
                layer.bias.mul_(layer.gamma.scale)
            layer.gamma.handle.remove()
            del layer.gamma

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        scales = sum(
            block_width(block) * (1 + (sites_of(block).attention is not None)) for block in find_blocks(model)
        )
        return scales + sum(parameter.numel() for parameter in self._selected(model))

    @staticmethod
    def _selected(model: nn.Module) -> list[nn.Parameter]:
        """Return the biases and the parameters of norms, each once."""
        return list(dict.fromkeys(Bias().selected(model) + Norm().selected(model)))


def _projections(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the last layers of attentions and MLPs, each as its owner and its name."""
    found = []
    for block in find_blocks(model):
        sites = sites_of(block)
        if sites.attention is not None:
            found.append((getattr(block, sites.attention), "proj"))
        found.append((getattr(block, sites.mlp), "fc2"))
    return found


class Gamma(nn.Module):
    """The scale of one layer's output, per channel.

    Args:
        layer: The layer.

    Shape:
        Any, with the channels at the dimension of the layer's output; the output has the same shape.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.view = (-1, 1, 1) if channel_dim(layer) == 1 else (-1,)
        self.scale = nn.Parameter(torch.ones(len(layer.weight)))

    def forward(self, y: Tensor) -> Tensor:
        return y * self.scale.view(self.view)

    def multiply(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Scale the layer's output (a forward hook)."""
        return self(output)
