"""What every method must do, on every architecture: a new method is tested without new code."""

from functools import cache

import pytest
import torch
from marks import thorough
from models import ALL_CASES, ARCHITECTURES, CASES, COMMON, DECLARED, attach, build, train_steps

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.methods import ANY_MODEL
from mosa.base.timm import timm
from mosa.peft import checks
from mosa.peft.blocks import FAMILIES, families_of
from mosa.peft.routing import is_stochastic
from mosa.peft.subject import VIT, Subject

cases = pytest.mark.parametrize("case", ALL_CASES)
# Options that are not common, and seven of eight pairs with another architecture than the ViT: their
# tests are thorough ones, except for `test_every_pair_trains_and_merges`. Of those in DECLARED, 19 of 20,
# without exception.
RARE = {
    (case, architecture)
    for shift, architecture in enumerate(ARCHITECTURES)
    for index, case in enumerate(CASES)
    if (
        case not in COMMON
        if architecture == "vit"
        else (index + shift) % (20 if architecture in DECLARED else 8)
    )
}


@cache
def backbone(architecture: str):
    """A model that tests share, and leave as it is."""
    return build(architecture)


@cache  # and not while tests are collected: Hugging Face PEFT takes seconds to import
def unfit(case: str, architecture: str) -> str | None:
    method, options = CASES[case]
    return peft.build_method(method, **options).unfit(backbone(architecture))


def subject(case: str, architecture: str = "vit") -> Subject:
    return Subject(*CASES[case], architecture)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(
    scope="module",
    params=[
        parameter
        for architecture in ARCHITECTURES
        for it in [(case, architecture) for case in CASES]
        for parameter in (thorough(it) if it in RARE else [it])
    ],
    ids="-".join,
)
def pair(request):
    """A method on an architecture; tests share it, and leave it as it is."""
    if unfit(*request.param):
        pytest.skip("the method has no place in this architecture")
    return subject(*request.param)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unfit_method_is_refused_with_its_reason(architecture):
    model, names = build(architecture), list(backbone(architecture).state_dict())
    for case in COMMON:
        if reason := unfit(case, architecture):
            with pytest.raises(UserError) as error:
                method, options = CASES[case]
                attach(model, method, **options)
            assert str(error.value) == reason
            assert not hasattr(model, "peft"), case
            assert all(parameter.requires_grad for parameter in model.parameters()), case
            assert list(model.state_dict()) == names, case


@pytest.mark.parametrize("method", peft.list_methods())
def test_method_runs_on_exactly_the_families_that_it_declares(method):
    """The families decide, except where the options of a case ask for more: one case of each must run.

    Families without an architecture here are those of SAMPLE in tests/architectures.py.
    """
    declared = peft.get_method(method).families
    fitting = {
        families_of(backbone(architecture))[0]
        for case in CASES
        for architecture in ARCHITECTURES
        if CASES[case][0] == method and unfit(case, architecture) is None
    }
    here = {families_of(backbone(architecture))[0] for architecture in ARCHITECTURES}
    assert fitting == here & set(FAMILIES if ANY_MODEL in declared else declared)


@pytest.mark.parametrize(
    "check",
    [
        checks.draws_nothing,
        checks.starts_as_it_says,
        checks.counts_by_formula,
        checks.trains_what_it_tunes,
        checks.reaches_all_it_tunes,
        checks.leaves_other_models_alone,
        checks.merges,
    ],
    ids=lambda check: check.__name__,
)
def test_method_on_architecture(pair, check):
    assert check(pair) is None


def test_a_kernel_that_torch_takes_for_frozen_weights_is_no_change(monkeypatch):
    """The one query of attention pooling: torch multiplies it in another way where it is frozen."""
    pooled = dict(VIT, global_pool="map", class_token=False)
    monkeypatch.setitem(
        ARCHITECTURES,
        "map_pool",
        lambda classes: timm.create_model("vit_tiny_patch16_224", num_classes=classes, **pooled),
    )
    subject = Subject("linear", {}, "map_pool")
    assert checks.starts_as_it_says(subject) is None
    subject.output.add_(1e-8)
    assert "changes the output" in checks.starts_as_it_says(subject)


def test_state_survives_safetensors(pair, folder):
    assert checks.survives_saving(pair, folder) is None


def shortly(case: str) -> list[str]:
    """The architectures on which a case that is rare there is trained all the same, in every test run.

    Those whose blocks are the ViT's take turns; so do all beside the ViT where options are not common.
    """
    turn = list(CASES).index(case)
    vits, others = ("vit_avgpool", "vit_layerscale_droppath"), ("convnext", "swin")
    return [vits[turn % 2], *others] if case in COMMON else ["vit", (*vits, *others)[turn % 4]]


@pytest.mark.parametrize("which", ["some", *thorough("others")])
@pytest.mark.parametrize("case", CASES)
def test_every_pair_trains_and_merges(case, which):
    """The pairs whose other tests are thorough ones."""
    for architecture in ARCHITECTURES:
        rare = architecture not in DECLARED and (case, architecture) in RARE
        asked = (architecture in shortly(case)) == (which == "some")
        if rare and asked and not unfit(case, architecture):
            model = subject(case, architecture).start
            train_steps(model, steps=2)
            assert checks.gradients_of(model) is None, architecture
            assert checks.merging_of(model, architecture) is None, architecture


