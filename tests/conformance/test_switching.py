"""What is attached can be taken off, switched and merged into: always to the same bits."""

import copy
import gc
import io
import weakref

import pytest
import torch
from marks import thorough
from models import CASES, attach, batch, build, train_steps
from torch import nn

from mosa import peft
from mosa.base.errors import UserError
from mosa.peft.structure import tensor_places

# Those that differ in what they change of a model; all others are thorough tests.
_KINDS = ("full", "lora", "mosa", "ssf", "gps", "dtl")
cases = pytest.mark.parametrize("case", [*_KINDS, *thorough(*(case for case in CASES if case not in _KINDS))])
IMAGES = batch(2)[0]


def attached(model, case, **more):
    method, options = CASES[case]
    return attach(model, method, **options, **more)


def whole(model):
    """Return all that can be seen of a model: tensors, what requires a gradient, types, modes and hooks."""
    tensors = {name: (place.value.clone(), place.value.requires_grad) for name, place in tensor_places(model)}
    modules = [
        (
            *(name, type(module), module.training, sorted(map(str, vars(module)))),
            *(len(value) for value in vars(module).values() if isinstance(value, dict)),
        )
        for name, module in model.named_modules()
    ]
    return tensors, modules


def assert_same(one, other):
    assert one[1] == other[1] and list(one[0]) == list(other[0])
    for name, (value, requires_grad) in one[0].items():
        assert torch.equal(value, other[0][name][0]) and requires_grad == other[0][name][1], name


@cases
def test_detaching_gives_the_backbone_back(case):
    model = build().eval()
    next(model.blocks.parameters()).requires_grad_(False)  # as the user had it
    before, output = whole(model), model(IMAGES)
    attached(model, case)
    train_steps(model, steps=1, lr=0.1)
    assert not torch.equal(model(IMAGES), output)
    assert peft.detach(model) is model
    assert_same(whole(model), before)
    assert torch.equal(model(IMAGES), output)


def test_switching_is_exact_and_each_is_saved_alone(tmp_path):
    """Three methods that differ in kind, one with another number of classes, and the backbone itself."""
    model = build().eval()
    before = whole(model)
    cases = {"one": "full", "two": "lora", "three": "mosa"}
    outputs, states = {None: model(IMAGES)}, {}
    for name, case in cases.items():
        attached(model, case, name=name, num_classes=7 if name == "three" else None)
        assert torch.equal(model(IMAGES)[:, :5], outputs[None]) or name == "three"
        train_steps(model, steps=1, lr=0.1)
        outputs[name], states[name] = (
            model(IMAGES),
            {key: value.clone() for key, value in peft.tuned_state_dict(model).items()},
        )
        peft.save_pretrained(model, tmp_path / name)
    assert outputs["three"].shape == (2, 7) and sorted(peft.list_adapters(model)) == sorted(cases)
    other = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for each in (model, other, torch.load(file, weights_only=False)):
        for name in ("one", "three", None, "two", "one", None, "three"):
            assert peft.set_active(each, name) is each
            assert torch.equal(each(IMAGES), outputs[name]), name
            if name is not None:
                state = peft.tuned_state_dict(each)
                assert state.keys() == states[name].keys()
                assert all(torch.equal(state[key], states[name][key]) for key in state)
    for name in cases:
        alone = peft.from_pretrained(tmp_path / name, build()).eval()
        assert torch.equal(alone(IMAGES), outputs[name])
    for name in cases:
        peft.detach(model, name)
    assert_same(whole(model), before)


def test_inactive_methods_get_no_gradient_and_do_not_move():
    model = attached(build(), "lora", name="one")
    one = [each for each in model.parameters() if each.requires_grad]
    attached(model, "bias", name="two")
    two = [each for each in model.parameters() if each.requires_grad]
    assert not {id(each) for each in one} & {id(each) for each in two}
    before = [each.clone() for each in one]
    train_steps(model, steps=2, lr=0.1)
    assert all(each.grad is None for each in one) and all(each.grad is not None for each in two)
    peft.set_active(model, "one")
    assert all(torch.equal(each, old) for each, old in zip(one, before, strict=True))
    assert {id(each) for each in one} == {id(each) for each in model.parameters() if each.requires_grad}


def test_what_is_inactive_follows_the_model():
    model = attached(build(), "lora", name="one").eval()
    attached(model, "mosa", name="two")
    model.double().train()
    peft.set_active(model, "one")
    assert {each.dtype for each in model.parameters()} == {torch.float64}
    assert all(module.training for module in model.modules())
    assert model(IMAGES.double()).dtype == torch.float64
    peft.set_active(model, None)
    assert {each.dtype for each in model.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    "chain", [("linear", "lora"), ("lora", "adapter"), ("bias", "lora", "mosa"), ("lora", "lora")]
)
def test_a_method_on_a_merged_one(chain, tmp_path):
    """LP-FT and the like: what was merged stays, is saved, and is loaded into the backbone as it was."""
    model = build().eval()
    for case in chain:
        attached(model, case)
        start = model(IMAGES)
        train_steps(model, steps=1, lr=0.05)
        expected = model(IMAGES)
        assert not torch.equal(start, expected)
        path = tmp_path / "unmerged.safetensors"
        peft.save_pretrained(model, path)
        assert torch.equal(peft.from_pretrained(path, build()).eval()(IMAGES), expected)
        peft.merge(model)
        expected = model(IMAGES)
        peft.save_pretrained(model, tmp_path / "merged.safetensors")
        again = peft.from_pretrained(tmp_path / "merged.safetensors", build()).eval()
        assert torch.equal(again(IMAGES), expected)
        assert peft.tuned_state_dict(again).keys() == peft.tuned_state_dict(model).keys()
    with pytest.raises(UserError, match="trained on another backbone"):
        peft.from_pretrained(tmp_path / "merged.safetensors", build(seed=1))


