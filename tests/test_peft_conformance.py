"""What every method must do, on every architecture: a new method is tested without new code."""

import copy

import pytest
import torch
from models import ARCHITECTURES, SMALL, batch, build, train_steps
from safetensors.torch import load_file, save_file

from mosa import peft

methods = pytest.mark.parametrize("method", peft.list_methods())
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def attached(method: str, architecture: str = "vit", classes: int = 5, seed: int = 0):
    model = build(architecture, classes)
    return peft.attach(model, method, seed=seed, **SMALL.get(method, {}))


@methods
@architectures
def test_output_at_the_start_is_the_backbones(method, architecture):
    model = build(architecture).eval()
    images, _ = batch()
    expected = model(images)
    peft.attach(model, method, **SMALL.get(method, {}))
    assert torch.equal(model(images), expected)


@methods
@architectures
def test_only_tuned_tensors_change(method, architecture):
    model = attached(method, architecture)
    tuned = set(peft.tuned_state_dict(model))
    before = {name: value.clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
    train_steps(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed - tuned <= {"router._extra_state"}
    head = {name for name in tuned if name.startswith("head.")}
    assert head and head <= changed
    if method != "linear":
        assert changed & (tuned - head)


@methods
@architectures
def test_every_tuned_tensor_gets_a_gradient_and_no_other(method, architecture):
    model = attached(method, architecture).train()
    images, labels = batch()
    logits = peft.forward_passes(model, images, model.peft.method.passes)
    torch.nn.functional.cross_entropy(logits, labels.repeat(model.peft.method.passes)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@methods
@architectures
def test_merging_keeps_the_output(method, architecture):
    model = attached(method, architecture)
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


@methods
@architectures
def test_parameter_count_equals_its_formula(method, architecture):
    model = attached(method, architecture)
    count = peft.count_parameters(model)
    assert count.adapter == model.peft.method.parameters(model, training=True)
    assert count.head == sum(p.numel() for p in model.get_classifier().parameters())
    assert count.total == count.adapter + count.head


@methods
@architectures
def test_state_survives_safetensors(method, architecture, tmp_path):
    model = attached(method, architecture)
    train_steps(model)
    save_file(peft.tuned_state_dict(model), tmp_path / "tuned.safetensors")
    other = peft.load_tuned_state_dict(
        attached(method, architecture, seed=5), load_file(tmp_path / "tuned.safetensors")
    )
    images, _ = batch(seed=9)
    assert torch.equal(other.eval()(images), model(images))

    peft.save_tuned(model, tmp_path / "with-options.safetensors")
    other = peft.load_tuned(attached(method, architecture, seed=5), tmp_path / "with-options.safetensors")
    assert torch.equal(other.eval()(images), model(images))


@methods
def test_number_of_classes_is_free(method):
    model = attached(method, classes=11)
    train_steps(model, classes=11)
    images, _ = batch()
    assert model(images).shape == (6, 11)


@methods
def test_seeded_runs_repeat_exactly(method):
    runs = []
    for seed in (3, 3, 4):
        model = attached(method, seed=seed)
        train_steps(model, seed=seed)
        runs.append(peft.tuned_state_dict(model))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    if not {"full", "linear"} & {method}:  # these draw nothing of their own
        assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@methods
@architectures
def test_copies_are_independent(method, architecture):
    model = attached(method, architecture)
    twin = copy.deepcopy(model)
    train_steps(twin)
    images, _ = batch()
    assert torch.equal(model.eval()(images), build(architecture).eval()(images))
    train_steps(model)
    assert torch.equal(model(images), twin(images))


@methods
def test_two_passes_at_once_are_two_passes(method):
    """Without dropout and routing, each half of a batched forward is the plain forward."""
    options = SMALL.get(method, {}) | ({"dropout": 0.0} if method in ("adapter", "mosa") else {})
    options |= {"experts": 1} if method == "mosa" else {}
    model = peft.attach(build(dtype=torch.float64), method, **options)
    train_steps(model)
    model.train()
    images, _ = batch(dtype=torch.float64)
    expected = model(images)
    torch.testing.assert_close(
        peft.forward_passes(model, images, 3), expected.repeat(3, 1), atol=1e-12, rtol=0
    )


@methods
def test_attaching_to_a_model_on_another_dtype_keeps_it(method):
    model = peft.attach(build(dtype=torch.float64), method, **SMALL.get(method, {}))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


@methods
def test_methods_describe_themselves(method):
    cls = peft.get_method(method)
    assert cls.__doc__ and cls.reference
    for name, field in cls.model_fields.items():
        assert field.description, name


def test_trainable_parameters_on_vit_base():
    """The counts that the literature quotes for ViT-B/16, by formula and by counting, on an empty model."""
    from mosa._timm import timm

    expected = {
        ("adapter", 64): 1_208_064,
        ("lora", 16): 589_824,
        ("full", None): 85_798_656,
        ("linear", None): 0,
    }
    for (method, size), count in expected.items():
        with torch.device("meta"):
            model = timm.create_model("vit_base_patch16_224", num_classes=100)
        options = {"adapter": {"bottleneck": size}, "lora": {"rank": size}}.get(method, {})
        assert peft.build_method(method, **options).parameters(model) == count
