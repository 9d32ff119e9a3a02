"""The workflow, run for real on a tiny config: what runs, what does not, and what a failure leaves."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from workspace import CONFIG, REFRESH, SEEDS, TASKS, Workspace

from mosa.records import load_record
from mosa.results.predictions import read

pytestmark = pytest.mark.slow
RUNS = len(TASKS) * len(SEEDS) * len(CONFIG["variants"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tiny experiment, run to its end, in a folder whose name needs quoting."""
    workspace = Workspace(tmp_path_factory.mktemp("a 'work' folder $(touch hacked) `touch hacked`"))
    workspace.give_small_packs()
    result = workspace.snakemake()
    assert result.returncode == 0, result.stderr[-3000:]
    assert "\nreport, for a browser: results/report.html\n" in result.stderr
    return workspace


@pytest.fixture
def workspace(finished):
    """The finished experiment, with its own config again."""
    finished.configure(CONFIG)
    return finished


def test_every_run_leaves_one_valid_record(workspace):
    expected = {
        f"results/runs/demo/{task}/micro_vit/{variant}/seed{seed}.json"
        for task in TASKS
        for variant in CONFIG["variants"]
        for seed in SEEDS
    }
    assert {str(path.relative_to(workspace.folder)) for path in workspace.records()} == expected
    for path in workspace.records():
        record = load_record(path)
        run = record["specification"]
        assert str(path).endswith(
            f"{run['task']}/{run['backbone']['name']}/{run['variant']}/seed{record['seed']}.json"
        )
        assert record["specification"]["training"]["epochs"] == 1 and record["splits"]["eval"] == "test"
        predictions = read(path)  # verified by the digest in the record
        assert 100 * predictions.correct.mean() == pytest.approx(record["metrics"]["top1"], rel=1e-12)


def test_tables_and_plots_are_there(workspace):
    for name in ("comparison", "sweep"):
        for kind in ("csv", "md", "tex", "txt"):
            assert (workspace.folder / f"results/tables/{name}.{kind}").stat().st_size > 200
    for name in ("differences", "agreement", "classes", "confused", "intervals", "mcnemar"):
        for kind in ("csv", "md"):
            text = (workspace.folder / f"results/tables/{name}.{kind}").read_text()
            assert text.count("\n") > 2 and "No run" not in text and "Left out" not in text
            assert "mosa" in text or (name, kind) == ("confused", "md")  # of the best variant alone
    for name in ("comparison", "scaling", "compute", "ranks", "confusion", "reliability", "agreement"):
        for kind in ("svg", "pdf", "png"):
            assert (workspace.folder / f"results/plots/{name}.{kind}").stat().st_size > 2000
    assert "tiny" in (workspace.folder / "results/report.html").read_text()
    text = (workspace.folder / "results/tables/comparison.txt").read_text()
    assert all(variant in text for variant in CONFIG["variants"])
    assert not list(workspace.folder.rglob("hacked")) and not Path("hacked").exists()  # a name is no command
    hidden = [path for path in workspace.folder.glob("results/**/.*") if not path.name.endswith(".lock")]
    assert not hidden  # no temporary file is left


def test_a_second_run_does_nothing(workspace):
    assert workspace.planned() == {}


def test_a_new_seed_runs_its_runs_and_refreshes_the_tables(workspace):
    workspace.configure(CONFIG | {"seeds": [*SEEDS, 2]})
    assert workspace.planned() == {"train": len(TASKS) * len(CONFIG["variants"])} | REFRESH


def test_a_new_task_runs_its_runs_and_refreshes_the_tables(workspace):
    workspace.configure(CONFIG | {"benchmarks": {"demo": [*TASKS, "tissue"]}})
    assert workspace.planned() == {"make_data": 1, "train": len(SEEDS) * len(CONFIG["variants"])} | REFRESH


def test_a_changed_option_reruns_that_variant_alone(workspace):
    variants = CONFIG["variants"] | {"mosa": {"method": "mosa", "options": {"experts": 2}}}
    workspace.configure(CONFIG | {"variants": variants})
    assert workspace.planned() == {"train": len(TASKS) * len(SEEDS)} | REFRESH
    planned = workspace.snakemake("-n")
    assert set(re.findall(r"variant=(\w+)", planned.stdout)) == {"mosa"}
    number = len(TASKS) * len(SEEDS)
    assert f"  mosa ({number}): options.experts was 4, and is 2\n" in planned.stderr


