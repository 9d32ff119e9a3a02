"""Linear probing on features computed once is linear probing."""

import copy

import numpy as np
import pytest
import torch
from models import ARCHITECTURES, SMALL, attach, spec

from mosa import peft
from mosa.base.timm import VOLO, VisionTransformer, timm
from mosa.engine import features as kept
from mosa.engine import run as runs
from mosa.engine.batches import Images
from mosa.engine.features import Head, is_head_only
from mosa.engine.machine import Machine
from mosa.engine.run import execute
from mosa.peft import list_methods


def linear(**changes):
    training = {"epochs": 5, "batch_size": 16, "lr": 0.05}
    return spec("linear", training=training | changes.pop("training", {}), **changes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_classifier_on_features_is_the_model(architecture):
    model = peft.attach(ARCHITECTURES[architecture](5), "linear").eval()
    images = torch.randn(4, 3, 32, 32)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(Head(model)(features), model(images))


@pytest.mark.parametrize("method", list_methods())
def test_only_what_tunes_the_classifier_alone_has_features(method):
    model = attach(ARCHITECTURES["vit"](5), method, **SMALL.get(method, {}))
    assert is_head_only(model) == (method == "linear")


BESIDE = ["lst", "last", "dtl"]


@pytest.mark.parametrize("method", BESIDE)
def test_a_network_on_kept_tokens_is_the_network_beside_the_trunk(method, pack, tmp_path, monkeypatch):
    """Losses and metrics are those without, as are what another seed finds; the test images are not kept."""
    run = spec(method, weights="builtin", training={"epochs": 3, "batch_size": 16, "lr": 0.01})
    plain = execute(run, pack, tmp_path / "plain.json")
    machine = Machine(features=tmp_path / "features")
    fast = execute(run, pack, tmp_path / "fast.json", machine)
    assert fast["metrics"]["train_loss"] == pytest.approx(plain["metrics"]["train_loss"], rel=1e-4)
    assert fast["metrics"]["nll"] == pytest.approx(plain["metrics"]["nll"], rel=1e-4)
    assert fast["metrics"]["top1"] == plain["metrics"]["top1"]
    assert fast["parameters"] == plain["parameters"] and fast["flops"] == plain["flops"]
    monkeypatch.setattr(kept, "compute_features", None)
    assert execute(run, pack, tmp_path / "again.json", machine)["metrics"] == fast["metrics"]
    assert len(list((tmp_path / "features").glob("*.npy"))) == 1


def test_more_tokens_than_may_be_kept_are_not(pack, tmp_path, monkeypatch, capsys):
    run = spec("last", weights="builtin", training={"epochs": 1, "batch_size": 16})
    execute(run, pack, tmp_path / "run.json", Machine(features=tmp_path / "f"))
    assert "the trunk runs in every epoch" not in capsys.readouterr().err
    (path,) = tmp_path.glob("f/*.npy")
    monkeypatch.setattr(kept, "KEPT_BYTES", np.load(path, mmap_mode="r").nbytes - 1)
    execute(run, pack, tmp_path / "run.json", Machine(features=tmp_path / "g"))
    assert "the trunk runs in every epoch" in capsys.readouterr().err and not list(tmp_path.glob("g/*.npy"))


@pytest.mark.parametrize("method", list_methods())
def test_a_trunk_that_draws_or_is_tuned_is_not_kept(method):
    options = SMALL.get(method, {})
    for architecture, fixed in (("vit", method in BESIDE), ("vit_layerscale_droppath", False)):
        model = attach(ARCHITECTURES[architecture](5), method, **options)
        assert kept.is_beside_a_fixed_trunk(model) == fixed
    if method in BESIDE:
        twice = attach(ARCHITECTURES["vit"](5), method, **options, consistency=1.0)
        assert not kept.is_beside_a_fixed_trunk(twice)


@pytest.mark.parametrize(
    ("build", "widths"),
    [
        (
            lambda: timm.create_model("crossvit_tiny_240", num_classes=3, depth=((1, 1, 0),)),
            [96, 192],
        ),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, depth=1), [192] * 2),
        (lambda: VOLO([1] * 4, 64, num_classes=3, **OF_VOLO), [32] * 2),
    ],
    ids=["crossvit", "distilled", "volo"],
)
def test_several_classifiers_are_all_tuned_and_have_no_features(build, widths):
    model = build()
    tuned = [name for name, _ in model.named_parameters() if "head" in name]
    peft.attach(model, "linear", num_classes=7, verify=False)
    assert sorted(name for name, p in model.named_parameters() if p.requires_grad) == sorted(tuned)
    assert peft.count_parameters(model).head == sum(width * 7 + 7 for width in widths)
    assert not is_head_only(model)


