"""Arithmetic of a model, counted by running it once: what training and inference cost per image."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import mosa.backbones.micro_vit  # noqa: F401  registers it
from mosa.base.timm import timm
from mosa.peft.losses import tuning_loss
from mosa.peft.structure import copied

IMAGES = 2  # a batch, so that what is done once per batch hardly counts
# Architectures and image sizes of the shipped configs; results need their FLOPs where no record has them.
COUNTED = (
    ("mosa_vit_micro", 32),
    ("vit_base_patch16_224", 224),
    ("vit_large_patch16_224", 224),
    ("swin_base_patch4_window7_224", 224),
)


class Counter(TorchDispatchMode):
    """Adds up the floating-point operations of all that is computed within it.

    As torch's FlopCounterMode, with its formulas, but without its hooks on all modules, which take longer
    than the arithmetic of a small model.

    Attributes:
        total: FLOPs so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=result)
        return result


def training_flops(model: nn.Module, image_size: int) -> float:
    """Count the floating-point operations of one training image: all passes, forward and backward.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two.
    Attention is run as its two products, as the counter does not know the CPU's fused kernel.

    Args:
        model: A model with a method attached; a copy is run, so neither it nor any generator changes.
        image_size: Side of the square input, in pixels.

    Returns:
        FLOPs per image and step, without the optimiser's.
    """
    twin = copied(model).train()
    images, labels = _images(twin, image_size), torch.zeros(IMAGES, dtype=torch.long)
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), Counter() as counter:
        tuning_loss(twin, images, labels.to(images.device)).backward()
    return counter.total / IMAGES


@torch.no_grad()
def inference_flops(model: nn.Module, image_size: int) -> float:
    """Count the floating-point operations of one image in evaluation.

    Args:
        model: A model, which is not changed.
        image_size: Side of the square input, in pixels.

    Returns:
        FLOPs per image.
    """
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        with sdpa_kernel(SDPBackend.MATH), Counter() as counter:
            model(_images(model, image_size))
    finally:
        for module in training:
            module.training = True
    return counter.total / IMAGES


def _images(model: nn.Module, size: int) -> torch.Tensor:
    parameter = next(model.parameters())
    return torch.zeros(IMAGES, 3, size, size, dtype=parameter.dtype, device=parameter.device)


def count_backbones() -> dict[str, dict[str, float]]:
    """Count the FLOPs of one image in each backbone of `COUNTED` without its classifier, and its width.

    Returns:
        `flops` and `width` (channels of the features), by "<architecture> <image size>".
    """
    found = {}
    for architecture, size in COUNTED:
        with torch.device("meta"):
            model = timm.create_model(architecture, num_classes=0)
        found[f"{architecture} {size}"] = {"flops": inference_flops(model, size), "width": model.num_features}
    return found
