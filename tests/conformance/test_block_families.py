"""Methods on blocks that differ from a ViT's, against their equations, computed independently in float64."""

import copy

import pytest
import torch
from architectures import SAMPLE, Small, refusal
from models import CASES, batch, build, train_steps
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.swin_transformer import window_partition, window_reverse
from torch.nn import functional as F

from mosa import peft
from mosa.base.timm import DropPath, MvitBlock, timm
from mosa.peft.blocks import find_blocks, stream_of

F64 = torch.float64


def pair(architecture, method, **options):
    """Return a trained model with a method, and the same backbone without."""
    model = peft.attach(build(architecture, dtype=F64), method, **options)
    train_steps(model, steps=2, lr=0.1)
    return model, build(architecture, dtype=F64).eval().requires_grad_(False)


def branch(adapter, h):
    h = F.layer_norm(h, h.shape[-1:], adapter.norm.weight, adapter.norm.bias)
    hidden = F.gelu(h @ adapter.down.weight.T + adapter.down.bias)
    return 0.1 * (hidden @ adapter.up.weight.T + adapter.up.bias)


@pytest.mark.parametrize("architecture", ["eva", "beit", "swinv2"])
def test_adapter_reads_the_residual_stream_between_attention_and_mlp(architecture):
    """EVA and BEiT scale both sublayers; Swin V2 normalises their outputs."""
    model, plain = pair(architecture, "adapter", bottleneck=8)
    block, own = find_blocks(model)[1], find_blocks(plain)[1]
    assert block.adapter.up.weight.any()
    if architecture == "swinv2":
        x = torch.randn(2, 16, 16, 16, dtype=F64)
        h = x + own.norm1(own._attn(x))
        y = h + own.norm2(own.mlp(h))
    else:
        x = torch.randn(2, 17, 16, dtype=F64)
        h = x + own.gamma_1 * own.attn(own.norm1(x))
        y = h + own.gamma_2 * own.mlp(own.norm2(h))
    torch.testing.assert_close(block(x), y + branch(block.adapter, h), atol=1e-12, rtol=0)


def after_the_attention_of_tokens(own, x, size):
    return x + own.attn(own.norm1(x), size)


def after_tinyvits_convolution(own, x):
    h = x + own.attn(x.flatten(1, 2)).view_as(x)
    return own.local_conv(h.movedim(-1, 1)).movedim(1, -1)


def after_sams_windows(own, x):
    windows = window_partition(own.norm1(x), (2, 2))
    return x + window_reverse(own.attn(windows), (2, 2), *x.shape[1:3])


# Architectures of SAMPLE: the shape of a block's input, what else it takes, and h by its plain modules.
STREAMS = {
    "vit_base_patch16_xp_224": ((2, 5, 32), (), lambda own, x: x),
    "vit_dpwee_patch16_reg1_gap_256": ((2, 5, 32), (), lambda own, x: x),
    "pvt_v2_b0": ((2, 64, 8), ((8, 8),), after_the_attention_of_tokens),
    "twins_svt_small": ((2, 49, 16), ((7, 7),), after_the_attention_of_tokens),
    "tiny_vit_5m_224": ((2, 7, 7, 16), (), after_tinyvits_convolution),
    "samvit_base_patch16_224": ((2, 4, 4, 16), (), after_sams_windows),
    "maxvit_tiny_tf_224": ((2, 4, 4, 32), (), lambda own, x: x + own._partition_attn(own.norm1(x))),
    "coatnet_nano_rw_224": ((2, 32, 8, 8), (), lambda own, x: own.shortcut(x) + own.attn(own.norm1(x))),
}


@pytest.mark.parametrize("name", STREAMS)
def test_adapter_reads_the_stream_of_families_by_declaration(name):
    """A declaration is all that is known of them; where attention and MLP are parallel, h is the input."""
    shape, others, stream = STREAMS[name]
    arguments, size, _ = SAMPLE[name]
    plain = Small(name, arguments, size).build().double()
    model = peft.attach(Small(name, arguments, size).build().double(), "adapter", bottleneck=4).eval()
    block, own, x = find_blocks(model)[0], find_blocks(plain)[0], torch.randn(shape, dtype=F64)
    torch.nn.init.normal_(block.adapter.up.weight)
    h = stream(own, x, *others)
    added = branch(block.adapter, h.movedim(block.adapter.dim, -1)).movedim(-1, block.adapter.dim)
    torch.testing.assert_close(block(x, *others), own(x, *others) + added, atol=1e-12, rtol=0)


