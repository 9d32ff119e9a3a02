"""The tuned state of a model, as tensors and as a file: what differs from the backbone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mosa.base.errors import LISTED, UserError, unknown
from mosa.base.tensors import misfit
from mosa.base.words import count
from mosa.peft.attach import attachment, merged_into
from mosa.peft.method import Method, get_method
from mosa.peft.parallel import bare


def tuned_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the tuned parameters and their buffers by name: what differs from the backbone.

    Buffers are those of the method's modules, and the running statistics of norms that are tuned. What was
    merged into weights of the backbone is there as these weights.

    Returns:
        Detached tensors that share memory with the model; safetensors can save them as they are.

    Raises:
        UserError: Nothing is attached, and nothing was.
    """
    model = bare(model)
    merged = merged_into(model)
    buffers = () if merged and not hasattr(model, "peft") else attachment(model).buffers
    changed = {id(place.value) for place in merged.places} if merged else set()
    tuned = {
        name: value.detach()
        for name, value in model.named_parameters()
        if value.requires_grad or id(value) in changed
    }
    statistics = {name: value for name, value in model.named_buffers() if id(value) in changed}
    own = {name: value for name in buffers if (value := model.get_buffer(name)) is not None}
    return tuned | statistics | own


def load_tuned_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load what `tuned_state_dict` returned into a model with the same method and options, in place.

    Returns:
        The same model.

    Raises:
        UserError: Names or shapes differ: the state was made for another method, other options, or
            another number of classes; or a value is not finite, or no plain tensor. Nothing is loaded then.
    """
    return load_into(model, tuned_state_dict(model), state)


def load_into(model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> nn.Module:
    """Copy a state into tensors of a model that have the same names; see `load_tuned_state_dict`."""
    attached = f"the attached method {described(model)['method']!r}"
    state = {str(key): value for key, value in state.items()}
    for kind, names in (("lacks", own.keys() - state.keys()), ("has", state.keys() - own.keys())):
        if names:
            raise UserError(
                f"the state does not fit {attached}: it {kind} "
                f"{count(len(names), 'tensor')} that the model "
                f"{'needs' if kind == 'lacks' else 'does not have'}, such as {min(names)!r}; "
                f"attach the method and options that the state was made with"
            )
    for key, value in state.items():
        reason = misfit(value, own[key])
        if reason is not None:
            if reason.startswith("shape"):
                reason = (
                    f"has {reason}; use the options and the number of classes that the state was made with"
                )
            raise UserError(f"the state does not fit {attached}: {key!r} {reason}")
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)
    return model


def save_tuned(model: nn.Module, path: str | Path) -> None:
    """Save the tuned state as safetensors, with the method and its options as metadata.

    `save_pretrained` also says what the backbone is.

    Raises:
        UserError: Nothing is attached, and nothing was, or the file cannot be written.
    """
    write(model, path, {})


def write(model: nn.Module, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Save the tuned state and what describes it."""
    metadata = {"mosa.method": json.dumps(described(model), sort_keys=True), **metadata}
    state = {name: value.contiguous() for name, value in tuned_state_dict(model).items()}
    try:
        save_file(state, path, metadata=metadata)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def load_tuned(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a file of `save_tuned` or `save_pretrained` into a model with the same method, in place.

    Options that only training reads, such as a weight in the loss or a dropout rate, may differ. An option
    that the file is older than has the value that changes nothing.

    Returns:
        The same model.

    Raises:
        UserError: The file is not one of `save_tuned`, was made for another method or other options, or has
            an option that this version does not know.
    """
    state, metadata = read(path)
    saved, own = method_of(path, metadata), described(model)
    if saved["method"] == own["method"]:
        saved, own = saved | _options(path, saved), own | _options(path, own)
    differing = sorted(key for key in saved | own if saved.get(key) != own.get(key))[:LISTED]
    if differing:
        raise UserError(
            f"{path}: made for "
            + ", ".join(f"{key}={saved.get(key)!r}" for key in differing)
            + "; the model has "
            + ", ".join(f"{key}={own.get(key)!r}" for key in differing)
            + "; attach the method with the options of the file, or let from_pretrained do it"
        )
    return load_tuned_state_dict(model, state)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, file.metadata() or {}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); expected a file of save_tuned"
        ) from None
    except Exception:  # whatever a broken or foreign file makes safetensors raise
        raise UserError(f"{path}: cannot be read as safetensors; expected a file of save_tuned") from None


def method_of(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what the metadata of a file say of its method; see `described`.

    Raises:
        UserError: They say nothing.
    """
    saved = parsed(metadata, "mosa.method")
    if not isinstance(saved.get("method"), str):
        raise UserError(f"{path}: names no method in its metadata; expected a file of save_tuned")
    return saved


def parsed(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """Return a dictionary that is kept in metadata as JSON; an empty one if there is none."""
    try:
        value = json.loads(metadata.get(key, "null"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def described(model: nn.Module) -> dict[str, Any]:
    """Return the name of the method that a model has, its options, and whether weights have it merged."""
    model = bare(model)
    merged = merged_into(model)
    methods = merged.methods if merged else []
    if hasattr(model, "peft"):
        found = _dumped(attachment(model).method)
    elif methods:
        found = _dumped(methods[-1])
    else:
        attachment(model)
        raise AssertionError("unreachable")
    return found | ({"merged": [each.name for each in methods]} if methods else {})


def _dumped(method: Method) -> dict[str, Any]:
    return {"method": method.name} | method.model_dump()


def _options(path: str | Path, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a file, each, with the same value for all that only training reads.

    Raises:
        UserError: An option is unknown, or is missing without a neutral value.
    """
    method = saved["method"]
    fields = get_method(method).model_fields
    given = {key: value for key, value in saved.items() if key not in ("method", "merged")}
    for name in given:
        if name not in fields:
            raise UserError(f"{path}: {unknown(f'option of method {method!r}', name, fields)}")
    found = {}
    for name, field in fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("training"):
            found[name] = None
        elif name in given:
            found[name] = given[name]
        elif "neutral" in extra:
            found[name] = extra["neutral"]
        else:
            raise UserError(
                f"{path}: says nothing of {name!r}, an option of method {method!r} without a neutral value, "
                f"which one that is added later must declare"
            )
    return found
