"""A backbone: a timm architecture with its weights, loaded strictly, and our own classifier on top."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import mosa.models  # noqa: F401  registers our architecture with timm
from mosa._timm import timm
from mosa.errors import UserError, unknown
from mosa.peft.blocks import find_head
from mosa.seeding import generator

ASSETS = Path(__file__).parent / "assets"
BUILTIN_WEIGHTS = {"mosa_vit_micro": ASSETS / "micro_vit.safetensors"}


@dataclass(frozen=True)
class Backbone:
    """What a built model stands on, as the record states it.

    Attributes:
        architecture: timm's name.
        weights: "builtin" (shipped with the package), "random", or the path of a safetensors file.
        sha256: Digest of the weights file; None for random weights.
        image_size: Side of the square input, in pixels.
        mean: Mean per channel of the input normalisation, for pixels in 0 ... 1.
        std: Standard deviation per channel of it.
    """

    architecture: str
    weights: str
    sha256: str | None
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_backbone(
    architecture: str, weights: str, num_classes: int, seed: int = 0
) -> tuple[nn.Module, Backbone]:
    """Build a model, load its weights, and initialise its classifier.

    Args:
        architecture: Name of a timm architecture.
        weights: "builtin", "random", or the path of a safetensors file for this architecture.
        num_classes: Outputs of the classifier.
        seed: Seeds the classifier, and the weights where they are random.

    Returns:
        The model, in evaluation mode, and its description.

    Raises:
        UserError: The architecture is unknown, or the weights do not fit it but for the classifier.
    """
    if not timm.is_model(architecture):
        raise unknown("architecture", architecture, timm.list_models())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "backbone").initial_seed())
        model = timm.create_model(architecture, num_classes=num_classes)
    digest = None
    if weights != "random":
        path = _weights_path(architecture, weights)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if weights == "builtin" and digest != json.loads(path.with_suffix(".json").read_text())["sha256"]:
            raise UserError(f"{path}: not the file that its description says; check the package out again")
        load_weights(model, path)
    reset_head(model, seed)
    config = model.pretrained_cfg
    described = Backbone(
        architecture, weights, digest, config["input_size"][-1], tuple(config["mean"]), tuple(config["std"])
    )
    return model.eval(), described


def _weights_path(architecture: str, weights: str) -> Path:
    if weights != "builtin":
        path = Path(weights)
        if not path.is_file():
            raise UserError(
                f"weights {weights!r}: no such file; expected 'builtin', 'random' or a safetensors file"
            )
        return path
    if architecture not in BUILTIN_WEIGHTS:
        raise UserError(
            f"architecture {architecture!r} has no builtin weights (only {', '.join(BUILTIN_WEIGHTS)} has): "
            f"name a safetensors file, or 'random'"
        )
    return BUILTIN_WEIGHTS[architecture]


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into a model, which must fit it exactly but for the classifier.

    Raises:
        UserError: The file cannot be read, holds other names or shapes, or values that are not finite.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None
    head = {id(parameter) for parameter in find_head(model).parameters()}
    head_names = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    own = {name: value for name, value in model.state_dict().items() if name not in head_names}
    state = {name: value for name, value in state.items() if name not in head_names}
    problems = [f"missing: {name}" for name in own.keys() - state.keys()]
    problems += [f"unexpected: {name}" for name in state.keys() - own.keys()]
    problems += [
        f"shape of {name}: {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    problems += [f"not finite: {name}" for name, value in state.items() if not value.isfinite().all()]
    if problems:
        shown = "; ".join(sorted(problems)[:8])
        raise UserError(
            f"{path} does not fit {type(model).__name__}: "
            f"{len(problems)} of {len(own)} tensors differ ({shown})"
        )
    model.load_state_dict(state, strict=False)


def reset_head(model: nn.Module, seed: int) -> None:
    """Initialise a model's linear classifier: Kaiming-normal over its outputs, bias -log(99).

    The same for every method, as in the recipe that MoSA was released with.
    """
    head = find_head(model)
    nn.init.kaiming_normal_(head.weight, mode="fan_out", generator=generator(seed, "head"))
    nn.init.constant_(head.bias, -math.log(99))
