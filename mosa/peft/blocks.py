"""The parts of a model that methods use: its blocks, their sites, layers and widths, and its classifier."""

from itertools import chain
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.timm import (
    NORMS,
    VOLO,
    Attention2d,
    Beit,
    BeitBlock,
    Block,
    ConvNeXt,
    ConvNeXtBlock,
    DiffParallelScalingBlock,
    Eva,
    EvaBlock,
    EvaBlockPostNorm,
    HieraBlock,
    LayerNorm2d,
    LayerScaleBlock,
    LayerScaleBlockClassAttn,
    MvitBlock,
    ParallelScalingBlock,
    PartitionAttention2d,
    PartitionAttentionCl,
    PvtBlock,
    RelPosBlock,
    ResPostBlock,
    ResPostRelPosBlock,
    Sam2Block,
    SamBlock,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerV2,
    SwinTransformerV2Block,
    TinyVitBlock,
    TransformerBlock2d,
    TwinsBlock,
    VisionTransformer,
    VisionTransformerRelPos,
    XCABlock,
)

# Layers that standardise their input, whatever their own activation. A GlobalResponseNorm is none: it weighs
# the channels within an MLP.
NORM_LAYERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase, *NORMS)

SEPARATE_BIAS = "qkv_bias_separate"  # timm's switch of attentions, see `call_projections`
QKV = ("q", "k", "v")  # the order of the rows of a fused projection
PROJECTIONS = (*QKV, "proj", "fc1", "fc2")


class Sites(NamedTuple):
    """The declaration of a type of block: where its parts are, by the names of its modules.

    A name with dots is a module within a module. A layer that a block lacks, as its options have it, is none.

    Attributes:
        residual: Its input is the residual stream before the MLP; None where that is the block's own input.
        attention: The attention; None where there is none.
        attended: What it adds to the block's input is its output; None where no module's is that.
        mlp: What is added to the residual stream is its output, or a norm or layer scale of that.
        norm: A norm, or another layer, whose weight has an entry for each channel of the residual stream.
        qkv: The Linear layer of queries, keys and values, in this order of its rows.
        q: Those of queries, keys (`k`) and values (`v`), where there are three instead.
        kv: That of keys and values, in this order of its rows, beside `q`.
        proj: The Linear layer after the attention.
        fc1: The first Linear layer of the MLP.
        fc2: The last one.
    """

    residual: str | None
    attention: str | None
    attended: str | None
    mlp: str
    norm: str = "norm2"
    qkv: str | None = "attn.qkv"
    q: str | None = None
    k: str | None = None
    v: str | None = None
    kv: str | None = None
    proj: str | None = "attn.proj"
    fc1: str | None = "mlp.fc1"
    fc2: str | None = "mlp.fc2"


_PRENORM = Sites("norm2", "attn", "drop_path1", "mlp")  # h = x + attn(norm1(x)); y = h + mlp(norm2(h))
_POSTNORM = Sites("mlp", "attn", "drop_path1", "mlp")  # h = x + norm1(attn(x)); y = h + norm2(mlp(h))
_SEPARATE = {"q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj"}

# One module drops the path of both sublayers (CaiT), the stream is pooled within the block (Hiera, MViT), or
# is in windows there (SAM).
_UNATTENDED = _PRENORM._replace(attended=None)
_TOKENS = _PRENORM._replace(q="attn.q", kv="attn.kv")  # where keys are of fewer tokens than queries
# y = x + attn(norm(x)) + mlp(norm(x)), of one layer before both and one or two after.
_PARALLEL = Sites(None, None, None, "out_proj", "in_norm", qkv=None, proj=None, fc1=None, fc2=None)

