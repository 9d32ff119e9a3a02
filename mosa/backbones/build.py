"""A backbone: a timm architecture with its weights, loaded strictly, and a newly initialised classifier."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import mosa.backbones.micro_vit  # noqa: F401  registers our architecture with timm
from mosa.backbones.hub import HUB, check_architecture, hub_config, hub_file, hub_names
from mosa.backbones.kinds import (
    IMAGENET,
    INCEPTION,
    NORMALIZATIONS,
    SEVERAL,
    STATISTICS,
    Statistics,
    name_of,
)
from mosa.backbones.own import BACKBONES, build_own
from mosa.backbones.weights import Loaded, load_weights
from mosa.base.errors import UserError, suggest
from mosa.base.files import digest_of_file
from mosa.base.seeding import derive_seed, drawing, generator
from mosa.base.timm import timm
from mosa.data.sources import where
from mosa.peft.blocks import find_head

ASSETS = Path(__file__).parent / "assets"
BUILTIN_WEIGHTS = {"mosa_vit_micro": ASSETS / "micro_vit.safetensors"}


@dataclass(frozen=True)
class Backbone:
    """The backbone of a built model, as its record states it.

    Attributes:
        architecture: timm's name.
        weights: "builtin" (shipped with the package), "random", "hub:" and a tag, or the path of a file.
        kind: Format of the weights, see `mosa.backbones.weights.load_weights`; None for random weights.
        sha256: Digest of the weights file; None for random weights.
        image_size: Side of the square input, in pixels.
        mean: Mean per channel of the input normalisation, for pixels in 0 ... 1.
        std: Standard deviation per channel of it.
        notes: What was decided while the file was loaded, in sentences.
        guess: Why the statistics are a guess; None: they are known, or were named.
    """

    architecture: str
    weights: str
    kind: str | None
    sha256: str | None
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    guess: str | None = None


def build_backbone(
    architecture: str,
    weights: str,
    num_classes: int,
    seed: int = 0,
    *,
    kind: str = "auto",
    image_size: int | None = None,
    normalization: str = "weights",
    drop_path: float = 0.0,
    drop_rate: float = 0.0,
    attention_drop_rate: float | None = None,
) -> tuple[nn.Module, Backbone]:
    """Build a model, load its weights, and initialise its classifier.

    Args:
        architecture: Name of a timm architecture, without a tag, or of one of a plugin.
        weights: "builtin", "random", "hub:" and timm's tag (such as "hub:orig_in21k"), or the path of a file.
        num_classes: Outputs of the classifier.
        seed: Seeds the classifier, and the weights where they are random.
        kind: Format of a file, see `mosa.backbones.weights.load_weights`; "builtin" and "hub:" have timm's.
        image_size: Side of the square input, in pixels; None: the architecture's own.
        normalization: "weights" (as the weights were trained), "imagenet", "inception" (0.5), "clip",
            "satellite" (SAT-493M of DINOv3) or "none" (pixels in 0 ... 1).
        drop_path: Rate of stochastic depth of the last block.
        drop_rate: Rate of the backbone's own dropout, after the embedding and in attention's output and MLPs.
        attention_drop_rate: Rate in attention's output; None: that of `drop_rate`.

    Returns:
        The model, in evaluation mode, and its description.

    Raises:
        UserError: The architecture is unknown, or the weights do not fit it (the classifier aside).
    """
    if architecture not in BACKBONES:
        check_architecture(architecture)
    model = _build(architecture, num_classes, seed, image_size, drop_path, drop_rate)
    if attention_drop_rate is not None:
        _set_attention_dropout(model, attention_drop_rate)
    digest = loaded = None
    config = model.pretrained_cfg
    if weights != "random":
        path = _weights_path(architecture, weights)
        digest = digest_of_file(path)
        if weights == "builtin" and digest != json.loads(path.with_suffix(".json").read_text())["sha256"]:
            raise UserError(
                f"{path}: is not the file that {path.stem}.json describes; install the package again"
            )
        is_file = weights != "builtin" and not weights.startswith(HUB)
        loaded = load_weights(model, path, kind if is_file else "timm")
        if weights.startswith(HUB):
            config = hub_config(architecture, weights).to_dict()
    reset_head(model, seed)
    own = tuple(config["mean"]), tuple(config["std"])
    if normalization == "weights":
        (mean, std), guess = _statistics(architecture, weights, loaded, own)
    else:
        (mean, std), guess = NORMALIZATIONS[normalization], None
    size = image_size or model.pretrained_cfg["input_size"][-1]
    found, notes = (loaded.kind, loaded.notes) if loaded else (None, ())
    return model.eval(), Backbone(architecture, weights, found, digest, size, mean, std, notes, guess)


def _statistics(
    architecture: str, weights: str, loaded: Loaded | None, own: Statistics
) -> tuple[Statistics, str | None]:
    """Return the statistics that weights were trained with, and why they are a guess, or None.

    Args:
        architecture: timm's name.
        weights: As for `build_backbone`.
        loaded: What was found in the file; None for random weights.
        own: What timm has for the architecture, or for the tag of the hub.
    """
    if loaded is not None and loaded.kind in STATISTICS:
        return STATISTICS[loaded.kind], _doubt(architecture, loaded.kind)
    if loaded is None or weights.startswith(HUB) or architecture in BUILTIN_WEIGHTS:
        return own, None
    if loaded.bare and own == INCEPTION:
        guess, why = IMAGENET, "DINO and most ViTs without a classifier have it"
    else:
        guess, why = own, f"timm has it for {architecture}"
    return guess, (
        f"the file does not say how its images were normalised; {name_of(guess)} is a guess, as {why}: set "
        f"`normalization` ({', '.join(NORMALIZATIONS)}), or `kind` if the file is of one"
    )


def _doubt(architecture: str, kind: str) -> str | None:
    """Return why a kind's statistics are a guess for an architecture: timm's weights of it differ."""
    if kind not in SEVERAL:
        return None
    configs = (timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{architecture}.*"))
    others = {(tuple(config.mean), tuple(config.std)) for config in configs} - {STATISTICS[kind]}
    if not others:
        return None
    return (
        f"the file does not say how its images were normalised; {name_of(STATISTICS[kind])} is a guess, as "
        f"most of kind {kind}, but weights of {architecture} were also trained with "
        f"{', '.join(map(name_of, sorted(others)))}: set `normalization` ({', '.join(NORMALIZATIONS)})"
    )


def _build(
    architecture: str, num_classes: int, seed: int, image_size: int | None, drop_path: float, drop_rate: float
) -> nn.Module:
    if architecture in BACKBONES:
        rates = {"drop_path": drop_path, "drop_rate": drop_rate}
        with drawing(derive_seed(seed, "backbone")):
            return build_own(architecture, num_classes, image_size=image_size, **rates)
    options: dict[str, float] = {}
    if drop_path or architecture.startswith("swin"):  # timm's default for Swin is 0.1
        options["drop_path_rate"] = drop_path
    if drop_rate:
        options |= {"proj_drop_rate": drop_rate}
        options |= {} if architecture.startswith("swin") else {"pos_drop_rate": drop_rate}
    if image_size is not None and timm.get_pretrained_cfg(architecture).fixed_input_size:
        options["img_size"] = image_size
    with drawing(derive_seed(seed, "backbone")):
        try:
            model = timm.create_model(architecture, num_classes=num_classes, **options)
        except (TypeError, AssertionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"architecture {architecture!r} cannot be built with {options or 'its defaults'} ({error})"
            ) from None
    _without_own_rates(model, drop_path, drop_rate)
    return model


def _without_own_rates(model: nn.Module, drop_path: float, drop_rate: float) -> None:
    """Set what the recipe has at 0 to 0, as some of timm's models have rates of their own by default."""
    for module in model.modules():
        if not drop_path and isinstance(getattr(module, "drop_prob", None), float):
            module.drop_prob = 0.0
        if not drop_rate and isinstance(module, nn.Dropout):
            module.p = 0.0
        if not drop_rate and isinstance(getattr(module, "drop_rate", None), float):
            module.drop_rate = 0.0


