"""Methods that add tokens or change weights, against their equations, computed independently in float64."""

import math

import pytest
import torch
from models import batch, build, train_steps
from torch import nn
from torch.nn import functional as F

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.timm import Attention, timm
from mosa.peft.quantized import QuantizedLinear, normal_levels

F64 = torch.float64
NEAR = dict(atol=1e-12, rtol=0)


def attention_by_head(attn, x, prefix_keys, prefix_values, hidden=None):
    """Return softmax(q [P_K; K]^T / sqrt(d_h)) [P_V; V] of tokens (n, d), head by head; hidden: (n, n)."""
    q, k, v = (x @ attn.qkv.weight.T + attn.qkv.bias).chunk(3, dim=-1)
    outputs = []
    for head in range(attn.num_heads):
        own = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
        keys = torch.cat((prefix_keys[:, own], attn.k_norm(k[:, own])))
        values = torch.cat((prefix_values[:, own], v[:, own]))
        scores = attn.q_norm(q[:, own]) @ keys.T / math.sqrt(attn.head_dim)
        if hidden is not None:
            scores[:, len(prefix_keys) :][hidden] = -math.inf
        outputs.append(scores.softmax(-1) @ values)
    mixed = attn.norm(torch.cat(outputs, dim=-1))
    gate = 1 if attn.gate is None else torch.sigmoid(x @ attn.gate.weight.T + attn.gate.bias)
    return (mixed * gate) @ attn.proj.weight.T + attn.proj.bias


def with_attention(**options):
    """Return a ViT whose second block has another attention of timm."""
    model = build(dtype=F64)
    model.blocks[1].attn = Attention(32, 2, qkv_bias=True, norm_layer=nn.LayerNorm, **options).to(F64)
    return model


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "scale_norm": True, "gated": True}])
def test_prefixes_are_keys_and_values_before_those_of_the_tokens(options, fused):
    model = peft.attach(with_attention(**options), "prefix", length=3)
    train_steps(model, steps=1, lr=0.1)
    attn = model.blocks[1].attn
    attn.fused_attn = fused
    x = torch.randn(2, 5, 32, dtype=F64)
    keys, values = attn.prefixes.keys, attn.prefixes.values
    assert not torch.equal(keys, values)
    for image, output in zip(x, attn(x), strict=True):
        torch.testing.assert_close(output, attention_by_head(attn, image, keys, values), **NEAR)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected = attention_by_head(attn, x[0], keys, values, hidden)
    additive = torch.zeros(5, 5, dtype=F64).masked_fill(hidden, -math.inf)
    for mask in ({"attn_mask": ~hidden}, {"attn_mask": additive}, {"is_causal": True}):
        torch.testing.assert_close(attn(x, **mask)[0], expected, **NEAR)


@pytest.mark.parametrize("fused", [False, True])
def test_every_window_of_a_swin_sees_the_prefix(fused):
    """With keys that no query likes, it is Swin's own attention; with equal ones, a mean with the values."""
    plain = build("swin", dtype=F64).eval()
    model = peft.attach(build("swin", dtype=F64), "prefix", length=2).eval()
    own, attn = plain.layers[0].blocks[1].attn, model.layers[0].blocks[1].attn
    attn.fused_attn = own.fused_attn = fused
    x, windows = torch.randn(8, 16, 16, dtype=F64), torch.randn(4, 16, 16, dtype=F64)
    with torch.no_grad():
        attn.prefixes.keys.zero_(), attn.prefixes.values.zero_()
        found = attn(x, mask=windows)
        q, k, v = own.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        bias = own._get_rel_pos_bias() + windows.repeat(2, 1, 1).unsqueeze(1)
        weights = (q @ k.mT / math.sqrt(8) + bias).exp()
        mixed = (weights @ v) / (weights.sum(-1, keepdim=True) + 2)  # exp(0) for each key of the prefix
        expected = own.proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, **NEAR)


def test_an_mlp_makes_the_prefixes_of_all_blocks_until_they_are_merged():
    model = peft.attach(build(dtype=F64), "prefix", length=3, hidden=4)
    train_steps(model, lr=0.1)
    attns = [block.attn for block in model.blocks]
    source = attns[0].prefixes.source
    assert [name for name in model.state_dict() if "source" in name] == [
        f"blocks.0.attn.prefixes.source.{name}" for name in ("embedding", "down.weight", "down.bias")
    ]
    expected = []
    for attn in attns:
        up = attn.prefixes.up
        hidden = torch.tanh(source.embedding @ source.down.weight.T + source.down.bias)
        expected.append((hidden @ up.weight.T + up.bias).chunk(2, dim=-1))
    images, _ = batch(dtype=F64)
    output = model(images)
    peft.merge(model)
    assert model.peft.method == peft.build_method("prefix", length=3)
    for attn, (keys, values) in zip(attns, expected, strict=True):
        torch.testing.assert_close(attn.prefixes.keys, keys, **NEAR)
        torch.testing.assert_close(attn.prefixes.values, values, **NEAR)
    torch.testing.assert_close(model(images), output, **NEAR)


