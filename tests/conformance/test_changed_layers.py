"""Layers whose weights a method changes: their hooks stay, and what is more than W x + b is refused."""

import copy

import pytest
import torch
from models import SMALL, attach, build
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.timm import Linear
from mosa.peft import merge
from mosa.peft.methods.lora import LoraLinear
from mosa.peft.subject import train_steps

WRAPPING = ("lora", "dora", "bi_lora", "mosl", "fact", "hydra")
CHANGING = (*WRAPPING, "gps", "spt", "repadapter", "arc", "ssf", "rlrr", "difffit")
OPTIONS = {**SMALL, "mosl": {"rank": 4}, "ssf": {"spread": 0.0}}
OPTIONS |= {name: {"rank": 4, "targets": ["q", "v", "fc2"]} for name in ("lora", "dora", "bi_lora", "mosl")}


def layers_of(model):
    """Return layers of a ViT of which each of these methods changes one."""
    return [layer for block in model.blocks for layer in (block.attn.qkv, block.mlp.fc1, block.mlp.fc2)]


class Half(nn.Linear):
    def forward(self, x):
        return 0.5 * super().forward(x)


def replace(model, kind):
    for block in model.blocks:
        for owner, name in (
            (block.attn, "qkv"),
            (block.attn, "proj"),
            (block.mlp, "fc1"),
            (block.mlp, "fc2"),
        ):
            old = getattr(owner, name)
            setattr(owner, name, kind(old.in_features, old.out_features))
            getattr(owner, name).load_state_dict(old.state_dict())


def halved(model):
    replace(model, Half)


def with_own_forward(model):
    for layer in layers_of(model):
        layer.forward = lambda x, layer=layer: 0.5 * nn.Linear.forward(layer, x)


def normalised(model):
    for layer in layers_of(model):
        weight_norm(layer)


def pruned(model):
    for layer in layers_of(model):
        prune.l1_unstructured(layer, "weight", 0.5)


def parametrised(model):
    for layer in layers_of(model):
        parametrizations.weight_norm(layer)


def with_one_attention_and_mlp(model):
    model.blocks[1].attn, model.blocks[1].mlp = model.blocks[0].attn, model.blocks[0].mlp


def with_one_weight(model):
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        model.blocks[1].get_submodule(name).weight = model.blocks[0].get_submodule(name).weight


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (halved, "Half"),
        (with_own_forward, "a Linear with a forward of its own"),
        (normalised, "a Linear whose weight is computed"),
        (pruned, "a Linear whose weight is computed"),
        (parametrised, "ParametrizedLinear"),
        (with_one_weight, "is shared by two places of VisionTransformer"),
    ],
)
def test_a_layer_that_is_more_than_its_weight_is_refused(method, change, words):
    model = build()
    change(model)
    images = torch.randn(2, 3, 32, 32)
    before = model.eval()(images)
    with pytest.raises(UserError, match=words) as error:
        attach(model, method, **OPTIONS.get(method, {}))
    assert "\n" not in str(error.value) and torch.equal(model(images), before)
    assert not hasattr(model, "peft") and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", CHANGING)