@cases
def test_number_of_classes_is_free(case):
    assert checks.takes_any_number_of_classes(subject(case)) is None


@cases
def test_images_of_a_batch_are_apart(case):
    assert checks.treats_images_apart(subject(case)) is None


@cases
def test_seeded_runs_repeat_exactly(case):
    drawing = ("vpt", "ssf", "repadapter", "peft", "prefix", "e2vpt", "rlrr", "arc", "sct")
    draws = True if case in drawing else None  # others draw nothing, unless they have branches
    assert checks.repeats_exactly(subject(case), draws) is None


@cases
def test_two_passes_at_once_are_two_passes(case):
    """Without dropout and routing, each part of a batched forward is the plain forward."""
    if CASES[case][0] in ("adamix", "dropconnect"):
        pytest.skip("always draws in training")
    assert checks.passes_are_apart(subject(case), unless_it_draws=False) is None


@cases
def test_two_passes_draw_apart(case):
    """Everything that a method draws in training differs between the passes of one step."""
    model = subject(case).attached()
    stochastic = [m for m in model.modules() if is_stochastic(m)]
    routed = hasattr(model, "router") or case == "dropconnect"
    if not stochastic and not routed:
        pytest.skip("draws nothing")
    assert checks.draws_of(subject(case), model) is None


@cases
def test_attaching_to_a_model_on_another_dtype_keeps_it(case):
    assert checks.keeps_the_dtype(subject(case)) is None


@pytest.mark.parametrize("method", peft.list_methods())
def test_methods_describe_themselves(method):
    assert checks.describes_itself(Subject(method, {})) is None


# Tuned parameters without head on ViT-B/16 (d = 768, L = 12), as the literature quotes or by formula.
VIT_BASE = {
    ("adapter", "bottleneck", 64): 1_208_064,
    ("adapter", "bottleneck", 16): 12 * (2 * 16 * 768 + 3 * 768 + 16),
    ("mosa", "bottleneck", 64): 1_208_064,
    ("lora", "rank", 16): 589_824,
    ("mosl", "rank", 16): 589_824,
    ("full", None, None): 85_798_656,
    ("linear", None, None): 0,
    ("vpt", "prompts", 10): 92_160,
    ("bias", None, None): 11 * 768 * 12 + 2 * 768,
    ("norm", None, None): 4 * 768 * 12 + 2 * 768,
    ("ssf", None, None): 22 * 768 * 12 + 4 * 768,
    ("e2vpt", "prompts", 5): 12 * 10 * 768,
    ("prefix", "length", 10): 12 * 2 * 10 * 768,
    ("arc", "bottleneck", 50): 2 * 50 * 768 + 12 * 2 * (50 + 768),
    ("bi_adaptformer", "bottleneck", 32): 12 * 2 * 32 * 768,
    ("bi_lora", "rank", 32): 12 * 4 * 32 * 768,
    ("sct", "keep", 8): 12 * (96**2 + 96),
    ("rlrr", None, None): 31 * 768 * 12 + 4 * 768,
    ("repadapter", "bottleneck", 8): 12 * 2 * (768 * 8 + 8 + 768 * 4 + 768),
    ("partial", "blocks", 1): 12 * 768**2 + 13 * 768 + 2 * 768,
    ("adapter", "placement", "houlsby"): 2 * 1_208_064,
    ("fact", "form", "tt"): 2 * 768 * 16 + 144 * 16**2,
    ("fact", "form", "tk"): 2 * 768 * 16 + 144 * 16 + 16**3,
    ("convpass", "bottleneck", 8): 24 * (2 * 8 * 768 + 9 * 64 + 2 * 8 + 768),
    ("adapter_plus", "bottleneck", 8): 12 * (2 * 8 * 768 + 8 + 2 * 768),
    ("difffit", None, None): 15 * 768 * 12 + 3 * 768,
    ("mona", "bottleneck", 64): 24 * (2 * 64 * 768 + 5 * 768 + 64**2 + 88 * 64),
    ("lorand", "rank", 8): 24 * (2 * (16 * (768 + 384) + 64) + 768 + 384),
    ("hydra", "rank", 2): 12 * (2 * (4 * 768) + 2 * (2 + 768) + 2 * (4 + 3) * 768 + 2 * (2 + 768)),
    ("utuning", "bottleneck", 64): 24 * (2 * 64 * 768 + 64 + 768),
    ("dora", "rank", 16): 589_824 + 12 * 2 * 768,
}


@cache
def vit_base():
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=100)


@pytest.mark.parametrize(("method", "option", "value"), VIT_BASE)
def test_trainable_parameters_on_vit_base(method, option, value):
    """By formula and, for what adds modules, by counting on a model without values."""
    built = peft.build_method(method, **({} if option is None else {option: value}))
    assert built.parameters(vit_base()) == VIT_BASE[method, option, value]
