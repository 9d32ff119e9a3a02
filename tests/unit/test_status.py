"""How far an experiment is: no run counts as running that does not live, whoever looks from wherever."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from travelling import write_results

from mosa.base.errors import UserError
from mosa.cli.commands import cli
from mosa.experiment import alive
from mosa.experiment.config import read_config
from mosa.experiment.failures import first_words
from mosa.experiment.plan import plan_data
from mosa.experiment.stale import why_stale
from mosa.experiment.status import as_json, as_text, status_of
from mosa.experiment.workflow import Workflow
from mosa.records import check_specification

ROOT = Path(__file__).parents[2]
RUN = "runs/demo/digits/micro_vit/mosa/seed1.json"


@pytest.fixture
def workflow(tmp_path, monkeypatch):
    """Return an experiment whose runs are done, except one."""
    write_results(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / RUN).unlink()
    (tmp_path / "results" / "running").mkdir()
    return Workflow.of(read_config("config.yaml"))


def log(text):
    path = Path("results/logs/train") / Path(RUN).relative_to("runs").with_suffix(".log")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def state_of(workflow):
    (found,) = [one for one in status_of(workflow).runs if one.path == RUN]
    return found.state, found.reason


def digest(workflow):
    return workflow.meant_digest(workflow.runs[f"results/{RUN}"])


def test_done_and_to_do_are_counted_by_variant_and_task(workflow):
    found = status_of(workflow)
    assert dict(found.counts) == {"done": 7, "to do": 1} and found.exit_status == 3
    lines = [line.split() for line in as_text(found).splitlines()]
    assert ["micro_vit", "mosa", "4", "3", "-", "-", "-", "-", "1"] in lines
    assert ["demo", "digits", "4", "3", "-", "-", "-", "-", "1"] in lines
    assert ["demo", "count", "4", "4", "-", "-", "-", "-", "-"] in lines
    assert found.hours > 0 and not found.assumed  # at the rate of the records that there are


def test_what_is_left_includes_the_searches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(ROOT / "config.yaml", ROOT / "configs" / "demo-tune.yaml")
    workflow = Workflow.of(config)
    found, planned = status_of(workflow), plan_data(config)
    tuning = sum(row["hours"] for row in planned["rows"] if row["variant"].endswith(": tuning"))
    assert found.searches == (0, 15) and found.assumed and tuning > 0
    assert found.hours == pytest.approx(planned["all"]["hours"])
    for path, run in workflow.searches.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        done = {"specification": run.specification.digest, "search": workflow.search_settings(run)}
        Path(path).write_text(json.dumps(done))
    found = status_of(workflow)
    assert found.searches == (15, 15)
    assert found.hours == pytest.approx(planned["all"]["hours"] - tuning)


def test_a_run_counts_as_running_only_while_it_lives(workflow):
    with alive.signs_of_life(Path("results/running"), digest(workflow), 1):
        assert state_of(workflow)[0] == "running"
        assert status_of(workflow).exit_status == 3
    assert state_of(workflow)[0] == "to do"
    assert not list(Path("results/running").iterdir())


KILLED = """
import os, sys
from pathlib import Path
from mosa.experiment.alive import signs_of_life
with signs_of_life(Path("results/running"), sys.argv[1], 1):
    os.kill(os.getpid(), 9)
