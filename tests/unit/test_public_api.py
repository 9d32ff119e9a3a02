"""The public API is annotated in full, and the examples in its docstrings run."""

import doctest
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mosa.peft
from mosa.base.timm import timm

ROOT = Path(__file__).parents[2]
USE = """
from torch import Tensor, nn

from mosa import peft


def use(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    peft.attach(model, "lora", rank=4, name="pets")
    loss: Tensor = peft.tuning_loss(model, images, labels)
    count: int = peft.count_parameters(model).total
    names: list[str] = peft.list_adapters(peft.set_active(model, None))
    peft.save_pretrained(model, names[0], label_names=names)
    try:
        output: Tensor = peft.from_pretrained("pets.safetensors", peft.merge(peft.detach(model)))(images)
    except peft.UserError:
        raise
    return output * loss * count
"""


def functions():
    """Yield all functions and methods of the public API, by name."""
    for name in mosa.peft.__all__:
        value = getattr(mosa.peft, name)
        if inspect.isfunction(value):
            yield name, value
        for key, member in vars(value).items() if inspect.isclass(value) else ():
            member = getattr(member, "__func__", member.fget if isinstance(member, property) else member)
            if inspect.isfunction(member) and member.__module__.startswith("mosa."):
                yield f"{name}.{key}", member


def test_everything_public_is_annotated():
    assert (ROOT / "mosa" / "py.typed").is_file()
    lacking = []
    for name, function in functions():
        parameters = list(inspect.signature(function).parameters.values())
        if "." in name:
            parameters = parameters[1:]
        given = [each.annotation for each in parameters]
        if not name.startswith("ParameterCount._"):  # which Python writes
            given.append(inspect.signature(function).return_annotation)
            lacking += [name] if inspect.Parameter.empty in given else []
    assert not lacking


@pytest.mark.parametrize("name", ["attach"])
def test_examples_of_docstrings_run(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", timm)
    function = getattr(mosa.peft, name)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    found = finder.find(function, name, globs={"mosa": mosa, "timm": timm})
    assert sum(len(each.examples) for each in found)
    for each in found:
        assert runner.run(each).failed == 0


def test_no_other_function_has_an_example_that_does_not_run():
    finder = doctest.DocTestFinder(recurse=False)
    with_examples = [
        name for name, function in functions() if any(t.examples for t in finder.find(function, name))
    ]
    assert with_examples == ["attach", "describe_blocks"]  # that of the latter is a model of yours


@pytest.mark.thorough  # mypy reads all of torch
def test_mypy_agrees_with_a_user(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy")
    (tmp_path / "use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "use.py"]
    source = os.environ | {"MYPYPATH": str(ROOT)}  # mypy does not follow an editable install's import hook
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=source)
    assert done.returncode == 0, done.stdout
