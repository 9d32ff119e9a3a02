"""Models with a method, merged or not, leave PyTorch for batches of any size: torch.export, trace, ONNX."""

import copy
import importlib.util
from functools import cache

import marks
import pytest
import torch
from models import CASES, attach, batch, train_steps

from mosa import peft
from mosa.base.timm import timm
from mosa.peft.subject import VIT

ONNX = ("onnx", "onnxscript", "onnxruntime")
SIZES = (2, 3, 1)


@cache
def trained(case):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT)
    method, options = CASES[case]
    attach(model, method, **options)
    train_steps(model, steps=1, lr=0.1)
    return model


def exported(model, images, path):
    """The recipe of docs/library.md; it takes and returns batches of any size."""
    batch = torch.export.Dim.DYNAMIC
    return torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module()


def traced(model, images, path):
    """The recipe of docs/library.md."""
    return torch.jit.trace(model, images)


def to_onnx(model, images, path):
    """The recipe of docs/library.md, run by onnxruntime."""
    import onnxruntime

    batch = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    program.save(path / "model.onnx")
    session = onnxruntime.InferenceSession(path / "model.onnx")
    (name,) = (each.name for each in session.get_inputs())
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


WAYS = {"trace": traced, "export": exported, "onnx": to_onnx}
FAST = [("mosa", False, "trace"), ("vpt", True, "trace"), ("mosa", False, "export")]
ALL = [(case, merged, way) for way in WAYS for case in CASES for merged in (False, True)]
OTHERS = [each for each in ALL if each not in FAST] if marks.asked else []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("case", "merged", "way"),
    [*FAST, *(pytest.param(*each, marks=pytest.mark.thorough) for each in OTHERS)],
)
def test_output_is_that_of_the_model(case, merged, way, tmp_path):
    if way == "onnx" and (missing := [name for name in ONNX if importlib.util.find_spec(name) is None]):
        pytest.skip(f"needs {', '.join(missing)}: pip install 'mosa-benchmark[export]'")
    model = copy.deepcopy(trained(case)).eval()
    if merged:
        peft.merge(model)
    with torch.no_grad():
        other = WAYS[way](model, batch(2)[0], tmp_path)
        for size in SIZES:
            images = batch(size, seed=size)[0]
            torch.testing.assert_close(other(images), model(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", ["export", "onnx"])
def test_a_model_in_training_mode_is_refused(way, tmp_path):
    """It would be exported with the experts of a single draw."""
    if way == "onnx" and any(importlib.util.find_spec(name) is None for name in ONNX):
        pytest.skip("needs pip install 'mosa-benchmark[export]'")
    model = copy.deepcopy(trained("mosa")).train()
    with pytest.raises(Exception, match=r"experts of a single draw; call model.eval\(\) first"):
        WAYS[way](model, batch(2)[0], tmp_path)
    assert model(batch(2)[0]).shape == (2, 5)  # and trains on
