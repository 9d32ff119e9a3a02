"""However a model is called, the result is right, or there is one clear error."""

import copy
import io
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from marks import thorough
from models import CASES, attach, batch, build, train_steps
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mosa import peft
from mosa.base.errors import UserError
from mosa.peft.losses import passes_loss, tuning_loss

F64 = torch.float64
PLACEMENTS = ["adapter", "adapter, pfeiffer", "adapter, houlsby", "adapter, sequential", "adapter, residuals"]
# Methods and placements that differ in what they insert into a block, and how.
INSERTED = [
    "adapter",
    "mosa",
    "repadapter",
    "gps",
    "lst",
    "ssf",
    "vpt",
    "arc",
    "prefix, mlp",
    "rlrr",
    "sct",
    "fact",
]
INSERTED += thorough(*PLACEMENTS[1:], "gated", "mosa, ensemble", "dtl, plus", "vpt, shallow", "lora")
INSERTED += thorough("bi_adaptformer, 2 bits", "e2vpt, apart", "convpass")


def attached(case, architecture="vit", dtype=torch.float32, **more):
    method, options = CASES[case]
    return attach(build(architecture, dtype=dtype), method, **options | more)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(got, expected, **tolerance):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("case", INSERTED)
def test_threads_may_evaluate_a_model_at_once(case, merged):
    model = attached(case)
    train_steps(model, lr=0.1)
    if merged:
        peft.merge(model)
    inputs = [batch(size=size, seed=size)[0] for size in (2, 3, 4, 5)]
    for name in ("attn", "mlp"):  # a thread gives way to others in the middle of a block
        part = model.get_submodule(f"blocks.1.{name}")
        part.register_forward_hook(lambda module, inputs, output: time.sleep(1e-3))
    with torch.inference_mode():
        expected = [model(images) for images in inputs]

        def evaluate(number):
            with torch.inference_mode():
                return number, model(inputs[number])

        with ThreadPoolExecutor(len(inputs)) as pool:
            results = list(pool.map(evaluate, list(range(len(inputs))) * 10))
    assert all(torch.equal(result, expected[number]) for number, result in results)


@pytest.mark.parametrize(
    "case",
    [*PLACEMENTS, "mosa", "adamix", "lst", "gps", "vpt, shallow", "prefix, mlp", "rlrr", "arc"],
)
def test_copies_and_files_of_a_model_are_whole(case):
    model = attached(case)
    train_steps(model)
    images, _ = batch()
    checkpoint(model.train(), images, use_reentrant=False)  # its backward never comes
    model.eval()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(images), model(images))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not other(images).any() and model(images).any()  # nothing is shared, nor left behind


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("region", ["model", "loss"])
@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "blocks within"])
@pytest.mark.parametrize("case", ["mosa", *thorough("mosl", "adamix", "mosa, features", "dropconnect")])
def test_a_checkpoint_around_the_model_repeats_its_experts(case, blocks, region, reentrant):
    """Of two forwards whose backward comes after both, and without a draw more than without checkpoints."""
    plain = attached(case, dtype=F64)
    train_steps(plain, steps=5)
    plain.train().zero_grad()
    other = copy.deepcopy(plain)
    other.set_grad_checkpointing(blocks)
    _, labels = batch()

    def run(model, around):
        torch.manual_seed(0)
        total = 0
        for seed in (1, 2):
            images = batch(seed=seed, dtype=F64)[0].requires_grad_()  # reentrant checkpoints need a gradient
            if region == "loss":
                total = total + around(lambda x: tuning_loss(model, x, labels), images)
            else:
                total = total + F.cross_entropy(around(model, images), labels)
        total.backward()
        return gradients(model)

    expected = run(plain, lambda function, x: function(x))
    found = run(other, lambda function, x: checkpoint(function, x, use_reentrant=reentrant))
    assert_close(found, expected, atol=1e-12, rtol=0)
    assert not other.peft.passes.features
    if case != "dropconnect":
        assert torch.equal(other.router.get_extra_state(), plain.router.get_extra_state())
        assert {projection.active for projection in other.router.projections} == {None}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("how", ["blocks", "model"])
