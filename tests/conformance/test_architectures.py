"""Each method on each architecture of timm does all that it must, or is refused with a reason."""

import re
from pathlib import Path

import pytest
import torch
from architectures import SAMPLE, Small, modules, refusal, representatives
from models import CASES, attach, build
from timm.layers import Attention
from torch import nn

from mosa import peft
from mosa.backbones.build import build_backbone
from mosa.base.errors import UserError
from mosa.base.timm import timm

PAGE = Path(__file__).parents[2] / "docs" / "support.md"


@pytest.mark.thorough
@pytest.mark.parametrize("module", modules())
def test_every_method_fits_or_is_refused(module):
    for small in representatives(module):
        backbone = small.build()
        for case, (method, options) in CASES.items():
            try:
                refusal(backbone, method, options)
            except Exception as error:
                raise AssertionError(f"{case} on {small.name}: {error}") from error


@pytest.mark.parametrize("name", SAMPLE)
def test_a_method_fits_or_is_refused(name):
    """A sample of architectures that each have a trap, with what they make of some methods."""
    arguments, size, expected = SAMPLE[name]
    small = Small(name, arguments, size)
    backbone = small.build()
    for case, words in expected.items():
        method, options = CASES[case]
        reason = refusal(backbone, method, options)
        assert (reason is None) == (words is None), (case, reason)
        assert words is None or words in reason, case


class Bypassing(Attention):
    """An attention that reads the weight of its projection, and has no switch to call it."""

    def forward(self, x, attn_mask=None, is_causal=False):
        q, k, v = nn.functional.linear(x, self.qkv.weight, self.qkv.bias).chunk(3, dim=-1)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v))


def bypassing():
    model = build()
    del model.blocks[1:]
    model.blocks[0].attn.__class__ = Bypassing
    return model


def beit(**changes):
    arguments = {"depth": 1, "img_size": 32, "embed_dim": 96, "num_heads": 3} | changes
    return timm.create_model("beit_base_patch16_224", num_classes=3, **arguments)


def test_a_method_without_effect_leaves_the_model_as_it_was():
    """Modules, hooks, mode, values and generators; and handles of hooks that were there before."""
    calls = []
    model = bypassing()
    handle = model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    model.blocks[0].eval(), model.cls_token.requires_grad_(False)
    before = [vars(module).copy() for module in model.modules()]
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    values = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    asks = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    with pytest.raises(UserError, match=r"peft does not fit Vis.*: 2 of 4 .* because Bypassing never calls"):
        peft.attach(model, "peft")
    assert torch.equal(torch.get_rng_state(), state)
    after = [vars(module) for module in model.modules()]
    assert [{key: id(value) for key, value in one.items()} for one in before] == [
        {key: id(value) for key, value in one.items()} for one in after
    ]
    assert hooks == [dict(module._forward_hooks) for module in model.modules()]
    assert all(
        model.state_dict(keep_vars=True)[name] is value and torch.equal(value, copy)
        for name, (value, copy) in values.items()
    )
    assert asks == [parameter.requires_grad for parameter in model.parameters()]
    handle.remove(), calls.clear()
    model(torch.zeros(1, 3, 32, 32))
    assert not calls


def tuned(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_biases_are_those_of_every_layer():
    """Also where the attention keeps them itself; positions are no biases of a layer."""
    attention = {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias", "blocks.0.attn.proj.bias"}
    names = tuned(peft.attach(beit(), "bias"))
    assert attention <= names
    assert names - attention - {"head.weight"} == {n for n in names - attention if n.endswith(".bias")}
    assert "blocks.0.attn.relative_position_bias_table" not in names


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("resnet10t", ("bn1", "bn2", "bn3", "conv1.1", "conv1.4", "downsample.2")),
        ("vit_tiny_r_s16_p8_224", ("norm", "norm1", "norm2")),
        ("convnext_zepto_rms", ("norm", "stem.1", "downsample.0", "head.norm")),
    ],
)
def test_norms_are_those_of_every_kind(name, norms):
    """Batch, group and layer normalisation, with an activation or without, and by the root mean square."""
    arguments, size, _ = SAMPLE[name]
    model = peft.attach(Small(name, arguments, size).build(), "norm")
    kinds = {type(module) for module in model.modules() if "norm" in type(module).__name__.lower()}
    found = {
        name
        for name, module in model.named_modules()
        if type(module) in kinds and len([*module.children()]) < 3
    }
    layers = {one.rpartition(".")[0] for one in tuned(model)} - {"fc", "head", "head.fc"}
    assert layers and all(layer.endswith(norms) for layer in layers)
    assert {layer for layer in found if [*model.get_submodule(layer).parameters(recurse=False)]} == layers