OF_VOLO = {"embed_dims": (16, 32, 32, 32), "num_heads": (1, 2, 2, 2), "stem_hidden_dim": 8}


@pytest.mark.parametrize("method", ["bias", "norm", "full", "linear"])
def test_the_classifier_of_patches_is_one_of_two_and_no_backbone(method, tmp_path):
    def volo(seed=0):
        torch.manual_seed(seed)
        model = VOLO([1] * 4, 64, num_classes=3, **OF_VOLO).eval()
        model.pretrained_cfg = {"input_size": (3, 64, 64)}
        return model

    images, heads = (
        torch.randn(2, 3, 64, 64),
        {"head.weight", "head.bias", "aux_head.weight", "aux_head.bias"},
    )
    model = peft.attach(volo(), method, num_classes=7)
    assert heads <= set(peft.tuned_state_dict(model))
    assert peft.count_parameters(model).adapter == model.peft.method.parameters(model)
    peft.save_pretrained(model, tmp_path / "volo.safetensors")
    again = peft.from_pretrained(tmp_path / "volo.safetensors", volo())
    assert torch.equal(again.eval()(images), model(images))


@pytest.mark.parametrize("weights", ["builtin", "random"])
def test_logits_that_are_not_the_classifiers_are_trained_whole(pack, tmp_path, monkeypatch, capsys, weights):
    def forward(self, images):
        return 2 * self.forward_head(self.forward_features(images))

    monkeypatch.setattr(VisionTransformer, "forward", forward)
    plain = execute(linear(weights=weights), pack, tmp_path / "plain.json")
    machine = Machine(features=tmp_path / "features")
    assert (
        execute(linear(weights=weights), pack, tmp_path / "run.json", machine)["metrics"] == plain["metrics"]
    )
    assert "the whole model runs in every step, as its logits are not" in capsys.readouterr().err
    assert not list((tmp_path / "features").glob("*.npy"))


def test_what_is_stochastic_or_compared_has_none():
    dropping = peft.attach(ARCHITECTURES["vit_layerscale_droppath"](5), "linear")
    assert not is_head_only(dropping)
    assert not is_head_only(peft.attach(ARCHITECTURES["vit"](5), "linear", consistency=1.0))


@pytest.mark.parametrize("stage", ["final", "selection"])
@pytest.mark.parametrize("weights", ["builtin", "random"])
def test_the_record_is_the_plain_loops(pack, tmp_path, weights, stage):
    run = linear(weights=weights, stage=stage, training={"warmup_epochs": 1})
    plain = execute(run, pack, tmp_path / "plain.json")
    fast = execute(run, pack, tmp_path / "fast.json", Machine(features=tmp_path / "features"))
    again = execute(run, pack, tmp_path / "again.json", Machine(features=tmp_path / "features"))
    assert fast["metrics"]["train_loss"] == pytest.approx(plain["metrics"]["train_loss"], rel=1e-4)
    assert fast["metrics"]["nll"] == pytest.approx(plain["metrics"]["nll"], rel=1e-4)
    assert fast["metrics"]["top1"] == plain["metrics"]["top1"]
    assert again["metrics"] == fast["metrics"] and again["parameters"] == plain["parameters"]
    assert len(list((tmp_path / "features").glob("*.npy"))) == 2


