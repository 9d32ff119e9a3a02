"""Verifying and reproducing records: what is not in order is named, and a run comes out again bit by bit."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from models import spec

from mosa.base.errors import UserError
from mosa.cli.commands import cli
from mosa.data.catalogue import get_task
from mosa.data.packing import write_pack
from mosa.data.packs import Pack
from mosa.engine.keep import Keep
from mosa.engine.machine import Machine
from mosa.engine.reproduce import compare, reproduce
from mosa.engine.run import execute
from mosa.engine.verify import Wanted, _weights_digest, describe, verify
from mosa.experiment.protocol import PRESETS
from mosa.experiment.specification import Specification, make_specification
from mosa.records import load_record, seal


@pytest.fixture
def folder(pack, tmp_path):
    """Packs and two records of two seeds."""
    (tmp_path / "packs").mkdir()
    shutil.copy(pack, tmp_path / "packs" / "given")
    for seed in (0, 1):
        execute(spec("linear", seed=seed, weights="builtin"), pack, tmp_path / "runs" / f"seed{seed}.json")
    return tmp_path


def verdicts(folder, meant=None):
    paths = sorted((folder / "runs").glob("*.json"))
    return verify([Wanted(path, meant) for path in paths], folder / "packs")


def test_records_in_order_are_said_to_be(folder):
    assert describe(verdicts(folder)) == (["2 of 2 records are in order"], True)
    arguments = ["verify", "--packs", str(folder / "packs")]
    done = CliRunner().invoke(cli, [*arguments, *map(str, (folder / "runs").iterdir())])
    assert done.exit_code == 0 and "2 of 2 records are in order" in done.output
    shutil.copytree(folder / "runs", folder / "labs" / "runs")
    for place in (folder, folder / "runs"):  # of a results folder its own, not those of others beside them
        done = CliRunner().invoke(cli, [*arguments, str(place)])
        assert done.exit_code == 0 and "2 of 2 records are in order" in done.output
    done = CliRunner().invoke(cli, [*arguments, str(folder / "packs")])
    assert "no records below it" in str(done.exception)


def edited(folder):
    path = folder / "runs" / "seed0.json"
    path.write_text(path.read_text().replace('"nll": ', '"nll": 1', 1))


def forged(folder):
    """Its content was changed, and its digest made to fit; the specification's digest was not."""
    path = folder / "runs" / "seed0.json"
    record = json.loads(path.read_text())
    record["specification"]["training"]["lr"] = 0.5
    path.write_text(json.dumps(seal(record)))


def other_pack(folder):
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    splits = dict.fromkeys(("train", "val", "test"), (images, np.arange(20) % 10))
    write_pack(folder / "packs" / "given", get_task("demo/digits"), splits)


def changed_pack(folder):
    """A pixel of the pack was changed, and its header still has the old digest."""
    path = folder / "packs" / "given"
    content = bytearray(path.read_bytes())
    content[-5000] ^= 255
    path.write_bytes(content)


def other_weights(folder):
    path = folder / "runs" / "seed0.json"
    record = json.loads(path.read_text())
    record["backbone"]["sha256"] = "0" * 64
    path.write_text(json.dumps(seal(record)))


def copied_seed(folder):
    shutil.copy(folder / "runs" / "seed0.json", folder / "runs" / "seed1.json")


@pytest.mark.parametrize(
    ("spoil", "words", "number"),
    [
        (copied_seed, "seed1.json: is the record of seed 0, expected 1", 1),
        (edited, "seed0.json: was changed after it was written", 1),
        (forged, "seed0.json: not a valid record, its specification has the digest", 1),
        (other_pack, "seed0.json: its pack had the digest", 2),
        (changed_pack, "seed1.json: its pack had the digest", 2),
        (other_weights, "seed0.json: its weights had the digest 0000", 1),
    ],
)
def test_what_is_not_in_order_is_named(folder, spoil, words, number):
    spoil(folder)
    lines, good = describe(verdicts(folder))
    assert not good and len(lines) == number + 1
    assert any(words in line for line in lines), lines
    arguments = ["verify", "--packs", str(folder / "packs")]
    done = CliRunner().invoke(cli, [*arguments, *map(str, (folder / "runs").iterdir())])
    assert done.exit_code == 1


def test_a_record_of_another_specification_is_named(folder):
    meant = spec("linear", weights="builtin", training={"epochs": 3, "batch_size": 16}).specification
    lines, good = describe(verdicts(folder, meant))
    assert not good and "training.epochs is 2, expected 3" in lines[0]


