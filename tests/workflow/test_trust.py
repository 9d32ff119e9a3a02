"""A number cannot come loose from what made it, whatever happens to config, data and files.

Each test is a way in which a table could show a number that its config does not stand for.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workspace import CONFIG, Workspace

from mosa.records import load_record, seal

pytestmark = pytest.mark.slow

SMALL = CONFIG | {
    "benchmarks": {"demo": ["digits"]},
    "variants": {"linear": {"method": "linear"}, "lora": {"method": "lora", "options": {"rank": 8}}},
    "training": {"epochs": 1, "batch_size": 64, "lr": 0.03, "fraction": 0.1},
}
CHANGED = SMALL | {
    "variants": {"linear": {"method": "linear"}, "lora": {"method": "lora", "options": {"rank": 2}}},
    "training": {"epochs": 2, "batch_size": 64, "lr": 0.5, "fraction": 0.1},
}
REFRESH = {"collect": 1, "write_tables": 1, "tables": 1}  # of tables; plots are made when these are
MTIME = ("--rerun-triggers", "mtime")


def run_to_the_end(workspace, *arguments):
    result = workspace.snakemake(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def planned(workspace, *arguments):
    """What is to be done for tables, which come before plots and the report."""
    return workspace.planned("tables", *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("trust"))
    workspace.configure(SMALL)
    workspace.give_small_packs()
    run_to_the_end(workspace, "tables")
    return workspace


@pytest.fixture
def workspace(finished, tmp_path):
    """A copy of the finished experiment, without what Snakemake remembers of it, as users copy results."""
    copy = Workspace(tmp_path / "copy")
    copy.configure(SMALL)
    shutil.copytree(finished.folder / "results", copy.folder / "results")
    return copy


def trained_with(path):
    recipe = load_record(path)["specification"]
    return recipe["training"]["epochs"], recipe["training"]["lr"], recipe["options"].get("rank")


def test_a_copy_without_metadata_has_nothing_to_do(workspace):
    assert planned(workspace) == {}
    assert planned(workspace, *MTIME) == {}


@pytest.mark.parametrize("triggers", [(), MTIME, ("--rerun-triggers", "params")])
def test_changed_options_repeat_their_runs_whatever_snakemake_remembers(workspace, triggers):
    workspace.configure(CHANGED)
    assert planned(workspace, *triggers) == {"train": 4} | REFRESH


def test_options_that_change_back_and_forth_repeat_their_runs(workspace):
    workspace.configure(CHANGED)
    run_to_the_end(workspace, "tables", *MTIME)
    assert {trained_with(path) for path in workspace.records()} == {(2, 0.5, None), (2, 0.5, 2)}
    assert planned(workspace, *MTIME) == {}
    workspace.configure(SMALL)  # the file of this specification is older than the records now
    assert planned(workspace, *MTIME) == {"train": 4} | REFRESH


def test_seeds_of_other_specifications_never_share_a_cell(workspace):
    """One more seed, and another option: all of the variant is repeated, not the new seed alone."""
    workspace.configure(SMALL | {"seeds": [0, 1, 2], "training": SMALL["training"] | {"fraction": 0.5}})
    assert planned(workspace, *MTIME) == {"train": 6} | REFRESH


def test_records_of_another_specification_are_refused_by_name(workspace):
    """Even where Snakemake is told that all is well, with --touch or by a rule that was run alone."""
    kept = {path: path.read_bytes() for path in workspace.records()}
    workspace.configure(CHANGED)
    result = workspace.snakemake("tables", "--touch")
    assert result.returncode == 0, result.stderr[-2000:]
    assert {path: path.read_bytes() for path in kept} == kept
    manifest = max((workspace.folder / "results/manifests").glob("runs-*.json"), key=os.path.getmtime)
    result = workspace.mosa("collect", "--manifest", manifest, "--output", "runs.csv")
    assert result.returncode == 2 and not (workspace.folder / "runs.csv").exists()
    assert re.search(r"seed0\.json: the record of another specification: ", result.stderr)
    assert "training.epochs is 1, expected 2" in result.stderr and "lr is 0.03, expected 0.5" in result.stderr
    assert "run the workflow again" in result.stderr and "Traceback" not in result.stderr


def test_a_record_of_another_folder_does_not_pass(workspace):
    """A seed of a run with other options is copied in: same name, same place, newest file."""
    other = workspace.records()[0]
    record = json.loads(other.read_text())
    record["specification"]["training"]["fraction"] = 0.2
    other.write_text(json.dumps(seal(record)))
    output = run_to_the_end(workspace, "tables", "-n", *MTIME)
    assert re.search(r"train +1\n", output)


def test_an_edited_record_is_refused(workspace):
    path = workspace.records()[0]
    path.write_text(path.read_text().replace('"nll": ', '"nll": 1', 1))
    result = workspace.snakemake("tables")
    assert result.returncode != 0
    assert f"{path.name}: was changed after it was written; delete it" in result.stdout + result.stderr
    path.unlink()
    run_to_the_end(workspace, "tables")


def test_partial_lists_what_is_stale_and_leaves_it_out(workspace):
    variants = SMALL["variants"] | {"lora": {"method": "lora", "options": {"rank": 2}}}
    workspace.configure(SMALL | {"variants": variants})
    output = run_to_the_end(workspace, "partial")
    assert "rule train:" not in output
    log = (workspace.folder / "results/logs/partial.log").read_text()
    assert "2 of 4 records" in log and log.count("options.rank is 8, expected 2") == 2


def test_tables_follow_the_config_also_back_and_forth(workspace):
    """A table that was made from other records is made again, although it is newer than all of them."""
    table = workspace.folder / "results/tables/comparison.txt"
    both = table.read_text()
    workspace.configure(SMALL | {"variants": {"linear": {"method": "linear"}}})
    run_to_the_end(workspace, "tables", *MTIME)
    assert "lora" not in table.read_text()
    workspace.configure(SMALL)
    assert planned(workspace, *MTIME) == REFRESH
    run_to_the_end(workspace, "tables", *MTIME)
    assert table.read_text() == both


def write_images(folder: Path, number: int, start: int = 0):
    rng = np.random.default_rng(start)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(start, start + number):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03}.png")


def test_changed_images_make_a_new_pack_and_repeat_their_runs(tmp_path):
    workspace = Workspace(tmp_path / "own")
    images = tmp_path / "images"
    write_images(images, 30)
    own = SMALL | {
        "protocol": "standard",
        "tasks": {"pets": {"layout": "folder", "root": str(images)}},
        "benchmarks": {"own": "all"},
        "variants": {"linear": {"method": "linear"}},
    }
    workspace.configure(own)
    run_to_the_end(workspace, "tables")
    assert planned(workspace) == {}
    # More of a config is checked again, and repeats no run; nor does a check that was deleted.
    workspace.configure(own | {"variants": own["variants"] | {"lora": SMALL["variants"]["lora"]}})
    assert planned(workspace) == {"check_data": 1, "train": 2} | REFRESH
    for path in workspace.folder.glob("results/check-*.txt"):
        path.unlink()
    assert planned(workspace) == {"check_data": 1, "train": 2} | REFRESH
    workspace.configure(own)
    before = load_record(workspace.records()[0])
    for path in images.rglob("*.png"):  # touched, as by a copy: the same content
        os.utime(path)
    assert planned(workspace) == {}
    write_images(images, 5, start=30)
    again = {"check_data": 1, "make_data": 1, "train": 2} | REFRESH
    assert planned(workspace, *MTIME) == again
    workspace.configure(own | {"seeds": [0, 1, 2]})
    assert planned(workspace, *MTIME) == again | {"train": 3}
    run_to_the_end(workspace, "tables", *MTIME)
    records = [load_record(path) for path in workspace.records()]
    assert len({record["data"]["digest"] for record in records}) == 1
    assert records[0]["data"]["digest"] != before["data"]["digest"]
    assert records[0]["data"]["train_examples"] > before["data"]["train_examples"]
    # An image is replaced in place, with the same name.
    write_images(images, 1)
    (images / "cat" / "000.png").write_bytes((images / "dog" / "001.png").read_bytes())
    assert planned(workspace, *MTIME)["make_data"] == 1


def test_a_job_does_what_was_frozen_when_it_was_submitted(workspace, tmp_path):
    """A job of a cluster starts after the config was edited, or made unreadable: it does what was meant."""
    shutil.rmtree(workspace.folder / "results/runs")
    assert planned(workspace)["train"] == 4  # the head process: it freezes the experiment
    (frozen,) = (workspace.folder / "results/manifests").glob("experiment-*.json")
    record = "results/runs/demo/digits/micro_vit/lora/seed0.json"
    job = ["train:benchmark=demo,task=digits,backbone=micro_vit,variant=lora,seed=0"]
    command = ["--mode", "remote", "--target-jobs", *job, "--force", "--cores", "1", "--nolock"]
    command += ["--allowed-rules", "train", "--target-files-omit-workdir-adjustment", "--profile", "none"]
    command += ["--rerun-triggers", "mtime", "--executor", "local"]
    for content in (None, "seeds: [", "name: broken\n"):
        workspace.configure(CHANGED)
        if content is not None:
            (workspace.folder / "config.yaml").write_text(content)
        result = workspace.snakemake(*command, MOSA_EXPERIMENT=str(frozen), MOSA_WARM="1")
        assert result.returncode == 0, result.stdout + result.stderr
        assert trained_with(workspace.folder / record) == (1, 0.03, 8)
        (workspace.folder / record).unlink()
    result = workspace.snakemake(*command)
    assert result.returncode != 0 and "MOSA_EXPERIMENT is not set" in result.stdout + result.stderr


def test_a_search_of_other_settings_is_not_taken(tmp_path):
    workspace = Workspace(tmp_path / "tuned")
    workspace.give_small_packs()
    config = SMALL | {
        "seeds": [0],
        "variants": {"linear": {"method": "linear"}},
        "tune": {"variants": {"linear": {"training": {"lr": [1e-9, 0.01]}}}},
    }
    workspace.configure(config)
    run_to_the_end(workspace, "tables")
    shutil.rmtree(workspace.folder / ".snakemake")
    assert planned(workspace, *MTIME) == {}
    workspace.configure(config | {"tune": config["tune"] | {"seeds": [0, 1]}})
    jobs = planned(workspace, *MTIME)
    assert jobs["search"] == 1 and jobs["choose"] == 1
    choice = next((workspace.folder / "results/tune/choices").rglob("linear.json"))
    content = json.loads(choice.read_text())
    content["chosen"]["training"]["lr"] = 0.02
    choice.write_text(json.dumps(content))
    workspace.configure(config)
    assert planned(workspace, *MTIME)["train"] == 1  # the record has another choice


def test_records_are_verified_against_the_config_and_reproduced(workspace):
    result = workspace.mosa("verify")
    assert result.returncode == 0 and "4 of 4 records are in order" in result.stdout
    path = "results/runs/demo/digits/micro_vit/lora/seed1.json"
    result = workspace.mosa("reproduce", path, "--packs", "results/packs")
    assert result.returncode == 0 and result.stdout == f"{path}: bit-equal\n", result.stdout + result.stderr
    workspace.configure(CHANGED)
    result = workspace.mosa("verify")
    assert result.returncode == 1 and "0 of 4 records are in order" in result.stdout
    assert result.stdout.count("the record of another specification: ") == 4