"""


def test_a_run_that_was_killed_is_silent_at_once(workflow):
    subprocess.run([sys.executable, "-c", KILLED, digest(workflow)])
    state, reason = state_of(workflow)
    assert state == "silent" and "no sign of life since 20" in reason
    assert status_of(workflow).exit_status == 1


@pytest.mark.parametrize(("age", "state"), [(0, "running"), (alive.SILENT + 60, "silent")])
def test_of_another_machine_the_age_of_the_last_sign_counts(workflow, monkeypatch, age, state):
    with alive.signs_of_life(Path("results/running"), digest(workflow), 1):
        (path,) = Path("results/running").iterdir()
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        monkeypatch.setattr(alive, "_place", lambda: "elsewhere")
        assert state_of(workflow)[0] == state


def test_signs_go_on_while_a_run_lives(tmp_path):
    with alive.signs_of_life(tmp_path, "0" * 64, 0, every=0.01):
        (path,) = tmp_path.iterdir()
        os.utime(path, (1, 1))
        for _ in range(500):
            if path.stat().st_mtime > 1:
                break
            alive.threading.Event().wait(0.01)
        assert path.stat().st_mtime > 1


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        ("demo: epoch 1/10\nerror: the loss is nan; try a smaller lr\n", "failed", "the loss is nan"),
        ("Traceback (most recent call last):\n  ...\nKeyError: 'x'\n", "failed", "KeyError: 'x'"),
        ("stopped by SIGTERM; goes on from x.pt when it is started again\n", "silent", "stopped by SIGTERM"),
        ("", "to do", ""),
        ("demo: epoch 1/10, loss 2\n", "silent", "started, no sign of life since 20"),
        (f"demo/digits mosa seed 1: top-1 60 -> results/{RUN}\n", "to do", ""),  # and then it was deleted
    ],
)  # fmt: skip
def test_a_log_says_how_a_run_ended(workflow, text, state, reason):
    log(text)
    found = state_of(workflow)
    assert found[0] == state and found[1].startswith(reason)


def test_the_log_of_another_specification_says_nothing(workflow):
    path = log("error: no\n")
    os.utime(path, (1, 1))
    assert state_of(workflow)[0] == "to do"
    path.write_text(f"{first_words('0' * 64)}\nerror: no\n")  # newer, as when a config goes back
    assert state_of(workflow)[0] == "to do"
    path.write_text(f"{first_words(digest(workflow))}\nerror: no\n")
    assert state_of(workflow) == ("failed", "no")


def test_a_record_of_another_specification_is_stale(workflow):
    config = read_config("config.yaml")
    config["variants"]["mosa"]["options"]["bottleneck"] = 8
    found = status_of(Workflow.of(config))
    assert dict(found.counts) == {"done": 4, "stale": 3, "to do": 1}
    reasons = {one.reason for one in found.runs if one.state == "stale"}
    assert reasons == {"options.bottleneck was 4, and is 8"} and "stale: runs/" in as_text(found)
    told = Workflow.of(config).told_stale(Workflow.of(config).stale_files())
    assert told.splitlines()[1:] == ["  mosa (3): options.bottleneck was 4, and is 8"]
    assert workflow.told_stale(workflow.stale_files()) == ""
    rows = {row["variant"]: (row["runs"], row["done"]) for row in plan_data(config)["rows"]}
    assert rows == {"linear": (4, 4), "mosa": (4, 0)}  # what will be done again is not done


def test_other_images_and_weights_are_told_without_their_digests(workflow):
    run = next(iter(workflow.runs.values()))
    what = run.specification
    as_it_was, other = (
        what.model_copy(
            update={
                "data": what.data.model_copy(update={"pack": f"own/pets-{digit}", "source": digit * 64}),
                "backbone": what.backbone.model_copy(update={"identity": digit * 64}),
            }
        )
        for digit in "0a"
    )
    meant = "the weights on disk are others, the images or their labels on disk are others"
    record = Path("record.json")
    record.write_text(json.dumps({"specification": as_it_was.model_dump(mode="json")}))
    assert why_stale(record, replace(run, specification=other)) == meant
    content = {"specification": as_it_was.model_dump(mode="json"), "specification_digest": as_it_was.digest}
    with pytest.raises(UserError, match=f"another specification: {meant}; run"):
        check_specification(content, other, record)


def test_hours_are_at_the_rate_of_stale_records_too(workflow):
    Path("changed.yaml").write_text("training: {weight_decay: 0.5}")
    config = read_config("config.yaml", "changed.yaml")
    found, planned = status_of(Workflow.of(config)), plan_data(config)
    assert dict(found.counts) == {"stale": 7, "to do": 1}
    assert not found.assumed and not planned["all"]["assumed"]
    assert found.hours == pytest.approx(planned["all"]["hours"])


def test_the_command_has_the_exit_status_that_it_says(workflow):
    def call(*options):
        return CliRunner().invoke(cli, ["status", *options], catch_exceptions=False)

    assert call().exit_code == 3 and "left: about" in call().output
    log("error: no\n")
    done = call("--json")
    assert done.exit_code == 1 and json.loads(done.output)["counts"]["failed"] == 1
    assert f"failed: {RUN}: no" in call().output
    record = Path("results", RUN)
    record.write_bytes(record.with_name("seed0.json").read_bytes())
    assert call("--watch", "--interval", "0.1").exit_code == 0
    assert "nothing is left to do" in call().output
    assert json.loads(as_json(status_of(workflow)))["exit_status"] == 0


def test_a_run_gives_signs_while_it_trains(tmp_path, monkeypatch):
    """And none are left when it ends, however it does."""
    from mosa.engine import run as engine
    from mosa.engine.machine import Machine
    from mosa.experiment.expand import Run
    from mosa.experiment.specification import make_specification

    seen = []

    def execute(*_):
        seen.extend(alive.read_signs(tmp_path / "running").values())
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_execute", execute)
    run = Run(make_specification("demo/digits", "linear"), 0)
    with contextlib.suppress(KeyboardInterrupt):
        engine.execute(
            run, tmp_path / "pack", tmp_path / "record.json", Machine(resume_folder=tmp_path / "resume")
        )
    assert [one.alive for one in seen] == [True] and not list((tmp_path / "running").iterdir())
