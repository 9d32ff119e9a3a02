"""Failures: which would repeat, which are worth a retry; a run that diverged is not trained again."""

import errno
import json
import os

import pytest
import torch
from click.testing import CliRunner

from mosa.base.errors import Shortage, UserError
from mosa.base.files import written_atomically
from mosa.cli import commands as cli
from mosa.engine import provenance
from mosa.engine.diverged import Diverged
from mosa.engine.machine import Machine
from mosa.engine.resume import ResumeFile
from mosa.engine.run import execute
from mosa.experiment.expand import Run
from mosa.experiment.failures import failed_for_good, failures, first_words, last_words, log_of
from mosa.experiment.space import parse_space
from mosa.experiment.specification import make_specification
from mosa.search.trials import Search, run_search

BAD = {"epochs": 1, "lr": 1e30, "warmup_epochs": 0}


def run_of(training=BAD, seed=0, **changes):
    return Run(make_specification("demo/digits", "full", {}, training, **changes), seed)


@pytest.mark.parametrize(
    ("text", "words", "for_good"),
    [
        ("epoch 1\nerror: the loss is nan\n", "the loss is nan", True),
        ("error: x.json: was changed\nException ignored in: <module>\n", "x.json: was changed", True),
        ("Usage: mosa train\n\nError: No such option: --sed\n", "No such option: --sed", True),
        ("error, worth a retry: no room\n", "no room", False),
        ("epoch 1\nepoch 2\n", "epoch 2", False),  # killed, out of memory or time
        ("stopped by SIGTERM; goes on\n", "stopped by SIGTERM; goes on", False),
        ("Traceback\nRuntimeError: CUDA error\n", "RuntimeError: CUDA error", False),
        ("", "its log is empty", False),
    ],
)
def test_the_last_words_of_a_log_say_what_is_worth_a_retry(text, words, for_good, tmp_path):
    log = tmp_path / "run.log"
    log.write_text("progress\n" * 10_000 * bool(text) + text)
    assert last_words(log) == (words, for_good)
    written = log.stat().st_mtime_ns
    assert failed_for_good(log, written) is for_good
    assert not failed_for_good(log, written + 1)  # of an earlier start of the workflow
    assert last_words(tmp_path / "none") is None and not failed_for_good(tmp_path / "none", 0)


def test_failures_that_would_repeat_are_listed_with_their_reason(tmp_path):
    runs = [Run(make_specification("demo/digits", "linear"), seed) for seed in range(10)]
    for run in runs[:9]:
        log = log_of(tmp_path, run.path)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("error: the loss is nan\n" if run != runs[1] else "epoch 1\n")
    lines = failures(tmp_path, runs)
    assert lines[0] == f"failed: {runs[0].path}: the loss is nan" and len(lines) == 6
    assert lines[-1] == "failed: 3 more runs" and not any(runs[1].path in line for line in lines)
    for seed, digest in ((0, "0" * 64), (2, runs[2].specification.digest)):  # of another, and of this one
        log_of(tmp_path, runs[seed].path).write_text(f"{first_words(digest)}\nerror: the loss is nan\n")
    lines = failures(tmp_path, runs)
    assert lines[0] == f"failed: {runs[2].path}: the loss is nan" and lines[-1] == "failed: 2 more runs"


