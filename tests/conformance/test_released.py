"""The recipe of MoSA's released code, against an independent reference: 20 steps in float64, with dropout."""

from pathlib import Path

import pytest
import torch
import yaml
from models import batch
from naive_mosa import naive_loss, naive_split
from torch import nn

from mosa import peft
from mosa.base.seeding import generator
from mosa.base.timm import timm
from mosa.engine.loop import lr_factor
from mosa.engine.optimizer import build_optimizer
from mosa.experiment.recipe import Recipe
from mosa.peft.losses import tuning_loss
from mosa.peft.subject import VIT

ROOT = Path(__file__).parents[2]
BATCH, STEPS, WARMUP = 8, 20, 2
RELEASED = Recipe(
    lr=5e-3, weight_decay=0.01, eps=1e-6, bias_correction=False, decay="weights",
    drop_rate=0.1, attention_drop_rate=0.0,
)  # fmt: skip
OPTIONS = {"bottleneck": 8, "dropout": 0.1, "norm_eps": 1e-6}
SPLITS = {"up": ("up",), "down": ("down",), "both": ("down", "up")}


class OwnDraws(nn.Dropout):
    """Dropout that draws per pass and from a generator of its own, so that two models can share the draws."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__(rate)
        self.rng = torch.Generator().manual_seed(seed)

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        shape = (BATCH, *x.shape[1:])
        kept = [torch.rand(shape, generator=self.rng) >= self.p for _ in range(len(x) // BATCH)]
        return x * torch.cat(kept) / (1 - self.p)


def own_draws(model):
    """Replace every dropout that is not yet replaced; seeded by where it is."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Dropout:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, OwnDraws(module.p, sum(name.encode())))
    return model


def backbone():
    torch.manual_seed(0)
    rates = {"pos_drop_rate": RELEASED.drop_rate, "proj_drop_rate": RELEASED.drop_rate}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **rates, **VIT)
    for block in model.blocks:
        block.attn.proj_drop.p = 0.0
    return own_draws(model.double())


def released_step(model, state, rate):
    """AdamW as released: no bias correction, and the decay of all that is not a bias after the step."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            m, v = state.get(name, (0.0, 0.0))
            m, v = 0.9 * m + 0.1 * parameter.grad, 0.999 * v + 0.001 * parameter.grad**2
            state[name] = m, v
            parameter -= rate * m / (v**0.5 + 1e-6)
            if not name.endswith("bias"):
                parameter -= rate * 0.01 * parameter


@pytest.mark.parametrize("split", SPLITS)
def test_twenty_steps_equal_the_reference(split):
    experts, seed = 4, 11
    plain = {"seed": seed, "verify": False, **OPTIONS}  # the dropouts draw for batches of another size
    ours = own_draws(peft.attach(backbone(), "mosa", experts=experts, split=split, **plain))
    naive = own_draws(peft.attach(backbone(), "adapter", **plain))
    splits = naive_split(naive, SPLITS[split], experts, seed)
    routing = generator(seed, "routing")
    ours.train(), naive.train()
    optimizer = build_optimizer(ours, RELEASED)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, STEPS, WARMUP))
    images, labels = batch(size=BATCH, dtype=torch.float64)
    state = {}
    for step in range(STEPS):
        loss = tuning_loss(ours, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

        expected = naive_loss(naive, splits, images, labels, experts, 1.0, routing)
        naive.zero_grad()
        expected.backward()
        for module in splits:
            module.zero_missing_gradients()
        released_step(naive, state, RELEASED.lr * lr_factor(step, STEPS, WARMUP))
        for module in splits:
            module.restore_foreign_entries()
        assert abs(loss.item() - expected.item()) < 1e-10
    ours.eval(), naive.eval()
    torch.testing.assert_close(ours(images), naive(images), atol=1e-9, rtol=0)


def test_the_config_of_the_released_recipe_says_the_same():
    config = yaml.safe_load((ROOT / "configs" / "released-recipe.yaml").read_text())
    same = ("weight_decay", "eps", "bias_correction", "decay", "drop_rate", "attention_drop_rate")
    assert {key: config["training"][key] for key in same} == RELEASED.model_dump(include=set(same))
    branches = [config["variants"][name] for name in ("adapter_relu", "adapter", "adapter_rdrop", "mosa")]
    assert all(variant["options"]["norm_eps"] == OPTIONS["norm_eps"] for variant in branches)
