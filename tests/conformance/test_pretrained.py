"""What `save_pretrained` wrote is loaded as it was, or refused in one sentence."""

import copy
import json
import re
from functools import partial

import pytest
import torch
from models import attach, batch, build, train_steps
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.timm import timm
from mosa.peft import blocks, pretrained
from mosa.peft.subject import VIT

IMAGES = batch(2)[0]
NAMES = ["cat", "dog", "horse", "cow", "hen"]
OPTIONS = {"lora": {"rank": 4}, "mosa": {"bottleneck": 4, "experts": 2}}


def trained(method="lora", **options):
    model = attach(build(), method, **OPTIONS[method] | options)
    train_steps(model, steps=1, lr=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for method in OPTIONS:
        peft.save_pretrained(trained(method), folder / method, label_names=NAMES)
    return folder


def edited(source, path, method=(), backbone=(), without=()):
    """Write a file again with other metadata; `without` are options that it is older than."""
    with safe_open(source, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = {key: json.loads(value) for key, value in file.metadata().items() if key != "mosa.content"}
    found["mosa.method"] = {k: v for k, v in found["mosa.method"].items() if k not in without} | dict(method)
    found["mosa.backbone"] |= dict(backbone)
    save_file(state, path, {key: json.dumps(value) for key, value in found.items()})
    return path


EDITS = {
    "unknown option": ({"method": {"new": 1}}, "unknown option 'new' of method 'lora'"),
    "missing option": ({"without": ("rank",)}, "says nothing of 'rank', an option of method 'lora'"),
    "option of another type": ({"method": {"rank": "four"}}, "option 'rank'"),
    "unknown method": ({"method": {"method": "lara"}}, "unknown method 'lara'.*'lora'"),
    "no method": ({"method": {"method": None}}, "names no method"),
    "another digest": ({"backbone": {"digest": "0" * 64}}, "trained on another backbone.*SHA-256"),
    "no digest": ({"backbone": {"digest": None}}, "SHA-256"),
    "another architecture": ({"backbone": {"architecture": "resnet18"}}, "resnet18, and this model is"),
    "other classes": (
        {"backbone": {"num_classes": 7, "label_names": None}},
        "7 classes and a classifier of 5",
    ),
    "classes that are no number": (
        {"backbone": {"num_classes": "7", "label_names": None}},
        "number of classes is '7'",
    ),
    "names that are none": ({"backbone": {"label_names": "cats!"}}, "label_names"),
    "too few names": ({"backbone": {"label_names": ["cat"]}}, "1 name for 5 classes"),
    "merged that is no list": ({"method": {"merged": 3}}, "merged"),
    "merged without methods": ({"method": {"merged": [1]}}, "merged"),
    "changed that is no list": ({"backbone": {"changed": 3}}, "changed"),
    "probe of no shape": (
        {"backbone": {"probe": {"shape": [3, -1, 8], "features": [1.0]}}},
        "probe has the shape",
    ),
    "probe of a huge shape": (
        {"backbone": {"probe": {"shape": [3, 1 << 20, 1 << 20]}}},
        "probe has the shape",
    ),
    "probe of no features": (
        {"backbone": {"probe": {"shape": [3, 8, 8], "features": ["a"]}}},
        "probe has the features",
    ),
    "probe that is none": ({"backbone": {"probe": [1]}}, "probe has the shape"),
    "head that is no list": ({"backbone": {"head": 3}}, "head"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_was_edited_is_refused(files, tmp_path, edit):
    changes, words = EDITS[edit]
    path, model = edited(files / "lora", tmp_path / "edited", **changes), build().eval()
    before, keys = model(IMAGES), list(model.state_dict())
    with pytest.raises(UserError, match=words):
        peft.from_pretrained(path, model)
    assert list(model.state_dict()) == keys and torch.equal(model(IMAGES), before)
    assert peft.list_adapters(model) == []


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_file_that_was_cut_is_refused(files, tmp_path, cut):
    content = (files / "lora").read_bytes()
    (tmp_path / "cut").write_bytes(content[:cut])
    with pytest.raises(
        UserError, match=r"cannot be read as safetensors; expected a file of save_pretrained$"
    ):
        peft.from_pretrained(tmp_path / "cut", build())


def test_options_of_training_may_differ_and_be_older(files, tmp_path):
    """A file may lack an option that is neutral or only for training, or have another value of it."""
    expected = peft.from_pretrained(files / "mosa", build()).eval()(IMAGES)
    old = edited(files / "mosa", tmp_path / "old", without=("split_lr", "every_expert", "consistency"))
    assert torch.equal(peft.from_pretrained(old, build()).eval()(IMAGES), expected)
    other = attach(build(), "mosa", **OPTIONS["mosa"], split_lr=0.5, consistency=0.25).eval()
    assert torch.equal(peft.load_tuned(other, old)(IMAGES), expected)
    with pytest.raises(UserError, match=r"made for experts=2; the model has experts=4"):
        peft.load_tuned(attach(build(), "mosa", bottleneck=4), old)


def test_without_the_head_the_model_keeps_its_own(files):
    model = build().eval()
    model.reset_classifier(7)
    head = model.head.weight.clone()
    peft.from_pretrained(files / "lora", model, head=False)
    assert torch.equal(model.head.weight, head) and peft.get_label_names(model) is None
    expected = peft.from_pretrained(files / "lora", build()).eval()
    assert torch.equal(model.forward_features(IMAGES), expected.forward_features(IMAGES))
    assert peft.get_label_names(expected) == NAMES


def test_another_backbone_is_refused(files):
    model = build(seed=1).eval()
    before = model(IMAGES)
    with pytest.raises(UserError, match="trained on another backbone"):
        peft.from_pretrained(files / "lora", model)
    assert torch.equal(model(IMAGES), before) and not hasattr(model, "peft")
    with pytest.raises(UserError, match="in the same precision"):
        peft.from_pretrained(files / "lora", build().double())


def vit(**options):
    model = pretrained.timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT | options)
    model.load_state_dict(build().state_dict())
    return model


OTHERWISE = {
    "pooling": {"global_pool": "avg", "fc_norm": False},
    "activation": {"act_layer": nn.ReLU},
}


@pytest.mark.parametrize("form", ["attached", "merged", "half", "train"])
@pytest.mark.parametrize("options", OTHERWISE.values(), ids=OTHERWISE)
def test_a_backbone_that_computes_something_else_is_refused(options, form, tmp_path):
    """It has the same weights. One that computes the same is taken; and any by a file without a probe."""
    model, other, same = vit(**options), vit(), vit(**options)
    if form == "half":
        model, other, same = (each.to(torch.bfloat16) for each in (model, other, same))
    train_steps(attach(model, "lora", rank=4), steps=1, lr=0.1)
    if form == "merged":
        peft.merge(model)
    model.train(form == "train")
    peft.save_pretrained(model, tmp_path / "file")
    assert all(module.training == (form == "train") for module in model.modules())
    state = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(
        UserError, match="trained on another backbone, which computes something else with the same"
    ):
        peft.from_pretrained(tmp_path / "file", other)
    assert state.keys() == other.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    with pytest.raises(UserError, match="which computes something else"):
        peft.from_pretrained(tmp_path / "file", other, head=False)
    images = IMAGES.to(next(model.parameters()))
    found = peft.from_pretrained(tmp_path / "file", same).eval()
    assert torch.equal(found(images), model.eval()(images))
    peft.from_pretrained(edited(tmp_path / "file", tmp_path / "older", backbone={"probe": None}), other)


def test_timm_builds_the_backbone_of_a_file(files, tmp_path, monkeypatch):
    asked = {}

    def create_model(name, pretrained, num_classes, **arguments):
        asked.update(name=name, pretrained=pretrained, num_classes=num_classes, **arguments)
        return build()

    monkeypatch.setattr(pretrained.timm, "create_model", create_model)
    path = edited(files / "lora", tmp_path / "tag", backbone={"tag": "in1k", "model_args": {"depth": 2}})
    model = peft.from_pretrained(path)
    assert asked == {
        "name": f"{build().pretrained_cfg['architecture']}.in1k",
        "pretrained": True,
        "num_classes": 5,
        "depth": 2,
    }
    assert not model.training and peft.get_label_names(model) == NAMES
    with pytest.raises(UserError, match="its options take more memory than there is"):
        peft.from_pretrained(edited(files / "mosa", tmp_path / "huge", method={"bottleneck": 10**13}))
    monkeypatch.undo()
    for backbone, words in (
        ({"architecture": "vit_tinny"}, "timm cannot build vit_tinny"),
        ({"architecture": None}, "not one of timm's: give from_pretrained the model"),
        ({"model_args": {"no_such": 1}}, "timm cannot build .* give from_pretrained the model"),
        ({"model_args": 3}, "model_args"),
    ):
        path = edited(files / "lora", tmp_path / "other", backbone=backbone)
        with pytest.raises(UserError, match=words):
            peft.from_pretrained(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"label_names": NAMES[1:]}, "4 names for 5 classes"),
        ({"label_names": "abcde"}, "label_names: expected a list of names"),
        ({"label_names": [1, 2, 3, 4, 5]}, "label_names: expected a list of names"),
        ({"model_args": {"act_layer": nn.GELU}}, "model_args"),
        ({"model_args": ["img_size"]}, "model_args: expected arguments by their names, got"),
        ({"model_args": {"num_classes": 5}}, "model_args"),
        (
            {"model_args": {"pretrained": True}},
            "not written, as from_pretrained would refuse it: .*'pretrained'",
        ),
    ],
)
def test_what_cannot_be_saved_says_so(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words):
        peft.save_pretrained(attach(build(), "lora", rank=4), tmp_path / "file", **arguments)
    assert not (tmp_path / "file").exists()


