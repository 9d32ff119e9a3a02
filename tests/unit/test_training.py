"""The loop: schedule, decay, determinism, divergence, and what it reads when."""

import importlib.metadata
import json
import math

import numpy as np
import pytest
import torch
from models import METHODS, SMALL, attach, build, spec
from torch import nn

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.timm import timm
from mosa.data.packs import Pack
from mosa.data.splits import DataSplit, FixedStore
from mosa.engine import loop as training
from mosa.engine import provenance
from mosa.engine import run as running
from mosa.engine.batches import Images
from mosa.engine.loop import Diverged, fit, lr_factor, measure, predict
from mosa.engine.machine import Machine
from mosa.engine.run import execute
from mosa.experiment.recipe import Recipe
from mosa.peft.losses import passes_loss

MEAN = STD = (0.5, 0.5, 0.5)
CPU = torch.device("cpu")


def images(n=20, classes=5, visible=False):
    """Return images of noise; visible: brighter ones for larger labels."""
    rng, labels = np.random.default_rng(1), np.arange(n) % classes
    pixels = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    if visible:
        pixels = pixels // 2 + 32 * labels.astype(np.uint8).reshape(-1, 1, 1, 1)
    return Images(DataSplit.of(FixedStore(pixels), labels, 32), MEAN, STD, CPU)


@pytest.mark.parametrize("method", ["full", "lora", "mosa"])
def test_fused_adamw_is_adamw(method, monkeypatch):
    """Within float error, which training lets grow: a few steps."""
    own, losses = torch.optim.AdamW, []
    for fused in (True, False):
        monkeypatch.setattr(
            torch.optim, "AdamW", lambda *a, fused=fused, **k: own(*a, **k | {"fused": fused})
        )
        model = peft.attach(build(), method)
        fit(model, images(), Recipe(epochs=4, batch_size=8, lr=1e-3, warmup_epochs=0), seed=0)
        losses.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_schedule_warms_up_and_anneals_per_step():
    factors = [lr_factor(step, 100, 10) for step in range(100)]
    assert (
        factors[0] == pytest.approx(0.1) and min(factors) > 0
    )  # nowhere, least of all first, a rate of zero
    assert factors[9] == factors[10] == 1
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[55] == pytest.approx(0.5) and factors[99] < 1e-3
    assert lr_factor(0, 10, 0) == 1


def test_images_are_normalised_and_ordered():
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    pixels[1] = 255
    split = DataSplit.of(FixedStore(pixels), np.array([4, 5, 6]), 2)
    data = Images(split, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), CPU)
    (batch, labels), (rest, last) = data.batches(2, torch.tensor([1, 0, 2]))
    assert labels.tolist() == [5, 4] and last.tolist() == [6] and rest.shape == (1, 3, 2, 2)
    torch.testing.assert_close(batch[0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))
    torch.testing.assert_close(batch[1, :, 0, 0], torch.tensor([-1.0, -1.0, 0.0]))


def test_loss_is_cross_entropy_and_the_symmetric_divergence():
    z1, z2 = torch.randn(2, 4, 5, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 4])
    p1, p2 = z1.softmax(-1), z2.softmax(-1)
    divergence = 0.5 * ((p2 * (p2 / p1).log()).sum(-1) + (p1 * (p1 / p2).log()).sum(-1)).mean()
    expected = nn.functional.cross_entropy(z1, y) + 0.3 * divergence
    torch.testing.assert_close(passes_loss(torch.cat([z1, z2]), y, 0.3), expected)
    torch.testing.assert_close(passes_loss(z1, y, 0.3), nn.functional.cross_entropy(z1, y))
    smoothed = nn.functional.cross_entropy(z1, y, label_smoothing=0.1)
    torch.testing.assert_close(passes_loss(z1, y, label_smoothing=0.1), smoothed)


