"""Failed jobs, for real: what would fail alike is not done again, what was killed is; and wrong names."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from workspace import CONFIG, ROOT, SNAKEMAKE, Workspace

from mosa.records import load_record

pytestmark = pytest.mark.slow
BAD = {"method": "full", "training": {"lr": 1e30, "warmup_epochs": 0}}
SMALL = CONFIG | {
    "benchmarks": {"demo": ["digits"]},
    "seeds": [0],
    "variants": {"linear": {"method": "linear"}, "bad": BAD},
}
RUNS = "demo/digits/micro_vit"
AGAIN = "Trying to restart job"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with packs only."""
    workspace = Workspace(tmp_path_factory.mktemp("retries"))
    workspace.configure(SMALL)
    result = workspace.snakemake("--until", "make_data")
    assert result.returncode == 0, result.stderr[-3000:]
    return workspace


def log_of(workspace, variant):
    return (workspace.folder / f"results/logs/train/{RUNS}/{variant}/seed0.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabels"], "unknown target 'tabels'.*did you mean 'tables'"),
        (["--until", "trian"], "unknown target 'trian'.*did you mean 'train'"),
        (["--set-resources", "trian:runtime=4h"], "unknown rule 'trian'.*did you mean 'train'"),
        (["--groups", "train=g", "--group-components", "h=2"], "unknown group 'h': expected one of g"),
        (
            [f"results/runs/{RUNS}/linaer/seed0.json"],
            f"no rule makes .*did you mean 'results/runs/{RUNS}/linear/",
        ),
        (["--resources", "gpu=2"], "gpu is given, and the config says `device: cpu`; set `device: cuda`"),
        (
            ["partial"],
            "partial: none of the records of this config exists yet .2 meant.; run the workflow first",
        ),
    ],
)
def test_names_and_tables_of_nothing_are_refused_before_anything_runs(arguments, words, workspace):
    result = workspace.snakemake(*arguments)
    output = result.stdout + result.stderr
    assert result.returncode != 0 and re.search(words, output), output[-2000:]
    assert "Traceback" not in output and "Building DAG" not in output and "CalledProcessError" not in output


def test_a_run_that_diverged_is_not_done_again_until_something_changes(workspace):
    result = workspace.snakemake("--retries", "3")
    assert result.returncode != 0 and AGAIN not in result.stdout + result.stderr
    first = log_of(workspace, "bad").strip().splitlines()[-1]
    assert re.match(r"error: demo/digits bad seed 0: the loss is (nan|inf) at epoch 1", first)
    assert [path.parent.name for path in workspace.records()] == ["linear"]

    result = workspace.snakemake("--retries", "3")  # started again, it ends at once
    assert result.returncode != 0 and AGAIN not in result.stdout + result.stderr
    assert first in log_of(workspace, "bad") and "not trained again" in log_of(workspace, "bad")

    assert workspace.snakemake("partial").returncode == 0
    page = (workspace.folder / "results/partial/report.html").read_text()
    assert first.removeprefix("error: ").partition(" at epoch")[0] in page
    assert "bad" in (workspace.folder / "results/partial/comparison.txt").read_text()

    listed = set(re.findall(r"`([\w.-]+)/?[`<]", (ROOT / "results/README.md").read_text()))
    there = {path.name for path in (workspace.folder / "results").iterdir()}
    assert there <= listed, there - listed

    mended = SMALL["variants"] | {"bad": BAD | {"training": {"lr": 0.001}}}
    workspace.configure(SMALL | {"variants": mended})
    assert workspace.snakemake("--until", "train").returncode == 0
    record = load_record(workspace.folder / f"results/runs/{RUNS}/bad/seed0.json")
    assert record["specification"]["training"]["lr"] == 0.001


def test_a_refused_input_is_not_tried_again(workspace):
    (pack,) = workspace.folder.glob("results/packs/demo/*.safetensors")
    content = pack.read_bytes()
    pack.write_bytes(content[: len(content) // 2])
    try:
        workspace.configure(SMALL | {"seeds": [1], "variants": {"linear": {"method": "linear"}}})
        result = workspace.snakemake("--retries", "2", "--until", "train")
        output = result.stdout + result.stderr
        assert result.returncode != 0 and "error: " in output and AGAIN not in output
    finally:
        pack.write_bytes(content)
    assert workspace.snakemake("--retries", "2", "--until", "train").returncode == 0  # nothing is remembered


def test_a_killed_run_is_done_again(workspace):
    long = {"method": "lora", "training": {"epochs": 10}}
    workspace.configure(SMALL | {"variants": {"long": long}})
    output = workspace.folder / "out.log"
    with output.open("w") as file:
        process = subprocess.Popen(
            [*SNAKEMAKE, "--retries", "1", "--until", "train"], cwd=workspace.folder,
            stdout=file, stderr=file, env=workspace.environment,
        )  # fmt: skip
    try:
        log = workspace.folder / f"results/logs/train/{RUNS}/long/seed0.log"
        end = time.time() + 300
        while not (log.is_file() and "epoch 2/" in log.read_text()):
            assert time.time() < end and process.poll() is None, output.read_text()
            time.sleep(0.05)
        os.kill(training_in(workspace.folder), signal.SIGKILL)
        assert process.wait(600) == 0, output.read_text()[-3000:]
    finally:
        process.kill()
    assert AGAIN in output.read_text()
    assert load_record(workspace.folder / f"results/runs/{RUNS}/long/seed0.json")


def training_in(folder):
    """The id of the process that trains in a folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"train" in words and b"--spec" in words and (entry / "cwd").resolve() == folder.resolve():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("no process trains")
