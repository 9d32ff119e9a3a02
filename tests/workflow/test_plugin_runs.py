"""A config with a user's own code, run by the real workflow."""

import json

import pytest
from workspace import CONFIG, REFRESH, Workspace

from mosa.records import load_record

METHOD = '''
from typing import ClassVar
from mosa.peft.method import Selection

class Mine(Selection):
    """The position embeddings."""

    name: ClassVar[str] = "mine"
    reference: ClassVar[str] = "none"

    def selected(self, model):
        return [model.pos_embed]
'''
METRIC = """
from mosa.data.metrics import METRICS, Metric
METRICS["sure"] = Metric("sure", "sure", "", True, 2, lambda logits, labels: 0.5, "How sure.")
"""
OWN = {"write_table_sureness": 1, "write_table_nothing": 1}
TABLE = """
from mosa.results.registry import table

@table("sureness", label="sure", caption="How sure each run is.", formats=("md",))
def sureness(results):
    return dict(md=" ".join(map(str, results.frame["sure"])) + " {word}")

@table("nothing", label="nothing", caption="Nothing.", formats=("md",))
def nothing(results):
    return None
"""


@pytest.mark.slow
@pytest.mark.thorough
def test_own_code_runs_and_an_edit_repeats_its_runs_only(tmp_path):
    workspace = Workspace(tmp_path / "a 'work' folder")
    workspace.give_small_packs()
    own = workspace.folder / "own code"
    own.mkdir()
    for name, text in (("method", METHOD), ("metric", METRIC), ("table", TABLE.format(word="first"))):
        (own / f"{name}.py").write_text(text)
    variants = {"linear": {"method": "linear"}, "mine": {"method": "mine"}}
    workspace.configure(
        CONFIG
        | {"variants": variants, "seeds": [0], "benchmarks": {"demo": ["digits"]}}
        | {"plugins": [f"own code/{name}.py" for name in ("method", "metric", "table")]}
    )
    result = workspace.snakemake()
    assert result.returncode == 0, result.stderr[-3000:]
    records = [load_record(path) for path in workspace.records()]
    assert [record["metrics"]["sure"] for record in records] == [0.5, 0.5]
    assert (workspace.folder / "results/tables/sureness.md").read_text() == "0.5 0.5 first"
    assert workspace.planned() == {}
    (own / "method.py").write_text(METHOD + "# A comment.\n")
    assert workspace.planned() == {"check_data": 1, "train": 1} | REFRESH | OWN
    assert "mine (1): plugin method.py was edited" in workspace.snakemake("-n").stderr
    (own / "method.py").write_text(METHOD)
    assert (workspace.folder / "results/tables/nothing.md").read_text() == ""
    (own / "table.py").write_text(TABLE.format(word="second").replace("return None", "return 1 / 0"))
    assert workspace.planned() == REFRESH | OWN
    result = workspace.snakemake("tables")
    assert result.returncode == 1
    assert "plugin table.py, line 10: raises ZeroDivisionError" in result.stdout + result.stderr
    assert (workspace.folder / "results/tables/sureness.md").read_text() == "0.5 0.5 second"
    assert (workspace.folder / "results/tables/comparison.md").exists()
    assert not (workspace.folder / "results/tables/nothing.md").exists()
    result = workspace.snakemake("partial")
    assert result.returncode == 0 and "plugin table.py, line 10: raises ZeroDivisionError" in result.stderr
    assert (workspace.folder / "results/partial/sureness.md").read_text() == "0.5 0.5 second"
    manifests = workspace.folder / "results/manifests"
    frozen = [json.loads(path.read_text())["config"] for path in manifests.glob("experiment-*.json")]
    assert all([one["name"] for one in config["plugins"]] for config in frozen)
