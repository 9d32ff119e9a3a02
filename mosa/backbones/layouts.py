"""Original layouts: a file's kind by its names, and its tensors as timm's own conversion takes them."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mosa.backbones.checkpoint import Part
from mosa.base.errors import UserError
from mosa.base.tensors import FLOATS

_BIAS, _MASK, _PERIODS = ".attn.qkv.bias", ".attn.qkv.bias_mask", "rope_embed.periods"
_HEADS = {"mocov3": {384: 12}}  # of attention, by kind and width, where timm's ViT of this width has others
_COMPUTED = re.compile(r"rope_embed\.periods|(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)")  # by timm, too


def layout_of(part: Part) -> str | None:
    """Return the kind of a file in a layout of its own; None: it has none of these.

    DINOv3 (facebookresearch/dinov3) has storage tokens and the periods of its rotary embedding; its ViT-L for
    satellite images has a norm for local crops beside. CLIP (openai/CLIP and open_clip) has a class embedding
    and residual blocks, EVA-02 (baaivision/EVA) the tables of its rotary embedding, SigLIP in open_clip
    pooling by attention beside a logit bias, BEiT (microsoft/unilm) query biases and a bias table per block.
    """
    names = part.tensors.keys()
    if {"storage_tokens", _PERIODS, "blocks.0.attn.qkv.weight"} <= names:
        satellite = "local_cls_norm.weight" in names and part.tensors["storage_tokens"].shape[-1:] == (1024,)
        return "dinov3_sat" if satellite else "dinov3"
    if {"class_embedding", "transformer.resblocks.0.attn.in_proj_weight"} <= names:
        return "clip"
    if {"rope.freqs_cos", "blocks.0.attn.q_bias"} <= names:
        return "eva02"
    if "attn_pool.latent" in names and "logit_bias" in part.others:
        return "siglip"
    if {"blocks.0.attn.q_bias", "blocks.0.attn.relative_position_bias_table"} <= names:
        return "beit"
    return None


def timm_layout(
    model: nn.Module, tensors: Mapping[str, Tensor], kind: str, path: Path
) -> Mapping[str, Tensor]:
    """Return a file's tensors as timm's conversion for the architecture takes them.

    Raises:
        UserError: The conversion would leave out what the file's own model computes with.
    """
    if kind == "clip":  # timm knows them with the prefix only
        return {f"visual.{name}": value for name, value in tensors.items()}
    if kind in ("dinov3", "dinov3_sat", "eva02"):  # timm drops whatever has "rope" in its name
        strange = [name for name in tensors if "rope" in name and not _COMPUTED.fullmatch(name)]
        if strange:
            raise UserError(
                f"{path}: has {strange[0]}, which files of kind {kind!r} do not; take the original"
            )
    if kind in ("dinov3", "dinov3_sat"):
        _check_periods(model, tensors.get(_PERIODS), path)
        return _masked(model, tensors, path)
    return tensors


def check_heads(model: nn.Module, kind: str, path: Path) -> None:
    """Refuse an architecture with other heads of attention than a kind's, which no tensor's shape tells.

    Raises:
        UserError: The numbers differ.
    """
    expected = _HEADS.get(kind, {})
    if not expected or getattr(model, "embed_dim", None) not in expected:
        return
    width, heads = model.embed_dim, {getattr(module, "num_heads", None) for module in model.modules()}
    if heads - {None, expected[width]}:
        raise UserError(
            f"{path}: a ViT of width {width} of kind {kind!r} has {expected[width]} heads of attention, the "
            "architecture has others: every tensor fits, but computes something else; take a backbone of "
            "your own with as many (docs/weights.md), or set `kind: timm` if this one was not trained so"
        )


def layout_notes(model: nn.Module, kind: str) -> list[str]:
    """Return what a file of a kind leaves open, in sentences."""
    if kind != "clip":
        return []
    found = {type(module).__name__ for module in model.modules()}
    own = "QuickGELU" if any("quickgelu" in name.lower() for name in found) else "GELU"
    return [
        f"the file does not say its activation, and the architecture has {own}: OpenAI's CLIP, DFN and "
        "MetaCLIP were trained with QuickGELU (timm's architectures with `quickgelu` in the name), most "
        "others with GELU"
    ]


def _check_periods(model: nn.Module, periods: Tensor | None, path: Path) -> None:
    """Compare the periods of DINOv3's rotary embedding, which timm computes; the files have them rounded."""
    own = getattr(getattr(model, "rope", None), "periods", None)
    if own is None or periods is None:
        return  # of another architecture: the comparison of all names says so
    if own.shape != periods.shape or not torch.allclose(own.float(), periods.float(), rtol=1e-2):
        raise UserError(
            f"{path}: has other periods of the rotary embedding ({_PERIODS}) than the architecture; take the "
            "architecture that the file is for"
        )


def _masked(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return DINOv3's tensors with its biases as they act; without them where the architecture has none.

    The keys have no bias there: a mask takes it away. timm keeps the biases of queries and values.
    """
    with_bias = any(name.endswith(".attn.q_bias") for name, _ in model.named_parameters())
    result = {name: value for name, value in tensors.items() if not name.endswith((_BIAS, _MASK))}
    for name in tensors.keys() - result.keys():
        if not name.endswith(_BIAS):
            continue
        bias, mask = tensors[name], tensors.get(name + "_mask")
        if bias.ndim != 1 or bias.dtype not in FLOATS:
            raise UserError(f"{path}: {name} is no row of floating-point numbers; take the original file")
        bias = bias if mask is None or mask.shape != bias.shape else bias * mask
        lost = bias.chunk(3)[1:2] if with_bias else (bias,)
        if any((part != 0).any() for part in lost):
            what = "a bias of the keys" if with_bias else "biases of queries and values"
            advice = "take one of the original release" if with_bias else "take its architecture with `_qkvb`"
            raise UserError(f"{path}: has {what} ({name}) that the architecture has no place for; {advice}")
        if with_bias:
            result[name] = bias
    return result
