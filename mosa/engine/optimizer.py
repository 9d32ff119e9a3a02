"""The optimiser: which tuned tensors are decayed, how fast each learns, and AdamW in its two forms."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mosa.experiment.recipe import Recipe
from mosa.peft.attached import attachment
from mosa.peft.methods.bias import BIASES


def build_optimizer(model: nn.Module, options: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser of a model with a method attached.

    Args:
        model: The model.
        options: The recipe.

    Returns:
        torch's AdamW; without `bias_correction`, `UncorrectedAdamW`.
    """
    groups = parameter_groups(model, options)
    if options.bias_correction:
        return torch.optim.AdamW(groups, lr=options.lr, eps=options.eps, fused=True)
    return UncorrectedAdamW(groups, lr=options.lr, eps=options.eps)


def parameter_groups(model: nn.Module, options: Recipe) -> list[dict[str, Any]]:
    """Group the tuned parameters by weight decay and by the method's factor of the learning rate.

    `decay: matrices` decays what has two dimensions or more; `decay: weights` also the weights of norms and
    scales, that is, all that is not called a bias. What timm's model itself excludes (position embeddings,
    class token) is not decayed either way.
    """
    excluded = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    factor_of = attachment(model).method.lr_factors(model)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            large = parameter.ndim >= 2
            decayed = large or (options.decay == "weights" and not BIASES & set(name.split(".")))
            key = (decayed and name not in excluded, factor_of.get(parameter, 1.0))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": options.weight_decay * decayed}
        | ({"lr": options.lr * factor} if factor != 1 else {})
        for (decayed, factor), parameters in groups.items()
    ]


class UncorrectedAdamW(torch.optim.Optimizer):
    """AdamW without bias correction, which decays after the step, as in the released code of VPT and MoSA.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - lr m / (sqrt(v) + eps);
    p <- p - lr weight_decay p.
    The first steps are about (1 - b1) / sqrt(1 - b2) = 3.2 times as long as with the correction.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Decay rates b1, b2 of the two moments.
        eps: Term added to the denominator.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Do one step; `closure`, if any, computes the loss and its gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] |= {"m": torch.zeros_like(parameter), "v": torch.zeros_like(parameter)}
        gradients = [p.grad for p in parameters]
        means = [self.state[p]["m"] for p in parameters]
        squares = [self.state[p]["v"] for p in parameters]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(parameters, means, denominators, -group["lr"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