def test_prefixes_start_as_they_say():
    model = peft.attach(build(), "prefix", length=24)
    bound = math.sqrt(6 / (32 * 25))
    for block in model.blocks:
        for drawn in (block.attn.prefixes.keys, block.attn.prefixes.values):
            assert drawn.abs().max() <= bound and abs(drawn.std() - bound / 3**0.5) < 0.01


@pytest.mark.parametrize("shared", [False, True])
def test_e2vpt_has_prompts_and_keys_and_values(shared):
    """The block on [cls, prompts, patches], whose attention is softmax(q [P_K; K]^T / sqrt(d_h)) [P_V; V]."""
    options = {"prompts": 3, "key_values": 2, "shared": shared}
    model = peft.attach(build(dtype=F64), "e2vpt", **options)
    for prefixes in (block.attn.prefixes for block in model.blocks):  # heads of 16 channels
        assert 0.9 * math.sqrt(6 / 32) < prefixes.keys.abs().max() <= math.sqrt(6 / 32)
    train_steps(model, lr=0.1)
    block, plain = model.blocks[1], build(dtype=F64).blocks[1]
    keys = block.attn.prefixes.keys
    values = keys if shared else block.attn.prefixes.values
    assert (block.attn.prefixes.values is None) == shared
    x = torch.randn(17, 32, dtype=F64)
    h = torch.cat((x[:1], block.prompts.tokens, x[1:]))
    h = h + attention_by_head(plain.attn, plain.norm1(h), keys, values)
    y = h + plain.mlp(plain.norm2(h))
    torch.testing.assert_close(block(x.unsqueeze(0))[0], torch.cat((y[:1], y[4:])), **NEAR)