def test_features_are_computed_once_and_only_for_what_they_are_of(pack, tmp_path, monkeypatch):
    computed = []
    compute = kept.compute_features
    monkeypatch.setattr(kept, "compute_features", lambda *a: computed.append(1) or compute(*a))

    def count(run):
        before = len(computed)
        execute(run, pack, tmp_path / "run.json", Machine(features=tmp_path))
        return len(computed) - before

    builtin = linear(weights="builtin")
    assert count(builtin) == 2  # trainval, test
    assert count(builtin) == 0
    for same in (linear(weights="builtin", seed=1), linear(weights="builtin", training={"lr": 0.5})):
        assert count(same) == 0
    assert count(linear(weights="builtin", stage="selection")) == 2  # train, val
    assert count(linear(weights="builtin", normalization="imagenet")) == 2
    assert count(linear(weights="builtin", training={"fraction": 0.5})) == 1
    assert count(linear(weights="builtin", training={"fraction": 0.5}, seed=1)) == 1  # another half
    assert count(linear(weights="random")) == 2
    assert count(linear(weights="random", seed=1)) == 2  # other weights
    assert count(spec("lora", weights="builtin")) == 0
    for path in tmp_path.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])
    assert count(builtin) == 2  # damaged ones are made again
    monkeypatch.setattr(kept, "code_digest", lambda: "edited")
    assert count(builtin) == 2
    monkeypatch.setattr(kept, "describe_device", lambda device: {"name": "another processor"})
    assert count(builtin) == 2


def augmented(**training):
    recipe = {"epochs": 3, "batch_size": 16, "lr": 0.05} | training
    model = {"architecture": "vit_tiny_patch16_224", "image_size": 32}
    return linear(task="fgvc/flowers", training=recipe, **model)


def test_features_of_views_are_the_plain_loop_on_views(flowers, tmp_path):
    plain = execute(augmented(views=2), flowers, tmp_path / "plain.json")
    fast = execute(augmented(views=2), flowers, tmp_path / "fast.json", Machine(features=tmp_path / "f"))
    assert fast["metrics"]["train_loss"] == pytest.approx(plain["metrics"]["train_loss"], rel=1e-4)
    assert fast["metrics"]["nll"] == pytest.approx(plain["metrics"]["nll"], rel=1e-4)
    assert fast["specification"]["training"]["views"] == 2 and len(list((tmp_path / "f").glob("*.npy"))) == 2
    execute(augmented(views=3), flowers, tmp_path / "more.json", Machine(features=tmp_path / "f"))
    assert len(list((tmp_path / "f").glob("*.npy"))) == 3  # of test, of two views, of three


def test_without_views_augmented_images_have_no_features(flowers, tmp_path):
    execute(augmented(epochs=1), flowers, tmp_path / "run.json", Machine(features=tmp_path / "f"))
    assert not list((tmp_path / "f").glob("*.npy"))


def test_test_is_read_after_the_last_epoch(pack, tmp_path, monkeypatch):
    read = []
    compute = kept.compute_features
    monkeypatch.setattr(
        kept,
        "compute_features",
        lambda model, images, *rest: read.append(len(images)) or compute(model, images, *rest),
    )
    fit = runs.fit
    monkeypatch.setattr(runs, "fit", lambda *a: read.append("fit") or fit(*a))
    execute(linear(), pack, tmp_path / "run.json", Machine(features=tmp_path))
    assert read == [60, "fit", 30]


def test_features_have_the_interface_of_images(pack, tmp_path):
    from mosa.data.packs import Pack

    images = Images(Pack(pack).split("train"), (0, 0, 0), (1, 1, 1), torch.device("cpu"))
    data = kept.Features(torch.arange(80.0).view(2, 40, 1), images)
    order = torch.randperm(40)
    whole = [x for x, _ in data.batches(16, order)]
    assert torch.equal(torch.cat(whole).flatten(), order.float())
    assert all(map(torch.equal, whole[1:], [x for x, _ in data.batches(16, order, start=1)]))
    assert [len(labels) for _, labels in data.batches(16)] == [16, 16, 8]
    views = [torch.cat([x for x, _ in data.batches(16, epoch=epoch)])[0].item() for epoch in range(4)]
    assert views == [0, 40, 0, 40]
    assert copy.copy(data).split is images.split


def test_features_that_changed_on_disk_are_made_again(pack, tmp_path):
    first = execute(spec("linear"), pack, tmp_path / "first.json", Machine(features=tmp_path / "f"))
    files = sorted((tmp_path / "f").glob("*.npy"))
    before = [path.read_bytes() for path in files]
    for path, content in zip(files, before, strict=True):
        path.write_bytes(content[:-2000] + bytes(1000) + content[-1000:])
    again = execute(spec("linear"), pack, tmp_path / "again.json", Machine(features=tmp_path / "f"))
    assert again["metrics"] == first["metrics"] and [path.read_bytes() for path in files] == before