@pytest.mark.parametrize(
    ("error", "status", "label"),
    [(UserError("no such file"), 2, "error: "), (Shortage("no room"), 75, "error, worth a retry: ")],
)
def test_exit_status_and_words_tell_them_apart(error, status, label, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(cli, "cli", fail)
    with pytest.raises(SystemExit) as end:
        cli.run()
    assert end.value.code == status and capsys.readouterr().err == f"{label}{error}\n"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, Shortage), (errno.ESTALE, Shortage), (errno.EACCES, UserError)]
)
def test_a_full_disk_is_worth_a_retry_and_a_forbidden_one_is_not(number, kind, tmp_path):
    with pytest.raises(UserError, match="cannot be written") as error, written_atomically(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert type(error.value) is kind


def test_no_room_for_a_resume_file_is_worth_a_retry(tmp_path, monkeypatch):
    resume = ResumeFile(tmp_path / "run.pt", "digest", 0)
    resume.save({"model": {}})
    before = resume.path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(Shortage, match=r"run\.pt: cannot be written .No space left"):
        resume.save({"model": {"more": torch.zeros(9)}})
    assert resume.path.read_bytes() == before and os.listdir(tmp_path) == ["run.pt"]


def test_another_file_that_fails_while_one_is_written_is_named(tmp_path):
    (tmp_path / "x").write_text("old")
    with (
        pytest.raises(UserError, match=f"^{tmp_path}/source: No such file") as error,
        written_atomically(tmp_path / "x"),
    ):
        (tmp_path / "source").read_text()
    assert type(error.value) is UserError and (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_no_room_on_a_gpu_is_worth_a_retry(pack, tmp_path, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr("mosa.engine.loop.tuning_loss", full)
    with pytest.raises(Shortage, match="not even one image fits"):
        execute(run_of(), pack, tmp_path / "record.json", Machine(resume_folder=tmp_path / "resume"))
    assert not list(tmp_path.rglob("*.diverged.json"))


def test_a_failed_check_is_not_repeated(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "name: none\nseeds: [0]\nbenchmarks: {vtab1k: [dtd]}\n"
        "backbones: {m: {architecture: mosa_vit_micro, image_size: 32}}\n"
        "protocol: standard\nvariants: {linear: {method: linear}}\n"
    )
    arguments = ["check", "--alone", "--configfile", str(tmp_path / "config.yaml")]
    done = CliRunner().invoke(cli.cli, arguments)
    (tmp_path / "log").write_text(done.output)
    assert done.exit_code == 1 and failed_for_good(tmp_path / "log", 0), done.output


# --- a run that diverged


def attempt(tmp_path, monkeypatch, run, pack, **machine):
    """Return how a run ends, and whether it was trained for it."""
    fitted = []
    real = execute.__globals__["fit"]
    monkeypatch.setattr("mosa.engine.run.fit", lambda *given: fitted.append(1) or real(*given))
    with monkeypatch.context():
        try:
            execute(
                run, pack, tmp_path / "record.json", Machine(resume_folder=tmp_path / "resume", **machine)
            )
            end = "a record"
        except Diverged as error:
            end = str(error)
    monkeypatch.setattr("mosa.engine.run.fit", real)
    return end, bool(fitted)


def test_a_run_that_diverged_ends_at_once_with_its_reason(pack, tmp_path, monkeypatch):
    first, trained = attempt(tmp_path, monkeypatch, run_of(), pack)
    assert trained and "the loss is " in first
    again, trained = attempt(tmp_path, monkeypatch, run_of(), pack)
    assert not trained and again.startswith(first) and "not trained again" in again
    (note,) = (tmp_path / "resume").glob("*.diverged.json")
    assert str(note) in again  # what to delete
    for other in (run_of(seed=1), run_of(BAD | {"lr": 1e29}), run_of(BAD, variant="another")):
        assert attempt(tmp_path, monkeypatch, other, pack)[1]
    note.unlink()
    assert attempt(tmp_path, monkeypatch, run_of(), pack) == (first, True)


def test_changed_code_libraries_or_machine_train_it_again(pack, tmp_path, monkeypatch):
    attempt(tmp_path, monkeypatch, run_of(), pack)
    assert attempt(tmp_path, monkeypatch, run_of(), pack, threads=2)[1]
    attempt(tmp_path, monkeypatch, run_of(), pack)
    with monkeypatch.context() as changed:
        changed.setattr(provenance, "code_digest", lambda: "another")
        assert attempt(tmp_path, monkeypatch, run_of(), pack)[1]
    attempt(tmp_path, monkeypatch, run_of(), pack)
    with monkeypatch.context() as changed:
        changed.setattr(provenance, "versions", lambda method="": {"torch": "another"})
        assert attempt(tmp_path, monkeypatch, run_of(), pack)[1]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"decides": 1, "reason": "x"}', "\x00"])
def test_a_note_that_is_none_is_ignored(content, pack, tmp_path, monkeypatch):
    good = run_of({"epochs": 1})
    attempt(tmp_path, monkeypatch, run_of(), pack)
    (note,) = (tmp_path / "resume").glob("*.diverged.json")
    note.write_text(content)
    assert attempt(tmp_path, monkeypatch, run_of(), pack)[1]
    assert attempt(tmp_path, monkeypatch, good, pack) == ("a record", True)


def test_the_digest_of_the_code_follows_what_decides_a_result(tmp_path, monkeypatch):
    for name in ("engine/loop.py", "results/frame.py", "cli/data.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)

    def digest():
        provenance.code_digest.cache_clear()
        return provenance.code_digest()

    before = digest()
    (tmp_path / "results/frame.py").write_text("x = 2\n")
    assert digest() == before
    (tmp_path / "engine/loop.py").write_text("x = 2\n")
    assert digest() != before
    provenance.code_digest.cache_clear()


def test_a_search_does_not_repeat_trials_that_diverged(pack, tmp_path, monkeypatch):
    space = parse_space({"training": {"lr": [1e30, 0.01]}}, "linear", "grid", None)
    search, machine = Search(space), Machine(resume_folder=tmp_path / "resume")
    fits = []
    real = execute.__globals__["fit"]
    monkeypatch.setattr("mosa.engine.run.fit", lambda *given: fits.append(1) or real(*given))
    run = run_of({"epochs": 1, "warmup_epochs": 0})
    results = [
        run_search(run, search, pack, tmp_path / "records", tmp_path / "trials.json", machine)
        for _ in range(2)
    ]
    assert len(fits) == 2  # one of each, in the first search
    assert [trial["status"] for trial in results[1]["trials"]] == ["diverged", "complete"]
    assert json.loads((tmp_path / "trials.json").read_text())["trials"][0]["note"]