def test_a_block_of_mvit_keeps_the_size_beside_its_tokens():
    """Its stream is pooled within the block, and the size of the image is the second output."""
    plain = mvit().double().eval()
    for method, options in (("adapter", {"bottleneck": 4}), ("adapter_plus", {"bottleneck": 4})):
        model = peft.attach(copy.deepcopy(plain), method, **options).eval()
        block, own, x = model.stages[1].blocks[0], plain.stages[1].blocks[0], torch.randn(2, 64, 8, dtype=F64)
        assert type(block) is MvitBlock
        torch.nn.init.normal_(block.adapter.up.weight)
        y, size = own(x, (8, 8))
        h = own.norm1(x)
        h = own._shortcut_pool(own.shortcut_proj_attn(h), (8, 8)) + own.attn(h, (8, 8))[0]
        added = branch(block.adapter, h) if method == "adapter" else block.adapter(y)
        found = block(x, (8, 8))
        assert list(found[1]) == list(size) == [4, 4]
        torch.testing.assert_close(stream_of(found), y + added, atol=1e-12, rtol=0)
    for case in ("mosa", "lora", "adapter, houlsby", "adapter, sequential"):
        assert refusal(plain.float(), *CASES[case]) is None
    assert "does not fit MViT" in refusal(plain, "vpt", {})


def mvit():
    """timm's MViTv2 with one block in each of two stages."""
    config = MultiScaleVitCfg(depths=(1, 1), embed_dim=8, num_heads=1, kernel_qkv=(3, 3))
    torch.manual_seed(0)
    model = MultiScaleVit(config, img_size=(32, 32), num_classes=3)
    model.pretrained_cfg = {"input_size": (3, 32, 32)}
    return model


