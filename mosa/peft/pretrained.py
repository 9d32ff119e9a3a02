"""A trained method as one file that says what it is for: saved in one call, built and loaded in another."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mosa.base.errors import UserError, plain, shown
from mosa.base.timm import timm
from mosa.base.words import count
from mosa.peft.attach import attach
from mosa.peft.attached import Merged, attachment, list_adapters, merged_into, tuned_buffers, tuned_parameters
from mosa.peft.blocks import find_head
from mosa.peft.classifier import reset_classifier
from mosa.peft.method import build_method
from mosa.peft.parallel import bare, refuse_wrapped
from mosa.peft.probe import LARGEST, NUMBERS, differ, features_of, image_shape
from mosa.peft.state import (
    digest_of_tensors,
    load_into,
    method_of,
    options_of,
    parsed,
    read,
    tuned_state_dict,
    write,
)
from mosa.peft.structure import Place, Structure, tensor_places

# Arguments of timm's that say where weights come from, which the file alone decides.
_NO_ARGS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "num_classes"}


def save_pretrained(
    model: nn.Module,
    path: str | Path,
    *,
    label_names: Sequence[str] | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> None:
    """Save what a model has learned as one safetensors file, from which `from_pretrained` makes it again.

    The file has the tuned tensors alone. Its metadata name the method and its options, timm's name of the
    backbone with the tag of its weights, a SHA-256 of the weights that were not tuned, the classes, and some
    features of one image, for which the model is run once.

    Args:
        model: A model with a method attached, merged or not.
        path: The file, such as "pets.safetensors"; it is overwritten.
        label_names: The names of the classes, one for each output; by default, those that the model was
            loaded with.
        model_args: Arguments of `timm.create_model` that the backbone was made with, beside its name and the
            number of classes, such as `{"img_size": 64}`; they must be JSON.

    Raises:
        UserError: Nothing is attached, there are not as many names as classes, the model's head is none that
            `from_pretrained` can load, or the file cannot be written.
    """
    model = bare(model)
    classes = _classes(model)
    names = _names_of(get_label_names(model) if label_names is None else label_names, classes)
    if not isinstance(model_args, Mapping | None):
        raise UserError(f"model_args: expected arguments by their names, got {shown(model_args)}")
    if "num_classes" in (model_args or {}):
        raise UserError("model_args: num_classes is saved without it")
    merged, changed = merged_into(model), _changed(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    about = {
        "architecture": config.get("architecture"),
        "tag": config.get("tag") or None,
        "num_classes": classes,
        "model_args": dict(model_args or {}),
        "digest": _digest(model, changed),
        "changed": sorted(changed),
        "merged": _names(model, merged.places if merged else []),
        "head": _head_names(model),
        "label_names": names,
        "probe": _probe(model),
    }
    try:
        text = json.dumps(about, sort_keys=True)
    except TypeError as error:
        raise UserError(f"model_args: {error}, so they cannot be saved") from None
    if problem := _problem(json.loads(text), tuned_state_dict(model)):
        raise UserError(f"{path}: not written, as from_pretrained would refuse it: {problem}")
    write(model, path, {"mosa.backbone": text})


@torch.inference_mode(False)
def from_pretrained(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    head: bool = True,
    name: str | None = None,
) -> nn.Module:
    """Make a model from a file of `save_pretrained`: its backbone, its method, and what was trained.

    Args:
        path: The file.
        model: The backbone, with its weights loaded, which is changed in place; by default, timm builds it
            and loads its pretrained weights, from its cache or the network, and it is in evaluation mode.
        head: Load the trained classifier, too, which gets the number of classes of the file. Otherwise the
            model keeps its own.
        name: The name by which `set_active` knows the method, where the model has or gets several.

    Returns:
        The model, with the method attached as it was saved: to use, to merge or to train on.

    Raises:
        UserError: The file is not one of `save_pretrained`; the backbone is not the one that it was trained
            on, with the same weights, or computes something else with them; or the method cannot be attached,
            as `attach` says. A model that was given is as it was then.
    """
    try:
        state, metadata = read(path)
        saved, about = method_of(path, metadata), parsed(metadata, "mosa.backbone")
    except UserError as error:
        raise UserError(re.sub("of save_tuned$", "of save_pretrained", str(error))) from None
    if not about:
        raise UserError(f"{path}: says nothing of its backbone; expected a file of save_pretrained")
    if problem := _problem(about, state) or _problem_of_merged(saved):
        raise UserError(f"{path}: not as save_pretrained writes it, as {problem}; save it again")
    built = model is None
    model = _build(path, about) if model is None else model
    refuse_wrapped(model, "from_pretrained on")
    whole = Structure(model)
    try:
        _load(path, model, state, saved, about, head, name)
    except BaseException as error:
        whole.restore()
        if isinstance(error, RuntimeError) and "allocate" in str(error):
            raise UserError(f"{path}: its options take more memory than there is") from error
        raise
    return model.eval() if built else model


def _problem(about: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return in what a file's description of a backbone cannot be one, or does not fit its tensors."""
    for key in ("architecture", "tag", "digest"):
        if not isinstance(about.get(key), str | None):
            return f"its {key} is no text"
    names = {key: about.get(key) for key in ("changed", "merged", "head", "label_names")}
    for key, value in names.items():
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            return f"its {key} is no list of names"
    args, classes = about.get("model_args", {}), about.get("num_classes")
    if not isinstance(args, dict):
        return "its model_args are none"
    if refused := sorted(_NO_ARGS & args.keys()):
        return f"its model_args have {refused[0]!r}"
    if problem := _problem_of_probe(about.get("probe")):
        return problem
    if classes is not None and (type(classes) is not int or classes < 0):
        return f"its number of classes is {shown(classes)}"
    sizes = {len(state[name]) for name in names["head"] or () if name in state and state[name].ndim}
    if classes is not None and sizes and classes not in sizes:
        return f"it has {classes} classes and a classifier of {max(sizes)}"
    if classes is not None and names["label_names"] is not None and len(names["label_names"]) != classes:
        return f"it has {count(len(names['label_names']), 'name')} for {count(classes, 'class', 'classes')}"
    return ""


