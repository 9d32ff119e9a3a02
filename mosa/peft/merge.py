"""Bring a model into its inference form."""

import torch
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.peft.attached import (
    Attachment,
    Merged,
    attachment,
    dumped,
    list_adapters,
    tuned_buffers,
    tuned_parameters,
)
from mosa.peft.blocks import SEPARATE_BIAS
from mosa.peft.method import Method
from mosa.peft.parallel import refuse_wrapped
from mosa.peft.proof import blank_copy
from mosa.peft.structure import Place, Structure, tensor_places


@torch.inference_mode(False)
def merge(model: nn.Module) -> nn.Module:
    """Bring a model into its inference form, in place: experts into one layer, LoRA into the weights.

    The output in evaluation does not change. A merged MoSA model is a plain adapter model with the
    merged weights; a merged LoRA model has the backbone's exact modules and nothing attached. What was
    trained can be saved afterwards, too: where a method merges into weights, a file has these in full.

    Returns:
        The same model.

    Raises:
        UserError: Nothing is attached, the model is wrapped, or the method would merge into weights that
            other methods stand on, which are attached by name. The model is as it was then.
    """
    refuse_wrapped(model, "merge")
    state = attachment(model)
    _refuse_shared(model, state)
    before, whole = _frozen_values(model, state.method), Structure(model)
    try:
        method = state.method.fold(model)
    except BaseException:
        whole.restore()
        for tensor, value in before.values():
            tensor.data.copy_(value)
        raise
    if state.fork is not None:
        state.fork.remove()
        state.fork = None
    state.buffers = tuple(name for name in state.buffers if _has_buffer(model, name))
    state.merged = True
    changed = [
        place
        for _, place in tensor_places(model)
        if (method is None and id(place.value) not in before) or _differs(place.value, before)
    ]
    if method is None:
        become_backbone(model, changed)
        return model
    state.method = method
    state.tuned = tuple(tuned_parameters(model))
    if changed:
        vars(model).setdefault("mosa_merged", Merged()).places.extend(changed)
        state.change = None
    return model


def _refuse_shared(model: nn.Module, state: Attachment) -> None:
    """Refuse to merge into weights that other methods stand on."""
    others = [name for name in list_adapters(model) if name != state.name]
    if others and state.method.fold(blank_copy(model, torch.device("cpu"))) is None:
        raise UserError(
            f"merging {state.name!r} would change the weights that {', '.join(others)} stand on as well: "
            f"detach these first, or merge a copy (copy.deepcopy)"
        )


def _frozen_values(model: nn.Module, method: Method) -> dict[int, tuple[Tensor, Tensor]]:
    """Return each frozen tensor with a copy on the CPU, by its identity; nothing if merging changes none."""
    if type(method).fold is Method.fold:
        return {}
    places = [place for _, place in tensor_places(model)]
    return {id(each.value): (each.value, each.value.detach().to("cpu", copy=True)) for each in places}


def _differs(tensor: Tensor, before: dict[int, tuple[Tensor, Tensor]]) -> bool:
    if id(tensor) not in before:
        return False
    return not torch.equal(tensor.detach().cpu(), before[id(tensor)][1])


def _has_buffer(model: nn.Module, name: str) -> bool:
    owner, _, buffer = name.rpartition(".")
    try:
        return buffer in model.get_submodule(owner)._buffers
    except AttributeError:  # the module is merged
        return False


def become_backbone(model: nn.Module, changed: list[Place]) -> None:
    """Leave nothing attached, and remember what differs from the backbone that was loaded."""
    state = attachment(model)
    record = vars(model).setdefault("mosa_merged", Merged())
    record.methods.append(dumped(state.method))
    record.label_names = state.label_names
    known = {place.value for place in record.places} | {place.value for place in changed}
    record.places += changed
    tuned = {*tuned_parameters(model), *tuned_buffers(model)}
    for name, place in tensor_places(model):
        if name in tuned and place.value not in known:
            record.places.append(place)
    for hook in state.hooks:
        hook.remove()
    for attention in state.switched:
        setattr(attention, SEPARATE_BIAS, False)
    del model.peft
