"""Methods against their equations, computed independently in float64."""

import copy

import pytest
import torch
from models import batch, build, train_steps
from torch import nn
from torch.nn import functional as F

from mosa import peft
from mosa.peft.blocks import find_blocks
from mosa.peft.losses import tuning_loss
from mosa.peft.split import partition

F64 = torch.float64


def test_adapter_is_the_branch_beside_the_mlp():
    """y = h + MLP(LN2(h)) + s Up(act(Down(LN(h)))) with h = x + Attn(LN1(x))."""
    model = peft.attach(build(dtype=F64), "adapter", bottleneck=8, scale=0.3, activation="relu")
    train_steps(model, lr=0.1)
    block = model.blocks[1]
    adapter = block.adapter
    x = torch.randn(2, 17, 32, dtype=F64)
    h = x + block.attn(block.norm1(x))
    z = F.layer_norm(h, (32,), adapter.norm.weight, adapter.norm.bias)
    z = (z @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    expected = h + block.mlp(block.norm2(h)) + 0.3 * (z @ adapter.up.weight.T + adapter.up.bias)
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)


def test_adapter_starts_as_its_paper_says():
    model = peft.attach(build(), "adapter", bottleneck=24)
    adapter = model.blocks[0].adapter
    bound = 32**-0.5  # Kaiming-uniform with a = sqrt(5) is U(-1/sqrt(in), 1/sqrt(in))
    assert adapter.down.weight.abs().max() <= bound
    assert abs(adapter.down.weight.std().item() - bound / 3**0.5) < 0.01
    for zero in (adapter.down.bias, adapter.up.weight, adapter.up.bias, adapter.norm.bias):
        assert not zero.any()
    assert adapter.drop.p == 0.1 and adapter.scale == 0.1 and isinstance(adapter.act, nn.GELU)


def test_lora_is_a_change_of_separate_query_and_value_projections():
    model = peft.attach(build(dtype=F64), "lora", rank=4, scale=0.7)
    train_steps(model, lr=0.1)
    attn = model.blocks[1].attn
    qkv, heads, dim = attn.qkv, attn.num_heads, 32
    x = torch.randn(3, 17, dim, dtype=F64)
    wq, wk, wv = qkv.weight.split(dim)
    bq, bk, bv = qkv.bias.split(dim)
    change_q, change_v = qkv.low_rank["q"], qkv.low_rank["v"]
    q = x @ (wq + 0.7 * change_q.up.weight @ change_q.down.weight).T + bq
    k = x @ wk.T + bk
    v = x @ (wv + 0.7 * change_v.up.weight @ change_v.down.weight).T + bv
    q, k, v = (t.view(3, 17, heads, dim // heads).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-2, -1) / (dim // heads) ** 0.5).softmax(-1)
    expected = (weights @ v).transpose(1, 2).reshape(3, 17, dim) @ attn.proj.weight.T + attn.proj.bias
    torch.testing.assert_close(attn(x), expected, atol=1e-12, rtol=0)


def branch(adapter, h, act=F.relu, norm=True, scale=0.1):
    """A(h) = s Up(act(Down(LN(h)))), written out."""
    if norm:
        h = F.layer_norm(h, h.shape[-1:], adapter.norm.weight, adapter.norm.bias)
    z = act(h @ adapter.down.weight.T + adapter.down.bias)
    return scale * (z @ adapter.up.weight.T + adapter.up.bias)


def test_pfeiffer_stands_on_the_output_of_the_mlp():
    model = peft.attach(build(dtype=F64), "adapter", bottleneck=8, placement="pfeiffer")
    train_steps(model, lr=0.1)
    block = model.blocks[1]
    x = torch.randn(2, 17, 32, dtype=F64)
    h = x + block.attn(block.norm1(x))
    z = F.linear(F.gelu(F.linear(block.norm2(h), block.mlp.fc1.weight, block.mlp.fc1.bias)),
                 block.mlp.fc2.weight, block.mlp.fc2.bias)  # fmt: skip
    expected = h + z + branch(block.adapter, z)
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)


def test_houlsby_stands_on_the_outputs_of_attention_and_mlp():
    model = peft.attach(build(dtype=F64), "adapter", bottleneck=8, placement="houlsby", norm=False)
    train_steps(model, lr=0.1)
    block, plain = model.blocks[1], peft.attach(build(dtype=F64), "linear").blocks[1].eval()
    x = torch.randn(2, 17, 32, dtype=F64)
    a = plain.attn(plain.norm1(x))
    h = x + a + branch(block.adapter_attention, a, F.silu, norm=False)
    m = plain.mlp(plain.norm2(h))
    expected = h + m + branch(block.adapter, m, F.silu, norm=False)
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)
    assert block.adapter_attention.up.weight.any() and block.adapter.up.weight.any()
    assert len(model.peft.method.branches(model)) == 2 * len(model.blocks)


