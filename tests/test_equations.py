"""Methods against their equations, computed independently in float64."""

import torch
from models import build, train_steps
from torch import nn
from torch.nn import functional as F

from mosa import peft

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
    q = x @ (wq + 0.7 * qkv.q_up.weight @ qkv.q_down.weight).T + bq
    k = x @ wk.T + bk
    v = x @ (wv + 0.7 * qkv.v_up.weight @ qkv.v_down.weight).T + bv
    q, k, v = (t.view(3, 17, heads, dim // heads).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-2, -1) / (dim // heads) ** 0.5).softmax(-1)
    expected = (weights @ v).transpose(1, 2).reshape(3, 17, dim) @ attn.proj.weight.T + attn.proj.bias
    torch.testing.assert_close(attn(x), expected, atol=1e-12, rtol=0)
