"""The arithmetic of a model, against counts by hand."""

import pytest
import torch
from models import SMALL, build

from mosa import peft
from mosa.engine.cost.flops import inference_flops, training_flops

# One image of the tests' ViT: 16 patches of 8x8x3 pixels and a class token, width 32, 3 blocks.
TOKENS, WIDTH = 17, 32
BLOCK = 2 * TOKENS * 12 * WIDTH**2 + 4 * TOKENS**2 * WIDTH
BACKBONE = 2 * 16 * 192 * WIDTH + 3 * BLOCK + 2 * WIDTH * 5


def test_inference_is_counted_by_hand():
    model = peft.attach(build(), "linear")
    assert inference_flops(model, 32) == BACKBONE
    model = peft.attach(build(), "adapter", bottleneck=8)
    assert inference_flops(model, 32) == BACKBONE + 3 * 2 * TOKENS * 2 * WIDTH * 8


def test_training_a_classifier_adds_its_backward_only():
    model = peft.attach(build(), "linear")
    assert training_flops(model, 32) == BACKBONE + 2 * WIDTH * 5  # the gradient of the weight


def test_a_second_pass_costs_what_the_passes_do_not_share():
    one = training_flops(peft.attach(build(), "mosa", bottleneck=8, consistency=0.0), 32)
    two = training_flops(peft.attach(build(), "mosa", bottleneck=8), 32)
    assert 1.5 * one < two < 2 * one


@pytest.mark.parametrize("method", ["adapter", "mosa", "full"])
def test_counting_leaves_the_model_and_the_generators_alone(method):
    model = peft.attach(build(), method, **SMALL.get(method, {}))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.random.get_rng_state()
    training_flops(model, 32), inference_flops(model, 32)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters()) and model.training
