"""The same on a GPU: run where there is one."""

import pytest
import torch
from models import SMALL, attach, batch, build, spec

from mosa import peft
from mosa.backbones.build import build_backbone
from mosa.engine.cost.memory import step_memory
from mosa.engine.machine import Machine
from mosa.engine.run import execute
from mosa.experiment.recipe import Recipe
from mosa.peft.losses import tuning_loss

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", peft.list_methods())
def test_gradients_equal_the_cpus(method):
    if method == "dropconnect":
        pytest.skip("draws on the device")
    gradients = []
    for device in ("cpu", "cuda"):
        model = attach(build(), method, seed=3, **SMALL.get(method, {})).to(device).train()
        for module in model.modules():  # what is dropped is drawn on the device
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif hasattr(module, "drop_prob"):
                module.drop_prob = 0.0
        images, labels = (tensor.to(device) for tensor in batch())
        tuning_loss(model, images, labels).backward()
        gradients.append({n: p.grad.cpu() for n, p in model.named_parameters() if p.requires_grad})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", peft.list_methods())
def test_attaching_on_the_gpu_stays_there(method):
    model = attach(build().cuda(), method, **SMALL.get(method, {}))
    tensors = [*model.parameters(), *(b for b in model.buffers())]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


@pytest.mark.parametrize("method", peft.list_methods())
def test_a_run_on_the_gpu_leaves_a_record(pack, tmp_path, method):
    record = execute(spec(method), pack, tmp_path / "record.json", Machine(device="cuda"))
    assert record["device"]["type"] == "cuda" and record["peak_memory_mib"] > 0


@pytest.mark.parametrize("method", ["adapter", "lora", "mosa"])
def test_a_compiled_run_is_the_plain_one(pack, tmp_path, method):
    run = spec(method, training={"epochs": 2, "batch_size": 16})
    plain = execute(run, pack, tmp_path / "plain.json", Machine("cuda"))
    compiled = execute(run, pack, tmp_path / "compiled.json", Machine("cuda", compile="blocks"))
    assert compiled["metrics"]["train_loss"] == pytest.approx(plain["metrics"]["train_loss"], rel=1e-3)
    assert compiled["metrics"]["nll"] == pytest.approx(plain["metrics"]["nll"], rel=1e-3)


@pytest.mark.parametrize("machine", [Machine("cuda"), Machine("cuda", gradient_checkpointing=True)])
@pytest.mark.parametrize("method", ["adapter", "mosa", "full"])
def test_the_counted_memory_is_the_memory_that_is_taken(method, machine):
    torch._C._cuda_clearCublasWorkspaces()
    before = torch.cuda.memory_allocated()  # by other tests of this process
    model, backbone = build_backbone("vit_small_patch16_224", "random", 100)
    peft.attach(model, method)
    counted = step_memory(model, backbone.image_size, 32, Recipe(), machine).peak
    machine.place(model)
    optimizer = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], fused=True)
    images, labels = torch.randn(32, 3, 224, 224).cuda(), torch.zeros(32, dtype=torch.long).cuda()
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        tuning_loss(model, images, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()  # one for each thread that multiplies; they are not counted
    workspaces = held - torch.cuda.memory_allocated()
    assert peak - workspaces - before == pytest.approx(counted, rel=0.15)


def test_a_run_repeats_bit_by_bit(pack, tmp_path):
    first, second = (execute(spec(), pack, tmp_path / f"{i}.json", Machine("cuda")) for i in range(2))
    assert first["metrics"] == second["metrics"]


@pytest.mark.parametrize("method", peft.list_methods())
def test_a_step_replayed_as_a_graph_is_the_plain_step(pack, tmp_path, method):
    """Batches of 16 and of 8 in turn: two graphs, one optimiser, and experts and dropout as drawn without."""
    run = spec(method, training={"epochs": 6, "batch_size": 16, "lr": 0.01})
    plain = execute(run, pack, tmp_path / "plain.json", Machine("cuda"))
    graph = execute(run, pack, tmp_path / "graph.json", Machine("cuda", compile="step_graph"))
    assert graph["metrics"]["train_loss"] == pytest.approx(plain["metrics"]["train_loss"], rel=1e-3)
    assert graph["metrics"]["nll"] == pytest.approx(plain["metrics"]["nll"], rel=1e-3)


@pytest.mark.parametrize("method", peft.list_methods())
def test_bfloat16_trains_as_float32(pack, tmp_path, method):
    """Also where steps are replayed as graphs. Mona's losses differ most on an H200, by 2.7 %."""
    losses = []
    for precision, how in (("float32", "none"), ("bfloat16", "none"), ("bfloat16", "step_graph")):
        run = spec(method, training={"epochs": 6, "batch_size": 8, "precision": precision})
        record = execute(run, pack, tmp_path / f"{precision}-{how}.json", Machine("cuda", compile=how))
        losses.append(record["metrics"]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[2] == pytest.approx(losses[1], rel=0.02)
