"""What a method chooses from training images is chosen once, and kept with what is tuned."""

import pytest
import torch
from models import SMALL, batch, build, spec, train_steps
from torch import nn

from mosa import peft
from mosa.base.errors import UserError
from mosa.engine import loop
from mosa.engine import run as runs
from mosa.engine.batches import Images
from mosa.engine.machine import Machine
from mosa.engine.resume import Interrupted
from mosa.engine.run import execute
from mosa.peft import Chosen, get_method, list_methods

CHOOSING = [name for name in list_methods() if issubclass(get_method(name), Chosen)]
choosing = pytest.mark.parametrize("method", CHOOSING)


def attached(method, data):
    return peft.attach(build(), method, data=data, **SMALL.get(method, {}))


def choice(method, model):
    chosen = get_method(method).chosen
    return {name: value for name, value in model.named_buffers() if name.rpartition(".")[2] in chosen}


@choosing
def test_a_choice_depends_on_the_images_and_is_taken_from_a_state(method):
    one, other = (attached(method, [batch(size=12, seed=seed)]) for seed in (1, 2))
    assert choice(method, one).keys() == choice(method, other).keys()
    same = [
        value.shape == choice(method, other)[name].shape and torch.equal(value, choice(method, other)[name])
        for name, value in choice(method, one).items()
    ]
    assert not all(same)
    train_steps(one)
    state = peft.tuned_state_dict(one)
    assert choice(method, one).keys() <= state.keys()
    again = peft.load_tuned_state_dict(attached(method, state), state).eval()
    assert torch.equal(again(batch()[0]), one(batch()[0]))


@choosing
def test_choosing_leaves_the_model_and_its_generator(method):
    model = build().train()
    model.blocks[0].eval()
    before, drawn = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    built = peft.build_method(method, **SMALL.get(method, {}))
    built.choose(model, [batch()], seed=0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.blocks[1].training and not model.blocks[0].attn.training


@choosing
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "from training images: give attach `data`"),
        ({"head.weight": torch.zeros(1)}, "the tuned state has no choice"),
        (3, "expected batches of images and labels, got int"),
        ([torch.zeros(2, 3, 32, 32)], "expected each batch to be a tensor of images and one of as many"),
        ([(torch.zeros(2, 3, 32, 32), torch.zeros(3))], "and one of as many"),
        ([(torch.zeros(2, 3, 32, 32), torch.eye(2, 5))], "whole numbers, one for each image"),
        ([(torch.zeros(2, 3, 32, 32), torch.zeros(2))], "whole numbers, one for each image"),
        ([], "there is no batch"),
    ],
)
def test_what_is_no_data(method, data, words):
    model = build()
    with pytest.raises(UserError, match=words):
        peft.attach(model, method, data=data, **SMALL.get(method, {}))
    assert not hasattr(model, "peft") and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("method", "options"), [("gps", {"loss": "cross_entropy"}), ("sct", {}), ("spt", {"budget": 3000})]
)
@pytest.mark.parametrize("label", [-1, 5])
def test_labels_need_classes_where_these_are_read(method, options, label):
    images, labels = batch()
    with pytest.raises(UserError, match=f"^{method}: label {label}, where the model has 5 classes$"):
        peft.attach(build(), method, data=[(images, labels.fill_(label))], **options)


@choosing
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_labels_are_whole_numbers_of_any_kind(method, kind):
    images, labels = batch(size=12)
    found, same = (choice(method, attached(method, [(images, each)])) for each in (labels, labels.to(kind)))
    assert all(torch.equal(found[name], same[name]) for name in found)


@choosing
def test_a_choice_of_another_model_is_refused(method):
    state = peft.tuned_state_dict(attached(method, [batch()]))
    state = {name.replace("blocks.2", "blocks.7"): value for name, value in state.items()}
    with pytest.raises(UserError, match=r"the choice has no .*blocks\.2"):
        attached(method, state)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("gps", {"connections": 2}, r"\.gps\.places' has shape \(32, 1\), expected \(32, 2\)"),
        ("sct", {"keep": 8}, r"'blocks\.0\.sct\.channels' has shape \(8,\), expected \(4,\)"),
    ],
)
def test_a_choice_made_with_other_options_is_refused(method, options, words):
    state = peft.tuned_state_dict(attached(method, [batch()]))
    with pytest.raises(UserError, match=words):
        peft.attach(build(), method, data=state, **options)


@choosing
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda places: places + 10**6, r"has numbers that are not in 0 \.\.\. \d+; it was made for another"),
        (lambda places: places[None], r"has shape \(1, .*, expected .*; it was made for another"),
        (lambda places: places / 2, "has values of type torch.float32, expected whole numbers"),
        (lambda places: "places", "is of type str, not a tensor"),
    ],
)
def test_places_that_a_model_does_not_have_are_refused(method, change, words):
    state = peft.tuned_state_dict(attached(method, [batch()]))
    chosen = get_method(method).chosen
    state |= {name: change(state[name]) for name in state if name.rpartition(".")[2] in chosen}
    model = build()
    with pytest.raises(UserError, match=words):
        peft.attach(model, method, data=state, **SMALL.get(method, {}))
    assert not hasattr(model, "peft")


@choosing
def test_a_run_chooses_from_training_images_and_goes_on_with_the_same_choice(
    method, pack, tmp_path, monkeypatch
):
    """The resume file has it: the run that goes on reads no image to choose."""
    run = spec(method, weights="builtin", options=SMALL.get(method, {}))
    whole = execute(run, pack, tmp_path / "whole.json")
    assert len(whole["steps"]["choice"]) == 64
    read, draw = [], Images.batches
    monkeypatch.setattr(Images, "batches", lambda self, *a: read.append(self.split) or draw(self, *a))
    backward = loop._backward

    files, made = [], runs.ResumeFile
    monkeypatch.setattr(runs, "ResumeFile", lambda *a: files.append(made(*a)) or files[-1])
    machine = Machine(resume_folder=tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_backward", lambda *a: setattr(files[-1], "stopped_by", 15) or backward(*a))
        with pytest.raises(Interrupted):
            execute(run, pack, tmp_path / "run.json", machine)
    assert len(read) == 2 and len({id(split) for split in read}) == 1  # to choose, and to train
    with monkeypatch.context() as patch:
        patch.setattr(get_method(method), "choose", None)
        again = execute(run, pack, tmp_path / "run.json", machine)
    assert again["metrics"] == whole["metrics"] and again["steps"] == whole["steps"]


def test_what_chooses_nothing_reads_no_data():
    assert isinstance(peft.attach(build(), "linear", data=3), nn.Module)
