"""MoSA: the adapter whose projections are split among stochastically activated sparse experts."""

from typing import ClassVar

from mosa.peft.methods.adapter import Adapter
from mosa.peft.splitting import Splitting


class Mosa(Splitting, Adapter):
    """The adapter with split projections; a random expert per block and pass; merged after training.

    Loss: CE(z1, y) + consistency * 1/2 [KL(sg p2 || p1) + KL(sg p1 || p2)] over two passes with
    independent experts and dropout. Merged, it is a plain adapter of the same size; during
    training, each split projection holds N biases instead of one.
    """

    name: ClassVar[str] = "mosa"
    reference: ClassVar[str] = "Zhang et al., MoSA, 2023, arXiv 2312.02923"
    dense: ClassVar = Adapter