def test_records_that_are_named_are_compared_with_a_config_that_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    weights = "{architecture: mosa_vit_micro, weights: builtin}"
    config = f"""
        name: tiny
        benchmarks: {{demo: [digits]}}
        backbones: {{random: {weights}}}
        seeds: [0]
        training: {{epochs: 3, batch_size: 16}}
        variants: {{linear: {{method: linear}}}}
        """
    (folder / "tiny.yaml").write_text(config)
    record = Path("results/runs/demo/digits/random/linear/seed0.json")
    record.parent.mkdir(parents=True)
    shutil.copy("runs/seed0.json", record)
    alone = ["verify", str(record), "--packs", "packs"]
    assert CliRunner().invoke(cli, alone).exit_code == 0
    for command in (alone, ["verify", "--packs", "packs"]):  # its own packs, not those of the config
        done = CliRunner().invoke(cli, [*command, "--alone", "--configfile", "tiny.yaml"])
        assert done.exit_code == 1 and "training.epochs is 2, expected 3" in done.output
        assert "no pack" not in done.output
    done = CliRunner().invoke(cli, ["verify", "runs/seed1.json", "--alone", "--configfile", "tiny.yaml"])
    assert "runs/seed1.json: is no record of this config" in str(done.exception)


@pytest.mark.parametrize("place", ["random/lora", "other/linear"])
def test_a_record_in_the_folder_of_another_variant_is_named(place, folder):
    for path in ("random/linear", place):
        path = folder / f"results/runs/demo/digits/{path}/seed0.json"
        path.parent.mkdir(parents=True)
        shutil.copy(folder / "runs" / "seed0.json", path)
    wanted = [Wanted(path) for path in sorted((folder / "results").rglob("seed0.json"))]
    lines, good = describe(verify(wanted, folder / "packs"))
    assert not good and lines[1] == "1 of 2 records are in order"
    assert (
        f"/{place}/seed0.json: is the record of runs/demo/digits/random/linear/seed0.json; delete it"
        in lines[0]
    )


def test_what_does_not_lie_here_is_said(folder):
    (folder / "packs" / "given").unlink()
    lines, good = describe(verdicts(folder))
    assert good and "2 records: their pack could not be compared" in lines[0]


def test_the_digest_of_a_pack_can_be_computed_anew(pack, flowers):
    for path in (pack, flowers):
        assert Pack(path).content_digest() == Pack(path).digest


@pytest.mark.parametrize("method", ["mosa", "linear"])
def test_a_run_is_reproduced_bit_by_bit(folder, pack, method):
    path = folder / "again" / "seed3.json"
    execute(spec(method, seed=3), pack, path)
    found = reproduce(path, folder / "packs")
    assert found.verdict == "bit-equal" and not found.difference and not found.environment
    done = CliRunner().invoke(cli, ["reproduce", str(path), "--packs", str(folder / "packs")])
    assert done.exit_code == 0 and "seed3.json: bit-equal" in done.output


def test_a_run_that_kept_no_features_is_reproduced_bit_by_bit(pack, tmp_path):
    record = tmp_path / "seed0.json"
    for features in (None, tmp_path / "features"):
        run = spec("last", weights="builtin", training={"epochs": 3, "batch_size": 16})
        execute(run, pack, record, Machine(features=features))
        (tmp_path / "packs").mkdir(exist_ok=True)
        shutil.copy(pack, tmp_path / "packs" / load_record(record)["specification"]["data"]["pack"])
        assert reproduce(record, tmp_path / "packs").verdict == "bit-equal"
        record.unlink()


def test_what_differs_is_reported(folder):
    path = folder / "runs" / "seed0.json"
    old = load_record(path)
    new = json.loads(json.dumps(old))
    new["metrics"]["nll"] += 1e-9
    new["versions"]["torch"] = "9.9"
    found = compare(old, new, path)
    assert found.verdict == "equal within seed noise" and found.difference.startswith("metrics.nll was ")
    assert "over 2 seeds" in found.noise
    assert [text for text in found.environment if text.startswith("versions.torch was ")]
    new["metrics"]["top1"] = old["metrics"]["top1"] + 100
    assert compare(old, new, path).verdict == "different"
    new["metrics"]["top1"], new["data"]["digest"] = old["metrics"]["top1"], "0" * 64
    assert compare(old, new, path).verdict == "different"
    (folder / "runs" / "seed1.json").unlink()
    assert "binomial error of top-1 on 30 images" in compare(old, new, path).noise


