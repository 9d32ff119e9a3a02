"""Records: refused when wrong, whole or absent on disk, and the same table from any order."""

import copy
import json
import os

import jsonschema
import pandas as pd
import pytest

from mosa.base.errors import UserError
from mosa.records import (
    COLUMNS,
    SCHEMA,
    _conforms,
    _validator,
    collect,
    find_records,
    load_record,
    load_records,
    read_table,
    write_record,
)


def make_record(**run):
    """Return a valid record."""
    identity = {"benchmark": "demo", "group": "natural", "task": "digits", "backbone": "micro_vit"}
    return {
        "schema_version": 3,
        "status": "complete",
        "run": identity | {"variant": "mosa", "seed": 0} | run,
        "protocol": {"name": "demo", "version": 1, "train_split": "trainval", "eval_split": "test"},
        "method": {"name": "mosa", "options": {"bottleneck": 8, "experts": 4}},
        "backbone": {
            "architecture": "mosa_vit_micro", "weights": "builtin", "kind": "timm", "sha256": "0" * 64,
            "image_size": 32,
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        },
        "training": {
            "epochs": 2, "batch_size": 32, "lr": 0.001, "weight_decay": 0.01, "warmup_epochs": 1.0,
            "label_smoothing": 0.0, "eps": 1e-8, "drop_path": 0.0, "drop_rate": 0.0, "fraction": 1.0,
            "passes": 2,
        },
        "metrics": {"top1": 61.25, "loss": 1.5, "examples": 797, "per_set": {}, "train_loss": [2.0, 1.25]},
        "parameters": {"adapter": 100, "head": 10, "total": 110, "trained": 130, "model": 1000},
        "flops": {"train_per_image": 3e6, "inference_per_image": 1e6},
        "seconds": {"prepare": 1.0, "train": 2.0, "eval": 0.5, "total": 3.5},
        "images_per_second": 500.0,
        "peak_memory_mib": 300.0,
        "device": {"type": "cpu", "name": "some processor", "threads": 1},
        "versions": {"torch": "2.13.0"},
        "git": {"commit": None, "dirty": None},
        "data": {
            "digest": "1" * 64, "train_examples": 1000, "eval_examples": 797, "resize": "direct",
            "interpolation": None, "augment": "none", "notes": [],
        },
        "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip


def test_the_schema_is_a_closed_and_described_schema():
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)

    def walk(node, where):
        assert node.get("description"), where
        if "properties" in node:
            assert node["additionalProperties"] is False, where
            optional = {"accumulation"}  # only where memory was short
            optional |= {"precision", "views"}  # newer than the rest
            optional |= {
                "compile",
                "channels_last",
                "gradient_checkpointing",
            }  # only where they are asked for
            assert set(node["required"]) == set(node["properties"]) - optional, where
            for name, child in node["properties"].items():
                walk(child, f"{where}.{name}")

    walk(schema, "record")


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
        ("metrics.top1", None, "metrics.top1: None is not of type 'number'"),
        ("run.seed", "0", "run.seed: '0' is not of type 'integer'"),
        ("schema_version", 2, "schema_version: 3 was expected"),
        ("extra", 1, "the record: Additional properties are not allowed"),
        ("protocol.eval_split", "train", "protocol.eval_split: 'train' is not one of"),
        ("data.digest", "x", "data.digest: 'x' does not match"),
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
    with pytest.raises(UserError, match=rf"seed0.json: not a valid record, {words}"):
        load_record(path)


def test_the_compiled_schema_says_what_the_schema_says():
    """Whatever part of a record is taken away, or is of another type, both agree."""
    validator, conforms = _validator(), _conforms()
    assert validator.is_valid(make_record()) and conforms(make_record())

    def places(node, path=()):
        if isinstance(node, dict):
            for key, child in node.items():
                yield (*path, key)
                yield from places(child, (*path, key))

    for path in places(make_record()):
        for change in (KeyError, None, -1, 0.5, "x", [], {}, True):
            record = make_record()
            *parents, last = path
            node = record
            for key in parents:
                node = node[key]
            if change is KeyError:
                del node[last]
            else:
                node[last] = change
            assert conforms(record) == validator.is_valid(record), (path, change)


@pytest.mark.parametrize("content", ["", "{", "[1, 2", '{"a": }', "\x00", "[" * 100_000])
def test_files_that_are_not_json(tmp_path, content):
    path = tmp_path / "seed0.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"seed0\.json: not JSON .*delete it and run again"):
        load_record(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have(tmp_path, value):
    record = make_record()
    record["metrics"]["loss"] = value
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
    assert frame.options[0] == {"bottleneck": 8, "experts": 4} and frame.top1[0] == 61.25


def test_the_csv_is_the_table(tmp_path):
    frame = collect(write_grid(tmp_path / "runs"), tmp_path / "runs.csv")
    tables = (read_table(tmp_path / "runs.csv"), frame)
    read, expected = (table.fillna({"commit": "none"}) for table in tables)
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


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="no records below it"):
        read_table(tmp_path)
