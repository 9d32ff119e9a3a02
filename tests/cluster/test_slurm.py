"""The Slurm profiles on a real one-node Slurm, which these tests start and stop."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from forked import run_snakemake
from marks import thorough

from mosa.data import make_pack
from mosa.engine.run import execute
from mosa.experiment.config import expand, load_config
from mosa.experiment.workflow import Workflow
from mosa.records import load_record

ROOT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
SYSTEM = Path("/etc/slurm/slurm.conf")  # where the steps of a job look for it
FOR_TESTS = ["--slurm-no-account", "--slurm-status-command", "squeue", "--latency-wait", "5"]
FOR_TESTS += ["--slurm-init-seconds-before-status-checks", "1"]
# Snakemake, which looks each second how its jobs are; the plugin waits ten seconds longer each time.
HEAD = """
import sys
import snakemake.cli
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
sys.argv[0] = "snakemake"
snakemake.cli.main()
"""
CONFIG = {
    "name": "cluster",
    "benchmarks": {"demo": ["digits"]},
    "backbones": {"micro_vit": {"architecture": "mosa_vit_micro"}},
    "seeds": [0],
    "training": {"epochs": 1, "batch_size": 64, "fraction": 0.1},
    "variants": {
        "short": {"method": "linear"},
        "long": {"method": "lora", "options": {"rank": 2}, "training": {"epochs": 25}},
    },
}
QUICK = CONFIG | {
    "variants": CONFIG["variants"] | {"long": CONFIG["variants"]["long"] | {"training": {"epochs": 2}}}
}
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ReturnToService=2
MinJobAge=600
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm with one node: this machine."""
    missing = [
        name for name in PROGRAMS if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") is None
    ]
    if missing or os.getuid() != 0 or SYSTEM.exists():
        pytest.skip("needs Debian's slurm-wlm and munge, to be root, and no other Slurm configured")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = CONF.format(host=socket.gethostname(), folder=folder, cpus=max(2, os.cpu_count()))
    SYSTEM.parent.mkdir(exist_ok=True)
    SYSTEM.write_text(conf)
    gres = SYSTEM.with_name("gres.conf")
    gres.write_text("Name=gpu File=/dev/null\n")  # nothing computes on it here
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    started = subprocess.run(["pgrep", "munged"], capture_output=True).returncode != 0
    try:
        if started:
            subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged"], check=True)
        subprocess.run(["/usr/sbin/slurmctld"], check=True)
        subprocess.run(["/usr/sbin/slurmd"], check=True)
        for _ in range(60):
            if "idle" in subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True).stdout:
                break
            time.sleep(0.5)
        else:
            pytest.fail((folder / "slurmctld.log").read_text()[-2000:])
        yield folder
    finally:
        for name in ("slurmd", "slurmctld"):
            pid = folder / f"{name}.pid"
            if pid.is_file():
                os.kill(int(pid.read_text()), signal.SIGTERM)
        if started:
            subprocess.run(["pkill", "munged"])
        SYSTEM.unlink()
        gres.unlink()


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """The pack of the config, as the workflow makes it."""
    path = tmp_path_factory.mktemp("pack") / "pack"
    make_pack("demo/digits", path, image_size=32)
    return path


@pytest.fixture
def packed(place, pack):
    """A folder with the workflow that has made its pack already."""
    (name,) = Workflow.of(load_config(CONFIG)).packed
    path = place / "results/packs" / name
    path.parent.mkdir(parents=True)
    shutil.copy(pack, path)
    return place