def test_keys_and_values_may_be_one_layer():
    """Of PVT, whose queries are more tokens than its keys: the attention, written out."""
    arguments, size, _ = SAMPLE["pvt_v2_b0"]
    plain = Small("pvt_v2_b0", arguments, size).build().double()
    model = peft.attach(copy.deepcopy(plain), "lora", rank=4, targets=["q", "k"], scale=0.7).eval()
    attn, own = find_blocks(model)[-1].attn, find_blocks(plain)[-1].attn
    for layer in (attn.q.low_rank["q"], attn.kv.low_rank["k"]):
        torch.nn.init.normal_(layer.up.weight)
    x = torch.randn(2, 4, 16, dtype=F64)
    q, (k, v) = own.q(x) + 0.7 * attn.q.low_rank["q"](x), own.kv(x).chunk(2, dim=-1)
    k = k + 0.7 * attn.kv.low_rank["k"](x)
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in (q, k, v))
    expected = own.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attn(x, (2, 2)), expected, atol=1e-12, rtol=0)
    merged = find_blocks(peft.merge(model))[-1].attn
    assert type(merged.kv) is torch.nn.Linear
    torch.testing.assert_close(merged(x, (2, 2)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("architecture", ["eva", "beit", "swinv2"])
def test_lora_is_a_change_of_the_weight_that_the_attention_reads(architecture):
    model, plain = pair(architecture, "lora", rank=4, scale=0.7)
    plain.head.load_state_dict(model.head.state_dict())
    images, _ = batch(2, dtype=F64)
    for block, own in zip(find_blocks(model), find_blocks(plain), strict=True):
        for part, rows in zip("qkv", own.attn.qkv.weight.chunk(3), strict=True):
            if part != "k":
                low_rank = block.attn.qkv.low_rank[part]
                rows += 0.7 * low_rank.up.weight.detach() @ low_rank.down.weight.detach()
        assert not own.attn.qkv_bias_separate
    torch.testing.assert_close(model(images), plain(images), atol=1e-12, rtol=0)
    merged = peft.merge(model)
    assert not any(block.attn.qkv_bias_separate for block in find_blocks(merged))
    torch.testing.assert_close(merged(images), plain(images), atol=1e-12, rtol=0)


def test_rotary_embeddings_do_not_turn_prompts():
    """The prompts of a block stand after the class token; an angle of 0 for them is no turn."""
    model, plain = pair("eva", "vpt", prompts=3)
    block, own = model.blocks[1], plain.blocks[1]
    x, rope = torch.randn(2, 17, 16, dtype=F64), plain.rope.get_embed()
    still = torch.cat((torch.zeros(3, rope.shape[1] // 2), torch.ones(3, rope.shape[1] // 2)), dim=1)
    tokens = block.prompts.tokens.expand(2, -1, -1)
    expected = own(torch.cat((x[:, :1], tokens, x[:, 1:]), dim=1), rope=torch.cat((still.to(rope), rope)))
    expected = torch.cat((expected[:, :1], expected[:, 4:]), dim=1)
    torch.testing.assert_close(block(x, rope=rope), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("deep", [True, False])
def test_prompts_have_no_relative_positions(deep):
    """BEiT's bias is that of the other tokens, and 0 for pairs with a prompt."""
    model, plain = pair("beit", "vpt", prompts=3, deep=deep)
    attn, own = model.blocks[1].attn, plain.blocks[1].attn
    x = torch.randn(2, 20, 16, dtype=F64)
    q, k, v = F.linear(x, own.qkv.weight, torch.cat((own.q_bias, own.k_bias, own.v_bias))).chunk(3, -1)
    q, k, v = (part.view(2, 20, 2, 8).transpose(1, 2) for part in (q, k, v))
    bias, others = torch.zeros(2, 20, 20, dtype=F64), torch.tensor([0, *range(4, 20)])
    bias[:, others.unsqueeze(1), others] = own._get_rel_pos_bias()[0]
    weights = (q @ k.mT / 8**0.5 + bias).softmax(-1)
    expected = own.proj((weights @ v).transpose(1, 2).reshape(2, 20, 16))
    torch.testing.assert_close(attn(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("vit_relpos_base_patch16_cls_224", "blocks.0.attn.rel_pos"),
        ("vit_srelpos_small_patch16_224", "shared_rel_pos"),
    ],
)
def test_biases_of_other_kinds_are_zero_for_prompts(name, owner):
    """Of each block and shared by all; the prompts stand after a class token, if there is one."""
    plain = timm.create_model(name, depth=1, embed_dim=16, num_heads=2, img_size=32, num_classes=3)
    bias = plain.eval().get_submodule(owner).get_bias()
    model = peft.attach(plain, "vpt", prompts=3)
    found, prefix = model.get_submodule(owner).get_bias(), model.num_prefix_tokens
    prompts = slice(prefix, prefix + 3)
    assert not found[..., prompts].any() and not found[..., prompts, :].any()
    others = [i for i in range(found.shape[-1]) if not prefix <= i < prefix + 3]
    assert torch.equal(found[..., others, :][..., others], bias) and bias.any()


@pytest.mark.parametrize("architecture", ["swin", "swinv2"])
def test_prompts_stand_before_the_tokens_of_every_window(architecture):
    """In a block that shifts its windows; no bias and no mask is between a prompt and any token."""
    model, plain = pair(architecture, "vpt", prompts=3)
    block, own = find_blocks(model)[1], find_blocks(plain)[1]
    assert any(own.shift_size)
    x = torch.randn(2, 16, 16, 16, dtype=F64)
    first = architecture == "swin"
    prompts, y = block.prompts.tokens.detach(), x
    if first:
        prompts, y = own.norm1(prompts), own.norm1(y)
    windows = window_partition(y.roll((-2, -2), (1, 2)), (4, 4)).flatten(1, 2)
    tokens = torch.cat((prompts.expand(len(windows), -1, -1), windows), dim=1)
    attended = window_attention(own, tokens, first)[:, 3:].reshape(-1, 4, 4, 16)
    attended = window_reverse(attended, (4, 4), 16, 16).roll((2, 2), (1, 2))
    h = x + (attended if first else own.norm1(attended))
    y = h + (own.mlp(own.norm2(h)) if first else own.norm2(own.mlp(h)))
    torch.testing.assert_close(block(x), y, atol=1e-12, rtol=0)


def window_attention(block, tokens, first):
    """Attention among prompts and the tokens of a window, written out; `first` is Swin, otherwise Swin V2."""
    attn, count = block.attn, tokens.shape[1]
    bias = attn.qkv.bias if first else torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    parts = F.linear(tokens, attn.qkv.weight, bias).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in parts)
    if first:
        logits, places = q @ k.mT / q.shape[-1] ** 0.5, attn._get_rel_pos_bias()[0]
    else:
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * attn.logit_scale.exp()
        table = attn.cpb_mlp(attn.relative_coords_table).view(-1, attn.num_heads)
        places = 16 * table[attn.relative_position_index].permute(2, 0, 1).sigmoid()
    windows = len(block.attn_mask)
    logits = logits.unflatten(0, (-1, windows))
    logits[..., -16:, -16:] += places + block.attn_mask.unsqueeze(1)
    out = logits.flatten(0, 1).softmax(-1) @ v
    return attn.proj(out.transpose(1, 2).reshape(-1, count, 16))


@pytest.mark.parametrize("architecture", ["eva", "beit", "swin", "swinv2"])
def test_two_passes_at_once_are_two_passes(architecture):
    """They separate within the model, where the first block or branch begins."""
    for method, options in (("mosa", {"bottleneck": 8, "experts": 1}), ("vpt", {"prompts": 3})):
        model = build(architecture, dtype=F64)
        for module in model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
        train_steps(peft.attach(model, method, dropout=0.0, **options), steps=1, lr=0.1)
        assert model.peft.fork is not None
        images, _ = batch(2, dtype=F64)
        expected = model.train()(images)
        found = peft.forward_passes(model, images, 2)
        torch.testing.assert_close(found, expected.repeat(2, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("architecture", ["swin", "swinv2"])
def test_dropped_prompts_are_the_same_in_all_windows_of_an_image(architecture):
    model = peft.attach(build(architecture, dtype=F64), "vpt", prompts=3, dropout=0.5).train()
    block = find_blocks(model)[0]
    seen = []
    block.attn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, :3]))
    block(torch.randn(2, 16, 16, 16, dtype=F64))
    first, second = seen[0].unflatten(0, (2, 16))  # 4 x 4 windows
    assert torch.equal(first, first[:1].expand_as(first)) and torch.equal(
        second, second[:1].expand_as(second)
    )
    assert not torch.equal(first, second)
