"""A new classifier for a model, and nothing else new."""

from itertools import chain
from typing import Any, cast

import torch
from torch import nn

from mosa.base.errors import UserError, shown
from mosa.base.seeding import drawing
from mosa.peft.blocks import description_of, find_head
from mosa.peft.structure import tensor_places


def reset_classifier(model: nn.Module, classes: int, seed: int) -> None:
    """Replace the classifier by one with random values from a seed, and nothing else.

    Raises:
        UserError: There is no `reset_classifier`, the number is none, or other layers would be new.
    """
    if description_of(model) or not hasattr(model, "reset_classifier"):
        raise UserError(
            f"num_classes: {type(model).__name__} has no reset_classifier(), as timm's models have"
        )
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise UserError(f"num_classes={shown(classes)}: expected a whole number, or 0 for no classifier")
    like = next(model.parameters())
    known, tensors = set(model.modules()), {name: place.value for name, place in tensor_places(model)}
    with drawing(seed), torch.device("cpu"):
        cast(Any, model).reset_classifier(classes)
    head = find_head(model).to(like)
    for module in set(model.modules()) - known:
        module.train(model.training)
    # Some of timm's make layers before the classifier anew, which stay frozen: these keep their weights.
    renewed = {id(each) for each in chain(head.parameters(), head.buffers())}
    for name, place in tensor_places(model):
        if id(place.value) in renewed or place.value is (old := tensors.get(name)):
            continue
        if old is None or old.shape != place.value.shape:
            raise UserError(
                f"num_classes={classes}: reset_classifier() of {type(model).__name__} makes {name!r} anew, "
                f"too, which would stay frozen as it is: build the model with num_classes={classes}"
            )
        place.holder[place.key] = old
