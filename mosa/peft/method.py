"""What a method is: a frozen, validated set of options that knows how to modify a model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from torch import Tensor, nn

from mosa.base.errors import UserError, shown, unknown
from mosa.base.methods import ANY_MODEL, misfit
from mosa.base.plugins import Registry, use_installed
from mosa.base.words import lacks
from mosa.peft.blocks import DESCRIBED, FAMILIES, families_of, find_blocks, no_known_block

_REGISTRY: Registry[type["Method"]] = Registry("method")
TRAINING: dict[str, JsonValue] = {"training": True}  # of an option that only training reads
_NEEDS = "needs"
Batches = Iterable[tuple[Tensor, Tensor]]  # of images and their labels


def needs(**others: JsonValue) -> dict[str, JsonValue]:
    """Return what an option declares that can be set only where others have these values.

    Elsewhere it would have no effect, or contradict them; its default always can be.
    """
    return {_NEEDS: others}


def weight_of_consistency(default: float) -> Any:
    """Return the field of `Method.consistency`, for a method with another default."""
    return Field(
        default=default,
        ge=0,
        description="Weight of the symmetric KL term between the outputs of two forward passes.",
        json_schema_extra=TRAINING,
    )


class BranchShape(NamedTuple):
    """The two projections of an inserted branch: inputs -> hidden -> outputs, with biases or without."""

    inputs: int
    hidden: int
    outputs: int
    bias: bool

    @property
    def parameters(self) -> int:
        """Parameters of the two projections."""
        return self.hidden * (self.inputs + self.outputs) + self.bias * (self.hidden + self.outputs)


class Method(BaseModel):
    """Base class of the methods: the options are the fields, and the class registers itself by `name`.

    A subclass states its `name`, its `reference` (paper) and its fields, implements `apply`, and
    counts its parameters in `block_parameters`. `apply` gets a model that is built, loaded and
    entirely frozen; afterwards the classifier is unfrozen, for every method alike.

    `families` declares the families of architectures that the method fits, or `ANY_MODEL`;
    `families_reason` says why it fits no others. `unfit` also reports other misfits, such as a size.
    `merges_away` declares that a merged model has the backbone's modules and no others: always, or with
    these values of options. `on_features` declares that it trains on outputs of frozen layers, which a run
    computes once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")

    name: ClassVar[str]
    reference: ClassVar[str]
    families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)
    families_reason: ClassVar[str] = ""
    merges_away: ClassVar[bool | Mapping[str, Sequence[JsonValue]]] = False
    on_features: ClassVar[bool] = False

    consistency: float = weight_of_consistency(0.0)
    second_pass: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the cross-entropy of the second pass.",
        json_schema_extra=TRAINING,
    )
    feature_consistency: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the mean squared difference of two passes, a mean over the first six blocks.",
        json_schema_extra=TRAINING,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "name" in cls.__dict__:  # a shared base has none
            _REGISTRY.add(cls.name, cls, cls.__module__)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "Method":
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            others = cast("dict[str, JsonValue]", extra.get(_NEEDS, {}))
            lacking = {key: value for key, value in others.items() if getattr(self, key) != value}
            if lacking and getattr(self, name) != field.default:
                raise ValueError(lacks(name, lacking))
        if getattr(self, "scale", 1.0) == 0:
            raise ValueError("scale: 0 leaves the backbone as it is, whatever is trained: take another")
        return self

    @property
    def passes(self) -> int:
        """Forward passes per training batch: two if a term of the loss needs the second."""
        return 2 if self.consistency or self.second_pass or self.feature_consistency else 1

    @property
    def labels_every_pass(self) -> bool:
        """Whether the loss is the mean of the passes' cross-entropies, and nothing else."""
        return False

    @property
    def starts_as_backbone(self) -> bool:
        """Whether attaching leaves the output of the model unchanged."""
        return True

    @property
    def wraps_qkv(self) -> bool:
        """Whether it wraps or hooks the layer of queries, keys and values: attentions must call it then."""
        return False

    def unfit(self, model: nn.Module) -> str | None:
        """Return why the method, with its options, cannot be attached to a model; None if it can.

        A subclass gives its own reasons, such as an option that is too large, after those of its base.

        Args:
            model: A timm model without a method attached; it is not changed.
        """
        if ANY_MODEL in self.families and not self.feature_consistency:  # which compares blocks
            return None
        present = families_of(model)
        if not present:
            return no_known_block(model)
        fits = self.families
        if set(FAMILIES) <= set(fits):  # it uses only what is declared of a block
            fits = (*fits, DESCRIBED)
        reason = next(filter(None, (misfit(self.name, family, fits) for family in present)), None)
        return f"{reason}: {self.families_reason}" if reason and self.families_reason else reason

    def apply(self, model: nn.Module, seed: int) -> None:
        """Insert the tuned modules into a frozen model, in place.

        Args:
            model: A timm model, every parameter frozen.
            seed: Seeds the initial values, the partition into experts and the routing.
        """
        raise undefined(self, "apply")

    def fold(self, model: nn.Module) -> "Method | None":
        """Turn the trained model into its inference form, in place.

        Returns:
            The method that the model carries now, or None if only the plain architecture is left.
        """
        return self

    def as_plain(self, kind: "type[Method]") -> "Method":
        """Return this method without what it adds to another: with the options of that one, and one pass.

        Args:
            kind: The class of the other, whose options this one has, too.
        """
        return kind(**self.model_dump(include=set(kind.model_fields) - set(Method.model_fields)))

    def fork_point(self, model: nn.Module) -> nn.Module | None:
        """Return the first inserted module whose output differs between passes, if they can separate there.

        Everything before it is computed once for both passes. None: the passes separate at the model's input.
        """
        return None

    def lr_factors(self, model: nn.Module) -> dict[nn.Parameter, float]:
        """Return the tuned parameters whose learning rate is a multiple of the recipe's, with the factor."""
        return {}

    def branches(self, model: nn.Module) -> list[nn.Module]:
        """Return the inserted modules that hold a `down` and an `up` projection, from input to output."""
        return []

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        """Return the shapes of the branches of one block, in their order."""
        return []

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        """Count, by formula, the tuned parameters without the classifier.

        Args:
            model: The model that the method is for, attached or not.
            training: Count the parameters during training instead of those after merging.
        """
        count = self.trained_block_parameters if training else self.block_parameters
        return sum(count(block) for block in find_blocks(model))

    def block_parameters(self, block: nn.Module) -> int:
        """Count the tuned parameters that a block holds after merging."""
        return sum(shape.parameters for shape in self.branch_shapes(block))

    def trained_block_parameters(self, block: nn.Module) -> int:
        """Count the tuned parameters of a block during training; by default as many as after merging."""
        return self.block_parameters(block)


