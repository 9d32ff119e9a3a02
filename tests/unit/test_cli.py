"""The command line: light where it can be, and one sentence for every mistake."""

import json
import subprocess
import sys

import pytest
from forked import run_mosa

from mosa.base.files import SCHEMAS
from mosa.peft.describe import methods_schema


def mosa(*arguments, cwd="."):
    return run_mosa(cwd, *arguments)


@pytest.mark.parametrize("arguments", [["--help"], ["tasks"], ["train", "--help"]])
def test_light_verbs_do_not_import_heavy_libraries(arguments):
    code = (
        "import sys\nfrom mosa.cli.commands import cli\n"
        f"cli({arguments!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'pandas', 'timm', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_tables_do_not_import_torch():
    code = (
        "import sys, mosa.results.tables.write, mosa.results.plots.write, mosa.records\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_methods_are_listed():
    result = mosa("methods")
    assert result.returncode == 0
    for name, schema in methods_schema()["$defs"].items():
        assert f"{name}: " in result.stdout
        for option in schema["properties"]:
            assert f"    {option} = " in result.stdout


def test_schema_file_is_what_the_registry_says():
    path = SCHEMAS / "methods.schema.json"
    assert json.loads(path.read_text()) == methods_schema(), "run `mosa schema`"


TRAIN = ["train", "--task", "demo/digits", "--pack", "none", "--output", "record.json", "--method"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["make-data", "demo/digit", "--output", "x"], "error: unknown task 'demo/digit'"),
        (["collect", "--manifest", "none.json", "--output", "x.csv"], "none.json: not a manifest"),
        (["tables", "--records", "none", "--output", "t"], "error: none: cannot be read"),
        ([*TRAIN, "linear"], "error: none: "),
        (TRAIN[:1] + TRAIN[3:-1], "error: --task is missing; give it, or a specification file with --spec"),
        ([*TRAIN, "linear", "--spec", "x"], "error: --task: the specification says it"),
        ([*TRAIN, "mosa", "--options", "{"], "is not JSON"),
        ([*TRAIN, "mosa", "--options", "[]"], "is not a JSON object"),
        ([*TRAIN, "mosa", "--kind", "npx"], "... (15 in all); did you mean 'npz'?"),
    ],
)  # fmt: skip
def test_mistakes_end_with_one_sentence_and_leave_nothing(tmp_path, arguments, words):
    result = mosa(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_from_data_to_tables(tmp_path):
    """The verbs that the rules call, by hand, in a folder whose name needs quoting."""
    folder = tmp_path / "a folder; $(touch hacked) 'quoted'"
    folder.mkdir()
    assert mosa("make-data", "demo/digits", "--output", folder / "digits.safetensors").returncode == 0
    for method in ("linear", "mosa"):
        result = mosa(
            *("train", "--task", "demo/digits", "--pack", folder / "digits.safetensors", "--method", method),
            *("--training", json.dumps({"epochs": 1}), "--output", folder / method / "seed0.json"),
        )
        assert result.returncode == 0, result.stderr
        assert f"demo/digits {method} seed 0: top-1 " in result.stdout
    assert mosa("tables", "--records", folder, "--output", folder / "tables").returncode == 0
    assert (folder / "tables" / "comparison.csv").is_file()
