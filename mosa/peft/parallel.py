"""Models within wrappers: of torch.compile, and of DistributedDataParallel, which reduces the gradients."""

import gc

import torch
from torch import distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mosa.base.errors import UserError, shown


def bare(model: nn.Module) -> nn.Module:
    """Return the model within DistributedDataParallel and torch.compile.

    Raises:
        UserError: It is no model, or is within a DataParallel, whose copies of the model would draw other
            experts.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"expected a model, got {shown(model)}")
    while True:
        children = vars(model).get("_modules", {})
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(model, DataParallel):
            raise UserError("DataParallel is not supported: use DistributedDataParallel, one process per GPU")
        elif "_orig_mod" in children:
            model = children["_orig_mod"]
        else:
            return model


def refuse_wrapped(model: nn.Module, call: str) -> None:
    """Refuse a wrapper where the modules of a model are changed."""
    if bare(model) is not model:
        raise UserError(
            f"{call}: the model is within a {type(model).__name__}, which has taken note of its parameters: "
            f"{call} the model itself, and wrap it afterwards"
        )


def is_distributed() -> bool:
    """Return whether this process belongs to a group; False where torch.compile traces."""
    if torch.compiler.is_compiling() or not distributed.is_available():
        return False
    return distributed.is_initialized()


def check_reduced(model: nn.Module, look: bool) -> None:
    """Refuse a training forward whose gradients the processes would not share, so that they drift apart.

    Args:
        model: The model itself, whose forward is about to start in training mode.
        look: Look for a wrapper that the forward goes past, among all objects, which takes some 50 ms.

    Raises:
        UserError: The model is within a DistributedDataParallel, and called without it; or that was made
            before something was tuned.
    """
    if not torch.is_grad_enabled():
        return
    wrapper = getattr(DistributedDataParallel, "_active_ddp_module", None)
    if wrapper is not None:
        check_known(wrapper, model)
    elif look and any(module is model for each in _wrappers() for module in each.modules()):
        raise UserError(
            f"this {type(model).__name__} is within a DistributedDataParallel and was called without it, so "
            f"each process would train its own: give tuning_loss, or call, the wrapped model"
        )


def check_known(wrapper: nn.Module, model: nn.Module) -> None:
    """Refuse a DistributedDataParallel that was made before something of its model was tuned.

    Raises:
        UserError: It was.
    """
    if not isinstance(wrapper, DistributedDataParallel):
        return
    known = {id(each) for each in getattr(wrapper, "_module_parameters", wrapper.parameters())}
    for name, each in model.named_parameters():
        if each.requires_grad and id(each) not in known:
            raise UserError(
                f"{name!r} is tuned, but DistributedDataParallel does not know it, so each process would "
                f"train its own: attach and set_active first, and wrap the model afterwards"
            )


def _wrappers() -> list[DistributedDataParallel]:
    """Return the wrappers of this process: they leave no trace on the model that they wrap."""
    return [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
