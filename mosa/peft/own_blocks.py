"""The description of a model that is not timm's, so that methods find the parts of its blocks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mosa.base.errors import UserError, shown, unknown
from mosa.peft.attached import list_adapters
from mosa.peft.blocks import QKV, SITES, Description, Sites, part_of, stream_of, width_of
from mosa.peft.parallel import refuse_wrapped
from mosa.peft.structure import evaluating

_LINEAR = ("qkv", *QKV, "kv", "proj", "fc1", "fc2")
_WITHIN_FORWARD = ("residual", "attended")  # a method puts a function in their place, for one call


def describe_blocks(
    model: nn.Module, block: type[nn.Module], *, head: str, input_size: Sequence[int], **parts: str
) -> nn.Module:
    """Describe the blocks of a model that is not timm's, in place: then methods can be attached to it.

    The model takes images and returns logits; its blocks take a tensor first and return one, or a tuple that
    begins with it, whose channels are the last dimension or, as after convolutions, dimension 1. Methods that
    use only the parts of a block fit, if these are described: adapters, LoRA, MoSA. The model is run once, on
    random images in evaluation mode.

    Args:
        model: The model, built and loaded, without a method attached.
        block: The type of its blocks; a subclass is another type.
        head: Name of the classifier in the model.
        input_size: Size of its images, (channels, height, width).
        **parts: Names of a block's modules, as `mosa.peft.blocks.Sites` explains: `mlp` always; `residual`,
            unless the MLP reads the block's own input; `norm`, unless `residual` is a norm; `attention` and
            `attended` for adapters there; for LoRA `qkv`, or `q` and `kv`, or `q`, `k` and `v`, and `proj`,
            `fc1` and `fc2`.

    Returns:
        The same model.

    Raises:
        UserError: A name is missing, unknown, or not of such a module; the blocks' type is known already; the
            model is wrapped, or has a method attached; or it cannot be run, or does not use the parts as they
            are described.

    Example:
        >>> mosa.peft.describe_blocks(
        ...     model, MyBlock, head="head", input_size=(3, 224, 224), mlp="ffn", residual="norm2",
        ...     attention="attn", q="attn.query", k="attn.key", v="attn.value",
        ... )
    """  # fmt: skip
    refuse_wrapped(model, "describe the blocks of")
    if list_adapters(model):
        raise UserError("the model has a method attached already: describe its blocks before that")
    _check_types(block, input_size, {"head": head, **parts})
    if block in SITES:
        raise UserError(f"{block.__name__}: timm's blocks of this type are known, and need no description")
    if issubclass(block, nn.TransformerEncoderLayer):
        raise UserError(
            f"{block.__name__}: torch's encoder layer computes with its weights alone in evaluation, past "
            f"all that is inserted; write the block as a module of its own"
        )
    blocks = [module for module in model.modules() if type(module) is block]
    if not blocks:
        raise UserError(f"{type(model).__name__} has no module of exactly the type {block.__name__}")
    if not isinstance(part_of(model, head), nn.Module):
        raise UserError(f"head {head!r}: {type(model).__name__} has no such module")
    sites = _sites(blocks, parts)
    channels = _check_use(model, blocks, sites, input_size)
    vars(model)["mosa_description"] = Description(head, tuple(input_size))
    for module in blocks:
        vars(module)["mosa_sites"] = sites
    for module, dimension in channels.items():
        vars(module)["mosa_channels"] = dimension
    return model


def _check_types(block: object, input_size: object, names: Mapping[str, object]) -> None:
    """Raise unless the arguments of `describe_blocks` are a type, a size, and names of modules."""
    if not isinstance(block, type):
        raise UserError(f"block {shown(block)}: expected the type of the blocks, a class of modules")
    if not isinstance(input_size, Iterable) or len(tuple(input_size)) != 3:
        raise UserError(f"input_size={shown(input_size)}: expected (channels, height, width)")
    for part, name in names.items():
        if not isinstance(name, str):
            raise UserError(f"{part} {shown(name)}: expected the name of a module")


def _sites(blocks: list[nn.Module], parts: dict[str, str]) -> Sites:
    """Return the names as sites, each of a module that every block has."""
    for part in parts:
        if part not in Sites._fields:
            raise unknown("part of a block", part, Sites._fields)
    if "mlp" not in parts:
        raise UserError("mlp: expected the name of the module whose output is added to the residual stream")
    parts = {"norm": parts.get("residual", ""), **parts}
    for part, name in parts.items():
        for block in blocks:
            if reason := _misfit(block, part, name):
                raise UserError(f"{part} {name!r}: {type(block).__name__} {reason}")
    named: dict[str, Any] = {field: parts.get(field) for field in Sites._fields}
    return Sites(**named)


def _misfit(block: nn.Module, part: str, name: str) -> str | None:
    """Return why a module of a block is no such part; None if it is."""
    module = part_of(block, name)
    if part == "norm" and not hasattr(module, "normalized_shape"):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() != 1:
            return (
                "needs a norm, or another module with a weight per channel of its residual stream; name one"
            )
    if not isinstance(module, nn.Module):
        return "has no such module"
    if part in _WITHIN_FORWARD and "." in name:
        return "needs a module of its own here, not one within another"
    if part in _LINEAR and not isinstance(module, nn.Linear):
        return f"has a {type(module).__name__} there, expected a Linear"
    if part == "qkv" and isinstance(module, nn.Linear) and module.out_features % len(QKV):
        return f"has {module.out_features} outputs there, which are no equal parts of q, k and v"
    if part == "kv" and isinstance(module, nn.Linear) and module.out_features % 2:
        return f"has {module.out_features} outputs there, which are no equal parts of k and v"
    return None


def _check_use(
    model: nn.Module, blocks: list[nn.Module], sites: Sites, input_size: Sequence[int]
) -> dict[nn.Module, int]:
    """Run the model, and raise unless each block uses its parts as they are described.

    Returns:
        The dimension of the channels in the outputs of the blocks, their attentions and MLPs.
    """
    calls: list[Call] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.append(Call(module, inputs[0] if inputs else None, stream_of(output)))

    names = {name: part_of(blocks[0], name) for name in sites if name}
    watched = {part_of(block, name) for block in blocks for name in names} | set(blocks)
    handles = [module.register_forward_hook(keep) for module in watched if module is not None]
    example = next(model.parameters())
    images = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0), device="cpu")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(model):
            model(images.to(example))
    except Exception as error:  # whatever the model raises
        shape = "x".join(map(str, input_size))
        raise UserError(
            f"{type(model).__name__} cannot be run on images of {shape}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    channels: dict[nn.Module, int] = {}
    for block in blocks:
        if reason := _misuse(block, sites, calls):
            raise UserError(f"{type(block).__name__}: {reason}")
        parts = (block.get_submodule(name) for name in (sites.mlp, sites.attention) if name)
        channels |= dict.fromkeys((block, *parts), _channels(block, sites, calls))
    return channels


class Call(NamedTuple):
    """A call of a module: its first positional input, and the first tensor of its output."""

    module: nn.Module
    input: Tensor | None
    output: Tensor


def _misuse(block: nn.Module, sites: Sites, calls: list[Call]) -> str | None:
    """Return how a block uses its parts in another way than it is described; None if in this."""
    order = [call.module for call in calls]
    where = {}
    for name in [None, *filter(None, sites)]:
        module = part_of(block, name) if name else block
        count = sum(module is one for one in order)
        if count != 1:
            return f"{name or 'the block'!r} is called {count} times in a forward, expected once"
        where[name] = next(index for index, one in enumerate(order) if one is module)
    x, mlp = calls[where[None]], calls[where[sites.mlp]]
    if x.input is None:
        return "the block is called without a positional argument, expected its input as the first"
    if mlp.output.shape == x.output.shape and torch.equal(mlp.output, x.output):
        return f"the output of {sites.mlp!r} is the block's, expected what is added to the residual stream"
    if sites.residual and sites.attention and where[sites.residual] < where[sites.attention]:
        return f"{sites.residual!r} is called before {sites.attention!r}, and not after it"
    if sites.residual and sites.attended:
        h, added = calls[where[sites.residual]].input, calls[where[sites.attended]].output
        same = h is not None and h.numel() == added.numel() == x.input.numel()
        if h is None or not same or not torch.allclose(h, (x.input + added).view_as(h), rtol=1e-3, atol=1e-5):
            return f"the input of {sites.residual!r} is not the block's plus the output of {sites.attended!r}"
    return None


def _channels(block: nn.Module, sites: Sites, calls: list[Call]) -> int:
    """Return the dimension of the channels, -1 or 1, which is the same in all parts of a block.

    Raises:
        UserError: It is not, or a shape does not tell.
    """
    of, width, found = {call.module: call for call in calls}, width_of(part_of(block, sites.norm)), set()
    streams = {"the block": of[block].output}
    streams |= {
        repr(name): of[block.get_submodule(name)].output for name in (sites.mlp, sites.attention) if name
    }
    if sites.residual:
        read = of[block.get_submodule(sites.residual)].input
        streams |= {} if read is None else {f"what {sites.residual!r} reads": read}
    for stream in streams.values():
        found.add((stream.shape[-1] == width, stream.ndim == 4 and stream.shape[1] == width))
    if len(found) > 1 or found <= {(False, False), (True, True)}:
        shapes = ", ".join(f"{what} {'x'.join(map(str, stream.shape))}" for what, stream in streams.items())
        advice = "; take another input_size" if found == {(True, True)} else ""
        raise UserError(
            f"{type(block).__name__}: expected the {width} channels as the last dimension of all outputs, or "
            f"as dimension 1 of all: {shapes}{advice}"
        )
    return -1 if found == {(True, False)} else 1
