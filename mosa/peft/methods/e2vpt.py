"""E2VPT: visual prompts with key-value prompts."""

import math
from typing import ClassVar

from pydantic import Field
from torch import nn

from mosa.base.seeding import generator
from mosa.peft.blocks import find_blocks
from mosa.peft.method import TRAINING
from mosa.peft.methods.prefix import Prefixes, attention_width, no_known_attention, prepend, uniform
from mosa.peft.methods.vpt import Vpt


class E2vpt(Vpt):
    """Visual prompts as vpt's, and learned keys and values in every attention: K' = [P_K; K], V' = [P_V; V].

    shared: the values are the keys, P_V = P_K. With n of them in h heads of c channels, they are uniform in
    +-sqrt(6 / (n c)) (He). The model does not start as the backbone. Tuned parameters per block of width d:
    (prompts + n) d, or (prompts + 2 n) d if they are not shared. The paper's pruning of prompts is left out:
    it is a second training, of the prompts that the first has ranked.
    """

    name: ClassVar[str] = "e2vpt"
    reference: ClassVar[str] = (
        "Han et al., E2VPT, ICCV 2023, arXiv 2307.13770, section 3.2; defaults: its released code"
    )
    families: ClassVar[tuple[str, ...]] = ("ViT",)

    prompts: int = Field(default=5, ge=1, description="Number of prompt tokens of a block.")
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Dropout rate of the prompts, keys and values.",
        json_schema_extra=TRAINING,
    )
    key_values: int = Field(
        default=5, ge=1, description="Number n of keys, and of values, that each attention gets."
    )
    shared: bool = Field(default=True, description="Take the same parameters as keys and as values.")

    def unfit(self, model: nn.Module) -> str | None:
        return super().unfit(model) or no_known_attention(model)

    def apply(self, model: nn.Module, seed: int) -> None:
        super().apply(model, seed)
        rng = generator(seed, "prefix")
        for block in find_blocks(model):
            width = attention_width(block.attn)
            shape = (self.key_values, width)
            bound = math.sqrt(6 * block.attn.num_heads / (self.key_values * width))
            keys = uniform(shape, bound, rng)
            values = None if self.shared else uniform(shape, bound, rng)
            prepend(block.attn, Prefixes(keys, values, self.dropout))

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        widths = sum(attention_width(block.attn) for block in find_blocks(model))
        return super().parameters(model) + (1 if self.shared else 2) * self.key_values * widths
