"""What was decided while weights were loaded is said: by `mosa check`, and in the record."""

import json

import pytest
import torch
from models import spec
from safetensors.torch import load_file, save_file
from test_config import tiny

from mosa import peft
from mosa.backbones.build import BUILTIN_WEIGHTS, build_backbone
from mosa.base.errors import UserError
from mosa.engine.preflight import check, table
from mosa.engine.reproduce import compare
from mosa.engine.resume import load_trained_state, trained_state
from mosa.engine.run import execute
from mosa.experiment.config import load_config
from mosa.experiment.specification import make_specification
from mosa.records import load_record

MICRO = BUILTIN_WEIGHTS["mosa_vit_micro"]


def test_check_notes_a_prefix_and_warns_of_a_guess(tmp_path):
    model, _ = build_backbone("test_vit", "random", 5)
    torch.save({f"module.{n}": v for n, v in model.state_dict().items()}, tmp_path / "x.pth")
    entry = {"architecture": "test_vit", "weights": str(tmp_path / "x.pth"), "image_size": 32}

    def finding(protocol="demo", **changes):
        config = tiny() | {"backbones": {"mine": entry | changes}, "protocol": protocol}
        return next(f for f in check(load_config(config)) if f.name == "mine")

    found = finding()
    assert found.state == "warning" and "test_vit, timm, 32 pixels, normalised by inception" in found.summary
    assert [problem.severity for problem in found.problems] == ["note", "warning"]
    text = table([found])
    assert "mine: 1 note" in text and "the prefix 'module.' was taken off the names" in text
    assert "mine: 1 warning" in text and "does not say how its images were normalised" in text
    # Where the config, or its protocol, says how images are normalised, nothing is guessed.
    assert finding(normalization="none").state == "ok" and "none" in finding(normalization="none").summary
    assert finding(protocol="vpt").state == "ok" and "imagenet" in finding(protocol="vpt").summary
    assert finding(kind="dino").state == "ok"


@pytest.fixture
def record(pack, tmp_path):
    """The record of a short run with weights whose names have a prefix."""
    save_file(
        {f"encoder.{name}": value for name, value in load_file(MICRO).items()}, tmp_path / "w.safetensors"
    )
    meant = spec("linear", weights=str(tmp_path / "w.safetensors"), training={"epochs": 1, "batch_size": 32})
    return execute(meant, pack, tmp_path / "run.json")


def test_the_record_has_what_was_decided(record, tmp_path):
    assert record["backbone"]["notes"] == ["the prefix 'encoder.' was taken off the names"]
    assert "guessed" not in record["backbone"]  # there is one way to normalise for this architecture
    assert load_record(tmp_path / "run.json")["backbone"] == record["backbone"]


def test_the_record_says_that_statistics_are_a_guess(pack, tmp_path):
    model, _ = build_backbone("test_vit", "random", 5)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    what = {"architecture": "test_vit", "weights": str(tmp_path / "x.pth"), "image_size": 32}
    short = {"training": {"epochs": 1, "batch_size": 32}}
    found = execute(spec("linear", **what, **short), pack, tmp_path / "guessed.json")["backbone"]
    assert found["guessed"] is True and "does not say how its images were" in found["notes"][-1]
    known = execute(spec("linear", **what, **short, normalization="none"), pack, tmp_path / "known.json")[
        "backbone"
    ]
    assert not {"notes", "guessed"} & known.keys() and known["std"] == [1, 1, 1]


def test_records_from_before_there_were_notes_are_read_and_reproduced(record, pack, tmp_path):
    from mosa.records import seal

    old = json.loads((tmp_path / "run.json").read_text())
    del old["backbone"]["notes"]
    (tmp_path / "run.json").write_text(json.dumps(seal(old)))
    found = load_record(tmp_path / "run.json")
    assert not {"notes", "guessed"} & found["backbone"].keys()
    assert compare(found, record, tmp_path / "run.json").verdict == "bit-equal"


def test_known_kinds_have_the_specification_that_they_had():
    """Digests of configs that were written before there were more kinds."""
    digests = {
        kind: make_specification("demo/digits", "linear", kind=kind, normalization=how).digest[:16]
        for kind, how in (("auto", "weights"), ("npz", "imagenet"), ("mae", "inception"))
    }
    assert digests == {"auto": "bfeb0e0ad0760b97", "npz": "14ba6b3fd4c32a1b", "mae": "feed08091fc0fe7d"}


STATES = {
    "int8": (lambda v: v.to(torch.int8), "has values of type int8"),
    "complex": (lambda v: v.to(torch.complex64), "has values of type complex64"),
    "sparse": (lambda v: v.to_sparse(), "is a sparse tensor"),
    "meta": (lambda v: v.to("meta"), "has a shape but no values"),
    "not a number": (lambda v: v * float("nan"), "has values that are not finite"),
    "no tensor": (lambda v: v.tolist(), "is of type list, not a tensor"),
}


@pytest.mark.parametrize("name", STATES)
def test_tuned_and_trained_states_that_cannot_be_copied_are_refused(name):
    change, words = STATES[name]
    model, _ = build_backbone("mosa_vit_micro", "random", 3)
    model = peft.attach(model, "lora", rank=2)
    state = dict(peft.tuned_state_dict(model))
    before = {key: value.clone() for key, value in state.items()}
    broken = state | {"head.weight": change(state["head.weight"])}
    with pytest.raises(UserError, match=words):
        peft.load_tuned_state_dict(model, broken)
    with pytest.raises(UserError, match="the resume file belongs to another model"):
        load_trained_state(model, trained_state(model) | {"head.weight": change(state["head.weight"])})
    assert all(torch.equal(value, before[key]) for key, value in peft.tuned_state_dict(model).items())


def test_integer_keys_and_foreign_metadata_of_tuned_states_are_refused(tmp_path):
    model, _ = build_backbone("mosa_vit_micro", "random", 3)
    model = peft.attach(model, "linear")
    with pytest.raises(UserError, match="it has 1 tensor that the model does not have, such as '7'"):
        peft.load_tuned_state_dict(model, peft.tuned_state_dict(model) | {7: torch.zeros(1)})
    for metadata in ({"mosa.method": "{"}, {"mosa.method": "[1]"}, {"mosa.method": "3"}, {"format": "pt"}):
        save_file({"head.weight": torch.zeros(3, 96)}, tmp_path / "x.safetensors", metadata)
        with pytest.raises(UserError, match=r"expected a file of save_tuned"):
            peft.load_tuned(model, tmp_path / "x.safetensors")