def test_keys_and_values_are_dropped_for_each_image():
    model = peft.attach(build(dtype=F64), "e2vpt", prompts=1, key_values=2, dropout=0.5).train()
    prefixes = model.blocks[0].attn.prefixes
    dropped = prefixes.before(torch.zeros(50, 2, 4, 16, dtype=F64), torch.ones(2, 32, dtype=F64))
    assert dropped.shape == (50, 2, 6, 16) and set(dropped[:, :, :2].unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(dropped[0], dropped[1]) and not dropped[:, :, 2:].any()


@pytest.mark.parametrize("method", ["prefix", "e2vpt"])
def test_an_attention_that_is_not_known_is_refused(method):
    class Other(Attention):
        pass

    model = build()
    model.blocks[1].attn = Other(32, 2)
    assert "Other is not an attention that takes prefixes" in peft.build_method(method).unfit(model)


def test_rlrr_rescales_weights_by_a_residual_of_rank_one():
    """W' = diag(s_l) W diag(s_r) + W, apart for q, k and v; norms and convolutions get scale and shift."""
    model, plain = peft.attach(build(dtype=F64), "rlrr"), build(dtype=F64)
    names = {name for name, module in model.named_modules() if hasattr(module, "rlrr")}
    assert names == {
        f"blocks.{i}.{name}" for i in range(3) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    for name in names:  # He-uniform: of one input, and of the layer's
        rescaling, inputs = model.get_submodule(name).rlrr, plain.get_submodule(name).in_features
        for values, bound in ((rescaling.left, 6**0.5), (rescaling.right, (6 / inputs) ** 0.5)):
            assert 0.9 * bound < values.abs().max() <= bound and not rescaling.bias.any()
    train_steps(model, lr=0.1)
    x = torch.randn(5, 32, dtype=F64)
    layer, own = model.blocks[1].attn.qkv, plain.blocks[1].attn.qkv
    left, right = layer.rlrr.left.flatten(), layer.rlrr.right
    expected = []
    for part in range(3):
        rows = slice(32 * part, 32 * part + 32)
        weight = torch.diag(left[rows]) @ own.weight[rows] @ torch.diag(right[part]) + own.weight[rows]
        expected.append(x @ weight.T + own.bias[rows] + layer.rlrr.bias[rows])
    torch.testing.assert_close(layer(x), torch.cat(expected, -1), **NEAR)
    layer, own = model.blocks[1].norm1, plain.blocks[1].norm1
    torch.testing.assert_close(layer(x), own(x) * layer.ssf.scale + layer.ssf.shift, **NEAR)
    scaled = {name for name, module in model.named_modules() if hasattr(module, "ssf")}
    assert scaled == {f"blocks.{i}.norm{n}" for i in range(3) for n in (1, 2)} | {"patch_embed.proj", "norm"}


def test_arc_recomposes_one_projection_in_every_block():
    """W (x + P^T C P x + b), with a P for all attentions and one for all MLPs."""
    model, plain = peft.attach(build(dtype=F64), "arc", bottleneck=4), build(dtype=F64)
    names = {name for name, p in model.named_parameters() if p.requires_grad and "projection" in name}
    places = ("attn.qkv", "mlp.fc1")
    assert names == {f"blocks.0.{place}.arc.projection.weight" for place in places}
    for place in places:
        bound = (6 / (4 + 32)) ** 0.5
        first = model.get_submodule(f"blocks.0.{place}.arc")
        assert 0.9 * bound < first.projection.weight.abs().max() <= bound and not first.scale.any()
    train_steps(model, lr=0.1)
    x = torch.randn(5, 32, dtype=F64)
    for place in places:
        layer, own = model.get_submodule(f"blocks.2.{place}"), plain.get_submodule(f"blocks.2.{place}")
        projection = model.get_submodule(f"blocks.0.{place}.arc.projection").weight
        adapter = projection.T @ torch.diag(layer.arc.scale) @ projection
        expected = own(x + x @ adapter.T + layer.arc.bias)
        torch.testing.assert_close(layer(x), expected, **NEAR)


def test_arc_has_a_projection_for_each_width():
    model = peft.attach(build("swin"), "arc", bottleneck=4)
    names = {name.partition(".arc.")[0] for name, _ in model.named_parameters() if "projection" in name}
    assert names == {f"layers.{i}.blocks.0.{place}" for i in (0, 1) for place in ("attn.qkv", "mlp.fc1")}


def quantized(weight, levels):
    """Return std Q((W - mean) / std) + mean, by the distances to all values."""
    standard = (weight - weight.mean()) / (weight.std() + 1e-5)
    nearest = (standard.flatten().unsqueeze(1) - torch.tensor(levels, dtype=F64)).abs().argmin(1)
    return torch.tensor(levels, dtype=F64)[nearest].view_as(weight) * weight.std() + weight.mean()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_quantised_weights_take_the_values_that_fit_normal_ones_best(bits):
    levels, middles = normal_levels(bits)
    assert len(levels) == 2**bits and levels == pytest.approx([-level for level in reversed(levels)])
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=F64)
    errors = []
    for scale in (0.95, 1.0, 1.05):
        values = scale * torch.tensor(levels, dtype=F64)
        errors.append((normal - values[torch.bucketize(normal, (values[1:] + values[:-1]) / 2)]).abs().mean())
    assert errors[1] < min(errors[0], errors[2])
    if bits == 1:
        assert levels == pytest.approx((-0.67449, 0.67449), abs=1e-5) and middles == pytest.approx((0,))
    layer = QuantizedLinear(nn.Parameter(0.3 + torch.randn(6, 5, dtype=F64)), bits)
    weight, x = layer.weight, torch.randn(7, 5, dtype=F64)
    assert len(layer.quantized().unique()) <= 2**bits
    torch.testing.assert_close(layer(x), x @ quantized(weight, levels).T, **NEAR)


def test_the_gradient_of_quantised_weights_is_straight_through():
    """Of sum(G W'), W' = Q((W - mean) / std) std + mean, where Q' = 1, and W moves its mean and std."""
    layer = QuantizedLinear(nn.Parameter(0.3 + torch.randn(6, 5, dtype=F64)), 1)
    outer = torch.randn(6, 5, dtype=F64)
    (found,) = torch.autograd.grad((layer.quantized() * outer).sum(), layer.weight)
    weight = layer.weight.detach()
    size, mean, std = weight.numel(), weight.mean(), weight.std()
    standard = (weight - mean) / (std + 1e-5)
    nearest = standard.sign() * normal_levels(1)[0][1]
    d_mean, d_std = torch.full_like(weight, 1 / size), (weight - mean) / ((size - 1) * std)
    through = std / (std + 1e-5) * outer
    by_mean = (outer.sum() - through.sum()) * d_mean
    by_std = ((outer * nearest).sum() - (through * standard).sum()) * d_std
    torch.testing.assert_close(found, through + by_mean + by_std, **NEAR)


def test_bi_adaptformer_is_a_quantised_branch_beside_the_mlp():
    """y = h + MLP(LN2(h)) + s Q(U) relu(Q(D) h), without biases and LayerNorm."""
    model = peft.attach(build(dtype=F64), "bi_adaptformer", bottleneck=8, scale=0.3)
    for branch in model.peft.method.branches(model):
        assert 0 < branch.up.weight.abs().max() <= 0.002 and branch.down.weight.abs().max() <= 32**-0.5
    train_steps(model, lr=0.1)
    block, levels = model.blocks[1], normal_levels(1)[0]
    x = torch.randn(2, 17, 32, dtype=F64)
    h = x + block.attn(block.norm1(x))
    down, up = (quantized(layer.weight, levels) for layer in (block.adapter.down, block.adapter.up))
    expected = h + block.mlp(block.norm2(h)) + 0.3 * F.relu(h @ down.T) @ up.T
    torch.testing.assert_close(block(x), expected, **NEAR)


def test_bi_lora_changes_weights_by_quantised_factors():
    model, plain = peft.attach(build(dtype=F64), "bi_lora", rank=4, bits=2, scale=0.3), build(dtype=F64)
    train_steps(model, lr=0.1)
    layer, own, levels = model.blocks[1].attn.qkv, plain.blocks[1].attn.qkv, normal_levels(2)[0]
    change = torch.zeros(96, 32, dtype=F64)
    for part, rows in (("q", slice(32)), ("v", slice(64, 96))):
        factors = layer.low_rank[part]
        change[rows] = quantized(factors.up.weight, levels) @ quantized(factors.down.weight, levels)
    x = torch.randn(5, 32, dtype=F64)
    torch.testing.assert_close(layer(x), x @ (own.weight + 0.3 * change).T + own.bias, **NEAR)
    factors = model.train().blocks[1].attn.qkv.low_rank["q"]
    hidden = []
    factors.up.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0]))
    factors(torch.ones(100, 32, dtype=F64))
    assert 0 < (hidden[0] == 0).sum() < 100  # a tenth of 400 is dropped between the factors