def test_backwards_may_come_in_any_order(how, order):
    """Of forwards of the same images, from the same state of torch's generator."""
    plain = attached("mosa", dtype=F64, dropout=0.0)
    train_steps(plain, steps=5)
    plain.train().zero_grad()
    other = copy.deepcopy(plain)
    images, labels = batch(dtype=F64)
    if how == "blocks":
        other.set_grad_checkpointing()
        call = other
    else:
        call = lambda x: checkpoint(other, x, use_reentrant=False)  # noqa: E731
    first, second = F.cross_entropy(plain(images), labels), F.cross_entropy(plain(images), labels)
    (3 * first + second).backward()
    losses = [F.cross_entropy(call(images), labels) for _ in range(2)]
    other.eval()(images), other.train()  # an evaluation in between
    for number in order:
        (losses[number] * (3, 1)[number]).backward()
    assert_close(gradients(other), gradients(plain), atol=1e-12, rtol=0)


def test_a_checkpoint_is_refused_where_it_cannot_tell_the_experts():
    model = attached("mosa", dropout=0.0).train()
    images = batch()[0].requires_grad_()
    outputs = [checkpoint(model, images, use_reentrant=True) for _ in range(2)]
    with pytest.raises(UserError, match="several forwards of the same images, and nothing tells which"):
        outputs[0].sum().backward()
    output = checkpoint(model, images, use_reentrant=True, preserve_rng_state=False)
    torch.rand(1)
    with pytest.raises(UserError, match="preserve_rng_state"):
        output.sum().backward()


