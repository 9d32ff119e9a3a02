"""What every method must do.

A check takes a `Subject`, a method on an architecture, and returns what is wrong in words, or None.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mosa.base.methods import holds
from mosa.base.words import count
from mosa.peft.attached import count_parameters, forward_passes
from mosa.peft.blocks import families_of, find_head
from mosa.peft.merge import merge
from mosa.peft.method import Method, build_method
from mosa.peft.routing import is_stochastic
from mosa.peft.state import load_tuned, load_tuned_state_dict, save_tuned, tuned_state_dict
from mosa.peft.structure import copied
from mosa.peft.subject import Subject, batch, build

_ROUNDS = {"EVA", "BEiT", "SwinV2"}  # families whose bias of the fused projection is added apart
_EXACT = 1e-12  # in double precision
Problem = str | None


def draws_nothing(subject: Subject) -> Problem:
    """Attaching draws nothing from the global generator."""
    if subject.drew:
        return (
            "attaching draws from torch's global generator, so that results depend on what ran before: draw "
            "from mosa.base.seeding.generator(seed, name), as nn.init's functions do with generator="
        )
    return None


def starts_as_it_says(subject: Subject) -> Problem:
    """The output at the start is the backbone's, unless the method says otherwise."""
    bare, tuned = build(subject.architecture).eval(), _tuned(subject.start)
    for name, parameter in bare.named_parameters():
        parameter.requires_grad_(name in tuned)  # which decides between torch's kernels, in attention pooling
    expected = bare(subject.images)
    method = subject.start.peft.method
    if not method.starts_as_backbone:
        same = torch.allclose(subject.output, expected)
        return "attaching leaves the output as it was: leave starts_as_backbone out" if same else None
    # Where passes are averaged, the mean of equal numbers is equal up to rounding; so is a bias apart.
    rounds = getattr(method, "merge", None) == "ensemble" or _ROUNDS & set(families_of(subject.start))
    difference = (subject.output - expected).abs().max().item()
    if difference <= (1e-6 if rounds else 0):
        return None
    return (
        f"attaching changes the output by up to {difference:.2g}, and the method should start as the "
        "backbone: is its last layer zero at the start, weight and bias? If the change is meant, let "
        "starts_as_backbone return False"
    )


def counts_by_formula(subject: Subject) -> Problem:
    """The number of tuned parameters is that of the formula."""
    found = count_parameters(subject.start)
    formula = subject.start.peft.method.parameters(subject.start, training=True)
    head = sum(parameter.numel() for parameter in find_head(subject.start).parameters())
    if found.adapter != formula:
        backbone = dict(build(subject.architecture).named_parameters())
        own = [name for name in sorted(_tuned(subject.start) - _head(subject.start)) if name in backbone]
        trunk = (
            f"; {count(len(own), 'tensor')} of the backbone are among them, such as {own[0]!r}" if own else ""
        )
        return (
            f"{found.adapter:,} parameters are tuned beside the classifier, and the formula "
            f"(block_parameters, or parameters) says {formula:,}{trunk}"
        )
    if found.head != head or found.total != found.adapter + head:
        return f"the classifier has {head:,} parameters, of which {found.head:,} are tuned"
    return None


def trains_what_it_tunes(subject: Subject) -> Problem:
    """Only tuned tensors change in training, the classifier and something else among them."""
    tuned, head = set(tuned_state_dict(subject.trained)), _head(subject.trained)
    before = subject.start.state_dict()
    now = subject.trained.state_dict().items()
    changed = {name for name, value in now if not _equal(value, before[name])}
    others = sorted(changed - tuned - {"router._extra_state"})
    if others:
        return (
            f"{others[0]!r} changes in training, and is not part of the tuned state, so that it is not "
            "saved: make it a parameter that requires a gradient, or a buffer of an inserted module"
        )
    if not head or not head <= changed:
        return f"the classifier does not change in training ({sorted(head - changed) or 'it has no tensor'})"
    if subject.method != "linear" and not changed & (tuned - head):
        return (
            "nothing but the classifier changes in training: are two factors of a product zero at the start?"
        )
    return None


def reaches_all_it_tunes(subject: Subject) -> Problem:
    """A tensor gets a gradient if, and only if, it requires one."""
    return gradients_of(subject.trained)


