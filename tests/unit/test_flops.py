"""The arithmetic of a model, against counts by hand."""

import pytest
import torch
from models import SMALL, attach, build
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mosa import peft
from mosa.engine.cost.flops import Counter, inference_flops, training_flops
from mosa.peft.losses import tuning_loss

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
    model = attach(build(), method, **SMALL.get(method, {}))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.random.get_rng_state()
    training_flops(model, 32), inference_flops(model, 32)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    model.eval()
    next(model.children()).train()
    modes = [module.training for module in model.modules()]
    inference_flops(model, 32)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(AssertionError, match="doesn't match model"):
        inference_flops(model, 17)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("method", ["linear", "full", "adapter", "lora", "mosa", "vpt"])
def test_the_count_is_that_of_torch(method):
    model = attach(build(), method, **SMALL.get(method, {}))
    images, labels = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    counts = []
    for counter in (FlopCounterMode(display=False), Counter()):
        torch.manual_seed(0)
        with sdpa_kernel(SDPBackend.MATH), counter:
            tuning_loss(model, images, labels).backward()
        counts.append(counter.total if isinstance(counter, Counter) else counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * training_flops(model, 32) > 0