def get_label_names(model: nn.Module) -> list[str] | None:
    """Return the names of the classes that the active method was saved with; None: it has none."""
    if hasattr(bare(model), "peft"):
        return attachment(model).label_names
    merged = merged_into(model)
    return merged.label_names if merged else None


def _classes(model: nn.Module) -> int | None:
    """Return the number of classes of a head, whoever made it; where that is an unknown layer, timm's."""
    head = find_head(model)
    layers = [each for each in head.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    sizes = [each.out_features if isinstance(each, nn.Linear) else each.out_channels for each in layers]
    known = getattr(model, "num_classes", None)
    if sizes:
        return known if known in sizes else sizes[-1]
    return known if list(head.parameters()) else 0


def _names_of(names: object, classes: int | None) -> list[str] | None:
    """Return the names of classes; None if there are none.

    Raises:
        UserError: They are no names, or not as many as there are classes.
    """
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UserError(f"label_names: expected a list of names, got {shown(names)}")
    if other := [each for each in names if not isinstance(each, str)]:
        raise UserError(f"label_names: expected a list of names, got one with {shown(other[0])}")
    if classes is not None and len(names) != classes:
        raise UserError(f"label_names: {len(names)} names for {classes} classes")
    return list(names)


def _problem_of_merged(saved: Mapping[str, Any]) -> str:
    """Return in what a file's list of merged methods cannot be one."""
    merged = saved.get("merged", [])
    if not isinstance(merged, list) or not all(
        isinstance(each, dict) and "method" in each for each in merged
    ):
        return f"its list of merged methods is {shown(merged)}"
    return ""


def _build(path: str | Path, about: Mapping[str, Any]) -> nn.Module:
    """Return the backbone of a file, from timm."""
    if not about.get("architecture"):
        raise UserError(f"{path}: its backbone is not one of timm's: give from_pretrained the model")
    name = ".".join(filter(None, (about["architecture"], about.get("tag"))))
    try:
        return timm.create_model(
            name, pretrained=True, num_classes=about.get("num_classes"), **about.get("model_args", {})
        )
    except Exception as error:  # whatever timm, the hub or the network raise
        raise UserError(
            f"{path}: timm cannot build {name} with its pretrained weights ({type(error).__name__}: "
            f"{plain(str(error))}); give from_pretrained the model"
        ) from error


def _load(
    path: str | Path,
    model: nn.Module,
    state: dict[str, Tensor],
    saved: dict[str, Any],
    about: Mapping[str, Any],
    head: bool,
    name: str | None,
) -> None:
    """Attach the method of a file to a backbone, and load it. If it raises, the caller restores the model."""
    _check_architecture(path, model, about)
    if saved.get("merged") and (list_adapters(model) or merged_into(model)):
        raise UserError(
            f"{path}: has weights of the backbone, into which a method was merged; the model has other "
            f"methods: give a backbone without any"
        )
    classes = about.get("num_classes") if head else None
    if classes == _classes(model):
        classes = None
    label_names = about.get("label_names") if head else None
    if saved["method"] is not None:
        method = build_method(saved["method"], **options_of(path, saved))
        attach(model, method, name=name, num_classes=classes, verify=False, data=state)
        attachment(model).label_names = label_names
    else:
        if classes is not None:
            reset_classifier(model, classes, seed=0)
        model.requires_grad_(False)
        find_head(model).requires_grad_(True)
    if saved.get("merged"):
        backbone, names = _backbone(model), about.get("merged", ())
        places = [place for key, place in backbone.items() if key in names]
        vars(model)["mosa_merged"] = Merged(saved["merged"], places, label_names)
    found = _digest(model, _changed(model) | set(about.get("changed", ())))
    if found != about.get("digest"):
        ours, theirs = set(_head_names(model)), set(about.get("head") or ())
        if theirs and theirs < ours:  # VOLO's, of a version that took one of the two for backbone
            raise UserError(
                f"{path}: was saved without {min(ours - theirs)!r} of this model's classifier, which was not "
                f"tuned with it: train it again"
            )
        raise UserError(
            f"{path}: trained on another backbone: the weights that were not tuned are not those of this "
            f"model, by their SHA-256 ({found[:12]}, expected {str(about.get('digest'))[:12]}); load the "
            f"same weights, in the same precision"
        )
    for key, parameter in model.named_parameters():
        if key in state:  # what was unfrozen beside the method
            parameter.requires_grad_(True)
    own = tuned_state_dict(model)
    if not head:
        own = {key: value for key, value in own.items() if key not in _head_names(model)}
        state = {key: value for key, value in state.items() if key not in about.get("head", ())}
    before = {key: value.clone() for key, value in own.items()}
    load_into(model, own, state)
    if reason := _computes_otherwise(model, about.get("probe")):
        with torch.no_grad():
            for key, value in before.items():
                own[key].copy_(value)
        raise UserError(f"{path}: {reason}")


def _probe(model: nn.Module) -> dict[str, Any] | None:
    """Return what a model computes of one image, and the shape of that; None if it cannot be known."""
    shape = image_shape(model)
    if shape is None or len(shape) != 3 or math.prod(shape) > LARGEST:
        return None
    features, again = features_of(model, shape), features_of(model, shape, seed=1)
    if features is None or again is None or differ(again, features, next(model.parameters()).dtype):
        return None  # a model that draws in evaluation has no features of its own
    return {"shape": shape, "features": features}


def _problem_of_probe(probe: object) -> str:
    """Return in what the features in a file cannot be some."""
    if probe is None:
        return ""
    shape, features = (probe.get(key) if isinstance(probe, dict) else None for key in ("shape", "features"))
    if not isinstance(shape, list) or not all(type(each) is int and each > 0 for each in shape):
        return f"its probe has the shape {shown(shape)}"
    if len(shape) != 3 or math.prod(shape) > LARGEST:
        return f"its probe has the shape {shown(shape)}"
    if not isinstance(features, list) or not 0 < len(features) <= NUMBERS:
        return f"its probe has the features {shown(features)}"
    if not all(isinstance(each, float) and math.isfinite(each) for each in features):
        return f"its probe has the features {shown(features)}"
    return ""


def _computes_otherwise(model: nn.Module, probe: Mapping[str, Any] | None) -> str:
    """Return why a loaded model is not the one that was saved, though it has its weights."""
    found = None if probe is None else features_of(model, probe["shape"])
    if probe is None or found is None:  # of an older file, or a model that takes other images
        return ""
    if not differ(found, probe["features"], next(model.parameters()).dtype):
        return ""
    return (
        "trained on another backbone, which computes something else with the same weights: build this one "
        "with the same arguments (global_pool, act_layer, ...), and give save_pretrained these as model_args"
    )


def _check_architecture(path: str | Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    config = getattr(model, "pretrained_cfg", None) or {}
    own, wanted = config.get("architecture"), about.get("architecture")
    if own and wanted and own != wanted:
        raise UserError(f"{path}: trained on another backbone: {wanted}, and this model is {own}")


def _backbone(model: nn.Module) -> dict[str, Place]:
    """Return the places of the backbone's tensors, by their names without a method."""
    return attachment(model).backbone if hasattr(model, "peft") else dict(tensor_places(model))


def _changed(model: nn.Module) -> set[str]:
    """Return the backbone's names of what is tuned, or has something merged into it, and of the head."""
    merged = merged_into(model)
    buffers = tuned_buffers(model) if hasattr(model, "peft") else ()
    own = {id(each) for each in find_head(model).parameters()} | {
        id(model.get_buffer(each)) for each in buffers
    }
    own |= {id(place.value) for place in merged.places} if merged else set()
    own |= {id(each) for each in tuned_parameters(model).values()} if hasattr(model, "peft") else set()
    change = attachment(model).change if hasattr(model, "peft") else None
    return set(change.tuned if change else ()) | {
        name
        for name, place in _backbone(model).items()
        if place.value.requires_grad or id(place.value) in own
    }


def _names(model: nn.Module, places: list[Place]) -> list[str]:
    """Return the backbone's names of the tensors in some places."""
    wanted = {id(place.value) for place in places}
    return [name for name, place in _backbone(model).items() if id(place.value) in wanted]


def _head_names(model: nn.Module) -> list[str]:
    """Return the names of the classifier's parameters."""
    head = {id(each) for each in find_head(model).parameters()}
    return [name for name, place in tensor_places(model) if id(place.value) in head]


def _digest(model: nn.Module, without: Iterable[str]) -> str:
    """Return the SHA-256 of a backbone's tensors that a state dict has, except for some."""
    without = set(without)
    return digest_of_tensors(
        {
            name: place.value
            for name, place in _backbone(model).items()
            if name not in without and place.key not in place.module._non_persistent_buffers_set
        }
    )
