"""What MoSA must be: the paper's mixture, at the dense adapter's size."""

import copy

import pytest
import torch
from models import batch, build, train_steps
from naive_mosa import naive_loss, naive_split
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.seeding import generator
from mosa.peft.losses import passes_loss, tuning_loss
from mosa.peft.split import partition

SPLITS = {"up": ("up",), "down": ("down",), "both": ("down", "up")}


def adamw(model, lr=1e-2):
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, eps=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_equals_the_naive_multi_copy_mixture(split):
    """The same losses and the same merged weights over 20 AdamW steps, in float64."""
    experts, seed, options = 4, 11, {"bottleneck": 8, "dropout": 0.0}
    ours = peft.attach(build(dtype=torch.float64), "mosa", seed=seed, experts=experts, split=split, **options)
    naive = peft.attach(build(dtype=torch.float64), "adapter", seed=seed, **options)
    splits = naive_split(naive, SPLITS[split], experts, seed)
    routing = generator(seed, "routing")
    ours.train(), naive.train()
    our_optimizer, naive_optimizer = adamw(ours), adamw(naive)
    images, labels = batch(size=8, dtype=torch.float64)
    for _ in range(20):
        loss = passes_loss(peft.forward_passes(ours, images, 2), labels, consistency=1.0)
        our_optimizer.zero_grad()
        loss.backward()
        our_optimizer.step()

        expected = naive_loss(naive, splits, images, labels, experts, 1.0, routing)
        naive_optimizer.zero_grad()
        expected.backward()
        for module in splits:
            module.zero_missing_gradients()
        naive_optimizer.step()
        for module in splits:
            module.restore_foreign_entries()
        assert abs(loss.item() - expected.item()) < 1e-10
    assert loss.item() < 1.0  # it learned: two models that do not learn would be equal anyway

    ours.eval(), naive.eval()
    torch.testing.assert_close(ours(images), naive(images), atol=1e-10, rtol=0)
    for ours_block, naive_block in zip(peft.merge(ours).blocks, naive.blocks, strict=True):
        for name in SPLITS[split]:
            copies = getattr(naive_block.adapter, name).copies
            merged = getattr(ours_block.adapter, name)
            assert type(merged) is nn.Linear
            mean = torch.stack([c.weight for c in copies]).mean(0)
            torch.testing.assert_close(merged.weight, mean, atol=1e-10, rtol=0)
            torch.testing.assert_close(
                merged.bias, torch.stack([c.bias for c in copies]).mean(0), atol=1e-10, rtol=0
            )


@pytest.mark.parametrize("split", SPLITS)
def test_every_expert_in_every_step_is_the_mean_over_passes_that_share_no_expert(split):
    options = {"bottleneck": 8, "dropout": 0.0, "split": split, "every_expert": True, "consistency": 0.0}
    model = peft.attach(build(dtype=torch.float64), "mosa", seed=2, **options)
    train_steps(model, steps=20)  # the experts differ
    model.train().zero_grad()
    images, labels = batch(dtype=torch.float64)
    loss = tuning_loss(model, images, labels)
    loss.backward()
    layers, orders = model.router.projections, model.router.choice
    assert torch.equal(orders.sort(dim=1).values, torch.arange(4).expand(len(layers), 4))
    assert len({tuple(order.tolist()) for order in orders}) > 1  # drawn for each projection
    model.router.hooks[0].remove()
    alone = []
    for active in orders.T:
        for layer, expert in zip(layers, active, strict=True):
            layer.active = expert.view(1)
        alone.append(F.cross_entropy(model(images), labels))
    torch.testing.assert_close(loss, torch.stack(alone).mean(), atol=1e-12, rtol=0)
    for layer in layers:
        for expert in range(4):
            assert layer.weight.grad[layer.weight_expert_of == expert].any()


def test_every_expert_compares_no_passes():
    with pytest.raises(UserError, match=r"every_expert needs consistency: 0\.0; set that"):
        peft.build_method("mosa", every_expert=True)


