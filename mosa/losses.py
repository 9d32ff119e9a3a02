"""The training loss, for one or two forward passes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def passes_loss(
    logits: Tensor, labels: Tensor, consistency: float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the first pass plus the weighted symmetric divergence between two passes.

    L = CE(z1, y) + consistency * 1/2 [KL(sg p2 || p1) + KL(sg p1 || p2)], both averaged over the batch;
    sg stops the gradient (MoSA, arXiv 2312.02923).

    Args:
        logits: Outputs of shape (passes * batch, classes) for one or two passes.
        labels: Classes of shape (batch,).
        consistency: Weight of the divergence; it is computed only if there are two passes.
        label_smoothing: Mass of the uniform distribution in the targets, 0 to 1.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: There are neither one nor two passes.
    """
    if len(logits) not in (len(labels), 2 * len(labels)):
        raise ValueError(f"{len(logits)} rows of logits for {len(labels)} labels: expected one or two passes")
    first = logits[: len(labels)]
    loss = F.cross_entropy(first, labels, label_smoothing=label_smoothing)
    if len(logits) == len(labels):
        return loss
    log_p1, log_p2 = torch.log_softmax(logits, dim=-1).chunk(2)
    kl_21 = F.kl_div(log_p1, log_p2.detach(), reduction="batchmean", log_target=True)
    kl_12 = F.kl_div(log_p2, log_p1.detach(), reduction="batchmean", log_target=True)
    return loss + consistency * 0.5 * (kl_21 + kl_12)
