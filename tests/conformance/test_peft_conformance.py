"""What every method must do, on every architecture: a new method is tested without new code."""

import copy

import pytest
import torch
from models import ARCHITECTURES, CASES, batch, build, train_steps
from safetensors.torch import load_file, save_file

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.families import ANY_MODEL
from mosa.base.timm import timm
from mosa.peft.blocks import FAMILIES, families_of
from mosa.peft.losses import tuning_loss

BUILT = {case: peft.build_method(method, **options) for case, (method, options) in CASES.items()}
MODELS = {architecture: build(architecture) for architecture in ARCHITECTURES}
UNFIT = {
    (case, architecture): method.unfit(model)
    for case, method in BUILT.items()
    for architecture, model in MODELS.items()
}

cases = pytest.mark.parametrize("case", CASES)
everywhere = pytest.mark.parametrize(
    ("case", "architecture"), [pair for pair, reason in UNFIT.items() if reason is None]
)


def attached(case: str, architecture: str = "vit", classes: int = 5, seed: int = 0, dtype=torch.float32):
    method, options = CASES[case]
    return peft.attach(build(architecture, classes, dtype=dtype), method, seed=seed, **options)


@pytest.mark.parametrize(("case", "architecture"), [pair for pair, reason in UNFIT.items() if reason])
def test_unfit_method_is_refused_with_its_reason(case, architecture):
    model = build(architecture)
    with pytest.raises(UserError) as error:
        peft.attach(model, BUILT[case])
    assert str(error.value) == UNFIT[case, architecture]
    assert not hasattr(model, "peft") and all(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == list(MODELS[architecture].state_dict())


@pytest.mark.parametrize("method", peft.list_methods())
def test_method_runs_on_exactly_the_families_that_it_declares(method):
    """The families decide, except where the options of a case ask for more: one case of each must run."""
    declared = peft.get_method(method).families
    fitting = {
        families_of(MODELS[architecture])[0]
        for (case, architecture), reason in UNFIT.items()
        if CASES[case][0] == method and reason is None
    }
    assert fitting == set(FAMILIES if ANY_MODEL in declared else declared)


@everywhere
def test_output_at_the_start_is_the_backbones(case, architecture):
    model = attached(case, architecture).eval()
    images, _ = batch()
    expected = build(architecture).eval()(images)
    if model.peft.method.starts_as_backbone:
        # Where passes are averaged, the mean of equal numbers is equal up to rounding.
        averaged = getattr(model.peft.method, "merge", None) == "ensemble"
        torch.testing.assert_close(model(images), expected, atol=1e-6 if averaged else 0, rtol=0)
    else:
        assert not torch.allclose(model(images), expected)


@everywhere
def test_only_tuned_tensors_change(case, architecture):
    model = attached(case, architecture)
    tuned = set(peft.tuned_state_dict(model))
    before = {name: value.clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
    train_steps(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed - tuned <= {"router._extra_state"}
    head = {name for name in tuned if name.startswith("head.")}
    assert head and head <= changed
    if case != "linear":
        assert changed & (tuned - head)


@everywhere
def test_every_tuned_tensor_gets_a_gradient_and_no_other(case, architecture):
    model = attached(case, architecture).train()
    images, labels = batch()
    tuning_loss(model, images, labels).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@everywhere
def test_merging_keeps_the_output(case, architecture):
    model = attached(case, architecture)
    train_steps(model)
    images, _ = batch(seed=9)
    expected = model(images)
    count = model.peft.method.parameters(model)
    assert peft.merge(model) is model
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    if hasattr(model, "peft"):
        assert peft.count_parameters(model).adapter == count
    else:
        assert list(model.state_dict()) == list(build(architecture).state_dict())
        assert [type(module) for module in model.modules()] == [
            type(module) for module in build(architecture).modules()
        ]


@everywhere
def test_parameter_count_equals_its_formula(case, architecture):
    model = attached(case, architecture)
    count = peft.count_parameters(model)
    assert count.adapter == model.peft.method.parameters(model, training=True)
    assert count.head == sum(p.numel() for p in model.get_classifier().parameters())
    assert count.total == count.adapter + count.head


@everywhere
def test_state_survives_safetensors(case, architecture, tmp_path):
    model = attached(case, architecture)
    train_steps(model)
    save_file(peft.tuned_state_dict(model), tmp_path / "tuned.safetensors")
    other = peft.load_tuned_state_dict(
        attached(case, architecture, seed=5), load_file(tmp_path / "tuned.safetensors")
    )
    images, _ = batch(seed=9)
    assert torch.equal(other.eval()(images), model(images))

    peft.save_tuned(model, tmp_path / "with-options.safetensors")
    other = peft.load_tuned(attached(case, architecture, seed=5), tmp_path / "with-options.safetensors")
    assert torch.equal(other.eval()(images), model(images))


@cases
def test_number_of_classes_is_free(case):
    model = attached(case, classes=11)
    train_steps(model, classes=11)
    images, _ = batch()
    assert model(images).shape == (6, 11)


@cases
def test_seeded_runs_repeat_exactly(case):
    runs = []
    for seed in (3, 3, 4):
        model = attached(case, seed=seed)
        train_steps(model, seed=seed)
        runs.append(peft.tuned_state_dict(model))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    if model.peft.method.branches(model) or case in (
        "vpt",
        "ssf",
        "repadapter",
        "peft",
    ):  # others draw nothing
        assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@everywhere
def test_copies_are_independent(case, architecture):
    model = attached(case, architecture)
    twin = copy.deepcopy(model)
    train_steps(twin)
    images, _ = batch()
    assert torch.equal(model.eval()(images), attached(case, architecture).eval()(images))
    train_steps(model)
    assert torch.equal(model(images), twin(images))


@cases
def test_two_passes_at_once_are_two_passes(case):
    """Without dropout and routing, each part of a batched forward is the plain forward."""
    method, options = CASES[case]
    if method in ("adamix", "dropconnect"):
        pytest.skip("always draws in training")
    for option, value in (("dropout", 0.0), ("experts", 1)):
        if option in peft.get_method(method).model_fields:
            options = options | {option: value}
    model = peft.attach(build(dtype=torch.float64), method, **options)
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
    stochastic = [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
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


@everywhere
def test_attaching_draws_nothing_from_the_global_generator(case, architecture):
    model = build(architecture)
    before = torch.random.get_rng_state()
    method, options = CASES[case]
    peft.attach(model, method, **options)
    assert torch.equal(torch.random.get_rng_state(), before)


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
    ("repadapter", "bottleneck", 8): 12 * 2 * (768 * 8 + 8 + 768 * 4 + 768),
    ("partial", "blocks", 1): 12 * 768**2 + 13 * 768 + 2 * 768,
    ("adapter", "placement", "houlsby"): 2 * 1_208_064,
}


@pytest.mark.parametrize(("method", "option", "value"), VIT_BASE)
def test_trainable_parameters_on_vit_base(method, option, value):
    """By formula and, for what adds modules, by counting on a model without values."""
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=100)
    built = peft.build_method(method, **({} if option is None else {option: value}))
    assert built.parameters(model) == VIT_BASE[method, option, value]
