"""What can go wrong while a run, a pack or a table is made: nothing is lost, nothing is half there.

MOSA_FAULTS is the number of moments at which each stage is killed: 2 by default, 20 by `make test-faults`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from forked import run_mosa, run_snakemake
from standin import write_small_pack

from mosa.base.errors import Shortage, UserError
from mosa.data.packs import Pack
from mosa.experiment.config import load_config
from mosa.experiment.expand import Run
from mosa.experiment.manifest import write_manifest
from mosa.experiment.specification import Specification
from mosa.experiment.workflow import Workflow
from mosa.records import load_record, write_record
from mosa.results.collect import collect

from test_records import make_record  # isort: skip

ROOT = Path(__file__).parents[2]
MOMENTS = int(os.environ.get("MOSA_FAULTS", "2"))
MOSA = [sys.executable, "-m", "mosa.cli"]
TRAIN = ["train", "--task", "demo/digits", "--method", "mosa", "--options", '{"bottleneck": 4}']
TRAIN += [
    "--training",
    '{"epochs": 3, "batch_size": 16}',
    "--resume-folder",
    "kept",
    "--save-every",
    "0",
]
CONFIG = {
    "name": "faults",
    "benchmarks": {"demo": ["digits"]},
    "backbones": {"micro_vit": {"architecture": "mosa_vit_micro"}},
    "seeds": [0, 1],
    "training": {"epochs": 2, "batch_size": 64, "fraction": 0.1},
    "variants": {
        "linear": {"method": "linear"},
        "adapter": {"method": "adapter", "options": {"bottleneck": 4}},
    },
}
TABLES = ("comparison.txt", "comparison.tex", "differences.md")

pytestmark = pytest.mark.slow


MANIFEST = "manifests/manifest.json"


def write_records(folder):
    runs = []
    for task in ("digits", "count"):
        for variant in ("adapter", "mosa"):
            for seed in range(3):
                record = make_record(task=task, variant=variant, method=variant, seed=seed)
                write_record(record, folder / f"runs/demo/{task}/micro_vit/{variant}/seed{seed}.json")
                runs.append(Run(Specification.model_validate(record["specification"]), seed))
    write_manifest(runs, folder, ["adapter", "mosa"], "x").rename(folder / MANIFEST)


STAGES = {
    "prepare": (
        ["make-data", "demo/digits", "--image-size", "32", "--output", "a.safetensors"],
        ["a.safetensors"],
    ),
    "train": ([*TRAIN, "--pack", "pack", "--output", "run.json"], ["run.json"]),
    "collect": (["collect", "--manifest", MANIFEST, "--output", "runs.csv"], ["runs.csv"]),
    "tables": (["tables", "--records", "runs", "--output", "tables"], [f"tables/{name}" for name in TABLES]),
}


def outcome(path):
    """What a file says, but for the time it took."""
    if path.suffix != ".json":
        return path.read_bytes()
    record = json.loads(path.read_text())
    return {key: record[key] for key in ("specification", "seed", "metrics", "parameters", "data")}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_moment_and_started_again(stage, pack, tmp_path):
    command, outputs = STAGES[stage]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    # Forked, a command spends its time with its work, and is killed in it rather than in its imports.
    forked, own = (os.environ | {"MOSA_WARM": value} for value in ("1", ""))
    for place in (whole, folder):
        place.mkdir()
        if stage == "train":
            shutil.copy(pack, place / "pack")
        elif stage != "prepare":
            write_records(place)
    run_mosa(whole, "check", "--help")  # starts the server

    def seconds(environment):
        """Run the command as a whole, and return the time that it took."""
        start = time.perf_counter()
        subprocess.run([*MOSA, *command], cwd=whole, env=environment, check=True, capture_output=True)
        return time.perf_counter() - start

    lengths = [(forked, seconds(forked))] * MOMENTS
    expected = [outcome(whole / name) for name in outputs]
    if stage == "train" and MOMENTS >= 20:  # in a process of its own, too, which spends half of it importing
        lengths += [(own, seconds(own))] * (1 + MOMENTS // 20)
        assert [outcome(whole / name) for name in outputs] == expected
    rng = random.Random(stage)
    for environment, length in lengths:
        process = subprocess.Popen(
            [*MOSA, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(length * rng.uniform(0.2, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name, content in zip(outputs, expected, strict=True):
            if (folder / name).exists():  # then it is whole
                assert outcome(folder / name) == content
    subprocess.run([*MOSA, *command], cwd=folder, env=forked, check=True, capture_output=True)
    assert [outcome(folder / name) for name in outputs] == expected


# --- records that are not what they should be


def broken_records():
    good = make_record(task="count", variant="mosa", seed=1)
    text = json.dumps(good)
    return {
        "truncated": (text[: len(text) // 2], "not JSON"),
        "empty": ("", "not JSON"),
        "altered": (text.replace('"top1": 61.25', '"top1": 161.25'), "metrics.top1"),
        "of a foreign schema": (json.dumps(good | {"schema_version": 99}), "schema_version"),
        "another run's": (json.dumps(make_record(task="count", seed=7)), "the record of seed 7"),
        "a copy of another": (json.dumps(make_record(seed=1)), "of another specification: task is"),
        "binary": ("\0\1\2", "not JSON"),
    }  # fmt: skip


@pytest.mark.parametrize("name", broken_records())
def test_broken_records_are_told_by_name_and_nothing_is_written(name, tmp_path):
    write_records(tmp_path)
    path = tmp_path / "runs/demo/count/micro_vit/mosa/seed1.json"
    content, words = broken_records()[name]
    path.write_text(content)
    with pytest.raises(UserError, match=words) as error:
        collect(tmp_path / MANIFEST, tmp_path / "runs.csv")
    assert "seed1.json" in str(error.value) and not (tmp_path / "runs.csv").exists()


def test_truncated_packs_are_refused(pack, tmp_path):
    whole = pack.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "pack").write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a readable pack"):
            Pack(tmp_path / "pack")


# --- disks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True
    )
    if done.returncode:
        pytest.skip("needs to be allowed to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("state", ["full", "read-only"])
@pytest.mark.parametrize("stage", ["prepare", "train", "collect", "tables"])
def test_a_disk_that_takes_nothing(stage, state, pack, small_disk, tmp_path):
    command = [word.replace('"epochs": 3', '"epochs": 1') for word in STAGES[stage][0]]
    shutil.copy(pack, tmp_path / "pack")
    write_records(tmp_path)
    if state == "full":
        (small_disk / "filler").write_bytes(b"0" * (1 << 16))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    command = [*command[:-1], str(small_disk / Path(command[-1]))]
    done = run_mosa(tmp_path, *command)
    assert done.returncode == (Shortage if state == "full" else UserError).status, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr and done.stderr.strip().splitlines()[-1].startswith("error")
    left = [path.name for path in small_disk.rglob("*") if path.is_file()]
    assert [name for name in left if name != "filler" and not name.endswith(".lock")] == []


# --- the workflow


@pytest.fixture
def place(tmp_path):
    for name in ("rules", "profiles", "report", "envs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (name,) = Workflow.of(load_config(CONFIG)).packed
    (tmp_path / "results/packs" / name).parent.mkdir(parents=True)
    write_small_pack(tmp_path / "results/packs" / name, {"train": 80, "val": 40, "test": 40})
    return tmp_path


def snakemake(place, **options):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "tables"]
    return subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def wait_for_lock(place):
    """Wait until a workflow that was started has the folder for itself."""
    while not list((place / ".snakemake/locks").glob("*.lock")):
        time.sleep(0.05)


def tables(place):
    return [(place / "results/tables" / name).read_bytes() for name in TABLES]


def test_a_killed_workflow_a_second_one_and_a_clock_that_jumps(place):
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_snakemake, place, "--cores", "2", "tables")
        wait_for_lock(place)
        second = run_snakemake(place, "--cores", "2", "tables")
        assert second.returncode != 0 and "lock" in (second.stdout + second.stderr).lower()
        assert first.result().returncode == 0  # the second one did it no harm
    expected = tables(place)

    records = sorted(place.glob("results/runs/**/*.json"))
    shutil.rmtree(place / "results/tables")
    records[0].unlink()
    killed = snakemake(place, start_new_session=True)
    wait_for_lock(place)
    time.sleep(2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert run_snakemake(place, "--unlock").returncode == 0
    again = run_snakemake(place, "--cores", "2", "tables")
    assert again.returncode == 0, again.stderr[-2000:]
    assert tables(place) == expected and load_record(records[0])

    # Clocks of other machines: a record from the future, another from long ago. Nothing is trained for it.
    os.utime(records[0], (time.time() + 86400,) * 2)
    os.utime(records[1], (1e9, 1e9))
    again = run_snakemake(place, "--cores", "2", "tables")
    assert again.returncode == 0 and "rule train" not in again.stdout + again.stderr, again.stderr[-2000:]
    assert tables(place) == expected