# Exactly these types, up to layer scale and drop path. A subclass or a look-alike may compute something else,
# so it is refused. ConvNeXt is `y = x + mlp(norm(conv(x)))`.
SITES = {
    Block: _PRENORM,
    SwinTransformerBlock: _PRENORM,
    ConvNeXtBlock: Sites(None, None, None, "mlp", "norm"),
    EvaBlock: _PRENORM._replace(**_SEPARATE),
    EvaBlockPostNorm: _POSTNORM._replace(**_SEPARATE),
    BeitBlock: _PRENORM,
    SwinTransformerV2Block: _POSTNORM,
    ResPostBlock: _POSTNORM,
    RelPosBlock: _PRENORM,
    ResPostRelPosBlock: _POSTNORM,
    LayerScaleBlock: _UNATTENDED,
    LayerScaleBlockClassAttn: _UNATTENDED._replace(qkv=None, q="attn.q", k="attn.k", v="attn.v"),
    XCABlock: _PRENORM,
    HieraBlock: _UNATTENDED,
    ParallelScalingBlock: _PARALLEL._replace(
        attention="attn_out_proj", mlp="mlp_out_proj", proj="attn_out_proj", fc2="mlp_out_proj"
    ),
    DiffParallelScalingBlock: _PARALLEL,
    MvitBlock: _UNATTENDED._replace(attention="attn.proj"),  # the attention returns a size, too
    SamBlock: _UNATTENDED,
    Sam2Block: _UNATTENDED,
    PvtBlock: _TOKENS,
    TwinsBlock: _TOKENS,
    TinyVitBlock: Sites("mlp", "attn", None, "mlp", "mlp.norm", qkv=None),  # of each head q, k and v
    PartitionAttentionCl: _PRENORM,
    PartitionAttention2d: _PRENORM,
    TransformerBlock2d: _UNATTENDED,
}
# The types by the family's name, which methods declare.
FAMILIES: dict[str, tuple[type[nn.Module], ...]] = {
    "ViT": (Block,),
    "PostNormViT": (ResPostBlock,),
    "Swin": (SwinTransformerBlock,),
    "ConvNeXt": (ConvNeXtBlock,),
    "EVA": (EvaBlock, EvaBlockPostNorm),
    "BEiT": (BeitBlock,),
    "SwinV2": (SwinTransformerV2Block,),
    "RelPos": (RelPosBlock, ResPostRelPosBlock),
    "CaiT": (LayerScaleBlock, LayerScaleBlockClassAttn),
    "XCiT": (XCABlock,),  # its class attention adds to a normalised stream, and has no part here
    "Hiera": (HieraBlock,),
    "ParallelViT": (ParallelScalingBlock, DiffParallelScalingBlock),
    "MViT": (MvitBlock,),
    "SAM": (SamBlock, Sam2Block),
    "PVT": (PvtBlock,),
    "Twins": (TwinsBlock,),
    "TinyViT": (TinyVitBlock,),
    "MaxViT": (PartitionAttentionCl, PartitionAttention2d, TransformerBlock2d),  # not its convolutions
}
_FAMILY_OF = {block: name for name, blocks in FAMILIES.items() for block in blocks}
_SEPARATES = (
    *(VisionTransformer, VisionTransformerRelPos, Eva, Beit),
    *(SwinTransformer, SwinTransformerV2, ConvNeXt),
)


# The modules whose channels are dimension 1.
_CHANNELS_FIRST = (
    *(ConvNeXtBlock, PartitionAttention2d, TransformerBlock2d, Attention2d),
    *(nn.Conv2d, LayerNorm2d),
)
# What stands in place of a family for blocks that `describe_blocks` describes.
DESCRIBED = "blocks of describe_blocks"


class Description(NamedTuple):
    """What is said of a model that is not timm's: the name of its classifier, and the size of its images."""

    head: str
    input_size: tuple[int, ...]


class Projection(NamedTuple):
    """A Linear layer of a block.

    Attributes:
        owner: The module that has it.
        name: Its name there.
        rows: What its rows are, in parts of equal size: ("q", "k", "v"), or one of `PROJECTIONS`.
    """

    owner: nn.Module
    name: str
    rows: tuple[str, ...]

    @property
    def layer(self) -> nn.Linear:
        """The layer itself."""
        return getattr(self.owner, self.name)


class BlockView:
    """A block of which some parts are other functions, for one call: its type's `forward` runs on it.

    Args:
        block: The block, which is not changed.
        **parts: Functions by the names of the parts whose place they take.
    """

    def __init__(self, block: nn.Module, **parts: Any) -> None:
        self.__dict__.update(parts, viewed=block)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["viewed"], name)


def sites_of(block: nn.Module) -> Sites:
    """Return where the parts of a block are; the block is one of `find_blocks`."""
    return vars(block).get("mosa_sites") or SITES[type(block)]


def is_block(module: nn.Module) -> bool:
    """Return whether the structure of a module is known."""
    return type(module) in SITES or "mosa_sites" in vars(module)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model, from input to output.

    Raises:
        UserError: The model has no block whose structure is known.
    """
    blocks = [module for module in model.modules() if is_block(module)]
    if not blocks:
        raise UserError(no_known_block(model))
    return blocks


def families_of(model: nn.Module) -> list[str]:
    """Return the families that a model's blocks belong to; none if it has no block that is known."""
    return list(dict.fromkeys(_FAMILY_OF.get(type(m), DESCRIBED) for m in model.modules() if is_block(m)))


def no_known_block(model: nn.Module) -> str:
    """Return the message for a model without a block of a known type."""
    return (
        f"{type(model).__name__} has no block that this method understands: expected a timm model of one of "
        f"the families {', '.join(FAMILIES)}; describe the blocks of your own model with "
        "mosa.peft.describe_blocks, or use 'full' or 'linear', which work on any model with a classifier"
    )


