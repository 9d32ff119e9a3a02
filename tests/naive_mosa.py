"""MoSA as the paper describes it, without any economy: N full copies, gradient masks, averaging.

Written from the paper's text as an independent reference: separate forward passes, one Linear per
expert, a mask on each copy's gradient. Entries outside of an expert's own group stay at their initial
values (weight decay included), which is the definition that the package follows.
"""

import torch
from torch import nn
from torch.nn import functional as F

from mosa.base.seeding import generator
from mosa.peft.split import partition


class NaiveSplit(nn.Module):
    """N full copies of a Linear; `active` says which one computes."""

    def __init__(self, linear: nn.Linear, experts: int, rng: torch.Generator) -> None:
        super().__init__()
        self.initial = linear.weight.detach().clone()
        expert_of = partition(linear.weight.shape, experts, rng).to(linear.weight.device)
        self.masks = [(expert_of == expert) for expert in range(experts)]
        self.copies = nn.ModuleList()
        for mask in self.masks:
            copy = nn.Linear(linear.in_features, linear.out_features).to(linear.weight)
            copy.load_state_dict(linear.state_dict())
            copy.weight.register_hook(lambda grad, mask=mask: grad * mask)
            self.copies.append(copy)
        self.active = 0

    def forward(self, x):
        if not self.training:
            weight = torch.stack([copy.weight for copy in self.copies]).mean(0)
            return F.linear(x, weight, torch.stack([copy.bias for copy in self.copies]).mean(0))
        return self.copies[self.active](x)

    def zero_missing_gradients(self) -> None:
        for copy in self.copies:
            for parameter in copy.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def restore_foreign_entries(self) -> None:
        with torch.no_grad():
            for copy, mask in zip(self.copies, self.masks, strict=True):
                copy.weight.copy_(torch.where(mask, copy.weight, self.initial))


def naive_split(model: nn.Module, names: tuple[str, ...], experts: int, seed: int) -> list[NaiveSplit]:
    """Replace the named projections of each block's adapter by copies, in the package's order of draws."""
    rng = generator(seed, "partition")
    splits = []
    for block in model.blocks:
        for name in names:
            split = NaiveSplit(getattr(block.adapter, name), experts, rng)
            setattr(block.adapter, name, split)
            splits.append(split)
    return splits


def naive_loss(model, splits, images, labels, experts, consistency, routing):
    """Two separate forwards with the experts that the routing stream draws, and the paper's loss."""
    draws = [torch.randint(experts, (2,), generator=routing).tolist() for _ in splits]
    logits = []
    for step in range(2):
        for split, draw in zip(splits, draws, strict=True):
            split.active = draw[step]
        logits.append(model(images))
    p1, p2 = (z.softmax(-1) for z in logits)
    kl_21 = (p2.detach() * (p2.detach().log() - p1.log())).sum(-1).mean()
    kl_12 = (p1.detach() * (p1.detach().log() - p2.log())).sum(-1).mean()
    return F.cross_entropy(logits[0], labels) + consistency * 0.5 * (kl_21 + kl_12)
