"""Switch between methods that are attached by name, and take them off."""

from typing import cast

from torch import nn

from mosa.base.errors import UserError, unknown
from mosa.peft.attached import Attachment, attachment, list_adapters
from mosa.peft.parallel import refuse_wrapped
from mosa.peft.structure import Change


def set_active(model: nn.Module, name: str | None) -> nn.Module:
    """Switch to another of the methods that are attached by name, in place; None: to the backbone alone.

    Only the active one is part of the model: of its modules, parameters, state dict and forward. Each has
    tensors of its own for all that it tunes, the classifier too. Nothing is computed and no tensor is copied,
    so an output is the same to the bit whenever a method is active. An optimiser trains one of them.

    Returns:
        The same model.

    Raises:
        UserError: There is no method of this name, the model is wrapped, or something of the backbone was
            replaced or unfrozen since the active method was attached.
    """
    refuse_wrapped(model, "set_active on")
    names = list_adapters(model)
    if name is not None and name not in names:
        raise unknown("name of an attached method", name, names)
    state: Attachment | None = getattr(model, "peft", None)
    if state is not None and state.name == name:
        return model
    if state is not None:
        put_aside(model)
    if name is not None:
        chosen = _forget(model, name)
        cast(Change, chosen.change).swap(model)
        vars(model)["peft"] = chosen
    return model


def detach(model: nn.Module, name: str | None = None) -> nn.Module:
    """Take a method off a model, in place, with all that it has trained: the backbone is left, bit for bit.

    Args:
        model: A model with a method attached.
        name: Which one, if there are several; the active one by default.

    Returns:
        The same model, of the same parameters, which require gradients as they did before.

    Raises:
        UserError: Nothing is attached, there is no method of this name, or the backbone is not known any
            more: the method was merged into its weights, `attach` was told not to keep what is tuned, or
            something of it was replaced or unfrozen since.
    """
    refuse_wrapped(model, "detach from")
    if name is not None and name not in list_adapters(model):
        raise unknown("name of an attached method", name, list_adapters(model))
    if name is None or name == getattr(getattr(model, "peft", None), "name", None):
        name = attachment(model).name
        put_aside(model)
    _forget(model, name)
    return model


def put_aside(model: nn.Module) -> None:
    """Take the active method off, and keep it among the inactive ones."""
    state = attachment(model)
    if state.change is None:
        reason = "merged into the backbone's weights" if state.merged else "attached with restorable=False"
        raise UserError(
            f"{state.method.name!r} was {reason}, so the backbone is not known: build and load it again"
        )
    if disturbed := state.change.disturbed(model, state.backbone, state.trained()):
        raise UserError(
            f"{disturbed!r} was replaced or unfrozen after {state.method.name!r} was attached, so the "
            f"backbone is not known any more: build and load it again"
        )
    state.change.swap(model)
    del model.peft
    vars(model).setdefault("mosa_inactive", {})[state.name] = state


def _forget(model: nn.Module, name: str) -> Attachment:
    """Return one of the inactive methods, which is none of them any more."""
    inactive = vars(model)["mosa_inactive"]
    found = inactive.pop(name)
    if not inactive:
        del model.mosa_inactive
    return cast(Attachment, found)
