"""Records: refused when wrong or changed, whole or absent on disk, and the same table from any order."""

import copy
import json
import os
from pathlib import Path

import jsonschema
import pandas as pd
import pytest

from mosa.base.errors import UserError
from mosa.base.files import SCHEMAS
from mosa.data.metrics import METRICS
from mosa.data.packs import Pack
from mosa.experiment.specification import Specification, make_specification
from mosa.records import Record, check_specification, load_record, seal, write_record
from mosa.results.describe import record_schema, records_page
from mosa.results.frame import (
    _NULLABLE,
    COLUMNS,
    JSON_COLUMNS,
    NUMBERS,
    find_records,
    load_records,
    read_table,
    write_table,
)
from mosa.search.choose import read_choice, read_trials

ROOT = Path(__file__).parents[2]


def make_record(
    benchmark="demo",
    group="natural",
    task="digits",
    seed=0,
    variant="mosa",
    method="mosa",
    options=None,
    training=None,
    backbone="micro_vit",
    architecture="mosa_vit_micro",
    protocol="demo",
    version=None,
    metrics=None,
    **changes,
):
    """Return a valid record; `changes` replace whole keys."""
    what = make_specification(
        f"{benchmark}/{task}", method,
        {"bottleneck": 8, "experts": 4} if options is None and method == "mosa" else options or {},
        {"epochs": 2} | (training or {}),
        variant=variant, backbone=backbone, architecture=architecture, protocol=protocol,
    ).model_dump()  # fmt: skip
    if version is not None:
        what["protocol"]["version"] = version
    values = {"top1": 61.25, "mean_per_class": 60.0, "top5": 90.0, "nll": 1.5, "ece": 5.0}
    record = {
        "schema_version": 4,
        "status": "complete",
        "specification_digest": Specification.model_validate(what).digest,
        "seed": seed,
        "specification": what,
        "group": group,
        "metric": "top1",
        "splits": {"train": "trainval", "eval": "test"},
        "backbone": {
            "kind": "timm", "sha256": "0" * 64, "image_size": 32,
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        },
        "data": {
            "digest": "1" * 64, "classes": 10, "train_examples": 1000, "eval_examples": 797,
            "resize": "direct", "interpolation": None, "augment": "none", "notes": [],
        },
        "steps": {"passes": 2, "accumulation": 1},
        "metrics": {"examples": 797, "per_set": {}, "train_loss": [2.0, 1.25]} | values | (metrics or {}),
        "parameters": {"adapter": 100, "head": 10, "total": 110, "trained": 130, "model": 1000},
        "flops": {"train_per_image": 3e6, "inference_per_image": 1e6},
        "seconds": {"prepare": 1.0, "train": 2.0, "eval": 0.5, "total": 3.5},
        "images_per_second": 500.0,
        "peak_memory_mib": 300.0,
        "device": {
            "type": "cpu", "name": "some processor", "threads": 1, "compile": "none",
            "channels_last": False, "gradient_checkpointing": False,
        },
        "versions": {"torch": "2.13.0"},
        "git": {"commit": None, "dirty": None},
        "curves": {"terms": {}, "val": {}},
        "kept": {"predictions": None, "model": None, "images": None},
        "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    record |= changes
    sealed = seal(record)
    return {name: sealed[name] for name in Record.model_fields if name in sealed}


def test_the_schema_is_closed_described_and_agrees_with_the_models():
    schema = json.loads((SCHEMAS / "record.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == record_schema(), "run `mosa schema`"
    assert (ROOT / "docs" / "records.md").read_text() == records_page(), "run `mosa schema`"
    jsonschema.validate(make_record(), schema)

    def walk(node, where):
        assert node.get("description"), where
        if "properties" in node:
            assert node["additionalProperties"] is False, where
            for name, child in node["properties"].items():
                walk(child, f"{where}.{name}")

    walk(schema, "record")


def test_columns_are_those_that_the_record_declares():
    assert {"benchmark", "task", "seed", "specification", "metric", *METRICS} <= COLUMNS.keys()
    assert {"epochs", "lr", "fraction", "precision", "views"} <= COLUMNS.keys()
    assert {"seed", "epochs", "lr", "protocol_version", "train_seconds", *METRICS} <= NUMBERS
    assert {
        **dict.fromkeys(("options", "per_set", "recipe", "versions", "loss_terms", "val_curves"), dict),
        **dict.fromkeys(("train_loss", "input_mean", "input_std", "data_notes"), list),
        **dict.fromkeys(("dirty", "bias_correction"), bool | None),
    } == JSON_COLUMNS


def test_round_trip(tmp_path):
    path = tmp_path / "a" / "b" / "seed0.json"
    write_record(make_record(), path)
    assert load_record(path) == make_record()
    assert [p.name for p in path.parent.iterdir()] == ["seed0.json"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022))


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("metrics.top1", 101, "metrics.top1: 101 is greater than the maximum of 100"),
        ("metrics.top1", "x", "metrics.top1: got 'x', expected a number"),
        ("seed", "0", "seed: got '0', expected a whole number"),
        ("schema_version", 5, "schema_version: 5 is not allowed: expected one of 4"),
        ("extra", 1, "extra: unknown key 'extra'"),
        ("splits.eval", "train", "splits.eval: 'train' is not allowed: expected one of val, test"),
        ("data.digest", "x", "data.digest: got 'x', expected text of the form"),
        ("specification.training.lr", -1.0, "training.lr: -1.0 is not above 0"),
        ("specification.options.experts", 0, "specification: options.experts: 0 is less than the minimum"),
        ("specification.training.lr", 0.5, "its specification has the digest [0-9a-f]{16}, not [0-9a-f]{16}"),
    ],
)
def test_wrong_records_are_neither_written_nor_read(tmp_path, where, value, words):
    record = copy.deepcopy(make_record())
    *parents, last = where.split(".")
    node = record
    for key in parents:
        node = node[key]
    node[last] = value
    path = tmp_path / "seed0.json"
    with pytest.raises(UserError, match=words):
        write_record(record, path)
    assert not list(tmp_path.iterdir())
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"seed0.json: not a valid record, .*{words}"):
        load_record(path)


