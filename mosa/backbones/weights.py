"""Weights files of the field's formats, loaded strictly: all of the backbone, or an error."""

import math
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mosa.backbones.checkpoint import Part, find_backbone, read_checkpoint
from mosa.backbones.flax import load_npz
from mosa.backbones.layouts import check_heads, layout_notes, layout_of, timm_layout
from mosa.backbones.refusal import Row, check_patch, patch_weight, refusal
from mosa.base.errors import UserError
from mosa.base.tensors import misfit, unusable
from mosa.peft.blocks import find_head

_CLASSIFIER = ("head.", "head_dist.", "classifier.")
_LAYER_SCALE = re.compile(r"\.gamma_([12])$")  # DeiT III's name of ls1.gamma and ls2.gamma


@dataclass(frozen=True)
class Loaded:
    """What was loaded from a file.

    Attributes:
        kind: See `load_weights`.
        notes: What was decided, in sentences, such as a prefix that was taken off.
        bare: Whether all that is known of the file is that it is a ViT with a class token and without a
            classifier: DINO's files look like this, and so can anybody's.
    """

    kind: str
    notes: tuple[str, ...] = ()
    bare: bool = False


def load_weights(model: nn.Module, path: Path, kind: str = "auto") -> Loaded:
    """Load a weights file into a model: it must match every tensor except the classifier's.

    The tensors may be in any dictionary of the file, and their names may have a prefix. Position embeddings
    and Swin's bias tables are resized, by timm, where the image size differs; a file of another patch size,
    depth or width is refused.

    Args:
        model: A timm model.
        path: The file.
        kind: "npz" (the original ViT files), "mae", "mocov3" (of pre-training or linear probing), "swin",
            "dino", "dinov2", "dinov3", "dinov3_sat" (on satellite images), "deit3", "clip", "eva02", "beit"
            (the original files), "siglip" (of open_clip), "timm" (any other with timm's names, in safetensors
            or pickled), or "auto": by the names and values in the file.

    Returns:
        The kind that the file was loaded as, and what was decided.

    Raises:
        UserError: The file cannot be read safely, or holds other names, other shapes, NaN or infinity.
    """
    if kind == "npz" or (kind == "auto" and _is_npz(path)):
        load_npz(model, path, head_names(model))
        return Loaded("npz")
    if _is_npz(path):
        raise UserError(f"{path}: is an npz file, not of kind {kind!r}; set `kind: npz`")
    own, head = model.state_dict(), head_names(model)
    part = find_backbone(read_checkpoint(path), own.keys() - head, path)
    rows = [(part.prefix + name, why) for name, value in part.tensors.items() if (why := unusable(value))]
    if rows:
        raise refusal(path, kind, model, rows, len(part.tensors))
    found = _kind_of(part, own)
    _check_kind(kind, found, path)
    plain = {"cls_token", "pos_embed"} <= own.keys() and not _has_classifier(part, head)
    bare = plain and (kind, found) == ("auto", "timm")
    used = found if kind == "auto" else kind
    check_heads(model, used, path)
    tensors = timm_layout(model, _timm_names(part.tensors, used), found, path)
    notes = _load_state(model, dict(tensors), head, path, used)
    return Loaded(used, (*part.notes, *notes, *layout_notes(model, found)), bare)


def head_names(model: nn.Module) -> set[str]:
    """Return the names of the classifier's parameters."""
    head = {id(parameter) for parameter in find_head(model).parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in head}


def _is_npz(path: Path) -> bool:
    if path.suffix == ".npz" or not zipfile.is_zipfile(path):
        return path.suffix == ".npz"
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False  # whoever reads it reports it


def _kind_of(part: Part, own: Mapping[str, Tensor]) -> str:
    """Return the kind of a file by what is in it; "timm" is all that says no more."""
    names, places = part.tensors.keys(), part.label.split(".")
    if "base_encoder" in places:
        return "mocov3"
    if any(name.startswith(("decoder_embed.", "decoder_blocks.")) for name in names):
        return "mae"
    layout = layout_of(part)
    if layout is not None:
        return layout
    if "mask_token" in names and "blocks.0.ls1.gamma" in names:
        return "dinov2"
    if "blocks.0.gamma_1" in names and "blocks.0.ls1.gamma" in own:
        return "deit3"
    if "layers.0.downsample.reduction.weight" in names:
        return "swin"  # timm's own files downsample at the start of a stage, and the first has none
    if any(name.removeprefix("module.").startswith("head.last_layer.") for name in part.others):
        return "dino"
    return _fixed_positions(part.tensors.get("pos_embed")) or "timm"