def above(option: str, value: int, most: int, what: str) -> str | None:
    """Return why an option is too large, or None: "rank=9: expected at most 8, the width of the blocks"."""
    return f"{option}={value}: expected at most {most}, {what}" if value > most else None


class Selection(Method):
    """Base of the methods that insert nothing: they tune parameters that the backbone has."""

    families: ClassVar[tuple[str, ...]] = (ANY_MODEL,)
    merges_away: ClassVar[bool | Mapping[str, Sequence[JsonValue]]] = True

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the tuned parameters of a model, without the classifier's."""
        raise undefined(self, "selected")

    def apply(self, model: nn.Module, seed: int) -> None:
        for parameter in self.selected(model):
            parameter.requires_grad_(True)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        return sum(parameter.numel() for parameter in self.selected(model))


class Chosen(Method):
    """Base of the methods that choose what they tune from training images, before anything is inserted.

    `attach` calls `choose` on the model as it was loaded, and `insert` with what that returned, in place of
    `apply`. A choice is the buffers that hold it in the tuned state, by their names there; `chosen` has the
    last parts of these names. So a choice is saved with what was tuned, and can be taken from a saved state.
    """

    chosen: ClassVar[tuple[str, ...]]

    def choose(self, model: nn.Module, batches: Batches, seed: int) -> dict[str, Tensor]:
        """Choose from images what is tuned.

        Args:
            model: The model without a method. It is left as it is, see `mosa.peft.choice.gradients`.
            batches: Training images (batch, channels, height, width) and their labels (batch,), on the
                model's device; they are read once, and not all of them need to be.
            seed: Seeds what is drawn.

        Returns:
            The buffers that hold the choice, by the names that they will have.

        Raises:
            UserError: Nothing can be chosen from these images.
        """
        raise undefined(self, "choose")

    def insert(self, model: nn.Module, seed: int, choice: Mapping[str, Tensor]) -> None:
        """Insert the tuned modules into a frozen model, in place, as `apply` does, by a choice."""
        raise undefined(self, "insert")


def undefined(method: Method, name: str) -> UserError:
    """Return the error of a class that lacks what its base leaves to it."""
    return UserError(f"{method.name}: its class {type(method).__name__} defines no `{name}`; define it")


def list_methods() -> list[str]:
    """Return the names of all methods, in alphabetical order."""
    return sorted(_REGISTRY)


def get_method(name: str) -> type[Method]:
    """Return the class of a method; one that is unknown may be of an installed plugin (`mosa.plugins`).

    Raises:
        UserError: There is no method of this name.
    """
    if name not in _REGISTRY:
        use_installed()
    if name not in _REGISTRY:
        raise unknown("method", name, list_methods())
    return _REGISTRY[name]


def build_method(name: str, **options: Any) -> Method:
    """Build a method from its name and options; options left out take their defaults.

    Raises:
        UserError: The method or an option is unknown, or a value is not allowed.
    """
    cls = get_method(name)
    for option in options:
        if option not in cls.model_fields:
            own_first = sorted(cls.model_fields, key=lambda known: known in Method.model_fields)
            raise unknown(f"option of method {name!r}", option, own_first)
    try:
        return cls(**options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "options"
        got = f" (got {shown(first['input'])})" if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"method {name!r}, option {where!r}: {message}{got}") from None
