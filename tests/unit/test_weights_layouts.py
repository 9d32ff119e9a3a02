"""Original files of DINOv3, CLIP, EVA-02, BEiT and SigLIP arrive value by value, or are refused."""

import re

import pytest
import torch
from checkpoints import beit, clip, dinov2, dinov3, dinov3_sat, eva02, siglip

from mosa.backbones.build import build_backbone
from mosa.backbones.kinds import CLIP, IMAGENET, INCEPTION, SATELLITE
from mosa.backbones.weights import head_names
from mosa.base.errors import UserError
from mosa.base.timm import timm

SMALL, LARGE = "vit_small_patch16_dinov3", "vit_large_patch16_dinov3"
KINDS = {
    # architecture, writer, kind, statistics, whether these are a guess
    "dinov3": (SMALL, dinov3, "dinov3", IMAGENET, False),
    "dinov3 with biases": (SMALL + "_qkvb", dinov3, "dinov3", IMAGENET, False),
    "dinov3 with gates": ("vit_small_plus_patch16_dinov3", dinov3, "dinov3", IMAGENET, False),
    "dinov3 large": (LARGE, dinov3, "dinov3", IMAGENET, True),
    "dinov3 large, satellite": (LARGE, dinov3_sat, "dinov3_sat", SATELLITE, True),
    "clip": ("vit_base_patch32_clip_quickgelu_224", clip, "clip", CLIP, False),
    "clip large": ("vit_large_patch14_clip_224", clip, "clip", CLIP, True),
    "eva02 tiny": ("eva02_tiny_patch14_224", eva02, "eva02", CLIP, False),
    "eva02 base": ("eva02_base_patch14_224", eva02, "eva02", CLIP, False),
    "beit": ("beit_base_patch16_224", beit, "beit", INCEPTION, True),
    "beit v2": ("beitv2_base_patch16_224", beit, "beit", IMAGENET, True),
    "siglip": ("vit_base_patch16_siglip_224", siglip, "siglip", INCEPTION, False),
}
SHALLOW = {"depth": 1, "embed_dim": 32, "num_heads": 2}


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """timm's architectures, but of one narrow block."""
    original = timm.create_model

    def create(name, **options):
        return original(name, **SHALLOW | options)

    monkeypatch.setattr(timm, "create_model", create)


def made(architecture, **options):
    torch.manual_seed(3)
    model = timm.create_model(architecture, num_classes=5, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand_like(parameter))
    return model


@pytest.mark.parametrize("name", KINDS)
def test_a_file_in_its_original_layout_arrives(name, tmp_path, monkeypatch):
    architecture, write, kind, statistics, guess = KINDS[name]
    if architecture == LARGE:  # whose width tells the one for satellite images
        monkeypatch.setitem(SHALLOW, "embed_dim", 1024)
        monkeypatch.setitem(SHALLOW, "mlp_ratio", 0.03)
    source = made(architecture)
    model, backbone = build_backbone(architecture, saved(write(source), tmp_path), 3)
    own, head = source.state_dict(), head_names(source)
    for tensor, value in model.state_dict().items():
        assert tensor in head or torch.equal(value, own[tensor]), tensor
    assert backbone.kind == kind and (backbone.mean, backbone.std) == statistics
    assert (backbone.guess is not None) == guess


def saved(content, folder):
    torch.save(content, folder / "x.pth")
    return str(folder / "x.pth")


def refused(architecture, content, folder, **options):
    with pytest.raises(UserError) as error:
        build_backbone(architecture, saved(content, folder), 3, **options)
    assert len(str(error.value).splitlines()) <= 7
    return str(error.value)


def first_table(content):
    return next((value for value in content.values() if isinstance(value, dict)), content)


@pytest.mark.parametrize("name", ["dinov3", "clip", "eva02 base", "beit", "siglip"])
def test_nothing_may_be_missing_or_left_over(name, tmp_path):
    architecture, write, kind, *_ = KINDS[name]
    content = write(made(architecture))
    table = first_table(content)
    prefix = {"clip": "visual.", "siglip": "visual.trunk."}.get(kind, "")
    norm = "ln_" if kind == "clip" else "norm"
    last = [each for each in table if each.startswith(prefix) and norm in each][-1]
    kept = table.pop(last)
    assert f"kind {kind}" in (text := refused(architecture, content, tmp_path)) and "missing" in text
    table |= {last: kept, f"{prefix}extra.weight": torch.ones(3)}
    assert "extra.weight  not in the model" in refused(architecture, content, tmp_path)


