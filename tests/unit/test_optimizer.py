"""The optimiser: what is decayed, how fast it learns, and AdamW with and without bias correction."""

import pytest
import torch
from models import SMALL, attach, build
from torch import nn

from mosa import peft
from mosa.base.timm import timm
from mosa.engine.optimizer import UncorrectedAdamW, build_optimizer, parameter_groups
from mosa.experiment.recipe import Recipe
from mosa.peft import list_methods


@pytest.mark.parametrize("method", list_methods())
def test_matrices_are_decayed_and_vectors_are_not(method):
    model = attach(build(), method, **SMALL.get(method, {}))
    decayed, others = parameter_groups(model, Recipe(weight_decay=0.1))
    assert decayed["weight_decay"] == 0.1 and others["weight_decay"] == 0
    assert all(p.ndim >= 2 for p in decayed["params"])
    special = {p for p in (model.pos_embed, model.cls_token) if p.requires_grad}
    assert {p for p in others["params"] if p.ndim >= 2} == special
    tuned = [p for p in model.parameters() if p.requires_grad]
    assert len(decayed["params"]) + len(others["params"]) == len(tuned)


def test_all_weights_are_decayed_where_the_recipe_says_so():
    model = peft.attach(build(), "mosa", bottleneck=4)
    decayed, others = parameter_groups(model, Recipe(decay="weights"))
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {"blocks.0.adapter.norm.weight", "head.weight"} <= {names[p] for p in decayed["params"]}
    assert all(".bias" in names[p] for p in others["params"]) and len(others["params"]) > 0


def test_a_bias_that_an_attention_keeps_itself_is_none_of_its_weights():
    model = peft.attach(timm.create_model("beit_base_patch16_224", depth=1, num_classes=3), "full")
    decayed, others = parameter_groups(model, Recipe(decay="weights"))
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias"} <= {names[p] for p in others["params"]}
    assert "blocks.0.attn.qkv.weight" in {names[p] for p in decayed["params"]}


def test_split_weights_learn_as_much_faster_as_the_method_says():
    """AdamW's first step is the learning rate, whatever the gradient."""
    steps = {}
    for factor in (1.0, 8.0):
        model = peft.attach(build(), "mosa", bottleneck=4, split="both", split_lr=factor)
        optimizer = build_optimizer(model, Recipe(lr=1e-4, weight_decay=0.0))
        before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        after = dict(model.named_parameters())
        steps[factor] = {name: (before[name] - after[name]).max().item() for name in before}
    for name, step in steps[8.0].items():
        split = name.endswith(("up.weight", "down.weight"))
        assert step == pytest.approx((8 if split else 1) * steps[1.0][name], rel=1e-2), name


def test_adamw_without_bias_correction_follows_its_equation():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    expected = weight.detach().clone()
    optimizer = UncorrectedAdamW([weight], lr=0.01, eps=1e-6, weight_decay=0.1)
    m = v = torch.zeros_like(expected)
    for step in range(20):
        weight.grad = torch.randn(3, 2, dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = rate = 0.01 * (step + 1) / 20
        optimizer.step()
        m = 0.9 * m + 0.1 * weight.grad
        v = 0.999 * v + 0.001 * weight.grad**2
        expected = expected - rate * m / (v.sqrt() + 1e-6)
        expected = expected * (1 - rate * 0.1)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-13, atol=1e-15)


def test_the_recipe_chooses_the_form():
    model = peft.attach(build(), "linear")
    assert type(build_optimizer(model, Recipe())) is torch.optim.AdamW
    released = build_optimizer(model, Recipe(bias_correction=False, eps=1e-6))
    assert type(released) is UncorrectedAdamW and released.defaults["eps"] == 1e-6


@pytest.mark.parametrize("experts", [2, 4, 8])
def test_a_merged_split_entry_drifts_less_by_the_power_three_halves_of_the_experts(experts):
    """Active in 1/N of the passes, an entry drifts N^-1/2 under AdamW; the mean over N is another 1/N."""
    count, steps = 2000, 3000
    rng = torch.Generator().manual_seed(0)
    dense, split = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(count))
    optimizer = torch.optim.AdamW([dense, split], lr=1e-3, weight_decay=0.0)
    for _ in range(steps):
        dense.grad = torch.ones(1)
        split.grad = (torch.rand(count, generator=rng) < 1 / experts).float()
        optimizer.step()
    drift = (split.mean() / experts / dense).item()
    assert drift == pytest.approx(experts**-1.5, rel=0.05)