def test_a_removed_variant_leaves_the_tables_and_trains_nothing(workspace):
    variants = {name: value for name, value in CONFIG["variants"].items() if name != "lora"}
    workspace.configure(CONFIG | {"variants": variants})
    assert workspace.planned() == REFRESH


def test_comments_documentation_and_order_rerun_nothing(workspace):
    config = workspace.folder / "config.yaml"
    # Nor does what is to be kept from now on, nor predictions that are no longer there.
    kept = workspace.folder / "results/runs/demo/digits/micro_vit/mosa/seed0.predictions.safetensors"
    aside = kept.rename(workspace.folder / "aside")
    config.write_text("# A comment.\n" + yaml.safe_dump(CONFIG | {"keep": {"model": True}}, sort_keys=True))
    for file in (workspace.folder / "Snakefile", *(workspace.folder / "rules").glob("*.smk")):
        file.write_text(file.read_text() + "\n# Another comment.\n")
    (workspace.folder / "README.md").write_text("New documentation.\n")
    planned = workspace.planned()
    # The order of variants is the order of the table's rows, so tables may be made again; runs never.
    assert "train" not in planned and "make_data" not in planned
    aside.rename(kept)
    config.write_text("# A comment.\n" + yaml.safe_dump(CONFIG, sort_keys=False))
    assert workspace.planned() == {}


def test_tables_and_plots_come_from_the_records_alone(workspace):
    before = {path: path.read_bytes() for path in (workspace.folder / "results/tables").iterdir()}
    shutil.rmtree(workspace.folder / "results/tables")
    shutil.rmtree(workspace.folder / "results/plots")
    result = workspace.snakemake("tables", "plots")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "rule train:" not in result.stdout + result.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert workspace.planned() == {}


def test_partial_tables_train_nothing(workspace):
    missing = workspace.folder / "results/runs/demo/count/micro_vit/mosa/seed1.json"
    content, times = missing.read_bytes(), missing.stat()
    missing.unlink()
    try:
        result = workspace.snakemake("partial")
        assert result.returncode == 0, result.stderr[-3000:]
        assert "rule train:" not in result.stdout + result.stderr and not missing.exists()
        assert f"{RUNS - 1} of {RUNS} records" in (workspace.folder / "results/logs/partial.log").read_text()
        assert "mosa" in (workspace.folder / "results/partial/comparison.txt").read_text()
    finally:
        missing.write_bytes(content)
        os.utime(missing, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert workspace.planned("partial") == {"partial": 1}  # there is a record more


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sedes": [1]}, "unknown key 'sedes'.*did you mean 'seeds'"),
        ({"seeds": [1, 1]}, "seeds: 1 is listed twice"),
        ({"variants": {"a": {"method": "mozza"}}}, "variants.a.method: unknown method 'mozza'.*'mosa'"),
        ({"benchmarks": {"demo": ["digitz"]}}, "unknown task 'digitz'.*did you mean 'digits'"),
    ],
)
def test_wrong_configs_are_refused_before_any_job(workspace, change, words):
    workspace.configure(CONFIG | change)
    result = workspace.snakemake()
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert re.search(words, output) and "config.yaml, line " in output
    assert "Traceback" not in output and "Job stats" not in output


def test_a_wrong_overlay_is_told_by_its_own_file_and_line(workspace):
    (workspace.folder / "overlay.yaml").write_text("name: more\nseeds: [1, 1]\n")
    result = workspace.snakemake("-n", "--configfile", "overlay.yaml")
    assert result.returncode != 0
    assert "overlay.yaml, line 2: seeds: 1 is listed twice" in result.stdout + result.stderr


BAD = {"lr": 1e30, "warmup_epochs": 0, "batch_size": 4}


