"""The training loss of every method, for one or two forward passes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.peft.attached import attachment, forward_passes


def tuning_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    terms: dict[str, Tensor] | None = None,
) -> Tensor:
    """Run the forward passes that the attached method asks for, and return its loss.

    L = CE(z1, y) + second_pass * CE(z2, y) + consistency * 1/2 [KL(sg p2 || p1) + KL(sg p1 || p2)]
    + feature_consistency * mean over the first six blocks of MSE(h1, h2).
    With `every_expert`, L = mean over all passes of CE(z, y).

    Args:
        model: A model with a method attached, in training mode.
        images: Input of shape (batch, channels, height, width).
        labels: Classes of shape (batch,).
        label_smoothing: Mass of the uniform distribution in the targets, 0 to 1.
        terms: Receives the weighted terms of the loss, detached: `ce`, `ce_second`, `kl`, `features`.

    Returns:
        The loss, a scalar.

    Raises:
        UserError: Nothing is attached, there are not as many labels as images, or as `forward_passes` says.
    """
    terms = {} if terms is None else terms
    state = attachment(model)
    method = state.method
    logits = forward_passes(model, images, method.passes)
    if len(logits) != method.passes * len(labels):
        given = count(len(labels), "label")
        raise UserError(f"{given} for {count(len(logits) // method.passes, 'image')}: expected one for each")
    if logits.dtype == torch.bfloat16:  # under autocast, which would also compute the logarithms in bfloat16
        logits = logits.float()
    if method.labels_every_pass:
        loss = F.cross_entropy(logits, labels.repeat(method.passes), label_smoothing=label_smoothing)
        terms["ce"] = loss.detach()
        return loss
    loss = passes_loss(logits, labels, method.consistency, label_smoothing, method.second_pass, terms)
    if method.feature_consistency:
        features, state.passes.features = state.passes.features, []  # drop them, so that the graph is freed
        distance = method.feature_consistency * feature_distance(features)
        terms["features"] = distance.detach()
        loss = loss + distance
    return loss


def feature_distance(features: list[Tensor]) -> Tensor:
    """Return the mean over blocks of the mean squared difference between two passes.

    Args:
        features: The blocks' outputs, each of shape (2 * batch, ...).
    """
    pairs = (feature.chunk(2) for feature in features)
    return torch.stack([F.mse_loss(first, second) for first, second in pairs]).mean()


def passes_loss(
    logits: Tensor,
    labels: Tensor,
    consistency: float = 0.0,
    label_smoothing: float = 0.0,
    second_pass: float = 0.0,
    terms: dict[str, Tensor] | None = None,
) -> Tensor:
    """Cross-entropy of the first pass plus the weighted symmetric divergence between two passes.

    L = CE(z1, y) + consistency * 1/2 [KL(sg p2 || p1) + KL(sg p1 || p2)], both averaged over the batch;
    sg stops the gradient (MoSA, arXiv 2312.02923). `second_pass` adds the cross-entropy of the second pass.

    Args:
        logits: Outputs of shape (passes * batch, classes) for one or two passes.
        labels: Classes of shape (batch,).
        consistency: Weight of the divergence; it is computed only if there are two passes.
        label_smoothing: Mass of the uniform distribution in the targets, 0 to 1.
        second_pass: Weight of the cross-entropy of the second pass.
        terms: As for `tuning_loss`.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: There are neither one nor two passes.
    """
    if len(logits) not in (len(labels), 2 * len(labels)):
        raise ValueError(f"{len(logits)} rows of logits for {len(labels)} labels: expected one or two passes")
    first = logits[: len(labels)]
    loss = F.cross_entropy(first, labels, label_smoothing=label_smoothing)
    terms = {} if terms is None else terms
    terms["ce"] = loss.detach()
    if len(logits) == len(labels):
        return loss
    if second_pass:
        second = F.cross_entropy(logits[len(labels) :], labels, label_smoothing=label_smoothing)
        terms["ce_second"] = second_pass * second.detach()
        loss = loss + second_pass * second
    log_p1, log_p2 = torch.log_softmax(logits, dim=-1).chunk(2)
    kl_21 = F.kl_div(log_p1, log_p2.detach(), reduction="batchmean", log_target=True)
    kl_12 = F.kl_div(log_p2, log_p1.detach(), reduction="batchmean", log_target=True)
    divergence = consistency * 0.5 * (kl_21 + kl_12)
    terms["kl"] = divergence.detach()
    return loss + divergence
