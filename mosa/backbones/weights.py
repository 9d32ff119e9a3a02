"""Weights files of the field's formats, loaded strictly: all of the backbone, or an error."""

import hashlib
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.peft.blocks import find_head

KINDS = ("auto", "timm", "npz", "mae", "mocov3", "swin")
_MAX_VALUES = 5_000_000_000  # in a file; no backbone of this benchmark has a fifth of them
_SHOWN = 12  # rows of the table of names that an error shows


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(model: nn.Module, path: Path, kind: str = "auto") -> str:
    """Load a weights file into a model: it must match every tensor except the classifier's.

    Position embeddings and Swin's bias tables are resized, by timm, where the image size differs; a file of
    another patch size, depth or width is refused.

    Args:
        model: A timm model.
        path: The file.
        kind: "npz" (the original ViT files), "mae", "mocov3" (of pre-training or linear probing), "swin"
            (the original files), "timm" (a state dict of timm's, in safetensors or pickled), or "auto".

    Returns:
        The kind.

    Raises:
        UserError: The file cannot be read safely, or holds other names, other shapes, NaN or infinity.
    """
    if kind == "npz" or (kind == "auto" and path.suffix == ".npz"):
        _load_npz(model, path)
        return "npz"
    state = _read_state(path)
    found = _kind_of(state) if kind == "auto" else kind
    _load_state(model, _plain(state, found, path), path, found)
    return found


def _read_state(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read as safetensors ({error}); copy it again") from None
    try:
        # MAE's files hold their command line beside the weights.
        from argparse import Namespace

        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a broken or hostile file can raise anything
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path}: cannot be read as a file that holds only weights ({reason}); copy it again, "
            "or convert it to safetensors"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a dictionary of weights")
    return content


def _kind_of(state: Mapping[str, Any]) -> str:
    inner = next((state[key] for key in ("model", "state_dict") if isinstance(state.get(key), dict)), state)
    names = list(inner)
    if any(name.startswith(("module.base_encoder.", "base_encoder.")) for name in names):
        return "mocov3"
    if inner is not state and any("relative_position_bias_table" in name for name in names):
        return "swin"
    if "state_dict" in state and any(name.startswith("module.") for name in names):
        return "mocov3"
    return "mae" if "model" in state and "pos_embed" in names else "timm"


def _plain(state: Mapping[str, Any], kind: str, path: Path) -> dict[str, Tensor]:
    """Return only the tensors of the backbone, under the names that files of this kind use."""
    for key in ("state_dict", "model", "module"):
        if isinstance(state.get(key), dict):
            state = state[key]
            break
    if kind == "mocov3":
        both = any("base_encoder." in name for name in state)  # the other one is the momentum encoder
        encoder = re.compile(r"^(module\.)?base_encoder\." if both else r"^(module\.)?")
        state = {encoder.sub("", name): value for name, value in state.items() if encoder.match(name)}
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    if kind == "mae":
        own = re.compile(r"^(decoder_|mask_token$)")
        state = {name: value for name, value in state.items() if not own.match(name)}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no weights of kind {kind!r}; set `kind` to one of {', '.join(KINDS)}")
    if sum(value.numel() for value in tensors.values()) > _MAX_VALUES:
        raise UserError(f"{path}: holds more than {_MAX_VALUES:,} values; no backbone here is so large")
    return tensors