@pytest.mark.parametrize("whose", ["old", "new"])
def test_a_score_that_is_off_does_not_widen_the_noise_that_it_is_judged_by(folder, whose):
    path = folder / "runs" / "seed0.json"
    records = {"old": load_record(path), "new": load_record(path)}
    scores = [
        record["metrics"]["top1"] for record in (records["old"], load_record(path.with_name("seed1.json")))
    ]
    records[whose]["metrics"]["top1"] = max(scores) + 70
    path.write_text(json.dumps(seal(records["old"])))
    found = compare(records["old"], records["new"], path)
    assert found.verdict == "different" and "over 2 seeds" in found.noise


@pytest.mark.parametrize(
    ("again", "verdict"), [(7.6, "equal within seed noise"), (7.7, "different"), (None, "different")]
)
def test_the_noise_of_a_metric_that_is_no_accuracy_is_not_that_of_one(folder, again, verdict):
    path = folder / "runs" / "alone.json"
    old = load_record(folder / "runs" / "seed0.json")
    old["metric"], old["metrics"]["nll"] = "nll", 7.6
    new = json.loads(json.dumps(old))
    new["metrics"] |= {"ece": 1.5, "nll": again}
    (folder / "runs" / "seed0.json").unlink()
    found = compare(old, new, path)
    assert found.verdict == verdict and found.noise.startswith("unknown for NLL, as no two records")


def test_another_version_of_the_protocol_is_refused(folder, monkeypatch):
    monkeypatch.setitem(PRESETS, "demo", replace(PRESETS["demo"], version=99))
    with pytest.raises(UserError, match=r"version \d+ of the protocol, and this code has 99; check out"):
        reproduce(folder / "runs" / "seed0.json", folder / "packs")


def test_an_unknown_protocol_is_told(folder):
    path = folder / "runs" / "seed0.json"
    record = json.loads(path.read_text())
    record["specification"]["protocol"]["name"] = "dmeo"
    found = Specification.model_validate(record["specification"])
    path.write_text(json.dumps(seal(record | {"specification_digest": found.digest})))
    with pytest.raises(UserError, match=r"unknown protocol 'dmeo'.*did you mean 'demo'"):
        reproduce(path, folder / "packs")
    with pytest.raises(UserError, match="unknown protocol 'dmeo'"):
        make_specification("demo/digits", "linear", protocol="dmeo")


def test_another_pack_is_not_trained_on_without_a_word(folder):
    other_pack(folder)
    found = reproduce(folder / "runs" / "seed0.json", folder / "packs")
    assert found.verdict == "different"


def test_what_a_run_kept_is_verified_too(pack, tmp_path):
    path = tmp_path / "runs" / "seed0.json"
    execute(spec("linear", weights="builtin"), pack, path, keep=Keep("auto", True))
    (tmp_path / "packs").mkdir()
    shutil.copy(pack, tmp_path / "packs" / "given")
    assert describe(verdicts(tmp_path)) == (["1 of 1 record is in order"], True)
    text = path.read_text()
    for name in ("top1", "mean_per_class", "nll", "examples"):  # a record that was changed and sealed anew
        record = json.loads(text)
        record["metrics"][name] = 1 if name == "examples" else 0.5 + record["metrics"][name]
        path.write_text(json.dumps(seal(record)))
        lines, good = describe(verdicts(tmp_path))
        said = "30 images" if name == "examples" else name
        assert not good and f"seed0.predictions.safetensors gives {said}" in lines[0]
    path.write_text(text)
    (tmp_path / "runs" / "seed0.model.safetensors").unlink()
    (tmp_path / "runs" / "seed0.predictions.safetensors").write_bytes(b"others")
    lines, good = describe(verdicts(tmp_path))
    assert not good and "seed0.predictions.safetensors had the digest" in lines[0]
    assert lines[1] == "1 record: its model could not be compared, as the file is not here"


def test_a_damaged_pack_is_a_finding_of_the_records_that_use_it(folder, pack):
    execute(spec("linear", seed=5), pack, folder / "runs" / "other.json")
    (folder / "packs" / "given").write_bytes(b"no pack")
    lines, good = describe(verdicts(folder))
    assert not good and lines[-1] == "0 of 3 records are in order"
    assert all(re.search(r"\.json: .*packs/given: ", line) for line in lines[:3])


def test_weights_of_the_hub_are_compared_with_the_file_in_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert _weights_digest("vit_base_patch16_224", "hub:mae") is None
    assert _weights_digest("vit_base_patch16_224", "hub:none") is None
    folder = tmp_path / "models--timm--vit_base_patch16_224.mae"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(b"weights")
    assert _weights_digest("vit_base_patch16_224", "hub:mae") == hashlib.sha256(b"weights").hexdigest()
