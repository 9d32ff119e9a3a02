"""How a run is done changes its time and memory, and its result by float error at most."""

import copy
import json

import pytest
import torch
from click.testing import CliRunner
from models import METHODS, SMALL, attach, batch, build, spec, train_steps
from torch import nn

from mosa import peft
from mosa.base.errors import UserError
from mosa.cli import commands as cli
from mosa.engine import devices
from mosa.engine.batches import Images
from mosa.engine.loop import EVALUATION_BATCH, fit, in_large_batches, measure, predict
from mosa.engine.machine import CPU, Machine, compile_blocks
from mosa.engine.run import execute
from mosa.experiment.config import Run
from mosa.experiment.recipe import Recipe
from mosa.peft.losses import passes_loss, tuning_loss


def gradients(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    torch.manual_seed(seed)  # of dropout
    tuning_loss(model, *batch(dtype=next(model.parameters()).dtype)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(got, expected, **tolerance):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "architecture",
    [
        "vit",
        pytest.param("vit_avgpool", marks=pytest.mark.thorough),  # has the blocks of "vit"
        "vit_layerscale_droppath",
        "swin",
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing_changes_no_gradient(architecture, method):
    try:
        model = attach(build(architecture, dtype=torch.float64), method, **SMALL.get(method, {}))
    except UserError:
        pytest.skip("the method has no place in this architecture")
    train_steps(model, steps=1)
    other = copy.deepcopy(model)
    Machine(gradient_checkpointing=True).place(other)
    expected = gradients(model)
    assert_close(gradients(other), expected, atol=1e-10, rtol=1e-8)


def test_gradient_checkpointing_keeps_fewer_activations():
    kept = []
    for machine in (CPU, Machine(gradient_checkpointing=True)):
        model = peft.attach(build(), "mosa", bottleneck=8).train()
        machine.place(model)
        sizes: dict[int, int] = {}
        pack = lambda t, sizes=sizes: sizes.__setitem__(t.untyped_storage().data_ptr(), t.nbytes) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = tuning_loss(model, *batch())
        kept.append(sum(sizes.values()))
        loss.backward()
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize("method", ["adapter", "linear", "mosa"])
def test_a_setting_changes_float_error_only(pack, tmp_path, method):
    # MoSA's two passes are equal at the start, so the gradient of the consistency term is rounding error,
    # which AdamW scales to the size of a step: with that term, runs differ by more than rounding.
    options = {"bottleneck": 4, "consistency": 0.0} if method == "mosa" else {}
    run = spec(method, options=options, training={"epochs": 1, "batch_size": 16})
    plain = execute(run, pack, tmp_path / "plain.json")
    for setting in ("channels_last", "gradient_checkpointing"):
        features = tmp_path / setting  # each setting computes its own
        other = execute(run, pack, tmp_path / "other.json", Machine(features=features, **{setting: True}))
        assert other["metrics"]["train_loss"] == pytest.approx(plain["metrics"]["train_loss"], rel=1e-4)
        assert other["metrics"]["nll"] == pytest.approx(plain["metrics"]["nll"], rel=1e-4)
        assert other["device"] == plain["device"] | {setting: True}


def test_new_memory_is_left_as_it_is():
    torch.utils.deterministic.fill_uninitialized_memory = True
    CPU.begin()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_batches_have_their_channels_where_they_are_wanted(pack):
    from mosa.data.packs import Pack

    split = Pack(pack).split("train")
    plain, last = (
        next(Images(split, (0.5,) * 3, (0.5,) * 3, torch.device("cpu"), channels_last=value).batches(4))[0]
        for value in (False, True)
    )
    assert torch.equal(plain, last) and plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def eager_graphs(monkeypatch):
    """Compile to inductor's graphs, but without its compiler, which would take minutes."""
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile_(self, backend="aot_eager"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adapter", "mosa"])
def test_compiled_blocks_train_and_evaluate_as_plain_ones(method, eager_graphs):
    model = build(dtype=torch.float64)
    model.blocks = model.blocks[:1]  # each takes seconds
    attach(model, method, **SMALL.get(method, {}))
    train_steps(model)
    other = copy.deepcopy(model)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_blocks(other)
    for seed in range(4):  # other experts each time
        assert_close(gradients(other, seed), gradients(model, seed), atol=1e-10, rtol=1e-8)
    stats = torch._dynamo.utils.counters
    assert not stats["graph_break"] and stats["stats"]["unique_graphs"] == 1  # none for each draw of experts
    images, _ = batch(dtype=torch.float64)
    expected = peft.merge(model).eval()(images)
    torch.testing.assert_close(peft.merge(other).eval()(images), expected, atol=1e-10, rtol=1e-8)


@pytest.mark.thorough
def test_compiled_steps_draw_the_same_dropout_and_experts():
    """With the compiler itself, from a model whose two passes differ, and with batches of two sizes."""
    model = build()
    model.blocks = model.blocks[:1]
    peft.attach(model, "mosa", bottleneck=8, dropout=0.5)
    train_steps(model, steps=20, lr=0.05)
    other = copy.deepcopy(model)
    torch._dynamo.reset()
    compile_blocks(other)
    losses = []
    for one in (model.train(), other.train()):
        one.zero_grad()
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=1e-3)
        losses.append([])
        for size in (16, 16, 12, 16):
            loss = tuning_loss(one, *batch(size))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_run_compiles_the_blocks_and_says_so(pack, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compiled.append(type(self).__name__))
    run = spec("mosa", training={"epochs": 1, "batch_size": 20})
    record = execute(run, pack, tmp_path / "run.json", Machine(compile="blocks"))
    assert set(compiled) == {"Block"} and len(compiled) > 1
    assert record["device"]["compile"] == "blocks"


@pytest.mark.thorough  # each block takes seconds
def test_a_compiled_run_is_the_plain_one(pack, tmp_path, eager_graphs):
    run = spec("mosa", training={"epochs": 1, "batch_size": 20})
    plain = execute(run, pack, tmp_path / "plain.json")
    torch._dynamo.reset()
    compiled = execute(run, pack, tmp_path / "compiled.json", Machine(compile="blocks"))
    assert compiled["metrics"]["train_loss"] == pytest.approx(plain["metrics"]["train_loss"], rel=1e-3)
    assert compiled["metrics"]["nll"] == pytest.approx(plain["metrics"]["nll"], rel=1e-3)
    assert compiled["device"]["compile"] == "blocks"


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_close_and_its_weights_are_float32(pack, method):
    model = attach(build(), method, **SMALL.get(method, {}))
    other = copy.deepcopy(model)
    images = _images(pack)
    recipe = {"epochs": 1, "batch_size": 16, "lr": 1e-3, "warmup_epochs": 0}
    losses = [
        fit(one, images, Recipe(precision=precision, **recipe), seed=0).train_loss[0]
        for one, precision in ((model, "float32"), (other, "bfloat16"))
    ]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    nll = [measure(*predict(other, images, precision))["nll"] for precision in ("float32", "bfloat16")]
    assert nll[0] != nll[1] == pytest.approx(nll[0], rel=0.02)


def test_the_loss_of_bfloat16_is_computed_in_float32():
    model = peft.attach(build(), "mosa", bottleneck=8, dropout=0.0)
    train_steps(model, steps=5, lr=0.05)
    state = model.train().router.get_extra_state()
    images, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = tuning_loss(model, images, labels)
        model.router.set_extra_state(state)
        logits = peft.forward_passes(model, images, 2)
    assert logits.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(passes_loss(logits.float(), labels, 1.0).item(), rel=1e-6)


def test_the_record_tells_the_precision(pack, tmp_path):
    run = spec(training={"epochs": 1, "precision": "bfloat16"})
    assert execute(run, pack, tmp_path / "run.json")["specification"]["training"]["precision"] == "bfloat16"


def test_the_precision_belongs_to_what_a_run_is():
    """Otherwise a run would not be repeated with another one."""
    runs = [spec(training={"precision": precision}) for precision in ("float32", "bfloat16")]
    assert runs[0].specification.digest != runs[1].specification.digest


def test_machine_settings_do_not():
    fields = set(Machine.__dataclass_fields__)
    assert not fields & set(Run.__dataclass_fields__)


def test_what_does_not_fit_is_evaluated_in_smaller_batches(capsys):
    tried = []

    def compute(size: int) -> str:
        tried.append(size)
        if size > EVALUATION_BATCH // 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "result"

    assert in_large_batches(compute) == "result"
    assert tried == [EVALUATION_BATCH, EVALUATION_BATCH // 2, EVALUATION_BATCH // 4]
    assert f"trying batches of {EVALUATION_BATCH // 4}\n" in capsys.readouterr().err


def test_not_even_one_image_is_an_error():
    def compute(size: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="not even one image"):
        in_large_batches(compute)


@pytest.mark.parametrize(
    ("machine", "model", "words"),
    [
        (Machine(compile="all"), "vit", "expected one of none, blocks, step_graph"),
        (Machine(compile="blocks"), "mlp", "has no blocks that are known"),
        (Machine(gradient_checkpointing=True), "mlp", "no gradient checkpointing"),
    ],
)
def test_what_cannot_be_done_is_refused(machine, model, words):
    model = nn.Sequential(nn.Linear(2, 2)) if model == "mlp" else build(model)
    with pytest.raises(UserError, match=words):
        machine.place(model)


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("MOSA_COMPILE", "blocks", "compile", "blocks"),
        ("MOSA_CHANNELS_LAST", "True", "channels_last", True),
        ("MOSA_CHANNELS_LAST", "False", "channels_last", False),
        ("MOSA_GRADIENT_CHECKPOINTING", "True", "gradient_checkpointing", True),
        ("MOSA_FEATURES", "somewhere", "features", "somewhere"),
        ("MOSA_RUNS_PER_GPU", "3", None, 3),
    ],
)
def test_the_workflow_tells_by_environment_variables(variable, value, field, expected, pack, monkeypatch):
    seen = {}

    def choose(device, runs_per_gpu):
        seen["runs_per_gpu"] = runs_per_gpu
        return "cpu", None

    def run(run, pack, output, machine, keep):
        seen["machine"] = machine
        raise UserError("far enough")

    monkeypatch.setattr(devices, "choose_device", choose)
    monkeypatch.setattr("mosa.engine.run.execute", run)
    arguments = ["train", "--task", "demo/digits", "--pack", str(pack), "--method", "mosa"]
    arguments += ["--output", "o.json"]
    CliRunner().invoke(cli.cli, arguments, env={variable: value})
    found = getattr(seen["machine"], field) if field else seen["runs_per_gpu"]
    assert json.dumps(found, default=str) == json.dumps(expected)


def _images(pack) -> Images:
    from mosa.data.packs import Pack

    split = Pack(pack).split("train")
    split.labels = split.labels % 5
    return Images(split, (0.5,) * 3, (0.5,) * 3, torch.device("cpu"))
