"""Split projections in any method that has projections."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from mosa.base.errors import UserError
from mosa.peft.method import BranchShape, Method, build_method
from mosa.peft.splitting import Splitting


class Of(Method):
    """Base of a method that is another one, which two of its options name, with something added."""

    of: Literal["adapter", "adapter_plus", "convpass", "hydra", "lora", "mona", "utuning"] = Field(
        default="adapter_plus", description="Method whose projections are split."
    )
    of_options: dict[str, Any] = Field(
        default={}, description="Its options; those left out take its defaults."
    )

    @model_validator(mode="after")
    def _builds(self) -> "Of":
        if both := sorted(self.of_options.keys() & Method.model_fields.keys()):
            raise UserError(f"split: {both[0]!r} is an option of the split, not one of `of_options`")
        _ = self.inner
        return self

    @property
    def inner(self) -> Method:
        """The method that is split."""
        return build_method(self.of, **self.of_options)

    @property
    def starts_as_backbone(self) -> bool:
        return self.inner.starts_as_backbone

    @property
    def wraps_qkv(self) -> bool:
        return self.inner.wraps_qkv

    def unfit(self, model: nn.Module) -> str | None:
        return super().unfit(model) or self.inner.unfit(model)

    def apply(self, model: nn.Module, seed: int) -> None:
        self.inner.apply(model, seed)

    def branches(self, model: nn.Module) -> list[nn.Module]:
        return self.inner.branches(model)

    def fork_point(self, model: nn.Module) -> nn.Module | None:
        return self.inner.fork_point(model)

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        return self.inner.branch_shapes(block)

    def block_parameters(self, block: nn.Module) -> int:
        return self.inner.block_parameters(block)


class Split(Splitting, Of):
    """Another method whose up- or down-projections are split among stochastically activated experts.

    What mosa is to the adapter, and mosl to LoRA, for each method of `of`: its branches stay where they are,
    and what is no projection, such as Convpass's convolution, stays dense. Where the split projection is not
    zero at the start, the idle entries of an expert have their initial values. The loss is MoSA's. After
    training, the experts are merged, and then the method merges as far as it does without the split.
    """

    name: ClassVar[str] = "split"
    reference: ClassVar[str] = (
        "the split of Zhang et al., MoSA, 2023, arXiv 2312.02923, section 3.2, on the methods of `of`; ours"
    )

    @property
    def merged_method(self) -> Method:
        return self.inner