@pytest.mark.parametrize("split", SPLITS)
def test_idle_experts_get_zero_gradients_not_none(split):
    model = peft.attach(build(), "mosa", bottleneck=8, split=split).train()
    train_steps(model, steps=20)  # every expert has left its initial zeros
    model.train().zero_grad()
    images, labels = batch()
    passes_loss(peft.forward_passes(model, images, 2), labels, 1.0).backward()
    for layer, active in zip(model.router.projections, model.router.choice.tolist(), strict=True):
        for expert in range(layer.experts):
            own = layer.weight_expert_of == expert
            busy = expert in active
            assert bool(layer.weight.grad[own].any()) == busy
            assert layer.bias[expert].grad is not None
            assert bool(layer.bias[expert].grad.any()) == busy


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("split_bias", [False, True])
def test_one_expert_without_consistency_is_the_dense_adapter(split, split_bias):
    """Bit for bit: the same draws, the same training, the same merged model."""
    options = {"bottleneck": 8, "dropout": 0.1}
    dense = peft.attach(build(), "adapter", seed=2, **options)
    mosa = peft.attach(
        build(), "mosa", seed=2, experts=1, consistency=0.0, split=split, split_bias=split_bias, **options
    )
    train_steps(dense, steps=5), train_steps(mosa, steps=5)
    images, _ = batch(seed=9)
    assert torch.equal(mosa(images), dense(images))
    dense_state, merged_state = peft.tuned_state_dict(dense), peft.tuned_state_dict(peft.merge(mosa))
    assert dense_state.keys() == merged_state.keys()
    assert all(torch.equal(dense_state[name], merged_state[name]) for name in dense_state)


def trained_up_projection(split_bias=False, merge="mean"):
    model = peft.attach(build(dtype=torch.float64), "mosa", bottleneck=8, split_bias=split_bias, merge=merge)
    train_steps(model)
    return model.blocks[1].adapter.up


@pytest.mark.parametrize("split_bias", [False, True])
def test_merged_output_is_the_mean_over_the_experts(split_bias):
    layer = trained_up_projection(split_bias)
    x = torch.randn(5, 8, dtype=torch.float64)
    outputs = [
        nn.functional.linear(x, layer.expert_weight(expert), layer.expert_bias(expert))
        for expert in range(layer.experts)
    ]
    torch.testing.assert_close(layer.eval()(x), torch.stack(outputs).mean(0), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.merged()(x), torch.stack(outputs).mean(0), atol=1e-12, rtol=0)


def test_merging_to_the_sum_keeps_the_trained_weight():
    layer = trained_up_projection(merge="sum")
    assert torch.equal(layer.merged().weight, layer.weight)


def test_training_routes_each_pass_to_its_expert():
    layer = trained_up_projection().train()
    layer.active = torch.tensor([2, 0])
    x = torch.randn(6, 4, 8, dtype=torch.float64)
    first, second = layer(x).chunk(2)
    expected = [nn.functional.linear(x, layer.expert_weight(e), layer.expert_bias(e)) for e in (2, 0)]
    torch.testing.assert_close(first, expected[0][:3])
    torch.testing.assert_close(second, expected[1][3:])


def test_split_projections_cost_no_size():
    """Tuned tensors, optimiser state and files are the adapter's, except for biases and a byte per weight."""
    experts = 4
    dense = peft.attach(build(), "adapter", bottleneck=8)
    mosa = peft.attach(build(), "mosa", bottleneck=8, experts=experts)
    biases = (experts - 1) * 32 * len(mosa.blocks)  # (N - 1) more up-projection biases per block
    weights = 8 * 32 * len(mosa.blocks)  # one byte for each split weight

    extra = peft.count_parameters(mosa).adapter - peft.count_parameters(dense).adapter
    assert extra == biases

    def optimizer_size(model):
        optimizer = adamw(model)
        passes_loss(peft.forward_passes(model.train(), batch()[0], 1), batch()[1]).backward()
        optimizer.step()
        return sum(v.numel() for state in optimizer.state.values() for v in state.values() if v.ndim)

    assert optimizer_size(mosa) - optimizer_size(dense) == 2 * biases

    def tensor_bytes(model):
        return sum(v.numel() * v.element_size() for v in peft.tuned_state_dict(model).values())

    assert tensor_bytes(mosa) - tensor_bytes(dense) == 4 * biases + weights
    merged = peft.merge(copy.deepcopy(mosa))
    assert peft.count_parameters(merged) == peft.count_parameters(dense)
    assert len(save(peft.tuned_state_dict(merged))) == len(save(peft.tuned_state_dict(dense)))
    assert not dict(merged.named_buffers()).keys() - dict(dense.named_buffers()).keys()
    peft.load_tuned_state_dict(dense, peft.tuned_state_dict(merged))  # it is a plain adapter's state


@pytest.mark.parametrize(("shape", "experts"), [((7, 9), 4), ((3,), 3), ((16, 16), 1), ((20, 13), 256)])
def test_partition_is_disjoint_and_even(shape, experts):
    groups = partition(shape, experts, generator(0, "partition"))
    sizes = torch.bincount(groups.flatten().long(), minlength=experts)
    assert groups.shape == torch.Size(shape) and groups.dtype == torch.uint8
    assert len(sizes) == experts and sizes.max() - sizes.min() <= 1
    assert torch.equal(groups, partition(shape, experts, generator(0, "partition")))
    if experts > 1 and sizes.sum() > 20:
        assert not torch.equal(groups, partition(shape, experts, generator(1, "partition")))


