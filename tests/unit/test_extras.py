"""The library without its extras: what works, and what is said of what is missing."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mosa.base.errors import UserError
from mosa.base.extras import EXTRAS, missing_module, require

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = [name for names in EXTRAS.values() for name in names]

BLOCKED = f"""
import sys
sys.modules.update(dict.fromkeys({MODULES}))  # None: an import of it fails as if it were not installed
"""
LIBRARY = """
import mosa.peft
from mosa.base.timm import timm
import torch

model = timm.create_model("vit_tiny_patch16_224", img_size=16, depth=1, embed_dim=12, num_heads=2)
mosa.peft.attach(model, "mosa", bottleneck=4, experts=2)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
images, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
mosa.peft.tuning_loss(model, images, labels).backward()
optimizer.step()
mosa.peft.save_tuned(model, "tuned.safetensors")
mosa.peft.load_tuned(model, "tuned.safetensors")
mosa.peft.merge(model)(images)
"""
VERBS = """
from mosa.cli.commands import run

for arguments in (["run"], ["tables", "--records", ".", "--output", "."], ["methods"]):
    sys.argv = ["mosa", *arguments]
    try:
        run()
    except SystemExit as end:
        print("status", end.code, file=sys.stderr, flush=True)
"""


def test_the_library_works_without_extras_and_commands_name_what_they_miss(tmp_path):
    environment = os.environ | {"MOSA_WARM": ""}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + LIBRARY + VERBS],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.splitlines() == [
        "error: snakemake, pandas, scipy, matplotlib, scikit-learn are not installed; "
        "run: pip install 'mosa-benchmark[workflow]'",
        "status 2",
        "error: pandas is not installed; run: pip install 'mosa-benchmark[workflow]'",
        "status 2",
        "status 0",
    ]
    assert "\nmosa: " in done.stdout  # of mosa methods


def test_what_is_missing_of_several_extras_is_one_sentence(monkeypatch):
    require("workflow", "report")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    require("workflow")
    with pytest.raises(UserError, match=r"^jinja2 is not installed; .*mosa-benchmark\[report\]'$"):
        require("workflow", "report")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"^scikit-learn, jinja2 are not .*\[workflow,report\]'$"):
        require("workflow", "report")
    assert missing_module("jinja2.ext") and not missing_module("torch") and not missing_module(None)


def test_the_extras_are_those_of_the_package():
    def names(requirements):
        return {re.split(r"[\[<>=]", each)[0] for each in requirements}

    core, extras = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        assert set(packages.values()) <= names(extras[extra]) and not set(packages.values()) & core
    assert set(extras["all"][0].partition("[")[2].rstrip("]").split(",")) == set(extras) - {
        "all",
        "test",
        "docs",
        "export",
    }
    assert "mosa-benchmark[all]" in extras["test"]


def test_importing_the_package_imports_nothing_else():
    code = "import sys\nbefore = set(sys.modules)\nimport mosa\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["mosa"], done.stderr
