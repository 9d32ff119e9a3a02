"""Prefix tuning: learned keys and values in every attention."""

import math
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.base.timm import Attention, WindowAttention
from mosa.peft.blocks import find_blocks
from mosa.peft.method import Method


class Prefix(Method):
    """Learned keys and values before those of the tokens: softmax(q [P_K; K]^T / sqrt(d_h)) [P_V; V].

    Each attention has a prefix of p keys and p values of d channels; in a Swin, all its windows see it. Its
    keys are not normalised, and have no position; no mask hides them. It is uniform in
    +-sqrt(6 / (d (p + 1))), so the model does not start as the backbone. Tuned parameters per block: 2 p d.

    hidden: in training, an MLP makes the prefixes of all blocks from one embedding E of p x d normal values,
    [P_K, P_V] = tanh(E W1 + b1) W2 + b2, where only W2 and b2 are the block's own. Merging keeps the keys and
    values. With m channels, p d + (d + 1) m parameters are tuned, and 2 d (m + 1) per block.
    """

    name: ClassVar[str] = "prefix"
    reference: ClassVar[str] = (
        "Li & Liang, Prefix-tuning, ACL 2021, arXiv 2101.00190, section 4; on images Yu et al., Towards a "
        "unified view on visual parameter-efficient transfer learning, arXiv 2210.00788. Initial values: "
        "ModelScope's vision transformer"
    )
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin")
    families_reason: ClassVar[str] = "it needs an attention"

    length: int = Field(
        default=10, ge=1, description="Number p of keys, and of values, that each attention gets."
    )
    hidden: int | None = Field(
        default=None,
        ge=1,
        description="Channels m of the MLP from which keys and values come in training; null: no MLP.",
    )

    @property
    def starts_as_backbone(self) -> bool:
        return False

    def unfit(self, model: nn.Module) -> str | None:
        return super().unfit(model) or no_known_attention(model)

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "prefix")
        blocks = find_blocks(model)
        source = None
        if self.hidden is not None:
            source = Source(self.length, attention_width(blocks[0].attn), self.hidden, rng)
        for block in blocks:
            width = attention_width(block.attn)
            if source is None:
                shape, bound = (self.length, width), math.sqrt(6 / (width * (self.length + 1)))
                prefixes = Prefixes(uniform(shape, bound, rng), uniform(shape, bound, rng))
            else:
                prefixes = MappedPrefixes(source, width, rng, owner=block is blocks[0])
            prepend(block.attn, prefixes)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> "Prefix":
        if self.hidden is None:
            return self
        folded = [block.attn.prefixes.folded() for block in find_blocks(model)]
        for block, prefixes in zip(find_blocks(model), folded, strict=True):
            block.attn.prefixes = prefixes
        return self.model_copy(update={"hidden": None})

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        widths = [attention_width(block.attn) for block in find_blocks(model)]
        if self.hidden is None or not training:
            return sum(2 * self.length * width for width in widths)
        shared = self.length * widths[0] + (widths[0] + 1) * self.hidden
        return shared + sum(2 * width * (self.hidden + 1) for width in widths)


def no_known_attention(model: nn.Module) -> str | None:
    """Return why the attention of a model cannot get keys and values; None if it can.

    Others than timm's plain one and that of Swin may place, mask or subtract their keys in their own way.
    """
    for block in find_blocks(model):
        if type(block.attn) not in FORWARD or type(block.attn.qkv) is not nn.Linear:
            known = " or ".join(cls.__name__ for cls in FORWARD)
            return f"{type(block.attn).__name__} is not an attention that takes prefixes: expected {known}"
    return None


def attention_width(attn: nn.Module) -> int:
    """Return the channels of an attention's keys, all heads together."""
    return attn.qkv.out_features // 3


def prepend(attn: nn.Module, prefixes: nn.Module) -> None:
    """Have an attention put keys and values before its own: `attn.prefixes` from now on."""
    attn.prefixes = prefixes.to(attn.qkv.weight)
    attn.forward = partial(FORWARD[type(attn)], attn)