def gradients_of(model: nn.Module) -> Problem:
    """Say which tensor of a model that was trained has no gradient, or one that it does not require."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            return f"{name!r} is tuned, and gets no gradient: is it used, and not detached?"
        if not parameter.requires_grad and parameter.grad is not None:
            return f"{name!r} is frozen, and gets a gradient"
    return None


def leaves_other_models_alone(subject: Subject) -> Problem:
    """Training a copy leaves the model as it was."""
    _ = subject.trained
    if torch.equal(subject.start(subject.images), subject.output):
        return None
    return (
        "training a copy (copy.deepcopy) changes the model that it was made of: a function holds on to a "
        "module; hooks should be methods of the inserted module"
    )


def survives_saving(subject: Subject, folder: Path | None = None) -> Problem:
    """What was tuned is the same after it was saved and loaded into another model.

    Args:
        subject: The method on an architecture.
        folder: Where to save; None: a temporary folder.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return survives_saving(subject, Path(temporary))
    images, _ = subject.batch(seed=9)
    expected = subject.trained(images)
    save_tuned(subject.trained, folder / "with-options.safetensors")
    other = subject.attached(seed=5)
    load_tuned(other, folder / "with-options.safetensors")
    found = [other.eval()(images)]
    if subject.architecture == "vit":
        save_file(tuned_state_dict(subject.trained), folder / "tuned.safetensors")
        other = subject.attached(seed=5)
        load_tuned_state_dict(other, load_file(folder / "tuned.safetensors"))
        found.append(other.eval()(images))
    if all(torch.equal(output, expected) for output in found):
        return None
    difference = max((output - expected).abs().max().item() for output in found)
    return (
        f"after saving and loading, the output differs by up to {difference:.2g}: something that it learns "
        "or draws is neither a parameter that requires a gradient nor a buffer of a module that it inserts "
        "(a plain tensor is not saved: register_buffer)"
    )


def merges(subject: Subject) -> Problem:
    """Merging keeps the output, and what is left is counted by the formula, or is the plain backbone."""
    problem = merging_of(copied(subject.trained), subject.architecture, subject.shape)
    if problem is not None:
        return problem
    model, (images, _) = _laid_out_otherwise(copied(subject.trained)), subject.batch(seed=9)
    difference = (model(images) - merge(copied(model))(images)).abs().max().item()
    if difference <= 1e-5:
        return None
    return (
        f"merging changes the output by up to {difference:.2g} where weights lie in memory in another order "
        "(transposed, or channels_last): use reshape and operations on tensors, not view or as_strided"
    )