def test_a_backward_through_a_checkpoint_may_come_again():
    model = attached("mosa", dtype=F64, dropout=0.0)
    train_steps(model, steps=5)
    model.train().zero_grad()
    images, labels = batch(dtype=F64)
    loss = F.cross_entropy(checkpoint(model, images, use_reentrant=False), labels)
    loss.backward(retain_graph=True)
    once = gradients(model)
    loss.backward()
    assert_close(gradients(model), {name: 2 * value for name, value in once.items()}, atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", ["adapter, r-drop", "vpt", "repadapter", "lora, mlp", "dropconnect"])
@pytest.mark.parametrize("call", ["forward_features", "forward_intermediates"])
def test_parts_of_a_model_are_one_pass_after_a_step_of_two(case, call):
    model = attached(case).train()
    images, labels = batch(size=4)
    loss = passes_loss(peft.forward_passes(model, images, 2), labels)
    for _ in range(2):  # before and after its backward
        output = getattr(model, call)(images)
        assert len(output if call == "forward_features" else output[0]) == 4
        loss.backward(retain_graph=True)


@pytest.mark.parametrize("case", ["mosa", "mosl", "adamix", "mosa, ensemble"])
@pytest.mark.parametrize("call", ["forward_features", "forward_intermediates"])
def test_parts_of_a_model_draw_no_experts(case, call):
    model = attached(case)
    images, labels = batch(size=4)
    for _ in range(2):  # before and after a step and an evaluation
        with pytest.raises(RuntimeError, match="no expert is drawn: call the whole model"):
            getattr(model.train(), call)(images)
        loss = tuning_loss(model, images, labels)
        with pytest.raises(RuntimeError, match="no expert is drawn"):
            getattr(model, call)(images)
        loss.backward()
        model.eval()(images)
    if case == "mosa, ensemble":
        with pytest.raises(RuntimeError, match="no expert is drawn"):
            getattr(model, call)(images)
    else:
        getattr(model, call)(images)
    assert model.forward_head(torch.zeros(2, 17, 32)).shape == (2, 5)


@pytest.mark.parametrize("case", ["mosa", "mosl", "adamix", "mosa, ensemble", "adapter, houlsby", "vpt"])
def test_images_may_be_given_by_name(case):
    model = attached(case)
    train_steps(model)
    images, _ = batch()
    assert torch.equal(model(x=images), model(images))
    assert torch.equal(model(attn_mask=None, x=images), model(images))
    state = torch.get_rng_state(), copy.deepcopy(model)
    expected = model.train()(images)
    torch.set_rng_state(state[0])
    assert torch.equal(state[1].train()(x=images), expected)


@pytest.mark.parametrize("case", ["mosa", "mosl", "adamix"])
def test_modules_in_training_mode_draw_whatever_the_models_mode(case):
    model = attached(case, **{"dropout": 0.0})
    train_steps(model, steps=20, lr=0.1)
    images, labels = batch()
    for projection in model.router.projections:
        projection.train()  # as after `model.eval(); adapters.train()`
    outputs = torch.stack([model(images) for _ in range(10)])
    assert len(outputs.unique(dim=0)) > 1
    expected = copy.deepcopy(model).train()
    assert tuning_loss(model, images, labels).item() == pytest.approx(
        tuning_loss(expected, images, labels).item(), rel=1e-5
    )
    model.train()
    for module in model.blocks[0].modules():
        module.training = False
    first, second = peft.forward_passes(model, images, 2).chunk(2)
    assert first.shape == second.shape == (6, 5) and not torch.allclose(first, second)


def test_an_ensemble_has_no_other_passes_in_evaluation():
    model = attached("mosa, ensemble").eval()
    images, labels = batch()
    with pytest.raises(UserError, match=r"2 passes of an ensemble in evaluation.*call model\.train"):
        tuning_loss(model, images, labels)
    assert model(images).shape == (6, 5)  # nothing is left of the request


def test_a_forward_that_fails_leaves_nothing():
    model = attached("mosa, ensemble").train()
    images, _ = batch()
    with pytest.raises(AssertionError, match="doesn't match model"):
        peft.forward_passes(model, images[..., :17], 2)
    with pytest.raises(AssertionError, match="doesn't match model"):
        model.eval()(images[..., :17])
    assert model.peft.passes.count == 1
    with pytest.raises(RuntimeError, match="no expert is drawn"):
        model.forward_features(images)


@pytest.mark.parametrize("passes", [0, -1])
def test_the_number_of_passes_is_positive(passes):
    with pytest.raises(UserError, match=f"passes={passes}: expected 1 or more"):
        peft.forward_passes(attached("mosa"), batch()[0], passes)


def test_shallow_prompts_are_no_image_tokens():
    images, _ = batch()
    model = attached("vpt, shallow").eval()
    for call in (model.forward_intermediates, model.get_intermediate_layers):
        with pytest.raises(
            UserError, match="forward_intermediates: the tokens between blocks hold the prompts"
        ):
            call(images)
    assert model.forward_features(images).shape == (6, 17, 32)
    _, between = attached("vpt").eval().forward_intermediates(images)
    assert [tokens.shape for tokens in between] == [(6, 32, 4, 4)] * 3


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
def test_features_are_compared_with_their_gradient_or_not_at_all(reentrant, monkeypatch):
    """timm's checkpoints of blocks are reentrant where it is told so."""
    images, labels = batch(dtype=F64)
    expected = attached("mosa, features", dtype=F64, feature_consistency=10.0)
    train_steps(expected, steps=1, lr=0.1)
    found = copy.deepcopy(expected)
    monkeypatch.setattr("timm.layers.config._USE_REENTRANT_CKPT", reentrant)
    found.set_grad_checkpointing()
    for model in (expected, found):
        model.zero_grad()
        model.train()
        torch.manual_seed(0)
        if model is found and reentrant:
            with pytest.raises(UserError, match="feature_consistency gets no gradient"):
                tuning_loss(model, images, labels)
            model(images.requires_grad_()).sum().backward()  # compares no features
            with torch.no_grad():
                tuning_loss(model, images, labels)
            return
        tuning_loss(model, images, labels).backward()
    assert_close(gradients(found), gradients(expected))