def test_sct_tunes_the_channels_that_matter_most_to_the_classes():
    """Importances by a loop over classes, images and patches; h' goes into the MLP and past it."""
    images, _ = batch(size=6, dtype=F64)
    labels = torch.tensor([3, 3, 3, 3, 1, 3])  # a mean over classes is not one over images
    model, plain = build(dtype=F64), build(dtype=F64).eval()
    with torch.no_grad():  # the class token, which does not count, has other large channels
        model.cls_token[..., 8:16] += 20
        plain.cls_token[..., 8:16] += 20
    peft.attach(model, "sct", keep=4, scale=0.3, data=[(images[:4], labels[:4]), (images[4:], labels[4:])])
    x, plainly = plain._pos_embed(plain.patch_embed(images)), []
    for block, attached in zip(plain.blocks, model.blocks, strict=True):
        h = x + block.attn(block.norm1(x))
        by_class = [h[labels == label, 1:].pow(2).sum((0, 1)).sqrt() for label in (1, 3)]
        largest = (sum(by_class) / 2).argsort(descending=True)[:8]
        plainly.append(h[:, 1:].pow(2).sum((0, 1)).argsort(descending=True)[:8])
        assert attached.sct.channels.tolist() == sorted(largest.tolist())
        x = h + block.mlp(block.norm2(h))
    chosen = [block.sct.channels.tolist() for block in model.blocks]
    assert chosen != [sorted(channels.tolist()) for channels in plainly]
    linear = model.blocks[1].sct.linear
    assert abs(linear.weight.std() - 0.02) < 0.005 and not linear.bias.any()
    train_steps(model, lr=0.1)
    block, own, x = model.blocks[1], plain.blocks[1], torch.randn(2, 17, 32, dtype=F64)
    h = x + own.attn(own.norm1(x))
    part = h[..., block.sct.channels]
    h[..., block.sct.channels] = part + 0.3 * (part @ linear.weight.T + linear.bias)
    torch.testing.assert_close(block(x), h + own.mlp(own.norm2(h)), **NEAR)


def test_sct_refuses_labels_that_the_model_has_no_class_for():
    images, labels = batch(classes=5)
    with pytest.raises(UserError, match="label 4, where the model has 3 classes"):
        peft.attach(build(classes=3), "sct", data=[(images, labels.fill_(4))])


def test_sct_refuses_models_whose_rows_may_be_no_images():
    model = timm.create_model("mobilevit_xxs", num_classes=3)
    assert "may not keep the patches of an image apart" in peft.build_method("sct").unfit(model)
