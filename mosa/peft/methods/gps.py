"""GPS: of every neuron, the input connections with the largest gradients."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.peft.blocks import BlockView, backbone_modules
from mosa.peft.choice import classified, gradients, taken
from mosa.peft.layers import unchangeable
from mosa.peft.method import TRAINING, Batches, Chosen, above, needs


class Gps(Chosen):
    """The K weights of every neuron with the largest gradients are tuned: W' = W + M * dW.

    M has K ones in each row of a weight: where |dL/dW|, summed over the training images, is largest before
    anything is tuned. L is the supervised contrastive loss of the normalised features z, which needs no
    classifier: the mean over images i of -1/|P(i)| sum over p in P(i) of log softmax(z_i z_p / t), P(i) being
    the other images of the batch with the label of i. Neurons are the outputs of Linear layers and
    convolutions outside the classifier; the released code also tunes the layer scales of ConvNeXt. Only the
    chosen weights are parameters; merging puts them back, so that the backbone's exact modules are left.
    Tuned parameters: K for each neuron, and its bias.
    """

    name: ClassVar[str] = "gps"
    reference: ClassVar[str] = (
        "Zhang et al., GPS, CVPR 2024, arXiv 2312.10136, section 3.2; contrastive loss: Khosla et al., "
        "NeurIPS 2020, arXiv 2004.11362, eq. 2. Defaults: its released code, but each image is seen once, "
        "as the data have it and in evaluation mode, instead of in two augmented views in training mode"
    )
    merges_away: ClassVar = True
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin", "ConvNeXt")
    families_reason: ClassVar[str] = "it replaces weights of layers that are called"
    chosen: ClassVar[tuple[str, ...]] = ("places",)

    connections: int = Field(default=1, ge=1, description="Weights K of each neuron.")
    bias: bool = Field(default=True, description="Tune the biases of these layers, too.")
    loss: Literal["contrastive", "cross_entropy"] = Field(
        default="contrastive",
        description="Loss L whose gradients choose; cross_entropy is that of the classifier.",
        json_schema_extra=TRAINING,
    )
    temperature: float = Field(
        default=0.07,
        gt=0,
        description="Temperature t of the contrastive loss.",
        json_schema_extra={**TRAINING, **needs(loss="contrastive")},
    )

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        smallest = min(layer.weight[0].numel() for layer in _layers(model).values())
        if reason := above("connections", self.connections, smallest, "the inputs of a neuron"):
            return reason
        return unchangeable(model, _layers(model).values())

    def choose(self, model: nn.Module, batches: Batches, seed: int) -> dict[str, Tensor]:
        layers = _layers(model)
        weights = [layer.weight for layer in layers.values()]
        total = [torch.zeros_like(weight) for weight in weights]
        for found in gradients(model, weights, batches, self._loss):
            torch._foreach_add_(total, found)
        if not any(gradient.count_nonzero() for gradient in total):
            raise UserError(
                "gps: the gradients of all weights are zero, so nothing can be chosen: expected batches in "
                "which two images are of the same class"
            )
        return {
            f"{name}.gps.places": gradient.abs().flatten(1).topk(self.connections).indices.sort().values
            for name, gradient in zip(layers, total, strict=True)
        }

    def _loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        features = model.forward_features(images)
        if self.loss == "cross_entropy":
            return F.cross_entropy(model.forward_head(features), classified(model, labels, "gps"))
        return contrastive(model.forward_head(features, pre_logits=True), labels, self.temperature)

    def insert(self, model: nn.Module, seed: int, choice: Mapping[str, Tensor]) -> None:
        for name, layer in _layers(model).items():
            inputs, shape = layer.weight[0].numel(), (len(layer.weight), self.connections)
            places = taken(choice, f"{name}.gps.places", layer.weight, inputs, shape)
            layer.gps = Connections(layer.weight, places)
            layer.forward = partial(layer.gps.run, layer)
            if self.bias and layer.bias is not None:
                layer.bias.requires_grad_(True)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        for layer in _layers(model).values():
            layer.weight.copy_(layer.gps(layer.weight))
            del layer.forward, layer.gps

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        return sum(
            len(layer.weight) * (self.connections + (self.bias and layer.bias is not None))
            for layer in _layers(model).values()
        )


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with neurons, by their names."""
    within = set(backbone_modules(model))
    kinds = (nn.Linear, nn.Conv2d)
    return {name: m for name, m in model.named_modules() if m in within and isinstance(m, kinds)}


def contrastive(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss of a batch, a scalar; zero if no two labels are equal.

    Args:
        features: (batch, width); they are normalised here.
        labels: (batch,).
        temperature: Divides their products.
    """
    features = F.normalize(features)
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits = (features @ features.mT / temperature).masked_fill(own, -torch.inf)
    positive = (labels[:, None] == labels) & ~own
    of_image = torch.where(positive, logits.log_softmax(1), 0).sum(1) / positive.sum(1).clamp(min=1)
    return -of_image.sum() / positive.any(1).sum().clamp(min=1)


class Connections(nn.Module):
    """The tuned weights of a layer; the layer's own stay in it, frozen.

    Args:
        weight: The layer's weight, (out, in, ...).
        places: Which inputs of each output are tuned, (out, K), int64.

    Attributes:
        values: Their weights, (out, K), starting from the layer's.
    """

    def __init__(self, weight: Tensor, places: Tensor) -> None:
        super().__init__()
        self.register_buffer("places", places)
        self.values = nn.Parameter(weight.detach().flatten(1).gather(1, places))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the layer's weight with the tuned values in their places."""
        return weight.flatten(1).scatter(1, self.places, self.values).view_as(weight)

    def run(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Run the layer with these weights: the layer's `forward`."""
        weight = self(layer.weight)
        if not isinstance(layer, nn.Linear):
            return type(layer).forward(BlockView(layer, weight=weight), x)
        y = F.linear(x, weight.detach(), layer.bias)
        if not torch.is_grad_enabled():
            return y
        # The gradient of a few weights takes their inputs alone, not that of the whole weight. What is added
        # is zero, and has that gradient.
        change = (self.values - self.values.detach()).to(y.dtype)
        for place, zero in zip(self.places.unbind(1), change.unbind(1), strict=True):
            y = torch.addcmul(y, x.detach().index_select(-1, place).to(y.dtype), zero)
        return y
