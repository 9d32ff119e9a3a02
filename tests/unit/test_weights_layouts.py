"""Original files of DINOv3, CLIP, EVA-02, BEiT and SigLIP arrive value by value, or are refused."""

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


def width(name):
    return {"embed_dim": 1024, "mlp_ratio": 0.1} if name == "dinov3 large, satellite" else {}


def saved(content, folder):
    torch.save(content, folder / "x.pth")
    return str(folder / "x.pth")


@pytest.mark.parametrize("name", KINDS)
def test_a_file_in_its_original_layout_arrives(name, tmp_path, monkeypatch):
    architecture, write, kind, statistics, guess = KINDS[name]
    monkeypatch.setitem(SHALLOW, "embed_dim", 1024 if kind == "dinov3_sat" else 32)
    source = made(architecture)
    model, backbone = build_backbone(architecture, saved(write(source), tmp_path), 3)
    own, head = source.state_dict(), head_names(source)
    for tensor, value in model.state_dict().items():
        assert tensor in head or torch.equal(value, own[tensor]), tensor
    assert backbone.kind == kind and (backbone.mean, backbone.std) == statistics
    assert (backbone.guess is not None) == guess


