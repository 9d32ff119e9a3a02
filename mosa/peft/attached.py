"""What is attached to a model: its state, what it tunes, and its forward passes."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.peft.blocks import find_head
from mosa.peft.method import Method
from mosa.peft.parallel import bare, check_known
from mosa.peft.routing import Passes, repeat_batch
from mosa.peft.statistics import has_statistics, is_frozen
from mosa.peft.structure import Change, Place, Watch

DEFAULT = "default"  # the name of a method that is given none


@dataclass
class Attachment:
    """The state that `attach` keeps on a model, as `model.peft`.

    Attributes:
        method: The method and its options.
        passes: How many passes a forward stacks.
        tuned: Names of the parameters that the method tunes.
        buffers: Names of the buffers that belong to the tuned state: those of inserted modules, and the
            running statistics of norms that are tuned.
        hooks: Handles of the hooks on the model and on its norms with running statistics.
        fork: Handle of the hook that separates the passes inside the model; None: they separate at its input.
        switched: Attentions that call their fused projection because the method wraps it.
        name: The name by which `set_active` knows it.
        change: What attaching it changed of the backbone; None: that was not kept.
        label_names: The names of the classes, if they were given.
        merged: Whether it is in its inference form.
        backbone: The places of the tensors that it shares with the backbone, by their names there.
        watch: Which tensors that were frozen then were trained since.
    """

    method: Method
    passes: Passes
    hooks: list[RemovableHandle]
    fork: RemovableHandle | None = None
    tuned: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    switched: list[nn.Module] = field(default_factory=list)
    name: str = DEFAULT
    change: Change | None = None
    label_names: list[str] | None = None
    merged: bool = False
    backbone: dict[str, Place] = field(default_factory=dict)
    watch: Watch | None = None

    def trained(self) -> set[int]:
        """Return the identities of the tensors that were unfrozen and trained, and may be frozen again."""
        return set() if self.watch is None else self.watch.trained()


def tuned_buffers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the buffers of the tuned state, also those of norms unfrozen since `attach`."""
    known, trained = attachment(model).buffers, attachment(model).trained()
    norms = [(name, module) for name, module in model.named_modules() if has_statistics(module)]
    found = [
        f"{prefix}.{name}" if prefix else name
        for prefix, norm in norms
        for name, value in norm.named_buffers(recurse=False)
        if not is_frozen(norm) or id(value) in trained
    ]
    return tuple(dict.fromkeys([*known, *found]))


@dataclass
class Merged:
    """What methods have changed of the backbone itself, kept on a model as `model.mosa_merged`.

    Attributes:
        methods: The methods and their options, in their order.
        places: The tensors that they changed.
        label_names: The names of the classes, if they were given.
    """

    methods: list[dict[str, Any]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    label_names: list[str] | None = None


class ParameterCount(NamedTuple):
    """Numbers of tuned parameters: without the classifier, of the classifier, and together."""

    adapter: int
    head: int
    total: int


def count_of(names: list[str]) -> str:
    """Return a number of attached methods, and their names."""
    return f"{count(len(names), 'method')} attached by name ({', '.join(names)})"


def attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model, which may be within DistributedDataParallel or torch.compile.

    Raises:
        UserError: Nothing is attached.
    """
    model = bare(model)
    if hasattr(model, "peft"):
        return cast(Attachment, model.peft)
    kind = type(model).__name__
    if names := list_adapters(model):
        raise UserError(f"{kind} has {count_of(names)}, and none is active: call mosa.peft.set_active first")
    if merged := merged_into(model):
        names = [each["method"] for each in merged.methods]
        raise UserError(
            f"{kind} has no method attached: {' and '.join(names)} was merged into its weights, which "
            "save_tuned and save_pretrained still save; attach another to train on"
        )
    raise UserError(f"{kind} has no method attached: call mosa.peft.attach first")


def tuned_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return by name what the attached method tunes, and what was unfrozen; also if it was frozen since."""
    known, trained = attachment(model).tuned, attachment(model).trained()
    return {
        name: each
        for name, each in model.named_parameters()
        if each.requires_grad or name in known or id(each) in trained
    }


def dumped(method: Method) -> dict[str, Any]:
    """Return a method's name and options as plain data."""
    return {"method": method.name} | method.model_dump()


def merged_into(model: nn.Module) -> Merged | None:
    """Return what methods have changed of the backbone itself; None: nothing."""
    return vars(bare(model)).get("mosa_merged")


def forward_passes(model: nn.Module, images: Tensor, passes: int) -> Tensor:
    """Run several forward passes over the same images at once, with independent experts and dropout.

    What precedes the first stochastic module is computed once for all passes.

    Args:
        model: A model with a method attached, or its DistributedDataParallel; modules in training mode draw.
        images: Input of shape (batch, channels, height, width).
        passes: Number of passes, 1 or more.

    Returns:
        Outputs of shape (passes * batch, classes), the chunks of `batch` rows being the passes.

    Raises:
        UserError: Nothing is attached, the number is not allowed, an ensemble is in evaluation mode, or the
            input is no tensor, such as a dict of NaFlexViT's patches, which has no copies.
    """
    state = attachment(model)
    if passes < 1:
        raise UserError(f"passes={passes}: expected 1 or more")
    if passes > 1 and not isinstance(images, Tensor):
        raise UserError(f"{passes} passes need a tensor of images, got a {type(images).__name__}")
    if state.fork is None:
        images = repeat_batch(images, passes)
    check_known(model, bare(model))
    state.passes.requested = passes
    return cast(Tensor, model(images))


def list_adapters(model: nn.Module) -> list[str]:
    """Return the names of the methods attached to a model, the active one first; see `set_active`."""
    model = bare(model)
    active = [attachment(model).name] if hasattr(model, "peft") else []
    return active + list(vars(model).get("mosa_inactive", ()))


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the tuned parameters that a model holds now.

    Returns:
        `adapter` (all but the classifier), `head` (the classifier) and `total` (their sum). MoSA holds
        additional biases for its experts until it is merged.

    Raises:
        UserError: Nothing is attached.
    """
    model = bare(model)
    head = {id(parameter) for parameter in find_head(model).parameters()}
    tuned = tuned_parameters(model).values()
    in_head = sum(parameter.numel() for parameter in tuned if id(parameter) in head)
    total = sum(parameter.numel() for parameter in tuned)
    return ParameterCount(adapter=total - in_head, head=in_head, total=total)