def _nothing(model):
    pass


def _frozen(model):
    model.requires_grad_(False)


def _head_frozen(model):
    model.head.requires_grad_(False)


def _unfrozen(model):
    model.requires_grad_(True)
    train_steps(model, steps=1, lr=0.1)


def _norm_unfrozen(model):
    model.norm.requires_grad_(True)
    train_steps(model, steps=1, lr=0.1)


def _unfrozen_and_frozen(model, unfreeze=_norm_unfrozen):
    unfreeze(model)
    model.requires_grad_(False)


def _merged(model, then=_nothing):
    then(model)
    peft.merge(model)


def _other_head(model):
    model.reset_classifier(7)
    train_steps(model, steps=1, lr=0.1)


def _own_head(model):
    model.head = nn.Linear(32, 10)


def _no_head(model):
    model.reset_classifier(0)


CHANGES = {
    "frozen": _frozen,
    "head frozen": _head_frozen,
    "frozen, merged": partial(_merged, then=_frozen),
    "unfrozen": _unfrozen,
    "unfrozen, merged": partial(_merged, then=_unfrozen),
    "unfrozen, frozen": partial(_unfrozen_and_frozen, unfreeze=_unfrozen),
    "norm unfrozen, frozen": _unfrozen_and_frozen,
    "norm unfrozen, frozen, merged": partial(_merged, then=_unfrozen_and_frozen),
    "another head": _other_head,
    "a head of one's own": _own_head,
    "no head": _no_head,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", OPTIONS)
def test_what_was_trained_is_saved_whatever_requires_a_gradient_now(method, change, tmp_path):
    model = trained(method)
    CHANGES[change](model)
    expected = model.eval()(IMAGES)
    peft.save_pretrained(model, tmp_path / "file")
    assert torch.equal(peft.from_pretrained(tmp_path / "file", build()).eval()(IMAGES), expected)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("classes", [0, 10])
def test_any_number_of_classes_is_saved(classes, own, tmp_path, monkeypatch):
    """Also that of a head that was assigned, of which timm's `num_classes` knows nothing."""
    model, of_timm = build(), build()
    of_timm.reset_classifier(classes)
    if own:
        model.head = nn.Linear(32, classes) if classes else nn.Identity()
    else:
        model.reset_classifier(classes)
    attach(model, "lora", rank=4).eval()
    with pytest.raises(UserError, match=f"label_names: 5 names for {classes} classes"):
        peft.save_pretrained(model, tmp_path / "file", label_names=NAMES)
    peft.save_pretrained(model, tmp_path / "file", label_names=list(map(str, range(classes))))
    for backbone in (None, build(), copy.deepcopy(of_timm)):
        monkeypatch.setattr(pretrained.timm, "create_model", lambda name, pretrained, num_classes: of_timm)
        again = peft.from_pretrained(tmp_path / "file", backbone).eval()
        monkeypatch.undo()
        assert torch.equal(again(IMAGES), model(IMAGES))


@pytest.mark.parametrize("head", [True, False])
def test_a_file_with_one_of_two_classifiers_is_refused_with_the_reason(head, tmp_path, monkeypatch):
    backbone = timm.create_model("volo_d1_224", img_size=64, num_classes=5)
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "VOLO", ())  # as versions did that took the other for backbone
        peft.save_pretrained(peft.attach(copy.deepcopy(backbone), "linear", verify=False), tmp_path / "file")
    with pytest.raises(UserError, match=r"was saved without 'aux_head.bias' of this model's classifier"):
        peft.from_pretrained(tmp_path / "file", backbone, head=head)