def test_what_two_blocks_share_is_changed_once_or_refused(method):
    model = build()
    with_one_attention_and_mlp(model)
    if method not in ("gps", "spt", "ssf", "rlrr"):  # which change each layer once, wherever it is called
        with pytest.raises(UserError, match="is shared by two places of VisionTransformer, which would both"):
            attach(model, method, **OPTIONS.get(method, {}))
        return
    attach(model, method, **OPTIONS.get(method, {}))
    train_steps(model)
    assert peft.count_parameters(model).adapter == model.peft.method.parameters(model, training=True)
    images = torch.randn(2, 3, 32, 32)
    expected = model.eval()(images)
    torch.testing.assert_close(merge(model)(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", WRAPPING)
def test_timms_own_linear_layer_is_one(method):
    model = build()
    replace(model, Linear)
    images = torch.randn(2, 3, 32, 32)
    before = model.eval()(images)
    attach(model, method, **OPTIONS.get(method, {}))
    if model.peft.method.starts_as_backbone:
        torch.testing.assert_close(model(images), before, atol=1e-6, rtol=0)
    merge(model)
    assert {type(layer) for layer in layers_of(model)} == {Linear}


def doubled(module, inputs, output):
    return 2 * output + 0.1


def shifted(module, inputs):
    return (inputs[0] + 0.1,)


def hook(model, calls):
    handles = []
    for layer in layers_of(model):
        handles += [
            layer.register_forward_hook(doubled),
            layer.register_forward_pre_hook(shifted),
            layer.register_full_backward_hook(lambda module, gradients, given: calls.append(module)),
        ]
    return handles


@pytest.mark.filterwarnings("ignore:Full backward hook")  # on the first layers, in training
@pytest.mark.parametrize("method", CHANGING)
def test_hooks_stay_through_attaching_merging_and_detaching(method):
    calls, backbone = [], build().eval()
    handles = hook(backbone, calls)
    images, count = torch.randn(2, 3, 32, 32), len(layers_of(backbone))
    before = backbone(images)
    model = copy.deepcopy(backbone)
    attach(model, method, **OPTIONS.get(method, {}))
    if model.peft.method.starts_as_backbone:
        torch.testing.assert_close(model(images), before, atol=1e-5, rtol=0)
    peft.detach(model)
    assert torch.equal(model(images), before)
    attach(backbone, method, **OPTIONS.get(method, {}))
    train_steps(backbone)
    calls.clear()
    backbone.eval()(images.clone().requires_grad_()).sum().backward()  # reaches every layer
    assert len(calls) == count
    expected = backbone(images)
    torch.testing.assert_close(merge(backbone)(images), expected, atol=1e-4, rtol=1e-4)
    for handle in handles:
        handle.remove()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers_of(backbone))


def test_a_backward_hook_on_a_layer_is_called_whichever_method_wraps_it():
    model, called = build(), []
    for name in ("one", "two"):
        attach(model, "lora", name=name, **OPTIONS["lora"])
    handle = model.blocks[0].attn.qkv.register_full_backward_hook(lambda *given: called.append(1))
    for number, name in enumerate(("two", "one", None), 1):
        peft.set_active(model, name)
        model(torch.randn(2, 3, 32, 32, requires_grad=True)).sum().backward()
        assert len(called) == number, name
    handle.remove()


def test_the_bridge_refuses_a_layer_with_a_hook():
    """The library would leave it on the layer within, so that merging changed what it sees."""
    pytest.importorskip("peft")
    model = build()
    hook(model, [])
    with pytest.raises(UserError, match=r"'blocks\.0\.attn\.qkv' has a hook, which would not see its change"):
        peft.attach(model, "peft")


def with_one_projection(model):
    model.blocks[1].attn.qkv = model.blocks[0].attn.qkv


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (halved, r"'blocks\.0\.attn\.qkv' is a Half, not one of torch's own layers"),
        (with_own_forward, r"'blocks\.0\.attn\.qkv' is a Linear with a forward of its own"),
        (with_one_weight, r"'blocks\.0\.attn\.qkv' is shared by two places, which would both change"),
        (with_one_projection, r"'blocks\.0\.attn\.qkv' is shared by two places, which would both change"),
    ],
)
def test_the_bridge_refuses_a_layer_that_is_more_than_its_weight(change, words):
    pytest.importorskip("peft")
    model = build()
    change(model)
    with pytest.raises(UserError, match=words):
        peft.attach(model, "peft")
    assert not hasattr(model, "peft")


def test_the_bridge_changes_once_what_two_blocks_share():
    pytest.importorskip("peft")
    model = build()
    with_one_attention_and_mlp(model)
    attach(model, "peft", targets=["qkv", "fc1"])
    train_steps(model)
    images = torch.randn(2, 3, 32, 32)
    expected = model.eval()(images)
    torch.testing.assert_close(merge(model)(images), expected, atol=1e-5, rtol=0)


def test_a_hook_that_was_removed_is_none():
    pytest.importorskip("peft")
    model = build()
    model.blocks[0].attn.qkv.register_full_backward_hook(lambda module, to, of: None).remove()
    peft.attach(model, "peft")


@pytest.mark.parametrize("method", ["lora", "ssf"])
def test_a_merge_that_fails_leaves_the_model_as_it_was(method, monkeypatch):
    model = build()
    attach(model, method, **OPTIONS[method])
    train_steps(model)
    images = torch.randn(2, 3, 32, 32)
    expected, state = model.eval()(images), copy.deepcopy(model.state_dict())
    kind, fold = type(model.peft.method), type(model.peft.method).fold

    def failing(method, model):
        fold(method, model)
        raise RuntimeError("full")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="full"):
        patch.setattr(kind, "fold", failing)
        merge(model)
    assert list(model.state_dict()) == list(state) and torch.equal(model(images), expected)
    assert method != "lora" or isinstance(model.blocks[0].attn.qkv, LoraLinear)
    torch.testing.assert_close(merge(model)(images), expected, atol=1e-5, rtol=0)
