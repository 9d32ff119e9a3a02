"""A method on a small model of an architecture, for the checks of `conformance` and for tests."""

import copy
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.plugins import REGISTRIES
from mosa.base.timm import timm
from mosa.peft.attach import attach
from mosa.peft.blocks import description_of
from mosa.peft.choice import example_batches
from mosa.peft.losses import tuning_loss
from mosa.peft.method import build_method
from mosa.peft.structure import copied

VIT = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)
SMALLER = VIT | {"depth": 2, "embed_dim": 16}
SWIN = dict(img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4))
# Each family of architectures, in a size that builds and trains in milliseconds.
ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "vit": lambda classes: timm.create_model("vit_tiny_patch16_224", num_classes=classes, **VIT),
    "vit_avgpool": lambda classes: timm.create_model(
        "vit_tiny_patch16_224", num_classes=classes, global_pool="avg", class_token=False, **VIT
    ),
    "vit_layerscale_droppath": lambda classes: timm.create_model(
        "vit_tiny_patch16_224", num_classes=classes, init_values=0.5, drop_path_rate=0.2, **VIT
    ),
    "convnext": lambda classes: timm.create_model(
        "convnext_atto", num_classes=classes, depths=(1, 1, 2, 1), dims=(8, 16, 32, 32), conv_mlp=False
    ),
    "swin": lambda classes: timm.create_model("swin_tiny_patch4_window7_224", num_classes=classes, **SWIN),
    "eva": lambda classes: timm.create_model(
        "eva02_tiny_patch14_224", num_classes=classes, init_values=0.5, **SMALLER
    ),
    "beit": lambda classes: timm.create_model("beit_base_patch16_224", num_classes=classes, **SMALLER),
    "swinv2": lambda classes: timm.create_model("swinv2_tiny_window8_256", num_classes=classes, **SWIN),
}


def build(
    architecture: str = "vit", classes: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Build a model with random but realistic weights: no bias and no scale is left at its trivial value.

    The global generator is left in the same state by each build of an architecture.

    Args:
        architecture: A key of `ARCHITECTURES`, a plugin's backbone, or a name of timm's.
        classes: Number of classes.
        seed: Seeds the weights.
        dtype: Of the weights.

    Raises:
        UserError: There is no such architecture.
    """
    own = architecture in REGISTRIES.get("backbone", ())  # another model may come under its name
    model, state = (_built.__wrapped__ if own else _built)(architecture, classes, seed)
    torch.set_rng_state(state)
    return copied(model).to(dtype)


@cache  # timm takes longer to build one than most checks to use it
def _built(architecture: str, classes: int, seed: int) -> tuple[nn.Module, Tensor]:
    """Return a model, and the state of torch's generator after it was drawn."""
    torch.default_generator.manual_seed(seed)
    own: Mapping[str, Any] = REGISTRIES.get("backbone", {})
    if architecture in ARCHITECTURES:
        model = ARCHITECTURES[architecture](classes)
    elif architecture in own:
        model = own[architecture].build(classes)
    elif timm.is_model(architecture):
        model = timm.create_model(architecture, num_classes=classes)
    else:
        raise UserError(
            f"unknown architecture {architecture!r}: expected one of {', '.join(ARCHITECTURES)}, or a name "
            "of timm's, such as vit_tiny_patch16_224"
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model, torch.get_rng_state()


def input_size(model: nn.Module, architecture: str) -> tuple[int, ...]:
    """Return the size of a model's images, (channels, height, width)."""
    if architecture in ARCHITECTURES:
        return (3, 32, 32)
    described = description_of(model)
    return tuple(described.input_size if described else cast(Any, model).pretrained_cfg["input_size"])


def batch(
    size: int = 6,
    classes: int = 5,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
    shape: tuple[int, ...] = (3, 32, 32),
) -> tuple[Tensor, Tensor]:
    """Return random images (size, *shape) and labels (size,)."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(size, *shape, generator=rng, dtype=torch.float64).to(dtype)
    return images, torch.randint(classes, (size,), generator=rng)


def train_steps(
    model: nn.Module,
    steps: int = 3,
    classes: int = 5,
    seed: int = 7,
    lr: float = 1e-2,
    shape: tuple[int, ...] = (3, 32, 32),
) -> None:
    """Train a few AdamW steps with as many passes as the method asks for, and stop in evaluation mode."""
    torch.default_generator.manual_seed(seed)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        images, labels = batch(classes=classes, seed=step, dtype=next(model.parameters()).dtype, shape=shape)
        loss = tuning_loss(model, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


class Subject:
    """A method on an architecture: as it is attached, with its output then, and a copy that was trained.

    Checks share it, and leave it as it is.

    Args:
        method: Name of the method.
        options: Its options.
        architecture: As for `build`.
    """

    def __init__(self, method: str, options: Mapping[str, Any], architecture: str = "vit") -> None:
        self.method, self.options, self.architecture = method, dict(options), architecture

    @cached_property
    def unfit(self) -> str | None:
        """Why the method does not fit the architecture; None if it does."""
        return build_method(self.method, **self.options).unfit(build(self.architecture))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Size of the images, (channels, height, width)."""
        return input_size(build(self.architecture), self.architecture)

    def attached(
        self,
        classes: int = 5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        before: int = 0,
        **options: Any,
    ) -> nn.Module:
        """Return a new model with the method attached; that it acts is seen once, in `start`.

        Before that, so many numbers are drawn from the global generator.
        """
        model = build(self.architecture, classes, dtype=dtype)
        torch.rand(before)
        how: dict[str, Any] = {"seed": seed, "verify": False, "data": example_batches(model)}
        return attach(model, self.method, **(how | self.options | options))

    def batch(self, seed: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return images and labels."""
        return batch(seed=seed, dtype=dtype, shape=self.shape)

    def train(self, model: nn.Module, **how: Any) -> nn.Module:
        """Train a model a few steps, see `train_steps`; return it."""
        train_steps(model, **how, shape=self.shape)
        return model

    @cached_property
    def _started(self) -> tuple[nn.Module, bool]:
        model = build(self.architecture).eval()
        before = torch.random.get_rng_state()
        attach(model, self.method, data=example_batches(model), **self.options)
        return model, not torch.equal(torch.random.get_rng_state(), before)

    @property
    def start(self) -> nn.Module:
        """The model with the method attached, in evaluation mode."""
        return self._started[0]

    @property
    def drew(self) -> bool:
        """Whether attaching drew from the global generator."""
        return self._started[1]

    @cached_property
    def images(self) -> Tensor:
        """Images."""
        return self.batch()[0]

    @cached_property
    def output(self) -> Tensor:
        """The model's output on them, before anything is trained."""
        return self.start(self.images.clone())  # a method may write to its input

    @cached_property
    def trained(self) -> nn.Module:
        """A copy of the model that was trained for two steps."""
        _ = self.output  # of the model as it was
        return self.train(copy.deepcopy(self.start), steps=2)