class Gated(nn.Module):
    """A head whose last layer has not the classes."""

    def __init__(self):
        super().__init__()
        self.out, self.gate = nn.Linear(32, 5), nn.Linear(32, 1)

    def forward(self, x):
        return self.out(x) * self.gate(x).sigmoid()


def test_the_classes_of_a_head_need_not_be_its_last_layers(tmp_path):
    model = build()
    model.head = Gated()
    peft.save_pretrained(attach(model, "lora", rank=4), tmp_path / "file", label_names=NAMES)
    other = build()
    other.head = Gated()
    assert torch.equal(peft.from_pretrained(tmp_path / "file", other).eval()(IMAGES), model.eval()(IMAGES))


def noisy():
    model = build()
    model.patch_embed.register_forward_hook(lambda module, inputs, output: output + torch.randn_like(output))
    return model


def test_what_draws_in_evaluation_or_takes_huge_images_has_no_probe(tmp_path):
    peft.save_pretrained(attach(noisy(), "lora", rank=4), tmp_path / "noisy")
    peft.from_pretrained(tmp_path / "noisy", noisy())
    huge = {"img_size": 512, "patch_size": 256, "in_chans": 80}
    model = attach(
        timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=16, num_heads=2, num_classes=5, **huge),
        "bias",
        verify=False,
    )
    peft.save_pretrained(model, tmp_path / "huge", model_args=huge)
    for name in ("noisy", "huge"):
        with safe_open(tmp_path / name, "pt") as file:
            assert json.loads(file.metadata()["mosa.backbone"])["probe"] is None