def _load_state(model: nn.Module, state: dict[str, Tensor], path: Path, kind: str) -> None:
    patch, own_patch = state.get("patch_embed.proj.weight"), _patch_weight(model)
    if patch is not None and own_patch is not None and patch.ndim == 4:
        _check_patch(patch.shape[-2:], own_patch, path)
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if filter_fn is not None:
        try:
            state = filter_fn(dict(state), model)
        except (AttributeError, KeyError, RuntimeError, ValueError, AssertionError) as error:
            raise UserError(f"{path} does not fit {type(model).__name__} ({error})") from None
    own = model.state_dict()
    head = head_names(model)
    # The norm after average pooling is new if the weights were trained with a class token.
    new_norm = "norm.weight" in state and "fc_norm.weight" not in state and "fc_norm.weight" in own
    optional = {"fc_norm.weight", "fc_norm.bias"} if new_norm else set()
    dropped = {"norm.weight", "norm.bias"} if new_norm else set()
    wanted = own.keys() - head - optional
    found = {
        name: value
        for name, value in state.items()
        if name not in head | dropped and not name.startswith(("head.", "head_dist.", "classifier."))
    }
    if any(name.startswith("head.norm") for name in wanted):  # ConvNeXt's last norm is part of its head
        found |= {name: state[name] for name in wanted & state.keys()}
    rows = [(name, "missing in the file") for name in wanted - found.keys()]
    rows += [(name, "not in the model") for name in found.keys() - own.keys()]
    rows += [
        (name, f"shape {tuple(found[name].shape)}, expected {tuple(own[name].shape)}")
        for name in wanted & found.keys()
        if own[name].shape != found[name].shape
    ]
    rows += [
        (name, "has values that are not finite")
        for name in wanted & found.keys()
        if found[name].is_floating_point() and not found[name].isfinite().all()
    ]
    if rows:
        raise UserError(_table(path, model, kind, rows, len(wanted)))
    model.load_state_dict({name: found[name] for name in wanted}, strict=False)


def head_names(model: nn.Module) -> set[str]:
    """Return the names of the classifier's parameters."""
    head = {id(parameter) for parameter in find_head(model).parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in head}


def _table(path: Path, model: nn.Module, kind: str, rows: list[tuple[str, str]], total: int) -> str:
    lines = [
        f"{path} (kind {kind}) does not fit {type(model).__name__}: {len(rows)} of {total} tensors differ; "
        "take the architecture that the file is for, or set its `kind`"
    ]
    width = max(len(name) for name, _ in rows[:_SHOWN])
    lines += [f"  {name:<{width}}  {what}" for name, what in sorted(rows)[:_SHOWN]]
    return "\n".join(lines + ([f"  ... and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []))


def _patch_weight(model: nn.Module) -> torch.Size | None:
    weight = getattr(getattr(getattr(model, "patch_embed", None), "proj", None), "weight", None)
    return None if weight is None or weight.ndim != 4 else weight.shape[-2:]


def _check_patch(found: tuple[int, ...], expected: torch.Size, path: Path) -> None:
    if tuple(found) != tuple(expected):
        raise UserError(
            f"{path}: is for patches of {found[0]}x{found[1]} pixels, the architecture has "
            f"{expected[0]}x{expected[1]}; take the architecture that the file is for"
        )


@torch.no_grad()
def _load_npz(model: nn.Module, path: Path) -> None:
    """Load an original ViT file through timm's own reader, and check that it filled every tensor."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = list(file.files)
            patch = file["embedding/kernel"].shape[:2] if "embedding/kernel" in names else None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path}: cannot be read as npz without pickles ({error}); copy it again") from None
    own_patch = _patch_weight(model)
    if patch is None or own_patch is None or not hasattr(model, "load_pretrained"):
        raise UserError(
            f"{path}: expected an original ViT file, with embedding/kernel, for a ViT; "
            f"got {len(names)} arrays for {type(model).__name__}"
        )
    _check_patch(patch, own_patch, path)
    blocks = {name.split("/")[1] for name in names if name.startswith("Transformer/encoderblock_")}
    if len(blocks) != len(model.blocks):
        raise UserError(f"{path}: has {len(blocks)} blocks, the architecture has {len(model.blocks)}")
    head = head_names(model)
    tensors = [tensor for name, tensor in model.state_dict().items() if name not in head]
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    try:
        model.load_pretrained(str(path))
    except (KeyError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise UserError(f"{path}: does not fit {type(model).__name__} ({error})") from None
    rows = [
        (name, "missing in the file, or not finite")
        for name, tensor in model.state_dict().items()
        if name not in head and tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if rows:
        raise UserError(_table(path, model, "npz", rows, len(tensors)))
