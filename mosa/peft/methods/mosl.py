"""MoSL: LoRA whose projections are split among stochastically activated sparse experts."""

from typing import ClassVar, Literal

from pydantic import Field

from mosa.peft.methods.lora import Lora
from mosa.peft.splitting import Splitting


class Mosl(Splitting, Lora):
    """LoRA with B split among the experts and A dense and shared; merged into the weights after training.

    The loss is MoSA's. It has no biases, so it has as many parameters as LoRA during training as well.
    """

    name: ClassVar[str] = "mosl"
    reference: ClassVar[str] = "Zhang et al., MoSA, 2023, arXiv 2312.02923, combination with LoRA"
    dense: ClassVar = Lora
    merges_away: ClassVar = {"merge": ["mean", "sum", "single"]}

    split_bias: Literal[False] = Field(default=False, description="Always false: LoRA's layers have no bias.")