def test_divergence_stops_the_gradient_of_the_other_side():
    """KL(sg p2 || p1) has the gradient p1 - p2 in the logits of pass 1 and none in those of pass 2."""
    z = torch.randn(2, 1, 3, dtype=torch.float64).requires_grad_()
    y = torch.tensor([0])
    passes_loss(z.flatten(0, 1), y, 1.0).backward()
    p1, p2 = z.detach().softmax(-1)
    torch.testing.assert_close(z.grad[1], 0.5 * (p2 - p1))
    torch.testing.assert_close(z.grad[0], 0.5 * (p1 - p2) + p1 - nn.functional.one_hot(y, 3))


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(method):
    model = attach(build(), method, **SMALL.get(method, {}))
    recipe = Recipe(epochs=15, batch_size=8, lr=1e-2, warmup_epochs=1)
    progress = fit(model, images(visible=True), recipe, seed=0)
    assert len(progress.train_loss) == 15 and progress.images == 15 * 20
    assert progress.train_loss[-1] < 0.8 * progress.train_loss[0]


@pytest.mark.parametrize(("method", "moves"), [("linear", False), ("full", True)])
def test_statistics_of_what_is_frozen_stay(method, moves):
    model = peft.attach(timm.create_model("resnet10t", num_classes=5), method)
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    assert before
    fit(model, images(), Recipe(epochs=1, batch_size=10, warmup_epochs=0), seed=0)
    after = dict(model.named_buffers())
    assert all(torch.equal(after[name], value) is not moves for name, value in before.items())


def test_evaluation_counts_by_hand():
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.eye(5)[[0, 1, 2, 3, 4] * 4] * 9

    data = images()
    data.labels[0] = 3
    result = measure(*predict(Fixed(), data))
    assert result["top1"] == 95 and result["examples"] == 20
    assert result["nll"] == pytest.approx(math.log(math.exp(9) + 4) - 9 * 19 / 20, rel=1e-5)


def test_a_record_repeats_bit_for_bit(pack, tmp_path):
    first = execute(spec(), pack, tmp_path / "a.json")
    torch.rand(7)  # the state of the global generator must not matter
    second = execute(spec(), pack, tmp_path / "b.json")
    other = execute(spec(seed=1), pack, tmp_path / "c.json")
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["train_loss"] != other["metrics"]["train_loss"]


def test_the_record_says_which_code_it_began_with(pack, tmp_path, monkeypatch):
    before, libraries = provenance.git_state(), provenance.versions()
    later = {"commit": "c" * 40, "dirty": True}
    train = running.fit

    def fit(*arguments):
        monkeypatch.setattr(provenance, "git_state", lambda: later)  # somebody commits meanwhile
        monkeypatch.setattr(provenance, "versions", lambda method="": {"torch": "9.9"})
        return train(*arguments)

    monkeypatch.setattr(running, "fit", fit)
    record = execute(spec("linear"), pack, tmp_path / "a.json")
    assert record["git"] == before and record["versions"] == libraries


def test_the_record_has_the_version_of_the_library_whose_method_it_is(pack, tmp_path):
    peft_version = importlib.metadata.version("peft")
    assert execute(spec("peft"), pack, tmp_path / "a.json")["versions"]["peft"] == peft_version
    assert "peft" not in execute(spec("linear"), pack, tmp_path / "b.json")["versions"]


