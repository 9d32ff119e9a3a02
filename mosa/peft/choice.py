"""What a method tunes, chosen from training images by gradients."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.tensors import unusable
from mosa.peft.method import Batches, Chosen, Method
from mosa.peft.proof import example_images
from mosa.peft.structure import evaluating

EXAMPLES = 4  # images of a batch that stands in for data


def choice_of(
    model: nn.Module, method: Method, data: Batches | Mapping[str, Tensor] | None, seed: int
) -> dict[str, Tensor] | None:
    """Return the choice of a method: from images, or as a tuned state has it; None if it chooses nothing.

    Raises:
        UserError: There are no data, or nothing can be chosen from them.
    """
    if not isinstance(method, Chosen):
        return None
    if data is None:
        raise UserError(
            f"{method.name} chooses what it tunes from training images: give attach `data`, batches of "
            f"images and labels, or a tuned state, whose choice it takes"
        )
    if isinstance(data, Mapping):
        state = cast("Mapping[str, Tensor]", data)
        choice = {name: value for name, value in state.items() if name.rpartition(".")[2] in method.chosen}
        if not choice:
            raise UserError(
                f"the tuned state has no choice of {method.name}, which is kept under names that end with "
                f"{' or '.join(method.chosen)}; was it made with another method?"
            )
        return choice
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        return method.choose(model, _checked(data, next(model.parameters())), seed)


def _checked(batches: Batches, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches on the model's device; refuse what are none."""
    read = 0
    try:
        batches = iter(batches)
    except TypeError:
        raise UserError(
            f"data: expected batches of images and labels, got {type(batches).__name__}"
        ) from None
    for pair in batches:
        tensors = isinstance(pair, Sequence) and [each for each in pair if isinstance(each, Tensor)]
        if not tensors or len(tensors) != 2 or len(tensors[0]) != len(tensors[1]):
            raise UserError("data: expected each batch to be a tensor of images and one of as many labels")
        images, labels = tensors
        if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
            raise UserError("data: expected the labels of a batch to be whole numbers, one for each image")
        read += 1
        yield images.to(like), labels.to(like.device, torch.int64)
    if not read:
        raise UserError("data: there is no batch of images")


def gradients(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    batches: Batches,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each batch, the gradients of its loss; the model evaluates, so that nothing is drawn.

    What requires a gradient, and what is in training mode, is afterwards as it was.

    Args:
        model: A model without a method.
        parameters: Of these, gradients are computed; a zero where there is none.
        batches: Images and labels.
        loss: Computes a scalar from the model, images and labels.
    """
    asks = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with evaluating(model):
            for images, labels in batches:
                with torch.enable_grad():
                    value = loss(model, images, labels)
                    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
                yield found
    finally:
        for parameter, requires_grad in asks:
            parameter.requires_grad_(requires_grad)


def classified(model: nn.Module, labels: Tensor, method: str) -> Tensor:
    """Return labels that a model has classes for.

    Raises:
        UserError: It has none for one of them.
    """
    classes = cast(int, model.num_classes)
    beyond = labels[(labels < 0) | (labels >= classes)]
    if len(beyond):
        raise UserError(f"{method}: label {beyond.max()}, where the model has {classes} classes")
    return labels


def taken(
    choice: Mapping[str, Tensor], name: str, like: Tensor, below: int, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Return a buffer of a choice, on the device of a tensor.

    Args:
        choice: The choice.
        name: Name of the buffer.
        like: A tensor of the model.
        below: What its numbers are less than, such as the size of what they are places in.
        shape: Its shape; None: a row of any length.

    Raises:
        UserError: The choice is of another model, or was made with other options.
    """
    if name not in choice:
        raise UserError(f"the choice has no {name!r}: it was made for another model, or with other options")
    value = choice[name]
    reason = unusable(value)
    if not reason and (value.dim() != 1 if shape is None else value.shape != shape):
        reason = f"has shape {tuple(value.shape)}, expected {shape or 'a row'}"
    elif not reason and (value.is_floating_point() or value.is_complex()):
        reason = f"has values of type {value.dtype}, expected whole numbers"
    elif not reason and ((value < 0) | (value >= below)).any():
        reason = f"has numbers that are not in 0 ... {below - 1}"
    if reason:
        raise UserError(
            f"the choice: {name!r} {reason}; it was made for another model, or with other options"
        )
    return value.to(like.device, copy=True)


def digest_of_choice(model: nn.Module, method: Method) -> str | None:
    """Return the SHA-256 of what an attached method chose from data; None if it chooses nothing."""
    if not isinstance(method, Chosen):
        return None
    digest = hashlib.sha256()
    for name, value in model.named_buffers():
        if name.rpartition(".")[2] in method.chosen:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def example_batches(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return a batch of noise that stands in for data, where only shapes and sizes of a method matter."""
    like = next(model.parameters())
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(EXAMPLES, *example_images(model).shape[1:], generator=rng, device="cpu")
    return [(images.to(like), torch.zeros(EXAMPLES, dtype=torch.long, device=like.device))]