@pytest.mark.parametrize("architecture", ["efficientvit_m0", "shvit_s1"])
def test_a_new_classifier_is_all_that_is_new(architecture, tmp_path):
    """Their `reset_classifier` makes the norm before the classifier anew, too."""
    images, backbone = torch.randn(2, 3, 224, 224), build(architecture)
    with torch.no_grad():
        backbone.head.bn.running_mean += 1
    model = peft.attach(copy.deepcopy(backbone), "bias", num_classes=7, verify=False).eval()
    assert torch.equal(model.head.bn.running_mean, backbone.head.bn.running_mean)
    peft.save_pretrained(model, tmp_path / "file")
    again = peft.from_pretrained(tmp_path / "file", copy.deepcopy(backbone)).eval()
    assert torch.equal(again(images), model(images))
    backbone.reset_classifier(0)
    with pytest.raises(UserError, match=r"has no classifier .* build it with a number of classes$"):
        peft.attach(backbone, "bias", num_classes=7)


def test_layers_that_a_new_classifier_brings_along_are_refused(monkeypatch):
    """They would stay random, without a word."""
    model, names = build(), list(build().state_dict())

    def reset_classifier(classes):
        model.fc_norm, model.head = nn.LayerNorm(32), nn.Linear(32, classes)

    monkeypatch.setattr(model, "reset_classifier", reset_classifier, raising=False)
    with pytest.raises(UserError, match=r"makes 'fc_norm.weight' anew, too, .* with num_classes=7$"):
        peft.attach(model, "lora", num_classes=7)
    assert list(model.state_dict()) == names


def test_counting_and_detaching_after_freezing():
    model = trained()
    counts = peft.count_parameters(model)
    assert peft.count_parameters(model.requires_grad_(False)) == counts
    with pytest.raises(UserError, match="was replaced or unfrozen"):
        other = trained()
        other.reset_classifier(7)
        peft.detach(other)


def test_inference_mode():
    """What is attached under it can be trained; a model that was built under it cannot."""
    model = build()
    with torch.inference_mode():
        attach(model, "mosa", **OPTIONS["mosa"])
    train_steps(model, steps=1, lr=0.1)
    with torch.inference_mode():
        peft.merge(model)
        other = build()
    train_steps(model, steps=1, lr=0.1)
    with pytest.raises(UserError, match=r"was made under torch.inference_mode\(\)"):
        peft.attach(other, "lora")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: peft.attach("vit", "lora"), "expected a model, got 'vit'"),
        (lambda: peft.merge(None), "expected a model, got None"),
        (
            lambda: peft.from_pretrained(build(), "a.safetensors"),
            "path of a file, got VisionTransformer( (",
        ),
        (lambda: peft.load_tuned(attach(build(), "bias"), None), "the path of a file, got None"),
        (lambda: peft.save_tuned(attach(build(), "bias"), 3), "the path of a file, got 3"),
        (lambda: peft.load_tuned_state_dict(attach(build(), "bias"), "a.pt"), "returns, got 'a.pt'"),
        (
            lambda: peft.build_method("mosa", bottleneck=torch.zeros(40, 40)),
            "(got tensor([[0., 0., 0., ..., 0., 0., 0.], [0.",
        ),
        (lambda: peft.attach(build(), build()), "method VisionTransformer( (patch_embed)"),
        (lambda: peft.attach(build(), "lora", num_classes=-3), "num_classes=-3: expected a whole number"),
        (lambda: peft.attach(build(), "lora", num_classes="7"), "num_classes='7': expected a whole number"),
        (lambda: peft.tuning_loss(attach(build(), "mosa", bottleneck=4), IMAGES, batch(4)[1]), "4 labels"),
    ],
)
def test_what_was_silently_wrong(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
