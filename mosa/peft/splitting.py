"""Split projections for any method with projections, without code for a particular method."""

from inspect import signature
from typing import Any, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.seeding import generator
from mosa.peft.attached import attachment
from mosa.peft.blocks import find_blocks
from mosa.peft.method import TRAINING, Method, needs, weight_of_consistency
from mosa.peft.routing import Passes, Router, repeat_batch
from mosa.peft.split import Merge, SplitLinear, Structure, averaged, too_many_experts


class Splitting(Method):
    """Base of the methods with split projections: `class Mosa(Splitting, Adapter)` splits the adapter's.

    It uses only the `branches` of the dense method and their shapes. A subclass names as `dense` the
    method that it becomes by merging.
    """

    dense: ClassVar[type[Method]]

    experts: int = Field(
        default=4, ge=1, le=256, description="Number N of sparse experts that share the weights."
    )
    split: Literal["up", "down", "both"] = Field(
        default="up", description="Which projections are split; the others stay dense and shared."
    )
    structure: Structure = Field(
        default="random",
        description="What an expert owns: random entries, whole rows (outputs) or columns (inputs).",
    )
    split_bias: bool = Field(
        default=False,
        description="Divide the biases among the experts as well, instead of one full bias per expert.",
    )
    merge: Merge = Field(
        default="mean",
        description="How experts are merged: into their mean, the sum of their changes, or the single first "
        "one; ensemble: they are kept, and the logits of N forward passes are averaged.",
    )
    split_lr: float = Field(
        default=1.0,
        gt=0,
        description="Factor of the learning rate of split weights. An entry that is active in 1/N of the "
        "passes and merged by the mean drifts N^-3/2 as far under AdamW as a dense one: 1/8 for N = 4.",
        json_schema_extra={"neutral": 1.0, **TRAINING},
    )
    every_expert: bool = Field(
        default=False,
        description="Train every expert in every step: N passes, of which each has another expert in each "
        "projection, and the mean of their cross-entropies: no two are compared. A control.",
        json_schema_extra={
            "neutral": False,
            **TRAINING,
            **needs(consistency=0.0, second_pass=0.0, feature_consistency=0.0),
        },
    )
    consistency: float = weight_of_consistency(1.0)

    @property
    def passes(self) -> int:
        return self.experts if self.every_expert else super().passes

    @property
    def labels_every_pass(self) -> bool:
        return self.every_expert

    @property
    def merged_method(self) -> Method:
        """The dense method that this one becomes by merging its experts."""
        return self.as_plain(self.dense)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of the split projections within a branch."""
        return ("down", "up") if self.split == "both" else (self.split,)

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        shapes = sorted({shape for block in find_blocks(model) for shape in self.branch_shapes(block)})
        if self.split_bias and not any(shape.bias for shape in shapes):
            return "split_bias=true: the branches have no biases to divide; leave it out"
        for shape in shapes:
            weights = {"up": (shape.outputs, shape.hidden), "down": (shape.hidden, shape.inputs)}
            for name in self.split_names:
                reason = too_many_experts(weights[name], self.experts, self.structure)
                if not reason and self.split_bias and shape.bias:
                    reason = too_many_experts(weights[name][:1], self.experts)
                if reason:
                    return reason
        return None

    def apply(self, model: nn.Module, seed: int) -> None:
        super().apply(model, seed)
        rng = generator(seed, "partition")
        passes = attachment(model).passes
        router = Router(passes, seed, self.every_expert)
        for branch in self.branches(model):
            for name in self.split_names:
                layer = SplitLinear(
                    getattr(branch, name),
                    self.experts,
                    router,
                    rng,
                    self.split_bias,
                    self.merge,
                    self.structure,
                )
                setattr(branch, name, layer)
        router.register(model)
        if self.merge == "ensemble":
            router.hooks += Ensemble(passes, self.experts).register(model)

    def lr_factors(self, model: nn.Module) -> dict[nn.Parameter, float]:
        if self.split_lr == 1:
            return {}
        return {
            getattr(branch, name).weight: self.split_lr
            for branch in self.branches(model)
            for name in self.split_names
        }

    def fork_point(self, model: nn.Module) -> nn.Module | None:
        point, first = super().fork_point(model), self.branches(model)[0]
        # Within the first branch, a split down-projection draws before the dense method does.
        return (
            first.get_submodule("down")
            if "down" in self.split_names and point in set(first.children())
            else point
        )

    def fold(self, model: nn.Module) -> Method | None:
        if self.merge == "ensemble":
            return self
        for branch in self.branches(model):
            for name in self.split_names:
                setattr(branch, name, getattr(branch, name).merged())
        cast(Router, model.router).remove(model)
        return self.merged_method.fold(model)

    def block_parameters(self, block: nn.Module) -> int:
        return super().block_parameters(block) + (self._more_biases(block) if self.merge == "ensemble" else 0)

    def trained_block_parameters(self, block: nn.Module) -> int:
        return super().block_parameters(block) + self._more_biases(block)

    def _more_biases(self, block: nn.Module) -> int:
        """Count the biases of the experts beyond the first."""
        copies = 0 if self.split_bias else self.experts - 1
        sizes = [
            {"up": shape.outputs, "down": shape.hidden} for shape in self.branch_shapes(block) if shape.bias
        ]
        return copies * sum(size[name] for size in sizes for name in self.split_names)


class Ensemble:
    """In evaluation, N passes over the images, pass i with expert i everywhere, and the mean of their logits.

    Args:
        passes: How many passes a forward stacks otherwise.
        experts: Number of experts N.
    """

    def __init__(self, passes: Passes, experts: int) -> None:
        self.passes, self.experts = passes, experts

    def register(self, model: nn.Module) -> list[Any]:
        """Hook onto the model, and return the handles."""
        return [
            model.register_forward_pre_hook(self.repeat, with_kwargs=True),
            model.register_forward_hook(self.average, always_call=True),
        ]

    def repeat(
        self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Stack N copies of the images, by position or by name: a forward pre-hook.

        Raises:
            UserError: Several passes are asked for.
        """
        if model.training:
            return None
        if self.passes.count > 1:
            raise UserError(
                f"{self.passes.count} passes of an ensemble in evaluation, where it has one for each expert: "
                f"call model.train() before"
            )
        averaged.set(True)
        if inputs:
            return (repeat_batch(inputs[0], self.experts), *inputs[1:]), named
        first = next(iter(signature(model.forward).parameters), "")
        name = first if first in named else next(iter(named))
        return inputs, named | {name: repeat_batch(named[name], self.experts)}

    def average(self, model: nn.Module, inputs: Any, output: Tensor | None) -> Tensor | None:
        """Return the mean over the passes, (N batch, classes) -> (batch, classes): a forward hook."""
        averaged.set(False)
        if model.training or output is None:  # None: the forward failed
            return None
        return output.unflatten(0, (self.experts, -1)).mean(0)
