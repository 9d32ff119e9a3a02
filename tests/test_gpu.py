"""The same on a GPU: run where there is one."""

import pytest
import torch
from models import SMALL, batch, build, spec

from mosa import peft
from mosa.losses import tuning_loss
from mosa.machine import Machine
from mosa.runs import execute

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", peft.list_methods())
def test_gradients_equal_the_cpus(method):
    if method == "dropconnect":
        pytest.skip("draws on the device")
    options = SMALL.get(method, {})
    options |= {"dropout": 0.0} if "dropout" in peft.get_method(method).model_fields else {}
    gradients = []
    for device in ("cpu", "cuda"):
        model = peft.attach(build(), method, seed=3, **options).to(device).train()
        images, labels = (tensor.to(device) for tensor in batch())
        tuning_loss(model, images, labels).backward()
        gradients.append({n: p.grad.cpu() for n, p in model.named_parameters() if p.requires_grad})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", peft.list_methods())
def test_attaching_on_the_gpu_stays_there(method):
    model = peft.attach(build().cuda(), method, **SMALL.get(method, {}))
    tensors = [*model.parameters(), *(b for b in model.buffers())]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


@pytest.mark.parametrize("method", peft.list_methods())
def test_a_run_on_the_gpu_leaves_a_record(pack, tmp_path, method):
    record = execute(spec(method), pack, tmp_path / "record.json", Machine(device="cuda"))
    assert record["device"]["type"] == "cuda" and record["peak_memory_mib"] > 0
