"""Pre-training images, the loop, and the weights that are shipped."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from mosa.backbones.build import ASSETS, build_backbone
from mosa.backbones.pretraining import DEFAULT_IMAGES, DEFAULT_THREADS, pretrain, train
from mosa.backbones.pretraining.formula import HEADS, IGNORED, TEXTURES, FormulaImages

WEIGHTS = ASSETS / "micro_vit.safetensors"


@pytest.fixture(scope="module")
def source():
    return FormulaImages(0)


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_pictures_labels_and_paintings_have_their_shapes_and_ranges(source, difficulty):
    pictures, labels, painted = source.batch(64, torch.Generator().manual_seed(0), difficulty)
    assert pictures.shape == (64, 3, 32, 32)
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert (pictures.flatten(1).std(1) > 0.01).all()
    assert labels.keys() == HEADS.keys()
    for name, classes in HEADS.items():
        known = labels[name][labels[name] != IGNORED]
        assert known.min() >= 0 and known.max() < classes
    assert {name: tuple(value.shape) for name, value in painted.items()} == {
        "thumbnail": (64, 192),
        "figure": (64, 16, 16),
        "energy": (64, 16, 12),
    }
    assert all(value.isfinite().all() for value in painted.values())


def test_batches_are_a_function_of_seed_and_generator():
    first, second, other = (
        FormulaImages(seed).batch(8, torch.Generator().manual_seed(1))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_figure_is_where_the_large_shape_was_painted(source):
    """A patch's coverage, put back in place, is the shape's coverage of the picture."""
    _, _, painted = source.batch(16, torch.Generator().manual_seed(0), 0.0)
    figure = painted["figure"].view(16, 4, 4, 4, 4).permute(0, 1, 3, 2, 4).reshape(16, 16, 16)
    assert (figure >= 0).all() and (figure <= 1).all()
    centre, border = figure[:, 4:12, 4:12].mean(), torch.cat([figure[:, 0], figure[:, -1]]).mean()
    assert centre > 3 * border


def test_every_texture_is_one(source):
    categories = torch.arange(sum(TEXTURES.values())).repeat(4)
    fields = source.textures(categories, torch.Generator().manual_seed(0))
    assert fields.shape == (len(categories), 1, 32, 32)
    assert fields.min() >= 0 and fields.max() <= 1
    assert fields.flatten(1).std(1).view(4, -1).mean(0).min() > 0.01


def test_three_steps_repeat_and_load_strictly(tmp_path, monkeypatch):
    monkeypatch.setitem(train.SETTINGS, "batch_size", 8)
    written = [
        pretrain(tmp_path / str(i) / "w.safetensors", images=24, seed=3, threads=1, progress=False)
        for i in range(2)
    ]
    assert written[0]["sha256"] == written[1]["sha256"]
    assert [point["images"] for point in written[0]["curve"]] == [8, 16, 24]
    path = tmp_path / "0" / "w.safetensors"
    assert json.loads(path.with_suffix(".json").read_text())["sha256"] == written[0]["sha256"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["w.json", "w.safetensors"]
    model, described = build_backbone("mosa_vit_micro", str(path), 5)
    assert described.sha256 == written[0]["sha256"]
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_training_rate_warms_up_from_above_zero_and_ends_near_it():
    rates = [train._rate((step + 1) / 1000) for step in range(1000)]
    assert 0 < rates[0] < 0.1 and max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


# The shipped weights


def test_shipped_weights_are_those_of_their_description():
    description = json.loads(WEIGHTS.with_suffix(".json").read_text())
    blob = WEIGHTS.read_bytes()
    assert hashlib.sha256(blob).hexdigest() == description["sha256"]
    assert len(blob) < 6e6
    model, backbone = build_backbone("mosa_vit_micro", "builtin", 3)
    state = load_file(WEIGHTS)
    assert sum(value.numel() for value in state.values()) == description["parameters"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert list(backbone.mean) == description["config"]["mean"]
    assert list(backbone.std) == description["config"]["std"]


def test_shipped_weights_were_trained_to_the_end_by_the_defaults():
    description = json.loads(WEIGHTS.with_suffix(".json").read_text())
    assert description["settings"] == train.SETTINGS
    assert (description["images"], description["threads"]) == (DEFAULT_IMAGES, DEFAULT_THREADS)
    curve = description["curve"]
    assert curve[-1]["images"] >= description["images"]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert curve[-1]["shape_top1"] > 20 * 100 / HEADS["shape"]