@pytest.mark.parametrize("architecture", ["vit", "vit_layerscale_droppath", "swin"])
def test_residuals_stand_on_the_sums_after_attention_and_mlp(architecture):
    """As houlsby in MoSA's released code: scale 1, neither LayerNorm nor dropout, after the additions."""
    released = {"bottleneck": 8, "placement": "residuals", "norm": False, "scale": 1.0, "dropout": 0.0}
    model = peft.attach(build(architecture, dtype=F64), "adapter", **released)
    train_steps(model, lr=0.1)
    block = find_blocks(model)[1]
    x = torch.randn(2, *((16, 16, 16) if architecture == "swin" else (17, 32)), dtype=F64)
    read = []
    with block.norm2.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0])):
        out = block(x)
    plain = peft.attach(build(architecture, dtype=F64), "linear").eval()
    other = find_blocks(plain)[1]
    with other.norm2.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0])):
        other(x)
    found, h = read
    h = h.view_as(found) + branch(block.adapter_attention, h.view_as(found), F.silu, norm=False, scale=1.0)
    torch.testing.assert_close(found, h, atol=1e-12, rtol=0)
    scaled = getattr(other, "ls2", nn.Identity())
    y = h + scaled(other.mlp(other.norm2(h)))
    y = y + branch(block.adapter, y, F.silu, norm=False, scale=1.0).view_as(y)
    torch.testing.assert_close(out.view_as(y), y, atol=1e-12, rtol=0)
    assert block.adapter_attention.up.weight.any() and block.adapter.up.weight.any()


def test_sequential_stands_on_the_output_of_the_block():
    model = peft.attach(build(dtype=F64), "adapter", bottleneck=8, placement="sequential", learn_scale=True)
    train_steps(model, lr=0.1)
    block, plain = model.blocks[1], peft.attach(build(dtype=F64), "linear").blocks[1].eval()
    x = torch.randn(2, 17, 32, dtype=F64)
    y = plain(x)
    assert block.adapter.scale.item() != 0.1
    expected = y + branch(block.adapter, y, F.gelu, scale=block.adapter.scale)
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)


def test_lora_changes_the_other_projections_as_a_whole():
    model = peft.attach(build(dtype=F64), "lora", rank=4, targets=["fc2"], scale=2.0)
    train_steps(model, lr=0.1)
    layer = model.blocks[0].mlp.fc2
    x = torch.randn(3, 128, dtype=F64)
    low = layer.low_rank["fc2"]
    expected = x @ (layer.weight + 2 * low.up.weight @ low.down.weight).T + layer.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_deep_prompts_stand_after_the_class_token_of_every_block():
    """Each block sees [cls, its own prompts, patches], and its prompts' outputs are dropped (eq. 6)."""
    model = peft.attach(build(dtype=F64), "vpt", prompts=3)
    train_steps(model, lr=0.1)
    images, _ = batch(dtype=F64)
    plain = peft.attach(build(dtype=F64), "linear").eval()
    x = plain.patch_embed(images)
    x = torch.cat((plain.cls_token.expand(len(x), -1, -1), x), dim=1) + plain.pos_embed
    seen = []
    for block, own in zip(model.blocks, plain.blocks, strict=True):
        block.norm1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        tokens = block.prompts.tokens.expand(len(x), -1, -1)
        x = own(torch.cat((x[:, :1], tokens, x[:, 1:]), dim=1))
        x = torch.cat((x[:, :1], x[:, 4:]), dim=1)
    expected = F.linear(plain.norm(x)[:, 0], model.head.weight, model.head.bias)
    torch.testing.assert_close(model(images), expected, atol=1e-12, rtol=0)
    assert [tokens.shape[1] for tokens in seen] == [20] * 3
    for block, tokens in zip(model.blocks, seen, strict=True):
        assert torch.equal(tokens[:, 1:4], block.prompts.tokens.expand(len(x), -1, -1))