def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> Tensor:
    """Return values that are drawn from U(-bound, bound)."""
    return torch.empty(shape).uniform_(-bound, bound, generator=rng)


class Prefixes(nn.Module):
    """The keys and values of one attention.

    Args:
        keys: The initial keys (p, d), all heads together.
        values: The initial values (p, d); None: they are the keys, the same parameters.
        dropout: Dropout rate of both.

    Shape:
        () -> (p, d) and (p, d), the keys and the values.
    """

    def __init__(self, keys: Tensor, values: Tensor | None, dropout: float = 0.0) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys)
        self.values = None if values is None else nn.Parameter(values)
        self.drop = nn.Dropout(dropout)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.keys if self.values is None else self.values

    def before(self, tokens: Tensor, prefix: Tensor) -> Tensor:
        """Put a prefix (p, d) before tokens (batch, heads, n, d / heads), in their dtype."""
        heads = prefix.unflatten(1, (tokens.shape[1], -1)).transpose(0, 1)
        heads = self.drop(heads.to(tokens.dtype).expand(tokens.shape[0], -1, -1, -1))
        return torch.cat((heads, tokens), dim=2)


class Source(nn.Module):
    """What the keys and values of all attentions come from: tanh(W1 E), for an embedding E.

    Shape:
        () -> (p, m).
    """

    def __init__(self, length: int, width: int, hidden: int, rng: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, width, generator=rng))
        self.down = _linear(width, hidden, rng)

    def forward(self) -> Tensor:
        return self.down(self.embedding).tanh()


class MappedPrefixes(Prefixes):
    """The keys and values of one attention, made by an MLP.

    Args:
        source: The part of the MLP that all attentions share.
        width: Channels d of the keys, all heads together.
        rng: Draws the initial weights.
        owner: Whether the shared part is registered here; it is the first attention's.

    Shape:
        () -> (p, d) and (p, d), the keys and the values.
    """

    def __init__(self, source: Source, width: int, rng: torch.Generator, owner: bool) -> None:
        nn.Module.__init__(self)
        self.made_from = (source,)  # a tuple, because one attention registers it
        self.source = source if owner else None
        self.up = _linear(source.down.out_features, 2 * width, rng)
        self.drop = nn.Identity()

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.up(self.made_from[0]()).chunk(2, dim=-1)

    def folded(self) -> Prefixes:
        """Return the keys and values as parameters."""
        keys, values = self()
        return Prefixes(keys.clone(), values.clone()).train(self.training)


def _linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    """Return a Linear layer with torch's initial values, from a generator."""
    layer, bound = nn.Linear(inputs, outputs), 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=rng)
    return layer


def attend(attn: Attention, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Run timm's attention with its prefixes, which every token sees: its `forward`."""
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if is_causal:
        attn_mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, -math.inf)
    mixed = attn.norm(_attended(attn, attn.q_norm(q), attn.k_norm(k), v, attn_mask))
    if attn.gate is not None:
        mixed = mixed * attn.gate(x).sigmoid()
    return attn.proj_drop(attn.proj(mixed))


def attend_in_windows(attn: WindowAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run Swin's attention with its prefixes, which every window sees, without a position: its `forward`."""
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    bias = attn._get_rel_pos_bias()
    if mask is not None:  # of the windows (windows, n, n), in each image
        bias = (bias + mask.unsqueeze(1)).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
    return attn.proj_drop(attn.proj(_attended(attn, q, k, v, bias)))


def _attended(attn: nn.Module, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return the values (batch, n, d) that queries, with their heads, see in prefixes and tokens."""
    keys, values = attn.prefixes()
    k, v = attn.prefixes.before(k, keys), attn.prefixes.before(v, values)
    if bias is not None:
        bias = F.pad(bias.to(q.dtype), (len(keys), 0))
    if attn.fused_attn:
        rate = attn.attn_drop.p if attn.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=rate)
    else:
        scores = (q * attn.scale) @ k.mT
        mixed = attn.attn_drop((scores if bias is None else scores + bias).softmax(dim=-1)) @ v
    return mixed.transpose(1, 2).flatten(2)


FORWARD = {Attention: attend, WindowAttention: attend_in_windows}
