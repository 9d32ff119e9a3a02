"""The original ViT files: Flax's arrays in an npz, compared with the model by name, shape, type and value."""

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mosa.backbones.refusal import Row, check_patch, patch_weight, refusal
from mosa.base.errors import LISTED, UserError

Shape = tuple[int, ...]
_FLOATS = ("float16", "float32", "float64")
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_CLASSIFIER = ("head/kernel", "head/bias", "pre_logits/kernel", "pre_logits/bias")
# timm's names of what the files hold.
_HELD = re.compile(
    r"cls_token|pos_embed|(patch_embed\.proj|norm|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12]))\.(weight|bias)"
)


@torch.no_grad()
def load_npz(model: nn.Module, path: Path, head: set[str]) -> None:
    """Load an original ViT file through timm's own reader, after every array was compared with the model.

    Args:
        model: A ViT of timm's.
        path: The file.
        head: Names of the classifier's parameters, which stay as they are.

    Raises:
        UserError: The file cannot be read without pickles, or does not fit the model.
    """
    found = _read_shapes(path)
    own, own_patch = model.state_dict().keys() - head, patch_weight(model)
    is_vit = {"blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"} <= own and own_patch is not None
    if "embedding/kernel" not in found or not is_vit or not hasattr(model, "load_pretrained"):
        holds = ", ".join(list(found)[:LISTED]) or "nothing"
        raise UserError(
            f"{path}: expected an original ViT file, with embedding/kernel, for a ViT; got {len(found)} "
            f"arrays ({holds}) for {type(model).__name__}"
        )
    patch, _ = found["embedding/kernel"]
    if len(patch) == 4:
        check_patch(patch[:2], own_patch, path)
    blocks = {name.split("/")[1] for name in found if name.startswith("Transformer/encoderblock_")}
    if len(blocks) != len(model.blocks):
        raise UserError(f"{path}: has {len(blocks)} blocks, the architecture has {len(model.blocks)}")
    expected = _expected(model)
    rows = [(name, "missing in the file") for name in expected.keys() - found.keys()]
    rows += [(name, "not in the model") for name in found.keys() - expected.keys() - {*_CLASSIFIER}]
    rows += [(name, "missing in the file") for name in own if not _HELD.fullmatch(name)]
    both = expected.keys() & found.keys()
    rows += [(n, reason) for n in both if (reason := _differs(n, *found[n], expected[n]))]
    rows = rows or _not_finite(path, expected)
    if rows:
        raise refusal(path, "npz", model, rows, len(expected))
    try:
        model.load_pretrained(str(path))
    except Exception:  # whatever a newer timm makes of it
        raise UserError(
            f"{path}: timm cannot load it into {type(model).__name__}; take a plain ViT of timm's"
        ) from None


def _read_shapes(path: Path) -> dict[str, tuple[Shape, str]]:
    """Return shape and type of every array, from their headers: nothing is allocated or unpickled."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    version = np.lib.format.read_magic(file)
                    read = {(1, 0): np.lib.format.read_array_header_1_0}
                    shape, _, dtype = read.get(version, np.lib.format.read_array_header_2_0)(file)
                found[entry.filename.removesuffix(".npy")] = shape, dtype.name
    except Exception:  # whatever a broken or hostile file makes zipfile and numpy raise
        raise UserError(
            f"{path}: cannot be read as npz, it is damaged or of another format; copy it again"
        ) from None
    for name, (_, dtype) in found.items():
        if dtype == "object":
            raise UserError(
                f"{path}: cannot be read as npz without pickles, {name} holds objects of Python; take the "
                "original file"
            )
    return found


def _expected(model: nn.Module) -> dict[str, Shape]:
    """Return names and shapes of the arrays for a model; positions are of any number, written as -1."""
    width, (height, breadth) = model.embed_dim, patch_weight(model)
    attention, hidden = model.blocks[0].attn, model.blocks[0].mlp.fc1.out_features
    heads = attention.num_heads, width // attention.num_heads
    expected = {
        "cls": (1, 1, width),
        "embedding/kernel": (height, breadth, model.patch_embed.proj.weight.shape[1], width),
        "embedding/bias": (width,),
        _POSITIONS: (1, -1, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
    }
    block: dict[str, Shape] = {
        "MlpBlock_3/Dense_0/kernel": (width, hidden),
        "MlpBlock_3/Dense_0/bias": (hidden,),
        "MlpBlock_3/Dense_1/kernel": (hidden, width),
        "MlpBlock_3/Dense_1/bias": (width,),
        "MultiHeadDotProductAttention_1/out/kernel": (*heads, width),
        "MultiHeadDotProductAttention_1/out/bias": (width,),
    }
    block |= {f"LayerNorm_{number}/{part}": (width,) for number in (0, 2) for part in ("scale", "bias")}
    for name in ("query", "key", "value"):
        block[f"MultiHeadDotProductAttention_1/{name}/kernel"] = (width, *heads)
        block[f"MultiHeadDotProductAttention_1/{name}/bias"] = heads
    for index in range(len(model.blocks)):
        expected |= {f"Transformer/encoderblock_{index}/{name}": shape for name, shape in block.items()}
    return expected


def _differs(name: str, shape: Shape, dtype: str, expected: Shape) -> str | None:
    if name == _POSITIONS:  # one for the class token, and a square, which timm resizes
        grid = int(max(shape[1] - 1, 0) ** 0.5) if len(shape) == 3 else 0
        expected = (1, grid**2 + 1, expected[-1])
    if shape != expected:
        return f"shape {shape}, expected {expected}"
    return None if dtype in _FLOATS else f"has values of type {dtype}, expected float32"


def _not_finite(path: Path, names: dict[str, Shape]) -> list[Row]:
    try:
        with np.load(path, allow_pickle=False) as file, np.errstate(over="ignore"):
            return [
                (name, "has values that are not finite")
                for name in names
                if not np.isfinite(file[name].astype(np.float32, copy=False)).all()
            ]
    except Exception:  # an array that is shorter than its header says
        raise UserError(f"{path}: cannot be read as npz, it is damaged; copy it again") from None