@pytest.mark.parametrize("name", ["dinov3", "clip", "eva02 base", "beit", "siglip"])
def test_another_architecture_is_refused(name, tmp_path, monkeypatch):
    architecture, write, *_ = KINDS[name]
    content = write(made(architecture))
    for other in ("vit_small_patch14_dinov2", "vit_base_patch16_224"):
        assert "x.pth" in refused(other, content, tmp_path)
    monkeypatch.setitem(SHALLOW, "depth", 2)
    assert "x.pth" in refused(architecture, content, tmp_path)


BIAS, MASK = "blocks.0.attn.qkv.bias", "blocks.0.attn.qkv.bias_mask"
DINOV3 = {
    "a bias that the architecture lacks": (SMALL, {BIAS: torch.ones(96)}, "take its .* with `_qkvb`"),
    "keys with a bias": (SMALL + "_qkvb", {MASK: torch.ones(96)}, "has a bias of the keys"),
    "a bias of no mask": (SMALL + "_qkvb", {MASK: torch.ones(1)}, "has a bias of the keys"),
    "a scalar as a bias": (SMALL, {BIAS: torch.tensor(0.0)}, "is no row of floating-point numbers"),
    "integers as a bias": (SMALL, {BIAS: torch.zeros(96, dtype=torch.int8)}, "is no row of floating-point"),
    "other periods": (SMALL, {"rope_embed.periods": torch.ones(4)}, "other periods of the rotary embedding"),
    "another rotary embedding": (SMALL, {"rope_embed.scale": torch.ones(4)}, "has rope_embed.scale, which"),
    "norms for the class token": (
        SMALL,
        {"cls_norm.weight": torch.ones(32)},
        "cls_norm.weight +not in the m",
    ),
}


@pytest.mark.parametrize("name", DINOV3)
def test_nothing_that_dinov3_computes_with_is_lost(name, tmp_path):
    architecture, change, words = DINOV3[name]
    text = refused(architecture, dinov3(made(architecture)) | change, tmp_path)
    assert re.search(words, text), text


@pytest.mark.parametrize("kind", ["auto", "clip", "timm"])
def test_clip_says_what_it_leaves_open(kind, tmp_path):
    path = saved(clip(made("vit_base_patch32_clip_224")), tmp_path)
    _, backbone = build_backbone("vit_base_patch32_clip_224", path, 3, kind=kind)
    prefix, text, activation = backbone.notes
    assert "'visual.'" in prefix and "left out: " in text
    assert activation.startswith("the file does not say its activation, and the architecture has GELU: ")
    assert (backbone.guess is None) == (kind != "timm")


def test_patches_of_another_size_are_refused(tmp_path):
    content = clip(made("vit_base_patch32_clip_224"))
    assert "patches of 32x32 pixels" in refused("vit_base_patch16_clip_224", content, tmp_path)


def test_statistics_that_a_kind_leaves_open_are_named(tmp_path, monkeypatch):
    architecture = "vit_large_patch14_clip_224"
    path = saved(clip(made(architecture)), tmp_path)
    guess = build_backbone(architecture, path, 3)[1].guess
    assert "clip is a guess" in guess and "also trained with inception: set `normalization` (" in guess
    found = build_backbone(architecture, path, 3, normalization="inception")[1]
    assert found.mean == INCEPTION[0] and found.guess is None


def test_a_kind_that_the_file_contradicts_is_refused(tmp_path):
    content = dinov3(made(SMALL))
    assert "is of kind 'dinov3' by what it holds, not 'dinov2'" in refused(
        SMALL, content, tmp_path, kind="dinov2"
    )
    assert build_backbone(SMALL, saved(content, tmp_path), 3, kind="dinov3_sat")[1].mean == SATELLITE[0]


def test_neighbours_stay_what_they_are(tmp_path):
    source = made("vit_small_patch14_dinov2")
    path = saved(dinov2(source), tmp_path)
    assert build_backbone("vit_small_patch14_dinov2", path, 3)[1].kind == "dinov2"
    for architecture in (SMALL, "vit_base_patch32_clip_224", "eva02_base_patch14_224"):
        path = saved(made(architecture).state_dict(), tmp_path)  # timm's own names
        assert build_backbone(architecture, path, 3)[1].kind == "timm"