def test_last_norm_of_any_kind_is_tuned_with_the_last_block():
    arguments, size, _ = SAMPLE["convnext_zepto_rms"]
    model = Small("convnext_zepto_rms", arguments, size).build()
    assert "head.norm.weight" in tuned(peft.attach(model, "partial"))


def test_a_layer_that_derives_from_torchs_is_not_wrapped():
    arguments, size, _ = SAMPLE["vit_tiny_r_s16_p8_224"]
    model = Small("vit_tiny_r_s16_p8_224", arguments, size).build()
    with pytest.raises(UserError, match=r"backbone.conv' is a StdConv2dSame, not one of torch's own layers"):
        peft.attach(model, "peft", targets=["backbone.conv"])


def test_the_proof_can_be_left_out():
    model = peft.attach(bypassing(), "peft", verify=False)
    assert model.peft.method.name == "peft"


def test_a_refused_method_is_named_with_the_step_that_fails():
    class Wrong(nn.Module):
        def forward(self, x):
            raise ValueError("expected something else")

    model = build()
    model.blocks[1].mlp = Wrong()
    with pytest.raises(UserError, match=r"VisionTransformer itself cannot be run.*ValueError: expected some"):
        peft.attach(model, "adapter", bottleneck=8)
    assert not hasattr(model, "peft") and all(parameter.requires_grad for parameter in model.parameters())


def test_a_failure_of_the_method_alone_says_so():
    class Picky(nn.Identity):
        def forward(self, x):
            if hasattr(self, "adapted"):
                raise ValueError("it is adapted")
            return x

    model = build()
    picky = model.blocks[0].mlp.drop2 = Picky()

    class Marking(peft.get_method("linear")):
        def apply(self, model, seed):
            picky.adapted = True

    with pytest.raises(UserError, match=r"linear does not fit VisionTransformer: a training step on 2"):
        peft.attach(model, Marking())
    assert not hasattr(picky, "adapted")


@pytest.mark.parametrize("case", ["mosa", "mosa, every expert", "adamix", "dropconnect"])
def test_the_proof_changes_no_draw(case):
    """Not of the router, and not of what the model does first."""
    method, options = CASES[case]
    proved, plain = (attach(build(), method, verify=verify, **options) for verify in (True, False))
    for one, other in zip(proved.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    images = torch.ones(2, 3, 32, 32)
    outputs = []
    for model in (proved, plain):
        torch.manual_seed(0)
        outputs.append(peft.forward_passes(model.train(), images, model.peft.method.passes))
    assert torch.equal(*outputs)


def test_several_passes_need_a_tensor():
    model = peft.attach(build(), "mosa", bottleneck=8)
    with pytest.raises(UserError, match="2 passes need a tensor of images, got a dict"):
        peft.forward_passes(model, {"patches": torch.zeros(1)}, 2)


def test_a_model_without_classifier_has_nothing_for_linear():
    with pytest.raises(UserError, match="nothing of what it tunes, and no classifier"):
        peft.attach(build(classes=0), "linear")


def test_page_fits_the_registry():
    """All methods are columns, with as many that fit as the first row says, and no pair is wrong."""
    lines = re.findall(r"^\| [^:].*", PAGE.read_text(), re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in lines]
    table = [row for row in rows if len(row) == 1 + len(peft.list_methods())]
    titles, counts, *cells = table
    assert [re.sub(r"\[`(.*)`\].*", r"\1", title) for title in titles[1:]] == peft.list_methods()
    assert len(cells) == int(re.search(r"\d+", counts[0])[0]) > 50
    assert {cell for row in cells for cell in row[1:]} == {"yes", "no"}
    for column, count in enumerate(counts[1:], start=1):
        assert sum(row[column] == "yes" for row in cells) == int(count)


def test_bias_takes_those_that_an_attention_keeps_unless_it_is_told_not_to():
    tuned = {}
    for names in ("all", "bias"):
        model = Small("beit_base_patch16_224", {"depth": 1, "embed_dim": 32, "num_heads": 2}, 224).build()
        tuned[names] = peft.tuned_state_dict(peft.attach(model, "bias", names=names)).keys()
    assert tuned["all"] - tuned["bias"] == {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias"}
    assert tuned["bias"] < tuned["all"]


def test_norm_takes_the_norms_of_a_stem_unless_it_is_told_not_to():
    tuned = {}
    for kinds in ("all", "layer_norm"):
        model, _ = build_backbone("mosa_vit_micro", "random", 5)
        peft.attach(model, "norm", kinds=kinds)
        owners = {name.rpartition(".")[0] for name in peft.tuned_state_dict(model)} - {"head"}
        tuned[kinds] = {type(model.get_submodule(name)).__name__ for name in owners}
    assert tuned == {"all": {"LayerNorm", "GroupNorm"}, "layer_norm": {"LayerNorm"}}
