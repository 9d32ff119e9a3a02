"""What every method must do, on every architecture: a new method is tested without new code."""

import copy
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from models import ALL_CASES, ARCHITECTURES, CASES, COMMON, DECLARED, attach, batch, build, train_steps
from safetensors.torch import load_file, save_file

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.families import ANY_MODEL
from mosa.base.timm import timm
from mosa.peft.blocks import FAMILIES, families_of
from mosa.peft.routing import is_stochastic

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


@cache  # and not while tests are collected: Hugging Face PEFT takes seconds to import
def unfit(case: str, architecture: str) -> str | None:
    method, options = CASES[case]
    return peft.build_method(method, **options).unfit(build(architecture))


def attached(case: str, architecture: str = "vit", classes: int = 5, seed: int = 0, dtype=torch.float32):
    method, options = CASES[case]
    return attach(build(architecture, classes, dtype=dtype), method, seed=seed, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (case, architecture),
            id=f"{case}-{architecture}",
            marks=pytest.mark.thorough if (case, architecture) in RARE else (),
        )
        for architecture in ARCHITECTURES
        for case in CASES
    ],
)
def pair(request):
    """A method on an architecture: as it is attached, with its output then, and a copy that was trained.

    Tests share it, and leave it as it is.
    """
    case, architecture = request.param
    if unfit(case, architecture):
        pytest.skip("the method has no place in this architecture")
    method, options = CASES[case]
    start = build(architecture).eval()
    before = torch.random.get_rng_state()
    attach(start, method, **options)
    drew = not torch.equal(torch.random.get_rng_state(), before)
    images, _ = batch()
    output = start(images)
    trained = copy.deepcopy(start)
    train_steps(trained, steps=2)
    return SimpleNamespace(
        case=case,
        architecture=architecture,
        start=start,
        drew=drew,
        images=images,
        output=output,
        trained=trained,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unfit_method_is_refused_with_its_reason(architecture):
    for case in COMMON:
        if reason := unfit(case, architecture):
            model = build(architecture)
            with pytest.raises(UserError) as error:
                method, options = CASES[case]
                attach(model, method, **options)
            assert str(error.value) == reason
            assert not hasattr(model, "peft"), case
            assert all(parameter.requires_grad for parameter in model.parameters()), case
            assert list(model.state_dict()) == list(build(architecture).state_dict()), case


@pytest.mark.parametrize("method", peft.list_methods())
def test_method_runs_on_exactly_the_families_that_it_declares(method):
    """The families decide, except where the options of a case ask for more: one case of each must run.

    Families without an architecture here are those of SAMPLE in tests/architectures.py.
    """
    declared = peft.get_method(method).families
    fitting = {
        families_of(build(architecture))[0]
        for case in CASES
        for architecture in ARCHITECTURES
        if CASES[case][0] == method and unfit(case, architecture) is None
    }
    here = {families_of(build(architecture))[0] for architecture in ARCHITECTURES}
    assert fitting == here & set(FAMILIES if ANY_MODEL in declared else declared)


def test_attaching_draws_nothing_from_the_global_generator(pair):
    assert not pair.drew


def test_output_at_the_start_is_the_backbones(pair):
    expected = build(pair.architecture).eval()(pair.images)
    method = pair.start.peft.method
    if method.starts_as_backbone:
        # Where passes are averaged, the mean of equal numbers is equal up to rounding; so is a bias apart.
        rounds = getattr(method, "merge", None) == "ensemble" or pair.architecture in DECLARED
        torch.testing.assert_close(pair.output, expected, atol=1e-6 if rounds else 0, rtol=0)
    else:
        assert not torch.allclose(pair.output, expected)


def test_parameter_count_equals_its_formula(pair):
    count = peft.count_parameters(pair.start)
    assert count.adapter == pair.start.peft.method.parameters(pair.start, training=True)
    assert count.head == sum(p.numel() for p in pair.start.get_classifier().parameters())
    assert count.total == count.adapter + count.head


def test_only_tuned_tensors_change_and_get_a_gradient(pair):
    tuned = set(peft.tuned_state_dict(pair.trained))
    before = pair.start.state_dict()
    changed = {name for name, value in pair.trained.state_dict().items() if not equal(value, before[name])}
    assert changed - tuned <= {"router._extra_state"}
    head = {name for name in tuned if name.startswith("head.")}
    assert head and head <= changed
    if pair.case != "linear":
        assert changed & (tuned - head)
    assert_tuned_have_gradients(pair.trained, pair.architecture)


def test_training_a_copy_leaves_the_model_as_it_was(pair):
    assert torch.equal(pair.start(pair.images), pair.output)


def test_state_survives_safetensors(pair, folder):
    images, _ = batch(seed=9)
    expected = pair.trained(images)
    peft.save_tuned(pair.trained, folder / "with-options.safetensors")
    other = attached(pair.case, pair.architecture, seed=5)
    peft.load_tuned(other, folder / "with-options.safetensors")
    assert torch.equal(other.eval()(images), expected)
    if pair.architecture == "vit":
        save_file(peft.tuned_state_dict(pair.trained), folder / "tuned.safetensors")
        other = attached(pair.case, seed=5)
        peft.load_tuned_state_dict(other, load_file(folder / "tuned.safetensors"))
        assert torch.equal(other.eval()(images), expected)


def test_merging_keeps_the_output(pair):
    assert_merging_keeps_the_output(copy.deepcopy(pair.trained), pair.architecture)


@pytest.mark.parametrize("case", CASES)
def test_every_pair_trains_and_merges(case):
    """The pairs whose other tests are thorough ones."""
    for architecture in ARCHITECTURES:
        if architecture not in DECLARED and (case, architecture) in RARE and not unfit(case, architecture):
            model = attached(case, architecture)
            train_steps(model, steps=2)
            assert_tuned_have_gradients(model, architecture)
            assert_merging_keeps_the_output(model, architecture)


def assert_tuned_have_gradients(model, architecture):
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, (architecture, name)


def assert_merging_keeps_the_output(model, architecture):
    images, _ = batch(seed=9)
    expected = model(images)
    count = model.peft.method.parameters(model)
    assert peft.merge(model) is model
    torch.testing.assert_close(
        model(images), expected, atol=1e-5, rtol=0, msg=lambda text: f"{architecture}: {text}"
    )
    if hasattr(model, "peft"):
        assert peft.count_parameters(model).adapter == count, architecture
    else:
        backbone = build(architecture)
        assert list(model.state_dict()) == list(backbone.state_dict()), architecture
        assert [type(m) for m in model.modules()] == [type(m) for m in backbone.modules()], architecture


def equal(one: object, other: object) -> bool:
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


@cases
def test_number_of_classes_is_free(case):
    model = attached(case, classes=11)
    train_steps(model, classes=11)
    images, _ = batch()
    assert model(images).shape == (6, 11)


@cases
def test_seeded_runs_repeat_exactly(case):
    first, again, other = (attached(case, seed=seed) for seed in (3, 3, 4))
    runs = []
    for model, seed in ((copy.deepcopy(first), 3), (first, 3), (again, 3), (other, 4)):
        train_steps(model, steps=2, seed=seed)
        runs.append(peft.tuned_state_dict(model))
    for run in runs[1:3]:
        assert all(torch.equal(runs[0][name], run[name]) for name in runs[0])
    if model.peft.method.branches(model) or case in (
        "vpt",
        "ssf",
        "repadapter",
        "peft",
        "prefix",
        "e2vpt",
        "rlrr",
        "arc",
        "sct",
    ):  # others draw nothing
        assert any(not torch.equal(runs[0][name], runs[3][name]) for name in runs[0])


@cases
def test_two_passes_at_once_are_two_passes(case):
    """Without dropout and routing, each part of a batched forward is the plain forward."""
    method, options = CASES[case]
    if method in ("adamix", "dropconnect"):
        pytest.skip("always draws in training")
    for option, value in (("dropout", 0.0), ("drop_path", 0.0), ("experts", 1)):
        if option in peft.get_method(method).model_fields:
            options = options | {option: value}
    model = attach(build(dtype=torch.float64), method, **options)
    train_steps(model)
    model.train()
    images, _ = batch(dtype=torch.float64)
    expected = model(images)
    torch.testing.assert_close(
        peft.forward_passes(model, images, 3), expected.repeat(3, 1), atol=1e-12, rtol=0
    )


@cases
def test_two_passes_draw_apart(case):
    """Everything that a method draws in training differs between the passes of one step."""
    model = attached(case)
    stochastic = [m for m in model.modules() if is_stochastic(m)]
    routed = hasattr(model, "router") or case == "dropconnect"
    if not stochastic and not routed:
        pytest.skip("draws nothing")
    train_steps(model, lr=0.1)
    images, _ = batch()
    first, second = peft.forward_passes(model.train(), images, 2).chunk(2)
    assert not torch.allclose(first, second)


@cases
def test_attaching_to_a_model_on_another_dtype_keeps_it(case):
    model = attached(case, dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


@pytest.mark.parametrize("method", peft.list_methods())
def test_methods_describe_themselves(method):
    cls = peft.get_method(method)
    assert cls.__doc__ and cls.reference
    for name, field in cls.model_fields.items():
        assert field.description, name


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