@pytest.mark.parametrize("key", ["metrics.top1", "seconds.total", "git.commit", "data.train_examples"])
def test_a_record_that_was_changed_by_hand_is_refused(tmp_path, key):
    path, (section, name) = tmp_path / "seed0.json", key.split(".")
    write_record(make_record(), path)
    record = json.loads(path.read_text())
    record[section][name] = {"git.commit": "0" * 40, "data.train_examples": 7}.get(key, 62.5)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"seed0\.json: was changed after it was written; delete it"):
        load_record(path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_records_without_a_specification_are_refused_in_one_sentence(tmp_path, version):
    path = tmp_path / "seed0.json"
    path.write_text(json.dumps({"schema_version": version, "status": "complete"}))
    with pytest.raises(UserError, match=r"written by an earlier version .* carries no specification; delete"):
        load_record(path)


def test_a_record_of_another_specification_is_refused_by_name(tmp_path):
    path = tmp_path / "seed0.json"
    record = write_record(make_record(training={"lr": 0.1}, options={"experts": 2}), path)
    same = make_specification("demo/digits", "mosa", {"experts": 2}, {"epochs": 2, "lr": 0.1})
    check_specification(record, same, path)
    other = make_specification("demo/digits", "mosa", {"experts": 4}, {"epochs": 2, "lr": 0.2})
    with pytest.raises(UserError) as error:
        check_specification(record, other, path)
    message = str(error.value)
    assert message.startswith(f"{path}: the record of another specification: ")
    assert "options.experts is 2, expected 4" in message and "training.lr is 0.1, expected 0.2" in message
    assert "run the workflow again" in message and "epochs" not in message


def test_a_record_that_is_older_than_a_metric_has_none(tmp_path):
    record = make_record()
    del record["metrics"]["ece"]
    path = tmp_path / "seed0.json"
    path.write_text(json.dumps(seal(record)))
    assert load_record(path)["metrics"]["ece"] is None
    assert load_records([path])["ece"].isna().all()


@pytest.mark.parametrize("content", ["", "{", "[1, 2", '{"a": }', "\x00", "[" * 100_000, "9" * 5000])
def test_files_that_are_not_json(tmp_path, content):
    path = tmp_path / "seed0.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"seed0\.json: not JSON .*delete it and run again") as error:
        load_record(path)
    assert "sys." not in str(error.value)


@pytest.mark.parametrize("content", ["name: mine", '{"schema_version": 1}'])
def test_nobody_is_told_to_delete_a_file_of_their_own(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    for read, words in (
        (load_record, "name one, such as results/runs/"),
        (read_trials, "name a file that `mosa tune` wrote"),
        (read_choice, "name a file that `mosa choose` wrote"),
        (Pack, "name one, or make one with `mosa make-data`"),
    ):
        with pytest.raises(UserError, match=words) as error:
            read(path)
        assert "delete it" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have(tmp_path, value):
    record = make_record()
    record["metrics"]["nll"] = value
    with pytest.raises((UserError, ValueError)):
        write_record(record, tmp_path / "seed0.json")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_record(make_record(), tmp_path / "file" / "seed0.json")


def write_grid(folder):
    paths = []
    for task in ("digits", "count"):
        for seed in (0, 1, 10):
            path = folder / task / f"seed{seed}.json"
            write_record(make_record(task=task, seed=seed), path)
            paths.append(path)
    return paths


def test_the_table_does_not_depend_on_the_order(tmp_path):
    paths = write_grid(tmp_path)
    frame = load_records(paths)
    assert frame.equals(load_records(reversed(paths)))
    assert list(frame.columns) == [*COLUMNS, "path"]
    assert list(frame.seed) == [0, 1, 10, 0, 1, 10] and list(frame.task.unique()) == ["count", "digits"]
    assert frame.options[0]["bottleneck"] == 8 and frame.top1[0] == 61.25


def test_the_csv_is_the_table(tmp_path):
    frame = load_records(write_grid(tmp_path / "runs"))
    write_table(frame, tmp_path / "runs.csv")
    tables = (read_table(tmp_path / "runs.csv"), frame)
    read, expected = (table.fillna(dict.fromkeys(_NULLABLE, "none")) for table in tables)
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
    assert read_table(tmp_path / "runs").equals(frame)


def test_two_records_of_one_run_are_refused(tmp_path):
    for name in ("a/seed0.json", "b/seed0.json"):
        write_record(make_record(), tmp_path / name)
    with pytest.raises(UserError, match=r"b/seed0\.json: the same run as .*a/seed0\.json"):
        load_records(find_records(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "cannot be read"),
        ("other.csv", "a,b\n1,2\n", "no column 'benchmark'"),
        ("empty.csv", "", "not a CSV"),
    ],
)
def test_other_tables_are_refused(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / name)


@pytest.mark.parametrize("folder", ["runs", "runs/b"])
def test_a_folder_of_records_that_cannot_be_read_is_refused(folder, tmp_path, lock):
    for name in ("a/seed0.json", "b/seed0.json"):
        write_record(make_record(variant=name[0]), tmp_path / "runs" / name)
    assert len(find_records(tmp_path)) == 2
    lock(tmp_path / folder)
    with pytest.raises(UserError, match=rf"^{tmp_path / folder}: cannot be read \(Permission denied\)"):
        find_records(tmp_path)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="no records below it"):
        read_table(tmp_path)
