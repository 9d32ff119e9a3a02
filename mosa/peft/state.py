"""The tuned state of a model, as tensors and as a file: what differs from the backbone."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mosa.base.errors import LISTED, UserError, shown, unknown
from mosa.base.files import unwritable, written_atomically
from mosa.base.tensors import misfit
from mosa.base.words import count
from mosa.peft.attached import attachment, dumped, merged_into, tuned_buffers, tuned_parameters
from mosa.peft.method import get_method
from mosa.peft.parallel import bare
from mosa.peft.structure import tensor_places

_CONTENT = "mosa.content"  # in the metadata: SHA-256 of all else in the file


def tuned_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the tuned parameters and their buffers by name: what differs from the backbone.

    Buffers are those of the method's modules, and the running statistics of norms that are tuned. What was
    merged into weights of the backbone is there as these weights. What was frozen after `attach` is there,
    too, and what was unfrozen and trained by forwards of the whole model, also if it is frozen again.

    Returns:
        Detached tensors that share memory with the model; safetensors can save them as they are.

    Raises:
        UserError: Nothing is attached, and nothing was.
    """
    model = bare(model)
    merged = merged_into(model)
    attached = merged is None or hasattr(model, "peft")
    buffers = tuned_buffers(model) if attached else ()
    trained = tuned_parameters(model) if attached else {}
    changed = {id(place.value) for place in merged.places} if merged else set()
    tuned = {
        name: value.detach()
        for name, value in model.named_parameters()
        if value.requires_grad or name in trained or id(value) in changed
    }
    statistics = {name: value for name, value in model.named_buffers() if id(value) in changed}
    own = {name: value for name in buffers if (value := model.get_buffer(name)) is not None}
    return tuned | statistics | own


def load_tuned_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load what `tuned_state_dict` returned into a model with the same method and options, in place.

    Returns:
        The same model.

    Raises:
        UserError: It is no dictionary; or names or shapes differ: the state was made for another method,
            other options, or another number of classes; or a value is not finite, or no plain tensor. Nothing
            is loaded then.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"expected the state that tuned_state_dict returns, got {shown(state)}")
    return load_into(model, tuned_state_dict(model), state)