def test_nothing_is_left_of_a_run_that_diverges(pack, tmp_path):
    bad = spec("full", training={"epochs": 3, "batch_size": 16, "lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(
        Diverged, match=r"the loss is (nan|inf) at epoch 1, step 2 of 12 \(lr 9\.\d+e\+29, last losses \d"
    ):
        execute(bad, pack, tmp_path / "out" / "record.json")
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_in_its_last_step_is_a_failed_run(pack, tmp_path):
    last = spec("full", training={"epochs": 1, "batch_size": 64, "lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(Diverged, match=r"loss on test is (nan|inf) after the last epoch \(peak lr 1e\+30"):
        execute(last, pack, tmp_path / "out" / "record.json")
    assert not (tmp_path / "out").exists()


def test_the_test_split_is_read_once_and_last(pack, tmp_path, monkeypatch):
    events = []
    split, loop = Pack.split, training.fit

    def record_split(self, name):
        events.append(name)
        return split(self, name)

    def record_loop(*args, **kwargs):
        progress = loop(*args, **kwargs)
        events.append("trained")
        return progress

    monkeypatch.setattr(Pack, "split", record_split)
    monkeypatch.setattr("mosa.engine.run.fit", record_loop)
    execute(spec(), pack, tmp_path / "final.json")
    assert events == ["trainval", "train", "val", "trained", "test"]
    events.clear()
    execute(spec(stage="selection"), pack, tmp_path / "selection.json")
    assert events == ["train", "trained", "val"]


def test_a_fraction_of_the_training_images_is_seeded_and_stratified(pack, tmp_path):
    seen = []

    def record(seed):
        run = spec("linear", training={"epochs": 1, "batch_size": 16, "fraction": 0.5}, seed=seed)
        return execute(run, pack, tmp_path / "record.json")

    split = DataSplit.subset

    def watch(self, index):
        seen.append(self.labels[index].tolist())
        return split(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataSplit, "subset", watch)
        records = [record(seed) for seed in (0, 0, 1)]
    assert [r["data"]["train_examples"] for r in records] == [30] * 3
    assert records[0]["specification"]["training"]["fraction"] == 0.5
    assert np.bincount(seen[0]).tolist() == [3] * 10  # of six of each class
    assert records[0]["metrics"]["train_loss"] == records[1]["metrics"]["train_loss"]
    assert records[0]["metrics"]["train_loss"] != records[2]["metrics"]["train_loss"]


def test_the_input_is_normalised_as_the_run_says(pack, tmp_path):
    records = {
        name: execute(spec("linear", normalization=name), pack, tmp_path / "record.json")
        for name in ("weights", "imagenet")
    }
    assert records["imagenet"]["backbone"]["mean"] == [0.485, 0.456, 0.406]
    assert records["weights"]["backbone"]["std"] == [0.25, 0.25, 0.25]
    assert records["imagenet"]["metrics"]["train_loss"] != records["weights"]["metrics"]["train_loss"]


def test_rates_of_the_backbone_are_rates_of_the_recipe(pack, tmp_path):
    losses = {}
    for rate in ({}, {"drop_path": 0.5}, {"drop_rate": 0.5}):
        run = spec("linear", training={"epochs": 2, "batch_size": 16} | rate)
        losses[str(rate)] = execute(run, pack, tmp_path / "record.json")["metrics"]["train_loss"][0]
    assert len(set(losses.values())) == 3


class Filling(Machine):
    """Fills new memory with NaN, which whoever reads it before writing would meet."""

    def begin(self) -> torch.device:
        place = super().begin()
        torch.utils.deterministic.fill_uninitialized_memory = True
        return place


@pytest.mark.parametrize("method", METHODS)
def test_the_record_counts_parameters_and_no_memory_is_read_before_it_is_written(pack, tmp_path, method):
    run = spec(method, training={"epochs": 1, "batch_size": 16})
    record = execute(run, pack, tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == record
    counts = record["parameters"]
    assert counts["head"] == 96 * 10 + 10
    assert counts["total"] == counts["adapter"] + counts["head"]
    assert record["data"]["train_examples"] == 60 and record["data"]["eval_examples"] == 30
    # mosa, and split of an adapter: three more up biases in each of the four blocks; adamix: three more of
    # both projections.
    biases = 3 * 96 * 4
    extra = {"mosa": biases, "split": biases, "adamix": 3 * (2 * 96 * 8 + 96 + 8) * 4}.get(method, 0)
    assert counts["trained"] == counts["total"] + extra
    assert record["flops"]["train_per_image"] > record["flops"]["inference_per_image"] > 0
    assert record["steps"]["passes"] == peft.build_method(method, **SMALL.get(method, {})).passes
    filled = execute(run, pack, tmp_path / "filled.json", Filling())
    assert filled["metrics"] == record["metrics"]


def test_mosa_stores_what_the_adapter_stores(pack, tmp_path):
    records = [execute(spec(method), pack, tmp_path / f"{method}.json") for method in ("adapter", "mosa")]
    assert records[0]["parameters"]["adapter"] == records[1]["parameters"]["adapter"]
    assert records[0]["parameters"]["model"] == records[1]["parameters"]["model"]


def test_log_lines_are_sparse_and_informative(capsys):
    model = peft.attach(build(), "linear")
    fit(model, images(), Recipe(epochs=30, batch_size=20), seed=0, label="demo/x linear seed 0")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("demo/x linear seed 0: epoch 30/30, loss ")
    assert "images/s" in lines[0] and "s left" in lines[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"lrr": 1}}, "training.lrr: unknown key 'lrr'.*did you mean 'lr'"),
        ({"training": {"batch_size": 0}}, "training.batch_size: 0 is less than the minimum of 1"),
        ({"training": {"epochs": 2, "warmup_epochs": 3}}, "a warm-up of 3 epochs is longer than the 2"),
        (
            {"image_size": 64},
            "has images of 32 pixels, mosa_vit_micro takes 64; make the pack with --image-size",
        ),
        ({"stage": "tets"}, "stage: 'tets' is not allowed: expected one of final, selection"),
        ({"method": "mosaic"}, "unknown method 'mosaic'"),
        (
            {"architecture": "mosa_vit_micr"},
            "unknown architecture 'mosa_vit_micr'.*did you mean 'mosa_vit_micro'",
        ),
        ({"weights": "none.safetensors"}, "no such file"),
        ({"task": "demo/count"}, "the pack of demo/digits, expected demo/count"),
    ],
)
def test_wrong_specs(pack, tmp_path, changes, words):
    from mosa.base.errors import UserError

    with pytest.raises(UserError, match=words):
        execute(spec(**changes), pack, tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "options", "training", "refused"),
    [
        ("linear", {"consistency": 1.0}, {}, True),
        ("lora", {"rank": 2, "second_pass": 1.0}, {}, True),
        ("adapter", {"bottleneck": 2, "consistency": 1.0, "dropout": 0.0}, {}, True),
        ("mosa", {"bottleneck": 2, "experts": 1, "dropout": 0.0}, {}, True),
        ("gated", {"bottleneck": 2, "consistency": 1.0, "dropout": 0.0}, {}, True),
        ("adapter", {"bottleneck": 2, "consistency": 1.0}, {}, False),
        ("lora", {"rank": 2, "consistency": 1.0}, {"drop_rate": 0.1}, False),
        ("mosa", {"bottleneck": 2, "dropout": 0.0}, {}, False),
        ("dropconnect", {"bottleneck": 2, "dropout": 0.0, "consistency": 1.0}, {}, False),
        ("adamix", {"bottleneck": 2, "dropout": 0.0}, {}, False),
    ],
)
def test_a_second_pass_that_is_the_first_again_is_refused(pack, tmp_path, method, options, training, refused):
    run = spec(method, options=options, weights="random", training={"epochs": 1, "batch_size": 16} | training)
    if refused:
        with pytest.raises(
            UserError, match=f"{method}: nothing is drawn in training, so its passes are equal"
        ):
            execute(run, pack, tmp_path / "run.json")
    else:
        assert execute(run, pack, tmp_path / "run.json")["metrics"]["top1"] >= 0


def test_label_noise_is_in_the_training_labels_alone(pack, tmp_path):
    seen = []

    def watch(self, share, classes, rng):
        noisy = with_label_noise(self, share, classes, rng)
        seen.append((self.labels != noisy.labels).mean())
        return noisy

    with_label_noise = DataSplit.with_label_noise
    run = spec("linear", training={"epochs": 1, "batch_size": 16, "label_noise": 0.5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataSplit, "with_label_noise", watch)
        noisy = execute(run, pack, tmp_path / "record.json")
    clean = execute(spec("linear", training={"epochs": 1, "batch_size": 16}), pack, tmp_path / "record.json")
    assert seen == [0.5]
    assert noisy["metrics"]["train_loss"] != clean["metrics"]["train_loss"]
    assert noisy["metrics"]["examples"] == clean["metrics"]["examples"]