@pytest.fixture
def place(slurm, tmp_path):
    """A folder with the workflow."""
    for name in ("rules", "profiles", "report", "envs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    return tmp_path


def start(place, *arguments, profile="slurm", config=CONFIG, warm=True):
    (place / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    log = (place / "head.log").open("a")
    command = [sys.executable, "-c", HEAD, "--profile", f"profiles/{profile}", "--verbose"]
    environment = os.environ | {"MOSA_WARM": "1" if warm else ""}
    command += [*FOR_TESTS, *arguments]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)


def finish(process, place, timeout=420):
    try:
        code = process.wait(timeout)
    finally:
        process.kill()
    return code, (place / "head.log").read_text()


def wait_for(what, timeout=120):
    end = time.time() + timeout
    while not (found := what()):
        assert time.time() < end, "waited in vain"
        time.sleep(0.3)
    return found


def running(word):
    """The id of the running Slurm job of a rule and variant."""
    listed = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%A %k"], capture_output=True, text=True).stdout
    return next((line.split()[0] for line in listed.splitlines() if word in line), None)


def queued():
    """Names of the jobs that wait."""
    return subprocess.run(["squeue", "-h", "-t", "PD", "-o", "%k"], capture_output=True, text=True).stdout


def undisturbed(place, pack, variant):
    """The record of the same run, without any Slurm."""
    run = next(run for run in expand(load_config(CONFIG)) if run.specification.variant == variant)
    return execute(run, pack, place / "undisturbed.json")


def record(place, variant):
    return load_record(place / f"results/runs/demo/digits/micro_vit/{variant}/seed0.json")


def submissions(log):
    return re.findall(r"^sbatch call: sbatch (.*?)--wrap", log, re.MULTILINE)


def test_a_cancelled_job_is_submitted_again_and_goes_on(packed, pack):
    place = packed
    process = start(place, "--until", "train", warm=False)
    job = wait_for(lambda: running("long"))
    log = place / "results/logs/train/demo/digits/micro_vit/long/seed0.log"
    wait_for(lambda: log.is_file() and "epoch 3/" in log.read_text())
    subprocess.run(["scancel", job], check=True)
    code, head = finish(process, place)
    assert code == 0, head[-3000:]
    assert "goes on at epoch" in log.read_text()
    assert record(place, "long")["metrics"] == undisturbed(place, pack, "long")["metrics"]
    lines = [line for line in submissions(head) if "rule_train" in line]
    assert len(lines) == 3  # the long one twice
    first, *_, last = sorted(
        (line for line in lines if "long" in line), key=lambda line: "--mem 2000" in line
    )
    assert "--mem 1000" in first and "--mem 2000" in last and "--cpus-per-task=1" in first
    minutes = [int(re.search(r"-t (\d+)", line).group(1)) for line in (first, last)]
    assert minutes[0] < minutes[1]  # more time with every attempt
    assert "gpu" not in first and not list((place / "results/resume").glob("*.pt"))


def test_jobs_that_wait_in_the_queue_do_what_was_meant(packed):
    """The config is edited and broken while the jobs wait: they train with what they were submitted with."""
    place = packed
    subprocess.run(["scontrol", "update", "PartitionName=main", "State=DOWN"], check=True)
    try:
        process = start(place, "tables", config=QUICK)
        wait_for(lambda: "long" in queued() and "short" in queued())
        long = {"method": "lora", "options": {"rank": 8}, "training": {"epochs": 3, "lr": 0.5}}
        edited = QUICK | {"variants": QUICK["variants"] | {"long": long}}
        (place / "config.yaml").write_text(yaml.safe_dump(edited, sort_keys=False) + "seeds: [")
    finally:
        subprocess.run(["scontrol", "update", "PartitionName=main", "State=UP"], check=True)
    code, head = finish(process, place)
    assert code == 0, head[-3000:]
    assert (place / "results/tables/comparison.txt").is_file()
    specification = record(place, "long")["specification"]
    assert (specification["options"]["rank"], specification["training"]["epochs"]) == (2, 2)
    (place / "config.yaml").write_text(yaml.safe_dump(edited, sort_keys=False))
    planned = run_snakemake(place, "-n")
    assert re.search(r"^train +1$", planned.stdout, re.MULTILINE)


@pytest.mark.thorough
def test_a_job_over_its_time_limit_goes_on(place):
    long = CONFIG["variants"]["long"] | {"training": {"epochs": 1600}}
    config = CONFIG | {"variants": {"long": long}}
    # A minute does little on a busy machine, and each retry would ask for more memory than the one before.
    often = ["--retries", "20", "--set-resources", "train:runtime=1", "train:mem=1GB"]
    process = start(place, *often, config=config)
    code, head = finish(process, place, 1500)
    assert code == 0, head[-3000:]
    assert len([line for line in submissions(head) if "rule_train" in line]) >= 2
    log = (place / "results/logs/train/demo/digits/micro_vit/long/seed0.log").read_text()
    assert "goes on at epoch" in log and record(place, "long")["specification"]["training"]["epochs"] == 1600


@pytest.mark.thorough
def test_a_head_that_is_killed_and_started_again_repeats_nothing(place, pack):
    process = start(place)
    short = place / "results/runs/demo/digits/micro_vit/short/seed0.json"
    log = place / "head.log"
    wait_for(lambda: len(re.findall("^Finished jobid", log.read_text(), re.MULTILINE)) == 2)  # data, short
    wait_for(lambda: running("long"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = short.stat().st_mtime_ns
    assert run_snakemake(place, "--unlock").returncode == 0
    code, head = finish(start(place), place)
    assert code == 0, head[-3000:]
    assert short.stat().st_mtime_ns == before
    assert record(place, "long")["metrics"] == undisturbed(place, pack, "long")["metrics"]


@pytest.mark.thorough
def test_gpus_are_asked_for(place):
    """There is none to compute on: the jobs fail, and what was submitted is looked at."""
    config = CONFIG | {"device": "cuda", "seeds": [0, 1, 2]}
    process = start(place, "--retries", "0", "--until", "train", config=config)
    finish(process, place)
    (place / "head.log").rename(place / "single.log")
    lines = [line for line in submissions((place / "single.log").read_text()) if "rule_train" in line]
    assert len(lines) == 6 and all("--gpus=1" in line for line in lines)
    process = start(place, "--retries", "0", "--until", "train", profile="slurm-packed", config=config)
    _, head = finish(process, place)
    packed = [line for line in submissions(head) if "rule_make_data" not in line]
    assert len(packed) == 1 and "--gpus=1" in packed[0]  # six runs, one job, one GPU
    together = int(re.search(r"-t (\d+)", packed[0]).group(1))
    alone = [int(re.search(r"-t (\d+)", line).group(1)) for line in lines]
    assert together == sum(alone)  # one after the other


BAD = {"method": "full", "training": {"lr": 1e30, "warmup_epochs": 0}}


@pytest.mark.parametrize("profile", ["slurm-packed", *thorough("slurm")])
def test_a_run_that_diverged_is_submitted_once_and_takes_no_other_with_it(packed, profile):
    place = packed
    config = CONFIG | {"variants": {"short": CONFIG["variants"]["short"], "bad": BAD}}
    code, head = finish(start(place, "--until", "train", profile=profile, config=config), place, 900)
    assert code != 0 and "Trying to restart job" not in head
    log = (place / "results/logs/train/demo/digits/micro_vit/bad/seed0.log").read_text()
    assert "the loss is" in log.strip().splitlines()[-1]
    assert record(place, "short")
    submitted = [line for line in submissions(head) if "rule_make_data" not in line]
    assert len(submitted) == (2 if profile == "slurm" else 1)


@pytest.mark.thorough
def test_a_packed_suite_runs_to_its_end(packed):
    place = packed
    code, head = finish(start(place, profile="slurm-packed", config=QUICK), place)
    assert code == 0, head[-3000:]
    assert json.dumps(record(place, "short")["metrics"]) and record(place, "long")
    assert (place / "results/tables/comparison.txt").is_file() and (place / "results/report.html").is_file()
    assert len([line for line in submissions(head) if "rule_make_data" not in line]) == 1
