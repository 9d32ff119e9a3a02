"""The running statistics of a CNN's norms: frozen with their norm, or a part of the tuned state."""

import pytest
import torch
from models import ALL_CASES, CASES, attach, batch, build, train_steps

from mosa import peft
from mosa.base.timm import timm


def cnn(norm=None):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=5, **({} if norm is None else {"norm_layer": norm}))


def statistics(model):
    return {name: value.clone() for name, value in model.named_buffers()}


@pytest.mark.parametrize("norm", [None, timm.layers.EvoNorm2dB0])
@pytest.mark.parametrize("method", ["full", "bias", "linear"])
def test_statistics_move_only_where_the_norm_is_tuned(method, norm):
    model = peft.attach(cnn(norm), method)
    before = statistics(model)
    train_steps(model)  # which calls model.train() and nothing else
    model.train().forward_features(batch()[0])
    moved = {name for name, value in statistics(model).items() if not torch.equal(value, before[name])}
    assert moved == (set() if method == "linear" else set(before))
    assert moved == set(model.peft.buffers)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("method", ["full", "bias", "linear"])
def test_a_trained_cnn_survives_its_file(method, merged, tmp_path):
    models = [peft.attach(cnn(), method) for _ in range(2)]
    train_steps(models[0])
    if merged:
        models = [peft.merge(model) for model in models]
    peft.save_tuned(models[0], tmp_path / "tuned.safetensors")
    peft.load_tuned(models[1], tmp_path / "tuned.safetensors")
    images, _ = batch(seed=9)
    assert torch.equal(models[1].eval()(images), models[0](images))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_norm_that_was_unfrozen_takes_its_statistics_along(frozen, tmp_path):
    model = peft.attach(cnn(), "linear")
    norm = next(name for name, module in model.named_modules() if hasattr(module, "running_var"))
    model.get_submodule(norm).requires_grad_(True)
    train_steps(model)
    if frozen:
        model.requires_grad_(False)
    assert f"{norm}.running_mean" in peft.tuned_state_dict(model)
    peft.save_pretrained(model, tmp_path / "tuned.safetensors")
    found = peft.from_pretrained(tmp_path / "tuned.safetensors", cnn())
    images, _ = batch(seed=9)
    assert torch.equal(found.eval()(images), model.eval()(images))


def test_a_model_with_nothing_attached_any_more_moves_its_statistics():
    model = peft.merge(peft.attach(cnn(), "peft", targets=["fc"]))
    assert not hasattr(model, "peft")
    before = statistics(model)
    model.train()(batch()[0])
    assert all(not torch.equal(value, before[name]) for name, value in statistics(model).items())


@pytest.mark.parametrize("case", ALL_CASES)
def test_a_merged_model_survives_its_file(case, tmp_path):
    """In a model of another seed, whose partitions and fixed projections are others until they are loaded."""
    method, options = CASES[case]
    model, other = (attach(build(), method, seed=seed, **options) for seed in (0, 5))
    train_steps(model, lr=0.1)
    peft.merge(model), peft.merge(other)
    if not hasattr(model, "peft"):
        pytest.skip("the backbone holds what was trained")
    peft.save_tuned(model, tmp_path / "tuned.safetensors")
    peft.load_tuned(other, tmp_path / "tuned.safetensors")
    images, _ = batch(seed=9)
    assert torch.equal(other.eval()(images), model.eval()(images))