def test_a_state_that_is_refused_leaves_a_model_with_merged_methods_as_it_was(tmp_path):
    for classes, name in ((5, "a"), (7, "b")):
        model = attached(build(classes=classes), "lora")
        train_steps(model, steps=1, classes=classes, lr=0.05)
        peft.save_tuned(peft.merge(model), tmp_path / name)
    again = peft.merge(attached(build(), "lora"))
    before = peft.tuned_state_dict(again).keys()
    with pytest.raises(UserError):
        peft.load_tuned(again, tmp_path / "b")
    assert peft.tuned_state_dict(again).keys() == before


@cases
def test_saving_after_merging_keeps_what_was_trained(case, tmp_path):
    model = attached(build(), case)
    train_steps(model, steps=1, lr=0.1)
    peft.merge(model)
    expected = model(IMAGES)
    peft.save_tuned(model, tmp_path / "tuned.safetensors")
    again = peft.merge(attached(build(), case)).eval()
    peft.load_tuned(again, tmp_path / "tuned.safetensors")
    assert torch.equal(again(IMAGES), expected)
    peft.save_pretrained(model, tmp_path / "pretrained.safetensors")
    assert torch.equal(
        peft.from_pretrained(tmp_path / "pretrained.safetensors", build()).eval()(IMAGES), expected
    )


def again(model):
    """Return the model from a file of torch.save."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("travel", [lambda model: model, copy.deepcopy, again, nn.Module.double])
def test_what_was_unfrozen_trained_and_frozen_again_is_not_lost(travel, tmp_path):
    model = attached(attached(build().eval(), "lora", name="one"), "mosa", name="two")
    model.norm.requires_grad_(True)
    train_steps(model, steps=1, lr=0.1)
    model = travel(model.requires_grad_(False))
    for call in (peft.detach, lambda model: peft.set_active(model, "one")):
        with pytest.raises(
            UserError, match=r"'norm.weight' was replaced or unfrozen after 'mosa' was attached"
        ):
            call(model)
    images = IMAGES.to(model.norm.weight)
    peft.save_tuned(model, tmp_path / "file")
    other = attached(build(dtype=images.dtype), "mosa").eval()
    with pytest.raises(UserError, match=r"has 2 tensors that the model does not have, such as 'norm.bias'"):
        peft.load_tuned(other, tmp_path / "file")
    other.norm.requires_grad_(True)
    peft.load_tuned(other, tmp_path / "file").requires_grad_(False)
    assert torch.equal(other(images), model(images))
    assert peft.tuned_state_dict(other).keys() == peft.tuned_state_dict(model).keys()


def test_an_average_of_what_was_unfrozen_is_not_lost():
    model = attached(build(), "lora")
    model.norm.requires_grad_(True)
    average = average_of(model)  # which only ever gets the values of the other
    average.update_parameters(model)
    train_steps(model, steps=1, lr=0.1)
    average.update_parameters(model)
    state = peft.tuned_state_dict(average.module.requires_grad_(False))
    assert torch.equal(state["norm.weight"], average.module.norm.weight)


def test_what_replaced_a_frozen_tensor_is_not_lost():
    model = attached(build(), "lora", restorable=False)
    old = weakref.ref(model.norm.weight)
    model.load_state_dict({name: each.clone() for name, each in model.state_dict().items()}, assign=True)
    gc.collect()
    assert old() is None  # nothing holds the tensors of before
    model.norm.requires_grad_(True)
    train_steps(model, steps=1, lr=0.1)
    assert "norm.weight" in peft.tuned_state_dict(model.requires_grad_(False))


def test_what_was_unfrozen_and_compiled_is_not_lost():
    model = attached(build(), "lora")
    model.norm.requires_grad_(True)
    train_steps(torch.compile(model, backend="eager"), steps=1, lr=0.1)
    assert "norm.weight" in peft.tuned_state_dict(model.requires_grad_(False))


def looked_at(model):
    """A gradient of the images and of all weights, which moves none."""
    model.requires_grad_(True)(IMAGES.to(next(model.parameters()))).sum().backward()


def average_of(model):
    return torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda old, new, count: 0.9 * old + 0.1 * new)


def averaged(model):
    average = average_of(model)
    for _ in range(3):
        average.update_parameters(model)
    return average.module


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_does_not_hold_what_was_unfrozen():
    model = attach(build(), "lora", rank=2).eval()
    model.blocks[0].norm1.requires_grad_(True)
    images = batch(2)[0]
    assert torch.equal(torch.jit.trace(model, images)(images), model(images))


@pytest.mark.parametrize(
    "change",
    [
        looked_at,
        copy.deepcopy,
        again,
        averaged,
        nn.Module.double,
        lambda model: model.load_state_dict(
            {name: each.clone() for name, each in model.state_dict().items()}
        ),
    ],
)
def test_what_moves_without_training_is_the_backbone(change):
    model = attached(build(), "lora")
    keys = peft.tuned_state_dict(model).keys()
    tuned = {name for name, each in model.named_parameters() if each.requires_grad}
    for each in (change, looked_at, change):
        found = each(model)
        model = found if isinstance(found, nn.Module) else model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in tuned)
        assert peft.tuned_state_dict(model).keys() == keys
    peft.detach(model)