def part_of(block: nn.Module | None, name: str | None) -> nn.Module | None:
    """Return a part of a block by its name, in which dots go deeper; None if there is none."""
    if not name:
        return None
    for step in name.split("."):
        block = getattr(block, step, None)
    return block


def projections_of(block: nn.Module) -> list[Projection]:
    """Return the Linear layers of `Sites` that a block has, in the order of `PROJECTIONS`."""
    sites = sites_of(block)
    names: list[tuple[str | None, tuple[str, ...]]]
    names = [(sites.qkv, QKV), (sites.q, ("q",)), (sites.kv, ("k", "v"))]
    names += [(getattr(sites, name), (name,)) for name in PROJECTIONS[1:]]
    found: dict[tuple[str, ...], Projection] = {}
    for path, rows in names:
        if path and isinstance(part_of(block, path), nn.Linear) and not {*rows} & {*chain(*found)}:
            prefix, _, name = path.rpartition(".")
            owner = block.get_submodule(prefix)
            if len(rows) == 1 or not getattr(owner, "head_first", False):  # MaxViT's: q, k and v of each head
                found[rows] = Projection(owner, name, rows)
    return list(found.values())


def call_projections(model: nn.Module) -> list[nn.Module]:
    """Have each attention of a model call its fused projection, and return those that did not.

    Those of BEiT, EVA and Swin V2 keep the bias themselves, and pass it with the weight to one function:
    what wraps the layer, or is hooked to it, would be without effect. timm has a switch, up to rounding.
    """
    found = [module for module in model.modules() if getattr(module, SEPARATE_BIAS, None) is False]
    for attention in found:
        setattr(attention, SEPARATE_BIAS, True)
    return found


def block_width(block: nn.Module) -> int:
    """Return the number of channels of a block's residual stream."""
    return width_of(part_of(block, sites_of(block).norm))


def width_of(norm: nn.Module | None) -> int:
    """Return the number of channels that a norm, or another layer with a weight per channel, is for."""
    shape = getattr(norm, "normalized_shape", None)  # also of a norm without a weight
    return shape[0] if shape else len(cast(nn.LayerNorm, norm).weight)


def channel_dim(module: nn.Module) -> int:
    """Return the dimension of the channels in a module's output: 1 after convolutions, otherwise the last."""
    if (described := vars(module).get("mosa_channels")) is not None:
        return described
    layer = getattr(module, "fc1", module)  # an MLP has the layout of its layers
    return 1 if isinstance(layer, _CHANNELS_FIRST) else -1


def stream_of(output: Any) -> Tensor:
    """Return the residual stream of a block's output, which may be a tuple that begins with it (MViT)."""
    return output[0] if isinstance(output, tuple) else output


def with_stream(output: Any, stream: Tensor) -> Any:
    """Return the output of a block with another residual stream."""
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


def passes_can_separate(model: nn.Module) -> bool:
    """Return whether a batch may be repeated at a block, because all that follows takes its rows as they are.

    MobileViT folds patches into the batch around its blocks, and CrossViT has two streams.
    """
    return isinstance(model, _SEPARATES)


def final_norm(model: nn.Module) -> nn.Module | None:
    """Return the normalisation layer between the last block and the classifier, or None."""
    last_block = find_blocks(model)[-1]
    modules = list(model.modules())
    after = modules[modules.index(list(last_block.modules())[-1]) + 1 :]
    return next((module for module in after if isinstance(module, NORM_LAYERS)), None)


def backbone_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model outside its classifier, each once, from input to output."""
    head = set(find_head(model).modules())
    return [module for module in model.modules() if module not in head]


def description_of(model: nn.Module) -> Description | None:
    """Return what `describe_blocks` says of a model; None: it is timm's."""
    return vars(model).get("mosa_description")


def find_head(model: nn.Module) -> nn.Module:
    """Return the classifier of a timm model, or a ModuleList where several add up (distilled ones, VOLO).

    Raises:
        UserError: The model has no `get_classifier()`, or no classifier, and is not described.
    """
    if described := description_of(model):
        return model.get_submodule(described.head)
    if not hasattr(model, "get_classifier"):
        raise UserError(
            f"{type(model).__name__} has no get_classifier(): expected a model made by timm.create_model, or "
            f"one that mosa.peft.describe_blocks has described"
        )
    try:
        head = cast(Any, model).get_classifier()
    except AttributeError as error:  # some of timm's, without classes
        raise UserError(
            f"{type(model).__name__} has no classifier ({error}): build it with a number of classes"
        ) from error
    if isinstance(model, VOLO) and model.aux_head is not None:  # its logits of patches are added
        head = head, model.aux_head
    return head if isinstance(head, nn.Module) else nn.ModuleList(head)