def test_routing_is_uniform_independent_and_resumes():
    model = peft.attach(build(), "mosa", bottleneck=8, seed=4).train()
    model.peft.passes.count = 2
    layers = model.router.projections

    def draw(count):
        sequence = []
        for _ in range(count):
            model.router.draw(model, ())
            sequence.append(torch.stack([layer.active for layer in layers]))
        return torch.stack(sequence)

    before = torch.get_rng_state()
    draws = draw(4000)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is not touched
    frequency = torch.stack([(draws == expert).double().mean(0) for expert in range(4)])
    assert (frequency - 0.25).abs().max() < 0.035
    same = (draws[:, 0, 0] == draws[:, 1, 1]).double().mean()  # across blocks and passes
    assert abs(same - 0.25) < 0.035

    saved = copy.deepcopy(model.state_dict())
    expected = draw(20)
    resumed = peft.attach(build(), "mosa", bottleneck=8, seed=999).train()
    resumed.load_state_dict(saved)
    resumed.peft.passes.count = 2
    model, layers = resumed, resumed.router.projections
    assert torch.equal(draw(20), expected)


def test_evaluation_draws_nothing_and_repeats():
    model = peft.attach(build(), "mosa", bottleneck=8)
    train_steps(model)
    state = model.router.get_extra_state()
    images, _ = batch()
    assert torch.equal(model(images), model(images))
    assert torch.equal(model.router.get_extra_state(), state)


def test_what_precedes_the_first_stochastic_module_is_computed_once():
    rows = {}
    model = peft.attach(build(), "mosa", bottleneck=8).train()
    for name in ("patch_embed", "blocks.0.attn", "blocks.0.mlp", "blocks.0.adapter.up", "blocks.1.attn"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda m, i, out, name=name: rows.__setitem__(name, len(out)))
    images, _ = batch(size=6)
    assert peft.forward_passes(model, images, 2).shape == (12, 5)
    assert rows == {
        "patch_embed": 6, "blocks.0.attn": 6, "blocks.0.mlp": 6,
        "blocks.0.adapter.up": 12, "blocks.1.attn": 12,
    }  # fmt: skip


def test_passes_separate_at_the_input_of_a_stochastic_backbone():
    """Drop path in the backbone must differ between the passes, so nothing may be shared."""
    model = peft.attach(build("vit_layerscale_droppath"), "mosa", bottleneck=8).train()
    assert model.peft.fork is None
    images, _ = batch()
    torch.manual_seed(0)
    first, second = peft.forward_passes(model, images, 2).chunk(2)
    assert not torch.equal(first, second)


def test_activation_checkpointing_sees_the_same_experts():
    """The experts are drawn once per forward, so that recomputation in the backward repeats them."""
    gradients = []
    for checkpointing in (False, True):
        model = peft.attach(build(dtype=torch.float64), "mosa", bottleneck=8, seed=1, dropout=0.0)
        train_steps(model)
        model.train().zero_grad()
        model.set_grad_checkpointing(checkpointing)
        images, labels = batch(dtype=torch.float64)
        passes_loss(peft.forward_passes(model, images, 2), labels, 1.0).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-12, rtol=0)


def test_a_pass_without_the_model_is_refused():
    model = peft.attach(build(), "mosa", bottleneck=8).train()
    with pytest.raises(RuntimeError, match="call the whole model"):
        model.blocks[0].adapter.up(torch.zeros(2, 8))


def test_merged_mosa_is_saved_and_loaded_as_a_plain_adapter(tmp_path):
    model = peft.attach(build(), "mosa", bottleneck=8)
    train_steps(model)
    peft.save_tuned(peft.merge(model), tmp_path / "tuned.safetensors")
    adapter = peft.load_tuned(peft.attach(build(), "adapter", bottleneck=8), tmp_path / "tuned.safetensors")
    images, _ = batch()
    assert torch.equal(adapter.eval()(images), model(images))


@pytest.mark.parametrize("method", ["adapter", "mosa"])
def test_passes_stay_right_after_merging_and_in_evaluation(method):
    model = peft.attach(build(), method, bottleneck=8).train()
    images, _ = batch(size=6)
    assert len(peft.forward_passes(model, images, 2)) == 12
    assert len(model.eval().forward_features(images)) == 6
    peft.merge(model)
    assert len(peft.forward_passes(model.train(), images, 2)) == 12


def test_three_passes_have_no_loss():
    with pytest.raises(ValueError, match="expected one or two passes"):
        passes_loss(torch.zeros(6, 3), torch.zeros(2, dtype=torch.long))