def _laid_out_otherwise(model: nn.Module) -> nn.Module:
    """Have the same weights in another order in memory."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.transpose(0, -1).contiguous().transpose(0, -1)
    return model


def merging_of(model: nn.Module, architecture: str, shape: tuple[int, ...] = (3, 32, 32)) -> Problem:
    """Merge a model that was trained, and say what is wrong with the result."""
    images, _ = batch(seed=9, shape=shape)
    expected = model(images)
    method = model.peft.method
    formula, away = method.parameters(model), holds(method.merges_away, method.model_dump())
    if merge(model) is not model:
        return "merge returns another model"
    difference = (model(images) - expected).abs().max().item()
    if not difference <= 1e-5:
        return f"merging changes the output by up to {difference:.2g}: is fold what the forward computes?"
    backbone = build(architecture)
    modules = [[type(module) for module in each.modules()] for each in (model, backbone)]
    if away and modules[0] != modules[1]:
        return "merges_away is declared, and the merged model has other modules than the backbone"
    if hasattr(model, "peft"):
        found = count_parameters(model).adapter
        if found != formula:
            return (
                f"after merging {found:,} parameters are left, and the formula (parameters) says {formula:,}"
            )
        return None
    if list(model.state_dict()) != list(backbone.state_dict()):
        return "fold returns None, and the merged model has other tensors than the backbone"
    if modules[0] != modules[1]:
        return "fold returns None, and the merged model has other modules than the backbone"
    return None


def takes_any_number_of_classes(subject: Subject) -> Problem:
    """The number of classes is free."""
    model = subject.train(subject.attached(classes=11), classes=11)
    shape = tuple(model(subject.images).shape)
    return None if shape == (6, 11) else f"with 11 classes, 6 images give an output of shape {shape}"


def repeats_exactly(subject: Subject, draws: bool | None = False) -> Problem:
    """The same seed gives the same weights.

    Args:
        subject: The method on an architecture.
        draws: Whether another seed has to give others; None: if the method has branches.
    """
    first, again, other = (subject.attached(seed=seed, before=n) for n, seed in enumerate((3, 3, 4)))
    runs = []
    for model, seed in ((copied(first), 3), (first, 3), (again, 3), (other, 4)):
        runs.append(tuned_state_dict(subject.train(model, steps=2, seed=seed)))
    for run in runs[1:3]:
        if not all(torch.equal(runs[0][name], run[name]) for name in runs[0]):
            return (
                "two trainings with the same seed differ, perhaps by what was drawn from torch's global "
                "generator before: draw from mosa.base.seeding.generator(seed, name), which nn.init's "
                "functions take as generator="
            )
    draws = bool(model.peft.method.branches(model)) if draws is None else draws
    if draws and not any(not torch.equal(runs[0][name], runs[3][name]) for name in runs[0]):
        return "another seed gives the same weights: apply does not use its seed"
    return None


def passes_are_apart(subject: Subject, unless_it_draws: bool = True) -> Problem:
    """Without dropout and routing, each part of a forward of several passes is the plain forward.

    Args:
        subject: The method on an architecture.
        unless_it_draws: Whether a model is left alone that draws even then, in training.
    """
    fields = type(build_method(subject.method, **subject.options)).model_fields
    still = {
        name: value
        for name, value in (("dropout", 0.0), ("drop_path", 0.0), ("experts", 1))
        if name in fields
    }
    if "of_options" in fields:
        inner = build_method(subject.method, **subject.options).inner
        quiet = {name: 0.0 for name in ("dropout", "drop_path") if name in type(inner).model_fields}
        still["of_options"] = subject.options.get("of_options", {}) | quiet
    model = subject.train(subject.attached(dtype=torch.float64, **still)).train()
    images, _ = subject.batch(dtype=torch.float64)
    expected = model(images)
    if unless_it_draws and not torch.equal(model(images), expected):
        return None
    difference = (forward_passes(model, images, 3) - expected.repeat(3, 1)).abs().max().item()
    if difference <= _EXACT:
        return None
    return (
        f"in one forward of three passes, a pass differs from a forward of its own by up to {difference:.2g}"
    )


def passes_draw_apart(subject: Subject) -> Problem:
    """Everything that a method draws in training differs between the passes of one step."""
    model = subject.attached()
    if not any(is_stochastic(module) for module in model.modules()) and not hasattr(model, "router"):
        return None
    return draws_of(subject, model)


def draws_of(subject: Subject, model: nn.Module) -> Problem:
    """Train a model, and say whether two passes of one forward draw the same."""
    subject.train(model, lr=0.1)
    first, second = forward_passes(model.train(), subject.images, 2).chunk(2)
    return "two passes of one forward draw the same" if torch.allclose(first, second) else None


def keeps_the_dtype(subject: Subject) -> Problem:
    """Attaching to a model in double precision keeps it there, and so does a forward."""
    model = subject.attached(dtype=torch.float64, verify=True)
    if {parameter.dtype for parameter in model.parameters()} != {torch.float64}:
        return "on a model in float64, what is inserted is not: move it with .to(next(block.parameters()))"
    output = model.eval()(subject.batch(dtype=torch.float64)[0])
    if {parameter.dtype for parameter in model.parameters()} != {torch.float64}:
        return (
            "a forward changes the dtype of the model's parameters: cast what it computes with, not a module"
        )
    if output.dtype != torch.float64:
        return f"on a model in float64, the output is in {output.dtype}"
    return None


def treats_images_apart(subject: Subject) -> Problem:
    """In evaluation, the output for an image does not depend on the others of its batch."""
    model = subject.trained
    difference = (model(subject.images)[:1] - model(subject.images[:1])).abs().max().item()
    if difference <= 1e-4:
        return None
    return (
        f"the output for an image differs by up to {difference:.2g} when the image is alone: is something "
        "computed over the batch?"
    )


def describes_itself(subject: Subject) -> Problem:
    """The class has a docstring and a reference; each option a description, and an integer a bound."""
    cls: type[Method] = type(build_method(subject.method, **subject.options))
    if not cls.__doc__ or cls.__doc__ == Method.__doc__:
        return "the class has no docstring: say what is tuned in its first line, and give the equation"
    if not getattr(cls, "reference", ""):
        return "the class has no `reference`: name the paper and the equation, or 'none'"
    for name, field in cls.model_fields.items():
        if not field.description:
            return f'option {name!r} has no description: Field({field.default!r}, description="...")'
        if field.annotation is int and not any(
            hasattr(bound, "ge") or hasattr(bound, "gt") for bound in field.metadata
        ):
            return f"option {name!r} takes any integer: say the smallest, Field({field.default!r}, ge=1, ...)"
    return None


def _tuned(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def _head(model: nn.Module) -> set[str]:
    """Return the names of the classifier's parameters."""
    own = set(find_head(model).parameters())
    return {name for name, parameter in model.named_parameters() if parameter in own}


def _equal(one: object, other: object) -> bool:
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


CHECKS: dict[str, Callable[[Subject], Problem]] = {
    check.__name__.replace("_", " "): check
    for check in (
        describes_itself,
        draws_nothing,
        starts_as_it_says,
        counts_by_formula,
        trains_what_it_tunes,
        reaches_all_it_tunes,
        leaves_other_models_alone,
        survives_saving,
        merges,
        takes_any_number_of_classes,
        repeats_exactly,
        passes_are_apart,
        passes_draw_apart,
        keeps_the_dtype,
        treats_images_apart,
    )
}