def test_shallow_prompts_go_through_all_blocks():
    model = peft.attach(build(dtype=F64), "vpt", prompts=3, deep=False)
    train_steps(model, lr=0.1)
    images, _ = batch(dtype=F64)
    plain = peft.attach(build(dtype=F64), "linear").eval()
    x = plain.patch_embed(images)
    x = torch.cat((plain.cls_token.expand(len(x), -1, -1), x), dim=1) + plain.pos_embed
    tokens = model.blocks[0].prompts.tokens.expand(len(x), -1, -1)
    x = plain.blocks(torch.cat((x[:, :1], tokens, x[:, 1:]), dim=1))
    expected = F.linear(plain.norm(x)[:, 0], model.head.weight, model.head.bias)
    torch.testing.assert_close(model(images), expected, atol=1e-12, rtol=0)


def test_bitfit_tunes_exactly_the_biases():
    model = peft.attach(build(), "bias")
    tuned = {name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")}
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{block}.{layer}.bias" for block in range(3) for layer in layers}
    assert tuned == expected | {"patch_embed.proj.bias", "norm.bias"}


def test_partial_tunes_the_last_blocks_and_the_norm_after_them():
    norms = {"vit": "norm", "vit_avgpool": "fc_norm", "swin": "norm", "convnext": "head.norm"}
    for architecture, norm in norms.items():
        model = peft.attach(build(architecture), "partial", blocks=1)
        blocks = find_blocks(model)
        tuned = {id(p) for p in model.parameters() if p.requires_grad}
        head = {id(p) for p in model.get_classifier().parameters()}
        after = {id(p) for p in model.get_submodule(norm).parameters()}
        assert tuned == head | after | {id(p) for p in blocks[-1].parameters()}


def test_pruned_weights_are_zero_for_good():
    model = peft.attach(build(), "pruned", bottleneck=8, keep=4)
    train_steps(model)
    up = model.blocks[0].adapter.up
    assert up.values.shape == (1, 32 * 8 // 4) and up.values.all()
    weight = up(torch.eye(8)) - up.bias
    assert weight.count_nonzero() == 32 * 8 // 4


def test_the_gate_weights_the_experts_of_each_token():
    model = peft.attach(build(dtype=F64), "gated", bottleneck=8, experts=3)
    train_steps(model, lr=0.1)
    gated = model.blocks[1].adapter
    h = torch.randn(2, 17, 32, dtype=F64)
    weights = (h @ gated.gate.weight.T + gated.gate.bias).softmax(-1)
    expected = sum(weights[..., i : i + 1] * branch(e, h, F.gelu) for i, e in enumerate(gated.experts))
    torch.testing.assert_close(gated(h), expected, atol=1e-12, rtol=0)


def test_adamix_merges_to_the_mean_of_its_dense_experts():
    model = peft.attach(build(dtype=F64), "adamix", bottleneck=8, experts=3)
    train_steps(model, steps=8, lr=0.1)
    experts = model.blocks[1].adapter.down
    assert not torch.equal(experts.weight[0], experts.weight[1])
    weight, bias = experts.weight.mean(0), torch.stack(tuple(experts.bias)).mean(0)
    merged = peft.merge(model).blocks[1].adapter.down
    assert torch.equal(merged.weight, weight) and torch.equal(merged.bias, bias)
    experts.train().active = torch.tensor([2, 0])
    first, second = experts(torch.ones(4, 32, dtype=F64)).chunk(2)
    for part, expert in ((first, 2), (second, 0)):
        torch.testing.assert_close(part[0], experts.weight[expert].sum(1) + experts.bias[expert])


def test_dropconnect_drops_weights_and_keeps_their_mean():
    model = peft.attach(build(dtype=F64), "dropconnect", bottleneck=8, rate=0.75).train()
    up = model.blocks[0].adapter.up
    with torch.no_grad():
        up.weight.fill_(1.0)
    model.peft.passes.count = 2
    outputs = torch.stack([up(torch.eye(8, dtype=F64).repeat(2, 1)) for _ in range(200)])
    assert set(outputs.unique().tolist()) == {0.0, 4.0}
    assert abs(outputs.mean().item() - 1) < 0.05
    assert not torch.equal(*outputs[0].chunk(2))  # each pass has its own draw


def test_ssf_scales_and_shifts_after_every_layer():
    model = peft.attach(build(dtype=F64), "ssf")
    plain = build(dtype=F64).eval()
    model.eval()
    layer, own = model.blocks[0].attn.qkv, plain.blocks[0].attn.qkv
    x = torch.randn(2, 5, 32, dtype=F64)
    torch.testing.assert_close(layer(x), own(x) * layer.ssf.scale + layer.ssf.shift, atol=1e-12, rtol=0)
    names = {name for name, module in model.named_modules() if hasattr(module, "ssf")}
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert names == {f"blocks.{i}.{name}" for i in range(3) for name in layers} | {"patch_embed.proj", "norm"}


def test_repadapter_is_a_linear_bottleneck_before_attention_and_mlp():
    model = peft.attach(build(dtype=F64), "repadapter", bottleneck=4, groups=2, scale=0.5)
    train_steps(model, lr=0.1)
    own = build(dtype=F64).blocks[1]
    for layer, plain in ((model.blocks[1].attn.qkv, own.attn.qkv), (model.blocks[1].mlp.fc1, own.mlp.fc1)):
        x = torch.randn(2, 5, 32, dtype=F64)
        hidden = x @ layer.rep.down.weight.T + layer.rep.down.bias
        parts = [hidden[..., :2] @ layer.rep.up.weight[:16].T, hidden[..., 2:] @ layer.rep.up.weight[16:].T]
        expected = plain(x + 0.5 * (torch.cat(parts, -1) + layer.rep.up.bias))
        torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
    names = {name for name, module in model.named_modules() if hasattr(module, "rep")}
    assert names == {f"blocks.{i}.{name}" for i in range(3) for name in ("attn.qkv", "mlp.fc1")}


def test_rows_and_columns_belong_to_one_expert_each():
    for structure, dim in (("rows", 1), ("columns", 0)):
        groups = partition((12, 8), 4, torch.Generator().manual_seed(0), structure)
        assert (groups == groups.select(dim, 0).unsqueeze(dim)).all()
        assert groups.flatten().bincount().tolist() == [24] * 4


def test_ensemble_averages_passes_with_one_expert_each():
    model = peft.attach(build(dtype=F64), "mosa", bottleneck=8, experts=3, merge="ensemble", split="both")
    train_steps(model, lr=0.1)
    images, _ = batch(dtype=F64)
    logits = []
    for expert in range(3):
        single = copy.deepcopy(model)
        for projection in single.router.projections:
            projection.active = torch.tensor([expert])
        for hook in single.router.hooks[1:]:
            hook.remove()
        logits.append(single(images))
    torch.testing.assert_close(model(images), torch.stack(logits).mean(0), atol=1e-12, rtol=0)


def test_the_loss_is_the_sum_of_its_terms():
    options = {"consistency": 0.5, "second_pass": 0.25, "feature_consistency": 2.0}
    model = peft.attach(build(dtype=F64), "mosa", bottleneck=8, dropout=0.0, **options)
    train_steps(model, lr=0.1)
    images, labels = batch(dtype=F64)
    loss = tuning_loss(model.train(), images, labels)
    outputs, routes = [], model.router.choice
    for number in range(2):
        single = copy.deepcopy(model)
        for hook in single.router.hooks:
            hook.remove()
        for projection, route in zip(single.router.projections, routes, strict=True):
            projection.active = route[number : number + 1]
        logits = single(images)
        outputs.append((logits, single.peft.passes.features))
    (z1, h1), (z2, h2) = outputs
    p1, p2 = z1.softmax(-1), z2.softmax(-1)
    kl = ((p1 - p2) * (p1.log() - p2.log())).sum(-1).mean() / 2  # both directions together
    distance = sum(((a - b) ** 2).mean() for a, b in zip(h1, h2, strict=True)) / 3
    expected = F.cross_entropy(z1, labels) + 0.25 * F.cross_entropy(z2, labels) + 0.5 * kl + 2 * distance
    assert distance > 0
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)


def test_merging_to_a_single_expert_keeps_the_first():
    model = peft.attach(build(dtype=F64), "mosa", bottleneck=8, merge="single")
    train_steps(model, steps=20, lr=0.1)
    up = model.blocks[1].adapter.up
    weight, bias = up.expert_weight(0), up.expert_bias(0)
    assert not torch.equal(bias, up.expert_bias(1))
    merged = peft.merge(model).blocks[1].adapter.up
    assert torch.equal(merged.weight, weight) and torch.equal(merged.bias, bias)
    assert merged.weight.count_nonzero() <= 32 * 8 // 4
