"""A run that is stopped goes on as if it had not been: bit by bit, from any step, or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from models import METHODS, SMALL, attach, build, spec
from standin import write_small_pack

from mosa import peft
from mosa.data.packs import Pack
from mosa.engine import loop as training
from mosa.engine import provenance
from mosa.engine.batches import Images
from mosa.engine.machine import Machine
from mosa.engine.resume import Interrupted, ResumeFile, load_trained_state, trained_state
from mosa.engine.run import execute
from mosa.experiment.recipe import Recipe
from mosa.records import load_record
from mosa.results.frame import load_records

STEPS = 10  # of the runs below: 14 + 6 images in batches of 12 make two steps in each of five epochs


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("packs") / "digits.safetensors"
    return write_small_pack(path, {"train": 14, "val": 6, "test": 10})


def tiny(method, seed=0, options=None, **changes):
    what = {} if options is None else {"options": options}
    return spec(method, seed=seed, training={"epochs": 5, "batch_size": 12, "lr": 0.01} | changes, **what)


def stop_after(monkeypatch, steps, number=signal.SIGTERM):
    """Send this process a signal after some of the steps that come."""
    count = 0
    backward = training._backward

    def counted(*arguments):
        nonlocal count
        value = backward(*arguments)
        count += 1
        if count == steps:
            os.kill(os.getpid(), number)
        return value

    monkeypatch.setattr(training, "_backward", counted)


def results(record):
    return record["metrics"], record["curves"], record["parameters"], record["data"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_bit_by_bit(method, pack, tmp_path, monkeypatch, capsys):
    recipe = Recipe(epochs=3, batch_size=12, lr=0.01)
    split = Pack(pack).split("trainval")  # two steps in each epoch
    images = Images(split, (0.5,) * 3, (0.5,) * 3, torch.device("cpu"))
    path = tmp_path / "run.pt"

    def train(resume):
        model = attach(build(classes=10), method, **SMALL.get(method, {}))
        progress = training.fit(model, images, recipe, 0, resume=resume)
        return progress.train_loss, trained_state(model)

    whole_loss, whole = train(None)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)  # in the middle of an epoch
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            train(ResumeFile(path, "digest"))
    torch.manual_seed(12345)  # whatever the new process drew before
    loss, resumed = train(ResumeFile(path, "digest"))
    assert "goes on at epoch 2, step 2 of 2" in capsys.readouterr().err
    assert loss == whole_loss and resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value) if torch.is_tensor(value) else resumed[name] == value, name


def test_buffers_of_a_method_that_the_state_dict_leaves_out_go_on():
    class Counting(peft.get_method("adapter")):
        def apply(self, model, seed):
            super().apply(model, seed)
            model.blocks[0].adapter.register_buffer("steps", torch.zeros(1), persistent=False)

    first, second = (peft.attach(build(), Counting(bottleneck=4)) for _ in range(2))
    first.blocks[0].adapter.steps += 3
    state = trained_state(first)
    assert "blocks.0.adapter.steps" in state and "blocks.0.adapter.steps" not in first.state_dict()
    load_trained_state(second, state)
    assert second.blocks[0].adapter.steps.item() == 3


@pytest.fixture(scope="module")
def whole(pack, tmp_path_factory):
    """What the run of the next test gives if nobody stops it."""
    return results(execute(tiny("mosa", drop_path=0.1), pack, tmp_path_factory.mktemp("whole") / "run.json"))


@pytest.mark.parametrize(
    ("stops", "number"),
    [
        ((1, 1, 1, 1, 1, 1), signal.SIGTERM),
        ((2,), signal.SIGUSR1),
        ((3, 4), signal.SIGINT),
        ((9,), signal.SIGTERM),
        ((10,), signal.SIGINT),
    ],
)
def test_any_step_and_any_number_of_stops(stops, number, whole, pack, tmp_path, monkeypatch, capsys):
    run = tiny("mosa", drop_path=0.1)
    for steps in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, steps, number)
            with pytest.raises(Interrupted, match=f"stopped by {number.name}"):
                execute(run, pack, tmp_path / "run.json", Machine(resume_folder=tmp_path / "kept"))
        assert not (tmp_path / "run.json").exists()
    resumed = execute(run, pack, tmp_path / "run.json", Machine(resume_folder=tmp_path / "kept"))
    done = sum(stops)  # two in each epoch
    at = "step 2 of 2 steps" if done % 2 else "after its 2 steps"
    assert f"goes on at epoch {(done + 1) // 2}, {at}\n" in capsys.readouterr().err
    assert results(resumed) == whole
    assert resumed["seconds"]["total"] >= resumed["seconds"]["train"]  # of all processes, both
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_killed_run_goes_on_from_its_last_epoch(pack, tmp_path, monkeypatch, capsys):
    run = tiny("mosa")
    whole = execute(run, pack, tmp_path / "whole.json")

    def die(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        step = training._backward
        calls = iter([step] * 7 + [die])
        patch.setattr(training, "_backward", lambda *arguments: next(calls)(*arguments))
        with pytest.raises(MemoryError):
            execute(run, pack, tmp_path / "run.json", Machine(resume_folder=tmp_path, save_every=0))
    capsys.readouterr()
    (path,) = tmp_path.glob("*.pt")
    saved = torch.load(path, weights_only=True)
    assert saved["devices"] == [whole["device"]["name"]]
    torch.save(saved | {"devices": ["Old GPU", *saved["devices"]]}, path)
    resumed = execute(run, pack, tmp_path / "run.json", Machine(resume_folder=tmp_path, save_every=0))
    assert "goes on at epoch 4, step 1 of 2" in capsys.readouterr().err
    assert results(resumed) == results(whole)
    assert "earlier" not in json.loads((tmp_path / "whole.json").read_text())["device"]
    assert load_record(tmp_path / "run.json")["device"]["earlier"] == ["Old GPU"]
    shown = list(load_records([tmp_path / "run.json"])["device"])
    assert shown == [f"Old GPU, then {whole['device']['name']}"]


def test_short_runs_write_no_resume_file(pack, tmp_path):
    execute(tiny("linear"), pack, tmp_path / "run.json", Machine(resume_folder=tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def flip_a_bit(path):
    """Change one bit in the middle of the largest tensor of a file; torch reads it without a word."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda each: each.file_size)
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 200 + entry.file_size // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)


