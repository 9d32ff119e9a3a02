"""TensorBoard events: what stands in them, that they change nothing, and what is said without tensorboard."""

import sys

import pytest
from models import spec
from test_resume import stop_after

from mosa.base.errors import UserError
from mosa.engine import loop
from mosa.engine.keep import Keep
from mosa.engine.machine import Machine
from mosa.engine.resume import Interrupted
from mosa.engine.run import execute
from mosa.experiment.config import load_config
from mosa.experiment.expand import expand

EVENTS = Keep(events=True)
RECIPE = {"epochs": 3, "batch_size": 16, "warmup_epochs": 0}


def scalars(record):
    """Return the scalars beside a record, by TensorBoard's own reader: {name: {epoch: value}}."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(record.with_suffix(".events"))).Reload()
    return {name: {one.step: one.value for one in found.Scalars(name)} for name in found.Tags()["scalars"]}


def run_of(method, stage="selection", **options):
    return spec(method, options=options, training=RECIPE, stage=stage)


def test_events_have_the_loss_in_its_terms_the_rate_and_val(pack, tmp_path):
    options = {"bottleneck": 4, "experts": 2, "consistency": 1.0, "second_pass": 0.5}
    run = run_of("mosa", **options)
    record = execute(run, pack, tmp_path / "seed0.json", keep=EVENTS)
    found = scalars(tmp_path / "seed0.json")
    assert found.keys() == {"loss/train", "loss/ce", "loss/ce_second", "loss/kl", "lr", "val/top1", "val/nll"}
    assert all(list(by_epoch) == [1, 2, 3] for by_epoch in found.values())
    losses = record["metrics"]["train_loss"]
    assert list(found["loss/train"].values()) == pytest.approx(losses)
    terms = zip(*(found[f"loss/{name}"].values() for name in ("ce", "ce_second", "kl")), strict=True)
    assert [sum(one) for one in terms] == pytest.approx(losses, rel=1e-5)
    assert found["val/nll"][3] == pytest.approx(
        record["metrics"]["nll"], rel=1e-4
    )  # val is what is evaluated
    assert found["lr"][1] == pytest.approx(record["specification"]["training"]["lr"])
    curves = record["curves"]  # of the record: the same
    assert [list(curves[kind]) for kind in ("terms", "val")] == [["ce", "ce_second", "kl"], ["top1", "nll"]]
    for kind, prefix in (("terms", "loss"), ("val", "val")):
        for name, values in curves[kind].items():
            assert values == pytest.approx(list(found[f"{prefix}/{name}"].values()))
    plain = execute(run, pack, tmp_path / "plain" / "seed0.json")
    assert plain["metrics"] == record["metrics"]
    assert plain["curves"] == {"terms": curves["terms"], "val": {}}
    assert not list((tmp_path / "plain").glob("*.events"))


def test_val_of_a_method_on_features_is_that_of_its_classifier(pack, tmp_path):
    machine = Machine(features=tmp_path / "features")
    record = execute(run_of("linear"), pack, tmp_path / "seed0.json", machine, Keep(val=True))
    val = record["curves"]["val"]
    assert val["top1"][-1] == record["metrics"]["top1"] and len(val["nll"]) == 3
    assert val["nll"][-1] == record["metrics"]["nll"] and record["curves"]["terms"] == {}
    assert execute(run_of("linear"), pack, tmp_path / "plain.json", machine)["metrics"] == record["metrics"]


def test_test_is_not_opened_for_them(pack, tmp_path):
    record = execute(run_of("bias", stage="final"), pack, tmp_path / "seed0.json", keep=EVENTS)
    assert record["curves"] == {"terms": {}, "val": {}}
    assert scalars(tmp_path / "seed0.json").keys() == {"loss/train", "loss/ce", "lr"}
    execute(run_of("linear", stage="final"), pack, tmp_path / "seed0.json")  # which keeps none: nor others'
    assert not list((tmp_path / "seed0.events").iterdir())


def test_a_run_that_goes_on_writes_each_epoch_once(pack, tmp_path, monkeypatch):
    run, machine = run_of("bias"), Machine(resume_folder=tmp_path / "resume", save_every=0)
    epoch = loop._Training._epoch

    def stop(self, number, display):
        if number == 3:
            raise KeyboardInterrupt
        epoch(self, number, display)

    monkeypatch.setattr(loop._Training, "_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        execute(run, pack, tmp_path / "seed0.json", machine, EVENTS)
    monkeypatch.undo()
    record = execute(run, pack, tmp_path / "seed0.json", machine, EVENTS)
    assert list(scalars(tmp_path / "seed0.json")["loss/train"].values()) == pytest.approx(
        record["metrics"]["train_loss"]
    )
    execute(run, pack, tmp_path / "seed0.json", machine, EVENTS)  # anew: what was there is replaced
    assert list(scalars(tmp_path / "seed0.json")["lr"]) == [1, 2, 3]


def test_the_rate_of_an_epoch_that_was_interrupted_is_that_of_its_first_step(pack, tmp_path, monkeypatch):
    run, machine = run_of("bias", stage="final"), Machine(resume_folder=tmp_path / "resume")
    execute(run, pack, tmp_path / "whole.json", keep=EVENTS)
    stop_after(monkeypatch, 3)  # there are two in an epoch
    with pytest.raises(Interrupted):
        execute(run, pack, tmp_path / "seed0.json", machine, EVENTS)
    monkeypatch.undo()
    execute(run, pack, tmp_path / "seed0.json", machine, EVENTS)
    assert scalars(tmp_path / "seed0.json")["lr"] == scalars(tmp_path / "whole.json")["lr"]


def test_without_tensorboard_one_sentence_names_the_extra(pack, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"keep\.events needs tensorboard: pip install .*\[events\]"):
        execute(run_of("bias"), pack, tmp_path / "seed0.json", keep=EVENTS)
    assert not list(tmp_path.iterdir())


def test_no_specification_knows_of_them():
    from test_config import tiny

    on = {"keep": {"events": True, "val": True}}
    plain, kept = (load_config(tiny() | {"stage": "selection"} | change) for change in ({}, on))
    digests = [[run.specification.digest for run in expand(config)] for config in (plain, kept)]
    assert digests[0] == digests[1]
