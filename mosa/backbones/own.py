"""Backbones of a user's own: builders of any model with a classifier, registered by name."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from torch import nn

from mosa.backbones.kinds import IMAGENET
from mosa.base.errors import UserError, plain, shown
from mosa.base.plugins import Registry
from mosa.base.timm import timm
from mosa.peft.blocks import find_head

Build = Callable[[int], nn.Module]


class OwnBackbone(NamedTuple):
    """A registered builder.

    Attributes:
        build: Returns the model for a number of classes, with its own initial weights.
        input_size: Size of its images, (channels, height, width).
        mean: Mean per channel of the input, for pixels in 0 ... 1.
        std: Standard deviation per channel of it.
    """

    build: Build
    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


BACKBONES: Registry[OwnBackbone] = Registry("backbone")


def backbone(
    *,
    input_size: Sequence[int],
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
) -> Callable[[Build], Build]:
    """Register a function as the builder of an architecture, which has the function's name.

    The function takes the number of classes and returns a model that has `get_classifier()`, as timm's, or
    whose blocks `mosa.peft.describe_blocks` has described. What it draws follows the seed of the run.

    Args:
        input_size: Size of the images, (channels, height, width), height and width alike.
        mean: Mean per channel that the weights were trained with, for pixels in 0 ... 1.
        std: Standard deviation per channel of it.

    Raises:
        UserError: The size is no such size, the statistics are not of three channels, or timm has an
            architecture of this name.

    Example:
        >>> @backbone(input_size=(3, 32, 32))
        ... def my_net(num_classes: int) -> nn.Module:
        ...     return mosa.peft.describe_blocks(MyNet(num_classes), MyBlock, head="head", ...)
    """
    size = tuple(input_size) if isinstance(input_size, Iterable) else (input_size,)
    if len(size) != 3 or size[0] != 3 or size[1] != size[2]:
        raise UserError(f"input_size={shown(input_size)}: expected (3, side, side), in pixels")
    for what, values in (("mean", mean), ("std", std)):
        if not isinstance(values, Iterable) or len(tuple(values)) != 3:
            raise UserError(f"{what}={shown(values)}: expected a number for each of the 3 channels")

    def register(build: Build) -> Build:
        name = build.__name__
        if timm.is_model(name):
            raise UserError(f"backbone {name!r}: timm has an architecture of this name; take another")
        BACKBONES.add(name, OwnBackbone(build, size, tuple(mean), tuple(std)), build.__module__)
        return build

    return register


def build_own(name: str, num_classes: int, **options: object) -> nn.Module:
    """Build a registered backbone.

    Args:
        name: Its name.
        num_classes: Outputs of the classifier.
        **options: `image_size` and rates, which have to be its own, or zero.

    Raises:
        UserError: The builder raises, or returns something else than a model with this classifier, or an
            option is one that it does not have.
    """
    own = BACKBONES[name]
    size = options.pop("image_size", None)
    if size not in (None, own.input_size[-1]):
        raise UserError(f"image_size={size}: {name} takes images of {own.input_size[-1]} pixels")
    for option, value in options.items():
        if value:
            raise UserError(
                f"{option}={value}: {name} is built by a plugin, without this option; leave it out"
            )
    try:
        model = own.build(num_classes)
    except UserError as error:
        raise UserError(f"backbone {name!r}: {error}") from None
    except Exception as error:
        raise UserError(
            f"backbone {name!r} cannot be built ({plain(f'{type(error).__name__}: {error}')})"
        ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"backbone {name!r}: its builder returns a {type(model).__name__}, expected a model")
    outputs = [layer.out_features for layer in find_head(model).modules() if isinstance(layer, nn.Linear)]
    if outputs and outputs[-1] != num_classes:
        raise UserError(
            f"backbone {name!r}: its classifier has {outputs[-1]} outputs, expected {num_classes}"
        )
    known = dict(getattr(model, "pretrained_cfg", None) or {})  # where it is made of a model of timm's
    known |= {"architecture": name, "input_size": own.input_size, "mean": own.mean, "std": own.std}
    model.pretrained_cfg = known
    return model