def test_a_diverging_run_fails_alone_and_says_why(workspace):
    variants = CONFIG["variants"] | {"bad": {"method": "full", "training": BAD}}
    workspace.configure(CONFIG | {"variants": variants, "seeds": [0], "benchmarks": {"demo": ["digits"]}})
    result = workspace.snakemake()
    assert result.returncode != 0
    run = "demo/digits/micro_vit/bad/seed0"
    assert not (workspace.folder / f"results/runs/{run}.json").exists()
    log = (workspace.folder / f"results/logs/train/{run}.log").read_text()
    assert re.search(r"error: demo/digits bad seed 0: the loss is (nan|inf) at epoch 1, step \d+ of", log)
    assert log.strip().splitlines()[-1] in result.stdout + result.stderr  # shown at the end
    assert len(workspace.records()) == RUNS


def test_hyper_parameters_are_chosen_on_val_and_taken_by_the_final_runs(workspace):
    variants = {"adapter": CONFIG["variants"]["adapter"]}
    space = {"adapter": {"training": {"lr": [1e-9, 0.01]}}}
    config = CONFIG | {
        "seeds": [0],
        "paths": {"results": "results/tuned", "packs": "results/packs"},
        "variants": variants,
        "sweeps": {"size": {"adapter": {"bottleneck": [4]}}},
        "tune": {"per": "benchmark", "variants": space},
        "training": {"epochs": 1, "batch_size": 8},
    }
    targets = ("tables", "results/tuned/tables/chosen.md")
    workspace.configure(config)
    result = workspace.snakemake(*targets)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = workspace.folder / "results/tuned"
    records = [load_record(path) for path in folder.glob("runs/**/*.json")]
    assert len(records) == len(TASKS) * 2
    assert {record["specification"]["training"]["lr"] for record in records} == {0.01}
    assert {record["splits"]["eval"] for record in records} == {"test"}
    trained = list(folder.glob("tune/records/**/*.json"))
    assert len(trained) == len(TASKS) * 2
    assert {load_record(path)["splits"]["eval"] for path in trained} == {"val"}
    assert "lr 0.01\\* (" in (folder / "tables/chosen.md").read_text()
    assert workspace.planned(*targets) == {}

    # A larger grid trains what is new.
    before = {path: path.stat().st_mtime_ns for path in trained}
    space = {"adapter": {"training": {"lr": [1e-9, 1e-8, 0.01]}}}
    workspace.configure(config | {"tune": {"per": "benchmark", "variants": space}})
    assert workspace.snakemake(*targets).returncode == 0
    assert len(list(folder.glob("tune/records/**/*.json"))) == len(TASKS) * 3
    records = [load_record(path) for path in folder.glob("runs/**/*.json")]
    assert {record["specification"]["training"]["lr"] for record in records} == {0.01}
    assert len(records) == len(TASKS) * 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert workspace.planned(*targets) == {}


def test_a_report_holds_tables_and_plots(workspace):
    result = workspace.snakemake("--report", "report.html")
    assert result.returncode == 0, result.stderr[-3000:]
    text = (workspace.folder / "report.html").read_text()
    assert "scores against tuned parameters" in text and "comparison by group" in text


def test_the_same_seed_gives_the_same_record(workspace):
    """One run again, by the command that the workflow printed, to the same metrics bit by bit."""
    path = workspace.folder / "results/runs/demo/digits/micro_vit/mosa/seed1.json"
    first = json.loads(path.read_text())
    (pack,) = workspace.folder.glob("results/packs/demo/digits-*.safetensors")
    spec = workspace.folder / f"results/specifications/{first['specification_digest'][:16]}.json"
    arguments = ["--spec", spec, "--pack", pack, "--seed", 1, "--output", "again.json"]
    assert workspace.mosa("train", *arguments).returncode == 0
    again = json.loads((workspace.folder / "again.json").read_text())
    assert again["metrics"] == first["metrics"]


def test_a_pack_that_is_made_again_says_that_the_rest_is_still_to_come(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.configure(
        CONFIG | {"benchmarks": {"demo": ["digits"]}, "variants": {"linear": {"method": "linear"}}}
    )
    workspace.give_small_packs()
    result = workspace.snakemake("-R", "make_data")  # as after an interruption
    assert result.returncode == 0, result.stderr[-3000:]
    assert not workspace.records()  # Snakemake 9 ends after the pack
    assert "not everything is made yet: run the same command again" in result.stderr
    assert "report, for a browser" not in result.stderr
    result = workspace.snakemake()
    assert "report, for a browser: results/report.html" in result.stderr and len(workspace.records()) == 2