def test_resume_files_of_others_are_ignored_with_a_message(pack, tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        execute(tiny("linear"), pack, tmp_path / "run.json", Machine(resume_folder=tmp_path))
    monkeypatch.undo()
    (path,) = tmp_path.glob("*.pt")
    state = torch.load(path, weights_only=True)
    # Another seed, recipe or method has another name, and finds nothing.
    for other in (tiny("linear", seed=1), tiny("linear", lr=0.02), tiny("lora")):
        execute(other, pack, tmp_path / "other.json", Machine(resume_folder=tmp_path))
        assert path.is_file() and "goes on" not in capsys.readouterr().err
    monkeypatch.setattr(provenance, "code_digest", lambda: "edited")  # neither does other code
    execute(tiny("linear"), pack, tmp_path / "other.json", Machine(resume_folder=tmp_path))
    assert path.is_file() and "goes on" not in capsys.readouterr().err
    monkeypatch.undo()
    whole = results(execute(tiny("linear"), pack, tmp_path / "whole.json"))
    contents = {
        "of another run": lambda: torch.save(state | {"digest": "other"}, path),
        "written with torch 0.1": lambda: torch.save(state | {"torch": "0.1"}, path),
        "no resume file": lambda: torch.save([1, 2], path),
        "it is damaged": lambda: flip_a_bit(path),
        "cannot be read": lambda: path.write_bytes(path.read_bytes()[:1000]),
        "be read (UnpicklingError)": lambda: torch.save({"digest": ResumeFile}, path),
        "be read": lambda: path.write_bytes(b""),
    }
    for words, write in contents.items():
        torch.save(state, path)
        write()
        resumed = execute(tiny("linear"), pack, tmp_path / "run.json", Machine(resume_folder=tmp_path))
        assert results(resumed) == whole
        message = capsys.readouterr().err
        assert words in message and "training starts anew" in message


def test_a_process_saves_and_ends_when_it_is_told_to(pack, tmp_path):
    command = [sys.executable, "-m", "mosa.cli", "train", "--task", "demo/digits", "--pack", str(pack)]
    command += ["--method", "linear", "--training", '{"epochs": 3000, "batch_size": 8}']
    command += ["--resume-folder", str(tmp_path / "kept"), "--save-every", "0"]
    command += ["--output", str(tmp_path / "run.json")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "kept").glob("*.pt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, log
    assert "stopped by SIGTERM; goes on from" in log and "Traceback" not in log
    assert len(list((tmp_path / "kept").glob("*.pt"))) == 1 and not (tmp_path / "run.json").exists()


def test_a_step_that_does_not_fit_is_done_in_parts(pack, tmp_path, monkeypatch, capsys):
    run = tiny("adapter", options={"bottleneck": 4, "dropout": 0.0})
    whole = execute(run, pack, tmp_path / "whole.json")
    loss = training.tuning_loss

    def full(model, images, *rest):
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(model, images, *rest)

    monkeypatch.setattr(training, "tuning_loss", full)
    record = execute(run, pack, tmp_path / "run.json")
    assert record["steps"]["accumulation"] == 4 and whole["steps"]["accumulation"] == 1
    assert "out of memory; a step of 12 is done in 4 parts" in capsys.readouterr().err
    assert record["metrics"]["train_loss"] == pytest.approx(whole["metrics"]["train_loss"], rel=1e-3)
    monkeypatch.setattr(training, "tuning_loss", lambda *_: full(None, [0] * 99))
    with pytest.raises(Exception, match="not even one image"):
        execute(run, pack, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()
