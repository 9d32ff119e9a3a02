"""Families of architectures by their names, which the workflow uses, against the blocks that timm builds."""

import subprocess
import sys
from functools import cache

import pytest
import torch

import mosa.backbones.micro_vit  # noqa: F401  registers our architecture with timm
from mosa import peft
from mosa.base.methods import ANY_MODEL
from mosa.base.timm import timm
from mosa.experiment.families import PREFIXES, family_of, unfit
from mosa.peft.blocks import FAMILIES, families_of

NAMES = [name for name in timm.list_models() if name.startswith(tuple(sum(PREFIXES.values(), ())))]
# Made by timm's plain ViT of other blocks: one of each kind that the table must name.
OTHERS = [
    "vit_small_patch16_18x2_224",
    "vit_base_patch16_rpn_224",
    "vit_base_patch16_xp_224",
    "vit_pwee_patch16_reg1_gap_256",
    "vit_dpwee_patch16_reg1_gap_256",
]
PLAIN = sum((PREFIXES[family] for family in ("ViT", "EVA", "BEiT", "CaiT", "XCiT")), ())
# These take no other depth.
AS_THEY_ARE = sum((PREFIXES[family] for family in ("Hiera", "MViT", "SAM")), ())
MODULES = {
    "ViT": ("vision_transformer", "vision_transformer_hybrid", "deit", "micro_vit"),
    "PostNormViT": ("vision_transformer",),
    "Swin": ("swin_transformer",),
    "ConvNeXt": ("convnext",),
    "EVA": ("eva",),
    "BEiT": ("beit",),
    "SwinV2": ("swin_transformer_v2",),
    "RelPos": ("vision_transformer_relpos",),
    "CaiT": ("cait",),
    "XCiT": ("xcit",),
    "Hiera": ("hiera",),
    "ParallelViT": ("vision_transformer",),
    "MViT": ("mvitv2",),
    "SAM": ("vision_transformer_sam", "hieradet_sam2"),
    "PVT": ("pvt_v2",),
    "Twins": ("twins",),
    "TinyViT": ("tiny_vit",),
    "MaxViT": ("maxxvit",),
}


def test_table_names_the_families_of_the_library():
    assert list(PREFIXES) == list(FAMILIES)


def test_no_name_stands_in_two_families():
    starts = [start for family in PREFIXES.values() for start in family]
    assert not [(a, b) for a in starts for b in starts if a != b and a.startswith(b)]


@pytest.mark.parametrize("family", PREFIXES)
def test_every_architecture_of_a_family_comes_from_its_modules(family):
    known = {name for module in MODULES[family] for name in timm.list_models(module=module)}
    named = {name for name in timm.list_models() if family_of(name) == family}
    few = {"PostNormViT": 1, "ParallelViT": 5, "TinyViT": 5}  # timm has no more
    assert len(named) >= few.get(family, 6) and named <= known


# Sapiens2 takes no other depth than its own; its module (EVA's) is looked at above.
@pytest.mark.parametrize("name", [*(name for name in NAMES[::6] if "sapiens2" not in name), *OTHERS])
def test_family_is_that_of_the_blocks(name):
    shallow = {"depth": 1} if name.startswith(PLAIN) else {"depths": (1, 1, 1, 1)}
    if name.startswith(AS_THEY_ARE):
        shallow = {}
    with torch.device("meta"):
        built = families_of(timm.create_model(name, **shallow))
    assert ([] if family_of(name) is None else [family_of(name)]) == built


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("vit_base_patch16_224", "ViT"),
        ("deit3_small_patch16_224", "ViT"),
        ("mosa_vit_micro", "ViT"),
        ("swin_base_patch4_window7_224", "Swin"),
        ("convnextv2_tiny", "ConvNeXt"),
        ("vit_base_patch16_dinov3", "EVA"),
        ("vit_relpos_base_patch16_224", "RelPos"),
        ("vit_pwee_patch16_reg1_gap_256", "ParallelViT"),
        ("vit_base_patch16_rpn_224", "PostNormViT"),
        ("eva02_enormous_patch14_clip_224", "EVA"),
        ("beitv2_base_patch16_224", "BEiT"),
        ("swinv2_tiny_window8_256", "SwinV2"),
        ("swinv2_cr_tiny_224", None),
        ("maxvit_tiny_pm_256", None),
        ("coatnet_0_224", "MaxViT"),
        ("resnet50", None),
    ],
)
def test_family_of_names(architecture, family):
    assert family_of(architecture) == family


def test_unfit_pairs_have_a_sentence():
    assert unfit("vpt", "convnext_atto").startswith("vpt does not fit ConvNeXt (fits ViT, PostNormViT, Swin")
    assert unfit("repadapter", "convnext_atto").startswith("repadapter does not fit ConvNeXt (fits ")
    assert unfit("vpt", "vit_base_patch16_224") is None
    assert unfit("vpt", "resnet50") is None  # left to attach, which sees the model


@cache
def without_values(architecture):
    with torch.device("meta"):
        return timm.create_model(architecture)


@pytest.mark.parametrize("method", peft.list_methods())
@pytest.mark.parametrize(
    "architecture", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"]
)
def test_names_refuse_what_the_library_refuses(method, architecture):
    model = without_values(architecture)
    declared = peft.get_method(method).families
    reason = unfit(method, architecture)
    assert (reason is None) == (ANY_MODEL in declared or family_of(architecture) in declared)
    if reason:
        assert peft.build_method(method).unfit(model).startswith(reason)


def test_needs_neither_torch_nor_timm():
    code = "import sys; from mosa.experiment.families import unfit; unfit('vpt', 'swin_s3_base_224'); "
    code += "print({'torch', 'timm'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