def _set_attention_dropout(model: nn.Module, rate: float) -> None:
    blocks = [module.attn for module in model.modules() if hasattr(module, "attn")]
    found = [block.proj_drop for block in blocks if isinstance(getattr(block, "proj_drop", None), nn.Dropout)]
    if not blocks or len(found) < len(blocks):
        lacks = "no attention" if not blocks else "attention whose output has no dropout"
        raise UserError(f"attention_drop_rate={rate:g}: {type(model).__name__} has {lacks}; leave it null")
    for dropout in found:
        dropout.p = rate


def digest_of_weights(architecture: str, weights: str) -> str | None:
    """Return the SHA-256 of a weights file; None for random weights and weights of the hub.

    Raises:
        UserError: There is no such file.
    """
    if weights == "random" or weights.startswith(HUB):
        return None
    return digest_of_file(_weights_path(architecture, weights))


def _weights_path(architecture: str, weights: str) -> Path:
    if weights.startswith(HUB):
        return hub_file(architecture, weights)
    if weights != "builtin":
        path = Path(weights)
        if not path.is_file():
            hint = suggest(weights, ["builtin", "random", *hub_names(architecture)])
            what = "is a folder" if path.is_dir() else "no such file"
            raise UserError(
                f"{path}: {what}; download the weights to this path ({where('weights', path.name)}), or set "
                f"`weights` to 'builtin', 'random', or 'hub:' and a tag{hint}"
            )
        return path
    if architecture not in BUILTIN_WEIGHTS:
        raise UserError(
            f"architecture {architecture!r} has no builtin weights (only {', '.join(BUILTIN_WEIGHTS)} has): "
            f"set `weights` to a file, 'hub:' and a tag, or 'random'"
        )
    return BUILTIN_WEIGHTS[architecture]


def reset_head(model: nn.Module, seed: int) -> None:
    """Initialise a model's linear classifiers: Kaiming-normal over their outputs, bias -log(99).

    The same for every method, as in the recipe that MoSA was released with.
    """
    rng = generator(seed, "head")
    for layer in find_head(model).modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", generator=rng)
            nn.init.constant_(layer.bias, -math.log(99))
