"""Loading is strict, digests are right, and the classifier is ours."""

import hashlib
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from mosa.backbones.build import BUILTIN_WEIGHTS, build_backbone
from mosa.base.errors import UserError

NAME = "mosa_vit_micro"


@pytest.fixture
def weights(tmp_path):
    """A weights file for the micro backbone, to be changed by the test."""
    model, _ = build_backbone(NAME, "random", num_classes=3, seed=5)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    return path


def test_a_file_is_loaded_whole_and_described(weights):
    model, backbone = build_backbone(NAME, str(weights), num_classes=7)
    loaded = load_file(weights)
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.items())
    assert set(state) - set(loaded) == {"head.weight", "head.bias"}
    assert backbone.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert backbone.architecture == NAME and backbone.image_size == 32
    assert not model.training


@pytest.mark.parametrize("name", BUILTIN_WEIGHTS)
def test_builtin_weights_load(name):
    _, backbone = build_backbone(name, "builtin", num_classes=2)
    assert backbone.sha256 == hashlib.sha256(BUILTIN_WEIGHTS[name].read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.3.norm2.bias"), r"(?s)1 of .* tensors differ.*blocks.3.norm2.bias +missing"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("blocks.2")], "12 of .* tensors differ"),
        (lambda s: s.update(extra=torch.zeros(1)), r"(?s)extra +not in the model"),
        (lambda s: s.update({"fc_norm.weight": torch.ones(5)}), r"(?s)fc_norm.weight +shape \(5,\), exp"),
        (lambda s: s["pos_embed"].fill_(math.nan), r"(?s)pos_embed +has values that are not finite"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(weights, change, words):
    state = {name: value.clone() for name, value in load_file(weights).items()}
    change(state)
    save_file(state, weights)
    with pytest.raises(UserError, match=words):
        build_backbone(NAME, str(weights), num_classes=3)


@pytest.mark.parametrize(
    ("architecture", "weights", "words"),
    [
        (NAME, "absent.safetensors", "absent.safetensors: no such file; download the weights"),
        ("vit_tiny_patch16_224", "builtin", "has no builtin weights"),
        ("vit_tinny_patch16_224", "random", "unknown architecture.*did you mean 'vit_tiny_patch16_224'"),
    ],
)
def test_wrong_names(architecture, weights, words):
    with pytest.raises(UserError, match=words):
        build_backbone(architecture, weights, num_classes=3)


def test_unreadable_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"junk" * 10)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        build_backbone(NAME, str(path), num_classes=3)


def test_classifier_is_initialised_alike_for_every_architecture():
    for name in (NAME, "vit_tiny_patch16_224"):
        model, _ = build_backbone(name, "random", num_classes=400, seed=3)
        head = model.get_classifier()
        assert torch.allclose(head.bias, torch.tensor(-math.log(99)))
        assert head.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.05)
        again, _ = build_backbone(name, "random", num_classes=400, seed=3)
        assert torch.equal(again.get_classifier().weight, head.weight)


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, backbone = build_backbone(NAME, "random", num_classes=3, seed=1)
    assert torch.equal(torch.get_rng_state(), before) and backbone.sha256 is None
    second, _ = build_backbone(NAME, "random", num_classes=3, seed=1)
    other, _ = build_backbone(NAME, "random", num_classes=3, seed=2)
    assert torch.equal(first.pos_embed, second.pos_embed)
    assert not torch.equal(first.pos_embed, other.pos_embed)