def load_into(model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> nn.Module:
    """Copy a state into tensors of a model that have the same names; see `load_tuned_state_dict`."""
    method = described(model)["method"]
    attached = f"the attached method {method!r}" if method else "what was merged into the weights"
    state = {str(key): value for key, value in state.items()}
    for kind, names in (("lacks", own.keys() - state.keys()), ("has", state.keys() - own.keys())):
        if names:
            raise UserError(
                f"the state does not fit {attached}: it {kind} {count(len(names), 'tensor')} that the model "
                f"{'needs' if kind == 'lacks' else 'does not have'}, such as {min(names)!r}; attach the "
                "method and options that the state was made with"
            )
    for key, value in state.items():
        reason = misfit(value, own[key])
        if reason is not None:
            if reason.startswith("shape"):
                reason = (
                    f"has {reason}; use the options and the number of classes that the state was made with"
                )
            raise UserError(f"the state does not fit {attached}: {key!r} {reason}")
    watch = getattr(vars(bare(model)).get("peft"), "watch", None)
    if watch is not None:
        watch.look()  # what is unfrozen, and gets other values now
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
    _check_path(path)
    metadata = {"mosa.method": json.dumps(described(model), sort_keys=True), **metadata}
    state = {name: value.contiguous() for name, value in tuned_state_dict(model).items()}
    metadata[_CONTENT] = digest_of_tensors(state, json.dumps(metadata, sort_keys=True))
    try:
        # Not by save_file, whose error for a full disk is none of the system's.
        with written_atomically(Path(path)) as temporary:
            temporary.write_bytes(save(state, metadata=metadata))
    except OSError as error:
        raise unwritable(Path(path), error) from None


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
    _check_merged(path, saved, own)
    if saved["method"] == own["method"] is not None:
        saved = _of_inference(own["method"], {**saved, **options_of(path, saved)})
        own = _of_inference(own["method"], own)
    options = (saved | own).keys() - {"merged"}
    differing = sorted(key for key in options if saved.get(key) != own.get(key))[:LISTED]
    if differing:
        raise UserError(
            f"{path}: made for "
            + ", ".join(f"{key}={saved.get(key)!r}" for key in differing)
            + "; the model has "
            + ", ".join(f"{key}={own.get(key)!r}" for key in differing)
            + "; attach the method with the options of the file, or let from_pretrained do it"
        )
    if merged := merged_into(model):  # which of these weights a merge changes depends on the values
        known, before = tuned_state_dict(model), list(merged.places)
        merged.places += [
            place for name, place in tensor_places(bare(model)) if name in state and name not in known
        ]
        try:
            return load_tuned_state_dict(model, state)
        except UserError:
            merged.places = before
            raise
    return load_tuned_state_dict(model, state)


def _check_merged(path: str | Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a file whose methods were merged into weights where the model's are not, or the reverse."""
    there, here = ([each["method"] for each in side.get("merged", [])] for side in (saved, own))
    if there != here:
        raise UserError(
            f"{path}: saved with {' and '.join(there) or 'nothing'} merged into weights of the backbone, the "
            f"model has {' and '.join(here) or 'nothing'} merged; load before merging, merge as the file has "
            f"it, or let from_pretrained do it"
        )


def _check_path(path: object) -> None:
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"expected the path of a file, got {shown(path)}")


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Raises:
        UserError: It cannot be read, or was changed after it was saved.
    """
    _check_path(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); expected a file of save_tuned"
        ) from None
    except Exception:  # whatever a broken or foreign file makes safetensors raise
        raise UserError(f"{path}: cannot be read as safetensors; expected a file of save_tuned") from None
    content = metadata.pop(_CONTENT, None)  # None: the file is older than this key
    if content not in (None, digest_of_tensors(state, json.dumps(metadata, sort_keys=True))):
        raise UserError(f"{path}: was changed after it was saved; copy it again, or save it again")
    return state, metadata


def digest_of_tensors(tensors: Mapping[str, Tensor], head: str = "") -> str:
    """Return the SHA-256 of a text, and of tensors with their names, types and shapes."""
    digest = hashlib.sha256(head.encode())
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def method_of(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what the metadata of a file say of its method; see `described`.

    Raises:
        UserError: They say nothing.
    """
    saved = parsed(metadata, "mosa.method")
    if not isinstance(saved.get("method"), str) and not saved.get("merged"):
        raise UserError(f"{path}: names no method in its metadata; expected a file of save_tuned")
    return saved


def parsed(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """Return a dictionary that is kept in metadata as JSON; an empty one if there is none."""
    try:
        value = json.loads(metadata.get(key, "null"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def described(model: nn.Module) -> dict[str, Any]:
    """Return the method that a model has attached with its options, and those that are merged into weights.

    Raises:
        UserError: There is none.
    """
    merged = merged_into(model)
    if merged is None:
        return dumped(attachment(model).method)
    attached = dumped(attachment(model).method) if hasattr(bare(model), "peft") else {"method": None}
    return attached | {"merged": merged.methods}


def options_of(path: str | Path, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a file has, each; one that the file is older than at its neutral value.

    Raises:
        UserError: An option is unknown, or is missing without a neutral value.
    """
    method = saved["method"]
    fields = get_method(method).model_fields
    given = {key: value for key, value in saved.items() if key not in ("method", "merged")}
    for name in given:
        if name not in fields:
            raise UserError(f"{path}: {unknown(f'option of method {method!r}', name, fields)}")
    for name, field in fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if name not in given and "neutral" in extra:
            given[name] = extra["neutral"]
        elif name not in given and extra.get("training"):
            given[name] = field.default
        elif name not in given:
            raise UserError(
                f"{path}: says nothing of {name!r}, an option of method {method!r} without a neutral value, "
                f"which one that is added later must declare"
            )
    return given


def _of_inference(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that not only training reads."""
    fields = get_method(method).model_fields
    training = {
        name
        for name, field in fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("training")
    }
    return {name: value for name, value in options.items() if name not in training}
