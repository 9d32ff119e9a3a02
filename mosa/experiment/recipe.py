"""The recipe: how every method is trained. Adding an option declares it here, and uses it in the engine."""

from collections.abc import Mapping
from typing import Any, Literal

from mosa.base.words import count
from mosa.experiment.declared import Declared, option

COMPILE = ("none", "blocks", "step_graph")  # no part of it, as results differ by float error at most


class Recipe(Declared):
    """The recipe, which all methods share except for the values that a config gives them."""

    epochs: int = option(12, ge=1, description="Passes over the training images.")
    batch_size: int = option(
        32, ge=1, description="Images per step; the last step of an epoch takes the rest."
    )
    lr: float = option(1e-3, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = option(0.01, ge=0, description="Decoupled weight decay of what `decay` names.")
    warmup_epochs: float = option(
        1.0, ge=0, description="Linear warm-up in epochs, per step, before the cosine."
    )
    label_smoothing: float = option(
        0.0, ge=0, lt=1, neutral=0.0, description="Mass of the uniform distribution in the targets."
    )
    eps: float = option(1e-8, gt=0, description="Term added to AdamW's denominator.")
    bias_correction: bool = option(
        True,
        neutral=True,
        description="AdamW's bias correction; without it the decay comes after the step, as in the released "
        "code of VPT and MoSA.",
    )
    decay: Literal["matrices", "weights"] = option(
        "matrices",
        neutral="matrices",
        description="What is decayed: `matrices`, or all `weights` and scales that are no biases, as in the "
        "released code of VPT and MoSA.",
    )
    drop_path: float = option(
        0.0, ge=0, lt=1, neutral=0.0, description="Rate of stochastic depth of the backbone's last block."
    )
    drop_rate: float = option(
        0.0,
        ge=0,
        lt=1,
        neutral=0.0,
        description="Rate of the backbone's own dropout, after the embedding and in attention's output and "
        "MLPs.",
    )
    attention_drop_rate: float | None = option(
        None,
        ge=0,
        lt=1,
        neutral=None,
        description="Rate of the backbone's own dropout in attention's output; null: that of `drop_rate`. 0 "
        "in the released code of VPT and MoSA.",
    )
    fraction: float = option(
        1.0,
        gt=0,
        le=1,
        neutral=1.0,
        description="Share of the training images to train on, class by class; FGVC takes its "
        "train_<fraction>.json.",
    )
    label_noise: float = option(
        0.0,
        ge=0,
        lt=1,
        neutral=0.0,
        description="Share of the training images that get the label of another class, drawn by the seed of "
        "the run.",
    )
    precision: Literal["float32", "bfloat16"] = option(
        "float32",
        neutral="float32",
        description="`bfloat16`: autocast in training and evaluation; weights, optimiser and loss stay "
        "float32.",
    )
    views: int = option(
        0,
        ge=0,
        neutral=0,
        description="For augmented tasks: random crops and flips that each image has in all, which epochs "
        "show in turn, so that linear probing computes their features once; 0: new ones in every epoch.",
    )


def problem_of(options: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the key and the sentence of what is wrong with options that are legal one by one, if anything.

    Args:
        options: Options of the recipe; any may be left out.
    """
    warmup, epochs = options.get("warmup_epochs", 0), options.get("epochs")
    if epochs is not None and warmup > epochs:
        training = count(epochs, "epoch")
        return (
            "warmup_epochs",
            f"a warm-up of {warmup:g} epochs is longer than the {training} of training; shorten it",
        )
    return None
