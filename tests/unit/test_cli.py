"""The command line: light where it can be, and one sentence for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from forked import run_mosa

from mosa.base.files import SCHEMAS
from mosa.cli.commands import cli
from mosa.cli.options import config_files
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
    one = mosa("methods", "mosa").stdout
    assert one.startswith("mosa: ") and one in result.stdout and "\n    every_expert = false  (" in one


def test_every_verb_stands_under_a_subject():
    assert "Other" not in cli.sections()
    shown = mosa("--help").stdout
    places = [shown.index(f"\n{section}:\n") for section in cli.sections()]
    assert places == sorted(places) and "\n  Examples:\n    mosa " in shown


def test_help_of_a_verb_ends_with_examples():
    assert "\n    mosa check --configfile configs/vtab1k.yaml\n" in mosa("check", "--help").stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("verb", ["tasks", "--help"])
def test_output_without_room_ends_with_one_sentence(verb):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mosa.cli", verb]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 75 and result.stderr.count("\n") == 1
    assert "output cannot be written (No space left on device); make room for it" in result.stderr


def test_words_are_completed():
    """As the shells do that the documentation names: verbs, options, and the values of a choice."""
    complete = BashComplete(cli, {}, "mosa", "_MOSA_COMPLETE").get_completions
    assert [item.value for item in complete([], "ch")] == ["check", "choose", "choices"]
    assert [item.value for item in complete(["check"], "--q")] == ["--quick"]
    assert "step_graph" in [item.value for item in complete(["train", "--compile"], "")]


def test_lists_are_json_for_scripts():
    methods = json.loads(mosa("methods", "--json").stdout)
    assert methods.keys() == methods_schema()["$defs"].keys()
    assert methods["lora"]["options"]["rank"]["default"] == 16
    tasks = json.loads(mosa("tasks", "--json").stdout)
    assert tasks["vtab1k/cifar"]["num_classes"] == 100
    some = json.loads(mosa("tasks", "fgvc", "vtab1k/cifar", "--json").stdout)
    assert len(some) == 6 and some.items() <= tasks.items()


def test_a_plan_is_json_with_the_numbers_of_the_table():
    base = Path(__file__).parents[2]
    planned = json.loads(mosa("plan", "--json", cwd=base).stdout)
    assert sum(row["runs"] for row in planned["rows"]) == planned["all"]["runs"]
    assert f" {planned['all']['runs']} " in mosa("plan", cwd=base).stdout


def test_a_record_that_is_not_in_order_is_json_too(tmp_path):
    (tmp_path / "seed0.json").write_text("{}")
    found = mosa("verify", "seed0.json", "--json", cwd=tmp_path)
    (verdict,) = json.loads(found.stdout)
    assert found.returncode == 1 and verdict["path"] == "seed0.json" and verdict["problems"]


def test_a_check_that_fails_is_json_too(tmp_path):
    config = {"benchmarks": {"demo": None, "general": ["cifar100"]}}
    (tmp_path / "one.yaml").write_text(json.dumps(config))
    base = Path(__file__).parents[2] / "config.yaml"
    found = mosa("check", "--json", "--configfile", str(base), "--configfile", "one.yaml", cwd=tmp_path)
    assert found.returncode == 1
    states = {finding["name"]: finding["state"] for finding in json.loads(found.stdout)}
    assert states["general/cifar100"] == "error" and states["micro_vit"] == "ok"


@pytest.mark.parametrize(
    ("named", "read"),
    [
        (["a"], ["config", "a"]),
        (["config"], ["config"]),
        (["config", "a"], ["config", "a"]),
        (["a", "config"], ["config", "a", "config"]),
        (["a", "config", "b", "a"], ["config", "a", "config", "b", "a"]),
    ],
)
def test_configs_count_in_the_order_in_which_they_are_named(named, read, tmp_path):
    for name in ("config", "a", "b"):
        (tmp_path / f"{name}.yaml").touch()
    found = config_files([tmp_path / f"{name}.yaml" for name in named], folder=tmp_path)
    assert [file.stem for file in found] == read


def test_schema_file_is_what_the_registry_says():
    path = SCHEMAS / "methods.schema.json"
    assert json.loads(path.read_text()) == methods_schema(), "run `mosa schema`"


OWN = ["make-data", "own/x", "--output", "x.safetensors", "--own"]
TUNE = ["tune", "--task", "demo/digits", "--method", "linear", "--pack", "none", "--space", "{}"]
TRAIN = ["train", "--task", "demo/digits", "--pack", "none", "--output", "record.json", "--method"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["make-data", "demo/digit", "--output", "x.safetensors"], "error: unknown task 'demo/digit'"),
        ([*OWN, '{"layout": "folder"}'], "error: --own: key 'root' is missing"),
        ([*OWN, '{"layout": "folder", "root": "x", "resize": "a"}'], "--own.resize: 'a' is not allowed"),
        (["collect", "--manifest", "none.json", "--output", "x.csv"], "none.json: not a manifest"),
        (["tables", "--records", "none", "--output", "t"], "error: none: cannot be read"),
        ([*TRAIN, "linear"], "error: none: no such pack; make it with `mosa make-data`"),
        (TRAIN[:1] + TRAIN[3:-1], "error: --task is missing; give it, or a specification file with --spec"),
        ([*TRAIN, "linear", "--spec", "x"], "error: --task: the specification says it"),
        ([*TRAIN, "mosa", "--options", "{"], "is not JSON"),
        ([*TRAIN, "mosa", "--options", "[]"], "is not a JSON object"),
        ([*TUNE, "--seeds", "0,0"], "'0,0': expected whole numbers from 0 on, each once"),
        ([*TUNE, "--seeds=-1"], "'-1': expected whole numbers from 0 on, each once"),
        (["report", "--records", "x.csv", "--output", "x.csv"], "expected a name that ends with .html"),
        (["collect", "--manifest", "x.json", "--output", "x.json"], "expected a name that ends with .csv"),
        (["plan", "--alone"], "error: --alone: no config is named; name one with --configfile"),
        (["methods", "mosa", "lor"], "error: unknown method 'lor'"),
        (["tasks", "vtab"], "error: unknown benchmark 'vtab'"),
        (["tasks", "vtab1k/cifa"], "error: unknown task 'vtab1k/cifa'"),
        (["plan", "configs/none.yaml"], "none.yaml is a config, not an argument; put --configfile"),
        (["plan", "words"], "Got unexpected extra argument (words)"),
        (["init", "~/x"], "'~/x': expected a path that is written out, as nothing here replaces ~"),
        (["report", "--records", "x.csv", "--output", "~/x.html"], "'~/x.html': expected a path that"),
        (["conformance", "none.py:Foo"], "; a path starts from the working directory"),
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
