"""Plugins: a user's own code is found, checked, specified by its content, and kept apart from other code."""

import contextlib
import json
import re
import shutil
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forked import run_mosa
from models import spec
from PIL import Image
from test_records import make_record

from mosa import peft
from mosa.backbones.build import build_backbone
from mosa.base import plugins
from mosa.base.errors import UserError
from mosa.base.plugins import REGISTRIES, Wanted, use, using
from mosa.cli.plugins import _TEMPLATE
from mosa.data import make_pack
from mosa.data.metrics import METRICS
from mosa.engine.keep import Keep
from mosa.engine.machine import Machine
from mosa.engine.predict import load_classifier
from mosa.engine.reproduce import reproduce
from mosa.engine.run import execute
from mosa.experiment.config import expand, read_config
from mosa.experiment.outputs import expected_outputs
from mosa.experiment.plugins import load_plugins, used_by
from mosa.experiment.workflow import Workflow
from mosa.peft.conformance import check
from mosa.records import load_record, seal, write_record
from mosa.results.aggregate import Results
from mosa.results.collect import collect
from mosa.results.frame import load_records, read_table, to_frame
from mosa.results.registry import registered
from mosa.results.report.data import run_data
from mosa.results.tables.write import write_tables

TABLE = """
from mosa.results.registry import table
@table("mine", label="mine", caption="Mine.", formats=["md"])
def mine(results):
    return {{"md": {value}}}
"""
PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCK = re.compile(r"^```(?:py|yaml)\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SELECTION = '''
from typing import ClassVar
from pydantic import Field
from mosa.peft.method import Selection

class Mine(Selection):
    """The {where}."""

    name: ClassVar[str] = "mine"
    reference: ClassVar[str] = "none"
    size: int = Field(default=1, ge=1, description="Nothing.")

    def selected(self, model):
        return [{where}]
'''
MINE = SELECTION.format(where="model.pos_embed")
METRIC = """
from mosa.data.metrics import METRICS, Metric
METRICS["sure"] = Metric("sure", "sure", "", True, 2, lambda logits, labels: {value}, "How sure.")
"""


def names_of_plugins() -> set[str]:
    """What the registries have that modules outside of the package defined."""
    found = {
        name: registry.modules.get(name, "mosa") for registry in REGISTRIES.values() for name in registry
    }
    return {name for name, module in found.items() if module.split(".")[0] != "mosa"}


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = names_of_plugins()
    yield
    use(())
    assert names_of_plugins() == before


def write_config(folder: Path, names: list[str], variants: dict, **more) -> Path:
    content = {
        "name": "mine",
        "plugins": names,
        "benchmarks": {"demo": ["digits"]},
        "backbones": {"micro_vit": {"architecture": "mosa_vit_micro", "weights": "random"}},
        "seeds": [0],
        "training": {"epochs": 1, "batch_size": 16},
        "variants": {name: {"method": name, "options": options} for name, options in variants.items()},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content | more, sort_keys=False))
    return folder / "config.yaml"


def digests(config: Path) -> dict[str, str]:
    return {run.specification.variant: run.specification.digest for run in expand(read_config(config))}


# --- what the page says


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The files of docs/plugins.md as they stand, with images for its config, and its runs done."""
    folder = tmp_path_factory.mktemp("example")
    for name, text in BLOCK.findall(PAGE.read_text()):
        (folder / name).write_text(text)
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 2), ("test", 2)):
        (folder / "shapes" / split).mkdir(parents=True)
        for label, name in enumerate(("circle", "square")):
            for index in range(number):
                pixels = rng.integers(0, 100, (32, 32, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(
                    folder / "shapes" / split / f"{name}_{index}.png"
                )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        workflow = Workflow.of(read_config("config.yaml"))
        (pack,) = workflow.packed
        task = workflow.tasks["own/shapes"]
        source = workflow.packed[pack].data.source
        make_pack(task, folder / workflow.packs / pack, image_size=32, content=source)
        options = workflow.pack_options(pack)
        for path, run in workflow.runs.items():
            execute(run, Path(workflow.packs) / pack, Path(path), Machine(features=folder / "features"))
        (folder / "frozen").write_text(str(workflow.freeze()))
        (folder / "manifest").write_text(workflow.manifest)
    use(())
    return folder, options


def test_examples_run_as_they_stand(example, monkeypatch):
    """Each kind of plugin, from the config to records, tables and plots."""
    folder, options = example
    monkeypatch.chdir(folder)
    assert options[options.index("--plugin") + 1] == "my_layout.py"
    config = read_config("config.yaml")
    runs = expand(config)
    assert [one.specification.variant for one in runs] == ["linear", "lora", "tokens"]
    used = {one.specification.variant: [used.name for used in one.specification.plugins] for one in runs}
    assert set(used["lora"]) == {"my_backbone.py", "my_layout.py"}
    assert set(used["tokens"]) == {"my_backbone.py", "my_layout.py", "my_method.py"}
    record = load_record(Path(f"results/{runs[2].path}"))
    assert record["metric"] == "worst_class" and 0 <= record["metrics"]["worst_class"] <= 100
    assert record["parameters"]["adapter"] == 16 * 16
    assert record["data"]["classes"] == 2
    found, meant, _ = collect(Path(Path("manifest").read_text()), Path("results/tables/runs.csv"))
    assert found == meant == 3
    frame = read_table(Path("results/tables/runs.csv"))
    assert {"minutes.md", "minutes.csv"} <= {path.name for path in write_tables(frame, "results/tables")}
    assert "| tokens |" in Path("results/tables/minutes.md").read_text()
    assert "worst_class" in Path("results/tables/comparison.csv").read_text()
    arguments = ["compare", "a=results", "b=results", "--metric", "worst_class"]
    compared = run_mosa(folder, *arguments, "--plugin", "my_metric.py")
    assert compared.returncode == 0 and "worst class" in compared.stdout, compared.stderr
    (plot,) = [entry for entry in registered("plots") if entry.output.name == "losses"]
    assert len(plot.make(Results(frame)).axes[0].lines) == 3
    shown = [output.files for kind in ("tables", "plots") for output in expected_outputs(kind, config, runs)]
    assert ["minutes.md", "minutes.csv"] in shown and [
        "losses.svg",
        "losses.pdf",
        "losses.png",
        "losses.caption.txt",
    ] in shown


def test_a_job_of_a_cluster_plans_without_the_plugins(example, monkeypatch):
    """What was frozen is enough, even if the files are gone."""
    folder, _ = example
    monkeypatch.chdir(folder)
    found = Workflow.of(read_config("config.yaml")).runs
    meant = {path: run.specification.digest for path, run in found.items()}
    use(())
    monkeypatch.setattr(plugins, "_load", lambda wanted: pytest.fail("a plugin is imported"))
    frozen = Workflow.from_frozen(Path("frozen").read_text())
    assert {path: run.specification.digest for path, run in frozen.runs.items()} == meant
    assert all(load_record(Path(path))["status"] == "complete" for path in frozen.runs)


def test_methods_fit_a_plugins_backbone(example):
    folder, _ = example
    with using(Wanted("my_backbone.py", folder)):
        model, built = build_backbone("my_net", "random", num_classes=3, seed=1)
        assert built.image_size == 32 and built.mean == (0.5, 0.5, 0.5)
        peft.attach(model, "lora", rank=2, targets=["q", "fc1"])
        for words, options in (
            ("takes images of 32", {"image_size": 64}),
            ("drop_path=0.1", {"drop_path": 0.1}),
        ):
            with pytest.raises(UserError, match=words):
                build_backbone("my_net", "random", 3, **options)
    with pytest.raises(UserError, match="unknown architecture 'my_net'"):
        build_backbone("my_net", "random", num_classes=3)


# --- content decides


def test_editing_a_plugin_changes_the_specifications_of_its_runs_alone(tmp_path):
    plain = digests(write_config(tmp_path, [], {"linear": {}, "lora": {"rank": 2}}))
    (tmp_path / "my_method.py").write_text(MINE)
    (tmp_path / "my_metric.py").write_text(METRIC.format(value="0.5"))
    config = write_config(
        tmp_path, ["my_method.py", "my_metric.py"], {"linear": {}, "lora": {"rank": 2}, "mine": {}}
    )
    before = digests(config)
    assert plain.items() <= before.items()
    (tmp_path / "my_method.py").write_text(MINE + "\n# Another comment.\n")
    after = digests(config)
    assert plain.items() <= after.items() and after["mine"] != before["mine"]
    (tmp_path / "my_metric.py").write_text(METRIC.format(value="0.25"))
    assert digests(config) == after
    (tmp_path / "my_method.py").rename(tmp_path / "renamed.py")
    config = write_config(tmp_path, ["renamed.py"], {"linear": {}, "mine": {}})
    assert digests(config)["mine"] == after["mine"]  # what it is called is of no account


def test_why_a_record_is_made_again_names_the_plugin(tmp_path, pack, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(MINE)
    config = write_config(tmp_path, ["m.py"], {"linear": {}, "mine": {}})
    for path, run in Workflow.of(read_config(config)).runs.items():
        execute(run, pack, Path(path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "m.py").rename(tmp_path / "elsewhere" / "n.py")
    config = write_config(tmp_path, ["elsewhere/n.py"], {"linear": {}, "mine": {}})
    found = run_mosa(tmp_path, "verify", "--packs", tmp_path)
    assert "2 of 2 records are in order" in found.stdout and "plugin could not" not in found.stdout
    record = next(Path("results/runs").glob("*/*/*/mine/seed0.json"))
    with pytest.raises(UserError, match=r"m.py: no such file in .*, where the specification of the run says"):
        reproduce(record, None)
    (tmp_path / "elsewhere" / "n.py").rename(tmp_path / "m.py")
    (tmp_path / "m.py").write_text(MINE + "# A comment.\n")
    workflow = Workflow.of(read_config(write_config(tmp_path, ["m.py"], {"linear": {}, "mine": {}})))
    assert workflow.told_stale(workflow.stale_files()).splitlines() == [
        "stale: 1 record is of another specification (runs: 2), to be made again",
        "  mine (1): plugin m.py was edited",
    ]
    found = run_mosa(tmp_path, "verify", "--packs", tmp_path)
    assert re.search(r"plugins\.m\.py is '\w{16}', expected '\w{16}'", found.stdout)


def test_a_job_loads_its_plugins_from_the_specification_alone(tmp_path, pack, monkeypatch):
    """No config is there, and code of another digest is refused."""
    monkeypatch.chdir(tmp_path)
    Path("code").mkdir()
    Path("code/my_method.py").write_text(MINE)
    Path("code/my_metric.py").write_text(METRIC.format(value="0.5"))
    config = write_config(tmp_path / "code", ["my_method.py", "my_metric.py"], {"mine": {"size": 2}})
    workflow = Workflow.of(read_config(config))
    (run,) = workflow.runs.values()
    specification = workflow.specification_file(run)
    assert workflow.manifest and workflow.showing == ["code/my_metric.py"]
    config.unlink()
    use(())
    train = ["train", "--spec", specification, "--pack", pack, "--output"]
    result = run_mosa(tmp_path, *train, "run.json")
    assert result.returncode == 0, result.stderr
    record = load_record(tmp_path / "run.json")
    assert record["metrics"]["sure"] == 0.5 and record["specification"]["options"]["size"] == 2
    assert reproduce(tmp_path / "run.json", workflow_packs(pack, record)).verdict == "bit-equal"
    Path("code/my_method.py").write_text(MINE.replace("Nothing", "More"))
    result = run_mosa(tmp_path, *train, "again.json")
    assert result.returncode == 2 and "not the code of the specification" in result.stderr
    assert "Traceback" not in result.stderr and not Path("again.json").exists()
    result = run_mosa(tmp_path, "verify", "run.json")
    assert result.returncode == 1 and "its plugin had the digest" in result.stdout


def workflow_packs(pack: Path, record: dict) -> Path:
    """Put a pack where a record says that it is."""
    place = Path("packs") / record["specification"]["data"]["pack"]
    place.parent.mkdir(parents=True)
    place.symlink_to(pack)
    return Path("packs")


def test_runs_with_different_plugins_do_not_leak_into_one_another(tmp_path, pack):
    """Two files with a method of the same name, in one process, and a run without either."""
    records = {}
    for name, where in (
        ("a", "model.pos_embed"),
        ("b", "*model.blocks[0].norm1.parameters()"),
        ("a", "model.pos_embed"),
    ):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "m.py").write_text(SELECTION.format(where=where))
        (run,) = expand(read_config(write_config(folder, ["m.py"], {"mine": {}})))
        number = execute(run, pack, folder / "run.json")["parameters"]["adapter"]
        assert records.setdefault(name, number) == number
    assert records == {"a": 16 * 96, "b": 2 * 96}
    execute(spec("linear"), pack, tmp_path / "linear.json")
    assert "mine" not in peft.list_methods()


@pytest.mark.parametrize("way", ["METRICS |= dict(sure=sure)", "METRICS.setdefault('sure', sure)"])
def test_what_is_added_in_another_way_is_the_plugins_too(tmp_path, way):
    (tmp_path / "metric.py").write_text(METRIC.replace('METRICS["sure"] = ', "sure = ") + f"\n{way}\n")
    with using(Wanted("metric.py", tmp_path)) as found:
        assert found[0].names("metric") == ["sure"] and "sure" in METRICS
    assert "sure" not in METRICS


def test_a_metric_of_older_code_has_no_value(tmp_path, pack, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(METRIC.format(value="0.5"))
    config = write_config(tmp_path, ["m.py"], {"linear": {}})
    for value in ("0.5", "0.25"):
        Path("m.py").write_text(METRIC.format(value=value))
        workflow = Workflow.of(read_config(config))
        ((path, run),) = workflow.runs.items()
        if value == "0.5":
            execute(run, pack, Path(path))
        read_config(config)
        collect(Path(workflow.manifest), Path("runs.csv"))
        for column in (read_table(Path("runs.csv"))["sure"], load_records([Path(path)])["sure"]):
            assert column.isna().all() if value == "0.25" else column.tolist() == [0.5]


def test_a_run_whose_metric_has_no_value_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(METRIC.format(value="float('nan')").replace("sure", "5shot"))
    for split, name in product(("train", "val", "test"), ("cat", "dog")):
        Path(split, name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), len(split) + 99 * (name == "cat"), np.uint8)).save(
            Path(split, name, "one.png")
        )
    tasks = {"pets": {"layout": "folder", "root": ".", "metric": "5shot"}}
    config = write_config(tmp_path, ["m.py"], {"linear": {}}, benchmarks={"own": "all"}, tasks=tasks)
    workflow = Workflow.of(read_config(config))
    (packed,), (run,) = workflow.packed.values(), workflow.runs.values()
    make_pack(workflow.tasks["own/pets"], Path("pack"), image_size=32, content=packed.data.source)
    use(())
    assert workflow.manifest  # which writes the specifications
    where = ["--spec", workflow.specification_file(run), "--pack", "pack"]
    result = run_mosa(tmp_path, "train", *where, "--output", "run.json")
    assert result.returncode == 0 and "5shot no value on test (2 images)" in result.stdout, result.stderr
    with using(Wanted("m.py")):
        data = run_data(load_records([Path("run.json")]), [METRICS["5shot"], METRICS["top1"]])
    assert data["metrics"] == ["5shot", "top-1 (%)"] and data["runs"][0][2][0] == "—"


def test_a_metric_that_cannot_be_computed_is_told_before_training(tmp_path, pack):
    (tmp_path / "m.py").write_text(METRIC.format(value="logits.sum() / nothing"))
    (run,) = expand(read_config(write_config(tmp_path, ["m.py"], {"linear": {}})))
    with pytest.raises(UserError, match="metric 'sure' raises NameError: name 'nothing' is not defined"):
        execute(run, pack, tmp_path / "run.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINE.replace("return [", "return [nothing, "), "raises NameError: name 'nothing' is not defined"),
        (MINE + "\n    def fold(self, model):\n        return {}['x']\n", "raises KeyError: 'x'"),
    ],
)
def test_a_broken_method_is_found_before_any_run(tmp_path, monkeypatch, text, words):
    """Its check is a job that all runs wait for, on the demo, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(text)
    workflow = Workflow.of(read_config(write_config(tmp_path, ["m.py"], {"linear": {}, "mine": {}})))
    result = run_mosa(tmp_path, "check", "--alone", "--configfile", workflow.checked_config)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert re.search(rf"variant mine: plugin m\.py, line \d+: {re.escape(words)}", result.stdout)
    (tmp_path / "m.py").write_text(METRIC.format(value="0.5"))
    assert Workflow.of(read_config(write_config(tmp_path, ["m.py"], {"linear": {}}))).checked_config is None


def test_a_reader_that_raises_is_a_finding(tmp_path, example, monkeypatch):
    shutil.copytree(example[0] / "shapes", tmp_path / "shapes")
    for name, text in BLOCK.findall(PAGE.read_text()):
        (tmp_path / name).write_text(text.replace("files = sorted", "files = nothing or sorted"))
    monkeypatch.chdir(tmp_path)
    result = run_mosa(tmp_path, "check")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "plugin my_layout.py, line 10: raises NameError: name 'nothing' is not defined" in result.stdout


def test_a_table_that_raises_is_blamed_and_leaves_the_others(tmp_path):
    (tmp_path / "m.py").write_text(TABLE.format(value="str(results.nothing)"))
    write_record(seal(make_record()), tmp_path / "runs" / "mosa" / "seed0.json")
    arguments = ("tables", "--plugin", "m.py", "--records", tmp_path / "runs", "--output", "tables")
    result = run_mosa(tmp_path, *arguments)
    *shown, last = result.stderr.strip().splitlines()
    assert result.returncode == 2 and last == (
        "error: plugin m.py, line 5: raises AttributeError: 'Results' object has no attribute 'nothing'"
    )
    assert shown[0].startswith("Traceback") and f'"{tmp_path / "m.py"}"' in shown[1]  # from its own code on
    assert (tmp_path / "tables" / "comparison.csv").exists()
    assert not (tmp_path / "tables" / "mine.md").exists()


@pytest.mark.parametrize(
    ("text", "only", "words", "left"),
    [
        (
            '{"md": 5}',
            "mine",
            r"plugin m\.py: what the table 'mine' returns cannot be written as md \(Ty",
            False,
        ),
        (
            "{}",
            "mine",
            r"'mine' returns cannot be written as md \(KeyError: 'md'\); expected the text",
            False,
        ),
        ("1 / 0", "mine", "division by zero", False),
        ("None", "mine", "", False),
        ("None", "efficiency", "", True),
        ("None", "mines", "unknown table 'mines'.*did you mean 'mine'", True),
        ('{"md": "now"}', "mine", "", True),
    ],
)
def test_tables_are_written_by_name_and_leave_no_file_of_an_earlier_time(tmp_path, text, only, words, left):
    (tmp_path / "m.py").write_text(TABLE.format(value=0).replace('{"md": 0}', text))
    (tmp_path / "mine.md").write_text("earlier")
    frame = to_frame([(make_record(), tmp_path / "runs")])
    expected = pytest.raises(Exception, match=words) if words else contextlib.nullcontext()
    with using(Wanted("m.py", tmp_path)), expected:
        write_tables(frame, tmp_path, only=[only])
    assert (tmp_path / "mine.md").exists() == left and not (tmp_path / "comparison.md").exists()


# --- what is wrong is said in one sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINE.replace('"mine"', '"lora"'), "there is a method 'lora' already"),
        ("x = 1 / 0", r"m\.py, line 1: cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("x = (", r"m\.py, line 1: cannot be imported \(SyntaxError"),
        ("import beside", "No module named 'beside'"),
        ("raise SystemExit(3)", r"cannot be imported \(SystemExit: 3\)"),
        ("x = 1", "defines no method, backbone, data layout, metric, table or plot"),
        (None, r"m\.py: no such file in "),
        (
            MINE.replace("Field(default=1, ge=1, ", "Field(ge=1, "),
            "option 'size' of method 'mine' has no default",
        ),
        (MINE.replace(', description="Nothing."', ""), "option 'size' of method 'mine' has no description"),
        (METRIC.replace('"sure"', '"top1"'), "there is a metric 'top1' already"),
        (METRIC + 'METRICS |= dict(top1=METRICS["sure"])', "there is a metric 'top1' already"),
        (
            METRIC.replace('"sure"', '"top1"').replace("METRICS[", "METRICS.pop('top1')\nMETRICS["),
            r"plugin m\.py: takes the metric 'top1' away, which is not its own",
        ),
        (METRIC + "del METRICS['nll']", "takes the metric 'nll' away"),
        (METRIC + "METRICS.clear()", "takes the metric 'top1' away"),
        (METRIC + "METRICS.pop('sure')\nMETRICS.popitem()", "takes the metric 'ece' away"),
        (
            f"from mosa.peft.method import _REGISTRY\n_REGISTRY.pop('lora', None){MINE}".replace(
                '"mine"', '"lora"'
            ),
            "takes the method 'lora' away",
        ),
        (METRIC.replace('["sure"]', '["other"]'), "metric 'sure' is registered as 'other'"),
        (METRIC.replace('"sure"', '"So sure"'), "'So sure' cannot be part of a path"),
        (
            "from mosa.results.registry import plot\nplot('scaling', label='x', caption='x')(print)",
            "there is a plot 'scaling' already",
        ),
        (
            "from mosa.backbones.own import backbone\n"
            "@backbone(input_size=(3, 8, 8))\ndef resnet18(num_classes): ...",
            "timm has an architecture of this name",
        ),
        (
            "from mosa.backbones.own import backbone\n@backbone(input_size=32)\ndef net(num_classes): ...",
            r"input_size=32: expected \(3, side, side\), in pixels",
        ),
        (
            "from mosa.backbones.own import backbone\n"
            "@backbone(input_size=(3, 8, 8), std=(0.5, 0.5))\ndef net(num_classes): ...",
            r"std=\(0.5, 0.5\): expected a number for each of the 3 channels",
        ),
    ],
)
def test_a_wrong_plugin_is_refused_with_file_and_line(tmp_path, text, words):
    if text is not None:
        (tmp_path / "m.py").write_text(text.format(value=0))
    config = write_config(tmp_path, ["m.py"], {"linear": {}})
    before = {kind: set(registry) for kind, registry in REGISTRIES.items()}
    with pytest.raises(UserError, match=words) as error:
        read_config(config)
    assert all(before[kind] <= set(REGISTRIES[kind]) for kind in before)
    assert str(error.value).startswith(f"{config}, line ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, r"line \d+: variants.mine.options.size: 0 is less than the minimum of 1"),
        ({"sise": 1}, r"line \d+: variants.mine.options.sise: unknown key 'sise'.*did you mean 'size'"),
    ],
)
def test_options_of_a_plugins_method_are_validated(tmp_path, options, words):
    (tmp_path / "m.py").write_text(MINE)
    with pytest.raises(UserError, match=words):
        read_config(write_config(tmp_path, ["m.py"], {"mine": options}))


def test_an_unknown_module(tmp_path):
    with pytest.raises(UserError, match="there is no module 'no_such_package'; install its package"):
        read_config(write_config(tmp_path, ["no_such_package.plugin"], {"linear": {}}))


# --- modules, and installed packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that is installed, with an entry point."""
    site = tmp_path / "site"
    info = site / "their_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mosa.plugins]\ntheirs = their_plugin.peft\n")
    (site / "their_plugin").mkdir()
    (site / "their_plugin" / "__init__.py").write_text("")
    (site / "their_plugin" / "peft.py").write_text("from their_plugin.inner import *\n" + MINE)
    (site / "their_plugin" / "inner.py").write_text("")
    monkeypatch.syspath_prepend(site)
    plugins.installed.cache_clear()
    yield site / "their_plugin"
    use(())
    monkeypatch.undo()
    plugins.installed.cache_clear()
    for known in (sys.modules, plugins._LOADED):
        for key in [key for key in known if "their_plugin" in str(key)]:
            del known[key]


def test_an_installed_package_offers_its_plugin(package, tmp_path):
    """By its entry point; its digest is that of all files of the package."""
    config = write_config(tmp_path, [], {"linear": {}, "mine": {}})
    before = digests(config)
    (package / "inner.py").write_text("CHANGED = 1\n")
    after = digests(config)
    assert after["linear"] == before["linear"] and after["mine"] != before["mine"]
    use(())
    assert peft.get_method("mine").name == "mine"  # of the library alone, too


def test_a_module_that_was_imported_before_is_known_by_its_names(package, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "installed", lambda: ())
    import their_plugin.peft  # noqa: F401

    with using(Wanted("their_plugin.peft")) as (plugin,):
        assert plugin.names("method") == ["mine"]


# --- mosa conformance, and mosa new

BRANCH = _TEMPLATE.format(name="mine", title="Mine")
BROKEN = {
    "lost zero-init": (
        [("nn.init.zeros_(self.b.weight)", "nn.init.normal_(self.b.weight, generator=rng)")],
        "starts as it says: attaching changes the output by up to .*is its last layer zero at the start",
    ),
    "unfrozen trunk": (
        [("mlp.register", "block.norm1.requires_grad_(True)\n            mlp.register")],
        "counts by formula: .*tensors of the backbone are among them, such as 'blocks.0.norm1.bias'",
    ),
    "wrong merge": (
        [("class Branch", """    def fold(self, model):
        for block in find_blocks(model):
            block.mine_branch.scale *= 2
        return self


class Branch""")],
        "merges: merging changes the output by up to ",
    ),
    "untracked buffer": (
        [
            ("self.scale, self.dim", "self.seen = torch.ones(1)\n        self.scale, self.dim"),
            ("        return self.scale *", "        self.seen = self.seen + self.training\n"
             "        return self.seen * self.scale *"),
        ],
        "survives saving: after saving and loading, the output differs by up to .*register_buffer",
    ),
    "missing gradient": (
        [("self.a(m.movedim(self.dim, -1))", "self.a(m.movedim(self.dim, -1)).detach()")],
        "attach: mine does not fit VisionTransformer: 3 of 8 tuned tensors do not act on the output, such as "
        "'blocks.0.mine_branch.a.weight'",
    ),
    "attached and bypassed": (
        [("            mlp.register_forward_hook(block.mine_branch.add_to_output)\n", "")],
        "attach: .*because Block never calls 'blocks.0.mine_branch'",
    ),
    "writes to the images": (
        [("rng = gen", """model.register_forward_pre_hook(
            lambda model, inputs: (inputs[0].add_(1), None)[1]
        )
        rng = gen""")],
        "starts as it says: attaching changes the output by up to ",
    ),
    "casts its modules": (
        [("self.b(self.a(m.movedim", "self.b.float()(self.a.float()(m.float().movedim")],
        "keeps the dtype: a forward changes the dtype of the model's parameters",
    ),
    "computes over the batch": (
        [("output + self(output)", "output + self(output - output.mean(0, keepdim=True))")],
        "treats images apart: the output for an image differs by up to .* when the image is alone",
    ),
    "draws from torch's generator": (
        [("std=width**-0.5, generator=rng", "std=width**-0.5")],
        "repeats exactly: two trainings with the same seed differ, perhaps by what was drawn from torch's",
    ),
    "merges by the order in memory": (
        [("class Branch", """    def fold(self, model):
        for block in find_blocks(model):
            for layer in (block.mine_branch.a, block.mine_branch.b):
                weight = layer.weight.data
                weight.copy_(weight.as_strided(weight.shape, (weight.shape[1], 1)).clone())
        return self


class Branch""")],
        "merges: merging changes the output by up to .* where weights lie in memory in another order",
    ),
    "stays, and declares that it merges away": (
        [("    def apply", "    merges_away: ClassVar = True\n\n    def apply")],
        "merges: merges_away is declared, and the merged model has other modules than the backbone",
    ),
    "options without bounds": (
        [("Field(default=8, ge=1, ", "Field(default=8, ")],
        "describes itself: option 'rank' takes any integer: say the smallest",
    ),
    "raises when it is made": (
        [("    def apply", "    def unfit(self, model):\n        raise KeyError('blocks')\n\n    def apply")],
        r"options: raises KeyError: 'blocks' \(m.py, line \d+\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_caught_in_words(name, tmp_path):
    changes, words = BROKEN[name]
    text = BRANCH
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "m.py").write_text(text)
    with using(Wanted("m.py", tmp_path)):
        (found,) = check("mine", {}, ["vit"])
    lines = [f"{which}: {problem}" for which, problem in found.problems.items()]
    assert any(re.search(words, line) for line in lines), lines


def test_the_template_passes_as_it_is_written(tmp_path):
    result = run_mosa(tmp_path, "new", "method", "my_method")
    assert result.returncode == 0 and "mosa conformance my_method.py:MyMethod" in result.stdout
    where = ["--architecture", "vit_avgpool", "--architecture", "convnext", "--option", "rank=2"]
    result = run_mosa(tmp_path, "conformance", "my_method.py:MyMethod", *where)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "MyMethod: 2 of 2 architectures are in order" in result.stdout
    listed = run_mosa(tmp_path, "methods", "--plugin", "my_method.py").stdout
    assert "my_method: A low-rank branch on the output of every MLP." in listed and "    rank = 8" in listed
    (tmp_path / "my_method.py").write_text(BRANCH.replace("2 * block", "3 * block"))
    result = run_mosa(tmp_path, "conformance", "my_method.py:Mine", *where[:2])
    assert result.returncode == 1 and "counts by formula" in result.stdout


def test_the_template_passes_whatever_its_name(tmp_path):
    run_mosa(tmp_path, "new", "method", "mlp")
    result = run_mosa(tmp_path, "conformance", "mlp.py:Mlp", "--architecture", "vit_avgpool")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "method", "lora"], "there is a method 'lora' already"),
        (["new", "method", "My-Method"], "expected lower-case letters"),
        (["new", "method", "lambda"], "expected lower-case letters"),
        (["compare", "a", "b", "--plugin", "none.py"], "none.py: no such file"),
        (["conformance", "none.py:Mine"], "none.py: no such file"),
        (["conformance", "m.py:Other"], "unknown method 'Other' of m.py: expected one of Mine"),
        (["conformance", "m.py:Mine", "--architecture", "vitt"], "unknown architecture 'vitt'"),
        (["conformance", "m.py:Mine", "--option", "size=0"], "greater than or equal to 1"),
        (["schema", "--output", "x"], "name one with --configfile"),
    ],
)
def test_mistakes_of_commands_end_with_one_sentence(tmp_path, arguments, words):
    (tmp_path / "m.py").write_text(MINE)
    result = run_mosa(tmp_path, *arguments)
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr


def test_the_schema_of_a_config_has_its_plugins(tmp_path):
    (tmp_path / "m.py").write_text(MINE)
    config = write_config(tmp_path, ["m.py"], {"mine": {}})
    result = run_mosa(tmp_path, "schema", "--alone", "--configfile", config, "--output", "out")
    assert result.returncode == 0, result.stderr
    schema = json.loads((tmp_path / "out" / "config.schema.json").read_text())
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema)
    content = yaml.safe_load(config.read_text())
    assert not list(validator.iter_errors(content))
    content["variants"]["mine"]["options"] = {"size": 0}
    assert [error.message for error in validator.iter_errors(content)] == ["0 is less than the minimum of 1"]
    assert "### Method `mine`" in (tmp_path / "out" / "plugins.md").read_text()


def test_a_metric_of_a_plugin_is_not_among_those_of_the_package(tmp_path):
    (tmp_path / "m.py").write_text(METRIC.format(value="0.5"))
    with using(Wanted("m.py", tmp_path)):
        assert "sure" in METRICS and METRICS["sure"].compute(torch.zeros(1, 1), torch.zeros(1)) == 0.5
    assert "sure" not in METRICS


SHRINK = '''
from typing import ClassVar
from pydantic import Field
from mosa.peft.method import Selection

class Shrink(Selection):
    """Changes what is before the classifier, and trains nothing of it."""

    name: ClassVar[str] = "shrink"
    reference: ClassVar[str] = "none"
    by: float = Field(default=1.0, description="Factor.")

    def apply(self, model, seed):
        super().apply(model, seed)
        model.pos_embed.data.mul_({factor} * self.by)

    def selected(self, model):
        return []
'''


def test_kept_features_are_of_the_plugins_code_and_options(pack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    losses = []
    for factor, by in ((1, 1.0), (1, 50.0), (20, 1.0)):
        Path("shrink.py").write_text(SHRINK.format(factor=factor))
        used = used_by(load_plugins(["shrink.py"]), "shrink", "mosa_vit_micro", "")
        run = spec("shrink", options={"by": by}, weights="builtin", training={"epochs": 1}, **used)
        record = execute(run, pack, tmp_path / "seed0.json", Machine(features=tmp_path), Keep(model=True))
        losses.append(record["metrics"]["train_loss"][0])
    assert len(set(losses)) == 3
    use(())
    load_classifier(tmp_path / "seed0.json")  # with the plugin, as the record names it
    Path("shrink.py").write_text(SHRINK.format(factor=1))
    with pytest.raises(UserError, match="not the code of the specification"):
        load_classifier(tmp_path / "seed0.json")


def test_a_file_that_imports_one_beside_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does with the working directory
    (tmp_path / "helper_of_mine.py").write_text("SIZE = 1\n")
    (tmp_path / "mine.py").write_text(f"import helper_of_mine\n{MINE}")
    for _ in range(2):
        with pytest.raises(UserError, match="imports 'helper_of_mine', which lies beside it"):
            use([Wanted("mine.py", tmp_path)])
    (tmp_path / "inside").mkdir()
    with pytest.raises(UserError, match="imports 'helper_of_mine', which lies beside it"):
        use([Wanted("../mine.py", tmp_path / "inside")])


def test_a_module_without_a_file_lies_beside_nothing(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    (tmp_path / "mine.py").write_text(f"import xxsubtype\n{MINE}")
    monkeypatch.delitem(sys.modules, "xxsubtype", raising=False)
    assert use([Wanted("../mine.py")])[0].names("method") == ["mine"]


def test_the_plugin_that_is_at_fault_is_named_with_its_line(tmp_path):
    (tmp_path / "good.py").write_text(MINE)
    config = write_config(tmp_path, ["good.py", "below/missing.py"], {"linear": {}})
    line = config.read_text().splitlines().index("- below/missing.py") + 1
    with pytest.raises(UserError, match=f"line {line}: plugins.1: plugin below/missing.py: no such file"):
        read_config(config)