def _fixed_positions(positions: Tensor | None) -> str | None:
    """Return whose sines and cosines position embeddings are; None: they are learned.

    MAE and MoCo v3 do not train them. Both have a half of the channels for each axis, with the sines of all
    frequencies and then the cosines, and zeros for the class token; MAE has columns first, MoCo v3 rows.
    """
    if positions is None or positions.ndim != 3 or positions.shape[-1] % 4 or positions.shape[1] < 2:
        return None
    side, width = math.isqrt(positions.shape[1] - 1), positions.shape[-1] // 4
    if positions.shape[:2] != (1, side**2 + 1):
        return None
    frequencies = 10000.0 ** (-torch.arange(width, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(side, dtype=torch.float64), frequencies)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis.repeat_interleave(side, dim=0), axis.repeat(side, 1)
    for kind, halves in (("mae", (columns, rows)), ("mocov3", (rows, columns))):
        grid = torch.cat(halves, dim=1)
        expected = torch.cat([torch.zeros_like(grid[:1]), grid])
        if torch.allclose(positions[0].double(), expected, rtol=0, atol=5e-3):  # also in half precision
            return kind
    return None


def _check_kind(named: str, found: str, path: Path) -> None:
    """Refuse a kind that the file contradicts; of plain names, a config may say what they are."""
    same = {named, found} <= {"dinov3", "dinov3_sat"}  # of the largest model, the files are alike
    if named not in ("auto", "timm", found) and found != "timm" and not same:
        raise UserError(f"{path}: is of kind {found!r} by what it holds, not {named!r}; set `kind: {found}`")


def _has_classifier(part: Part, head: set[str]) -> bool:
    return any(name in head or name.startswith(_CLASSIFIER) for name in part.tensors)


def _timm_names(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the tensors of the backbone alone, under names that timm's own conversion knows."""
    if kind == "mae":
        tensors = {k: v for k, v in tensors.items() if k != "mask_token" and not k.startswith("decoder_")}
    if kind == "deit3":
        tensors = {_LAYER_SCALE.sub(r".ls\1.gamma", name): value for name, value in tensors.items()}
    return dict(tensors)


def _load_state(
    model: nn.Module, state: dict[str, Tensor], head: set[str], path: Path, kind: str
) -> list[str]:
    """Copy tensors into a model, or raise; return what was decided."""
    patch = state.get("patch_embed.proj.weight", state.get("visual.conv1.weight"))
    own_patch = patch_weight(model)
    if patch is not None and own_patch is not None and patch.ndim == 4:
        check_patch(patch.shape[-2:], own_patch, path)
    state, own = _converted(model, state), model.state_dict()
    # The norm after average pooling is new if the weights were trained with a class token.
    new_norm = "norm.weight" in state and "fc_norm.weight" not in state and "fc_norm.weight" in own
    optional = {"fc_norm.weight", "fc_norm.bias"} if new_norm else set()
    dropped = {"norm.weight", "norm.bias"} if new_norm else set()
    wanted = own.keys() - head - optional
    found = {n: v for n, v in state.items() if n not in head | dropped and not n.startswith(_CLASSIFIER)}
    # ConvNeXt's last norm is part of its head.
    found |= {name: state[name] for name in wanted & state.keys() if name.startswith("head.norm")}
    rows: list[Row] = [(name, "missing in the file") for name in wanted - found.keys()]
    rows += [(name, "not in the model") for name in found.keys() - own.keys()]
    fitting = ((name, misfit(found[name], own[name])) for name in wanted & found.keys())
    rows += [(name, reason) for name, reason in fitting if reason]
    if rows:
        raise refusal(path, kind, model, rows, len(wanted), list(state))
    model.load_state_dict({name: found[name] for name in wanted}, strict=False)
    return ["the norm after average pooling is new; the file's last norm was left out"] if new_norm else []


def _converted(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as timm's own conversion for the architecture makes them.

    What it cannot convert is returned as it is: the comparison with the model names the tensors at fault.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return convert(dict(state), model) if convert else state
    except Exception:  # whatever a tensor of an unexpected shape or type makes timm and torch raise
        return state
