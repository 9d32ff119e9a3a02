"""Tuning: what is tried, on which splits, what is chosen, and that a search goes on where it stopped."""

import contextlib
import copy
import csv
import json
import math
import re
import statistics
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import save_file
from standin import image, save

from mosa.base.errors import UserError
from mosa.cli.commands import cli
from mosa.data.layouts.source import deal
from mosa.data.packs import Pack
from mosa.engine import run as running
from mosa.experiment.config import Run, expand, load_config, read_config
from mosa.experiment.plan import plan
from mosa.experiment.space import Trial, beyond, count_trainings, grid_size, make_trials, search_settings
from mosa.experiment.specification import Specification, make_specification
from mosa.experiment.workflow import Workflow
from mosa.records import load_record
from mosa.results.choices import write_choices
from mosa.search import trials as searches
from mosa.search.choose import choose, chosen_for, read_choice, write_choice
from mosa.search.trials import Search, run_search

CONFIG = yaml.safe_load("""
name: tiny
benchmarks: {demo: [digits, count]}
backbones: {micro_vit: {architecture: mosa_vit_micro}}
seeds: [0, 1]
training: {epochs: 4}
variants:
  linear: {method: linear}
  adapter: {method: adapter, options: {bottleneck: 4}}
sweeps: {size: {adapter: {bottleneck: [8]}}}
tune:
  variants:
    linear: {training: {lr: [0.01, 0.1, 1]}}
    adapter: {training: {lr: [0.01, 0.1, 1]}}
""")
RUN = Run(make_specification("demo/digits", "linear", training={"epochs": 2, "batch_size": 16}))
GRID = Search({"training": {"lr": [0.001, 0.1]}, "options": {}})


def space(**training):
    return {"training": training, "options": {}}


def entry(top1, loss=1.0, status="complete", lr=0.1):
    return {"options": {}, "training": {"lr": lr}, "status": status, "epochs": 2, "top1": top1, "loss": loss}


def written(path, entries, **changes):
    content = {
        "version": 2,
        "specification": "0" * 64,
        "task": f"demo/{path.stem}",
        "backbone": "b",
        "variant": "v",
        "method": "linear",
    }
    path.write_text(json.dumps(content | {"search": {"kind": "grid"}, "trials": entries} | changes))
    return path


def train(pack, tmp_path, *arguments):
    """Call `mosa train` and return its record."""
    output = tmp_path / "run.json"
    what = [
        "--task",
        RUN.specification.task,
        "--pack",
        str(pack),
        "--method",
        "linear",
        "--output",
        str(output),
    ]
    done = CliRunner().invoke(cli, ["train", *what, *arguments])
    assert done.exit_code == 0, done.output
    return load_record(output)


# --- what is tried


def test_a_grid_is_every_combination():
    both = {"training": {"lr": [1, 2], "weight_decay": [0, 0.1, 0.2]}, "options": {"bottleneck": [4, 8]}}
    trials = make_trials(both, "adapter")
    assert len(trials) == grid_size(both) == 12
    assert trials[0].training == {"lr": 1, "weight_decay": 0} and trials[0].options == {"bottleneck": 4}
    assert trials[1].options == {"bottleneck": 8}
    assert len({json.dumps([t.training, t.options]) for t in trials}) == 12


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_samples_are_seeded_in_range_and_begin_with_shorter_ones(kind):
    both = {
        "training": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "weight_decay": [0, 0.1]},
        "options": {"bottleneck": {"low": 4, "high": 64}},
    }
    trials = make_trials(both, "adapter", kind, 16, seed=3)
    assert trials == make_trials(both, "adapter", kind, 16, seed=3)
    assert trials != make_trials(both, "adapter", kind, 16, seed=4)
    assert trials[:5] == make_trials(both, "adapter", kind, 5, seed=3)
    assert all(1e-4 <= trial.training["lr"] <= 1e-1 for trial in trials)
    below = sum(trial.training["lr"] < 10**-2.5 for trial in trials)
    assert (below == 8) if kind == "sobol" else (3 <= below <= 13)  # evenly in the logarithm
    assert {trial.training["weight_decay"] for trial in trials} == {0, 0.1}
    assert all(isinstance(trial.options["bottleneck"], int) for trial in trials)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("variants", "linear", "training", "lr"), [0.1], "they have linear 1, adapter 3"),
        (("variants", "linear"), KeyError, "'linear' has no entry"),
        (("variants", "linear"), None, "variants.linear: is empty, and null drops what another file has"),
        (("variants", "mosa"), {"training": {"lr": [1]}}, "unknown variant 'mosa'"),
        (("variants", "linear", "training", "rate"), [1], "unknown key 'rate'"),
        (("variants", "linear", "options", "bottleneck"), [1, 2, 3], "unknown key 'bottleneck'"),
        (("variants", "linear", "training", "lr"), [0.1, -1, 1], "-1"),
        (("variants", "linear", "training", "lr"), [0.1, 0.1, 1], "0.1 is listed twice"),
        (("variants", "linear", "training", "lr"), {"low": 0.1, "high": 1}, "a grid takes a list"),
        (("variants", "linear", "training", "lr"), {"low": 0.1, "hi": 1}, "unknown key 'hi'"),
        (("variants", "linear", "training", "lr"), 0.1, "a list of values, or a range"),
        (("variants", "adapter", "options"), {"bottleneck": [0, 1]}, "bottleneck"),
        (("trials",), 4, "leave it out"),
        (("search",), "random", "needs `trials`"),
        (("search",), "bayes", "expected one of grid, random, sobol"),
        (("halving",), {"min_epochs": 1}, "set `per: task`"),
        (("extend",), 2, "needs `search: grid` and `per: task`"),
        (("seed",), 3, "a grid draws nothing"),
    ],
)  # fmt: skip
def test_unfair_or_meaningless_searches_are_refused(tmp_path, path, value, words):
    config = copy.deepcopy(CONFIG)
    config["tune"]["per"] = "benchmark"
    node = config["tune"]
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    if value is KeyError:
        del node[path[-1]]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError) as error:
        load_config(config, [file])
    assert words in str(error.value) and f"{file}, line " in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [({"low": 1, "high": 0.1}, "not below"), ({"low": 0, "high": 1, "log": True}, "is not above 0")],
)
def test_ranges_that_are_none_are_refused(values, words):
    config = copy.deepcopy(CONFIG)
    config["tune"] |= {"search": "sobol", "trials": 4}
    config["tune"]["variants"]["linear"]["training"]["lr"] = values
    with pytest.raises(UserError, match=words):
        load_config(config)


def test_runs_take_the_choice_of_their_scope_and_sweeps_that_of_their_variant():
    runs = expand(load_config(CONFIG))
    assert {run.choice for run in runs} == {
        f"demo/{task}/micro_vit/{variant}"
        for task in ("digits", "count")
        for variant in ("linear", "adapter")
    }
    assert all(
        run.choice.endswith("/adapter") for run in runs if run.specification.variant == "adapter_bottleneck8"
    )
    config = CONFIG | {"tune": CONFIG["tune"] | {"per": "benchmark"}}
    assert {run.choice for run in expand(load_config(config))} == {
        "demo/micro_vit/linear",
        "demo/micro_vit/adapter",
    }
    assert not any(run.choice for run in expand(load_config(CONFIG | {"tune": None})))


def test_a_variant_that_a_sweep_makes_too_takes_the_choice_of_its_own_search():
    config = copy.deepcopy(CONFIG)
    config["variants"]["adapter_bottleneck8"] = {"method": "adapter", "options": {"bottleneck": 8}}
    config["tune"]["variants"]["adapter_bottleneck8"] = {"training": {"lr": [0.2, 0.3, 0.4]}}
    workflow = Workflow.of(load_config(config))
    assert all(run.choice.endswith(f"/{run.specification.variant}") for run in workflow.runs.values())
    assert {path for paths in workflow.choices.values() for path in paths} == set(workflow.searches)


def test_the_plan_counts_the_search(tmp_path):
    paths = {"results": str(tmp_path), "packs": str(tmp_path)}
    text = plan(load_config(CONFIG | {"paths": paths}))
    line = next(line for line in text.splitlines() if "adapter: tuning" in line)
    assert line.split()[3:6] == ["2", "0", f"{2 * 3 * 4 * 800:,}"]
    halved = CONFIG | {"paths": paths, "tune": CONFIG["tune"] | {"halving": {"min_epochs": 1, "factor": 2}}}
    line = next(line for line in plan(load_config(halved)).splitlines() if "adapter: tuning" in line)
    assert line.split()[5] == f"{2 * 800 * (3 * 1 + 1 * 2 + 1 * 4):,}"


# --- the search


def test_a_search_reads_train_and_val_and_never_test(pack, tmp_path, monkeypatch):
    opened = []
    split = Pack.split
    monkeypatch.setattr(Pack, "split", lambda self, name: opened.append(name) or split(self, name))
    result = run_search(RUN, GRID, pack, tmp_path / "records", tmp_path / "trials.json")
    assert set(opened) == {"train", "val"}
    assert [trial["status"] for trial in result["trials"]] == ["complete", "complete"]
    for path in (tmp_path / "records").iterdir():
        assert load_record(path)["splits"] == {"train": "train", "eval": "val"}


def test_opening_test_in_a_search_raises(pack, tmp_path, monkeypatch):
    from mosa.engine import run as runs

    monkeypatch.setitem(runs.STAGES, "selection", ("train", "test"))
    with pytest.raises(UserError, match="test is closed"):
        run_search(RUN, GRID, pack, tmp_path / "records", tmp_path / "trials.json")
    monkeypatch.setitem(runs.STAGES, "selection", ("test", "val"))
    with pytest.raises(UserError, match="test is closed"):
        run_search(RUN, GRID, pack, tmp_path / "records", tmp_path / "trials.json")
    assert not (tmp_path / "trials.json").exists()


def test_a_trial_is_the_run_that_mosa_train_does(pack, tmp_path):
    result = run_search(RUN, GRID, pack, tmp_path / "records", tmp_path / "trials.json")
    arguments = [
        "train",
        "--task",
        RUN.specification.task,
        "--pack",
        str(pack),
        "--method",
        "linear",
        "--stage",
        "selection",
    ]
    training = json.dumps(RUN.specification.training.model_dump() | {"lr": 0.1})
    output = tmp_path / "one.json"
    done = CliRunner().invoke(cli, [*arguments, "--training", training, "--output", str(output)])
    assert done.exit_code == 0, done.output
    metrics = load_record(output)["metrics"]
    assert (result["trials"][1]["top1"], result["trials"][1]["loss"]) == (metrics["top1"], metrics["nll"])


def test_a_search_goes_on_and_grows(pack, tmp_path, monkeypatch):
    trained = []
    execute = searches.execute
    monkeypatch.setattr(
        searches,
        "execute",
        lambda run, *rest: trained.append(run.specification.training.lr) or execute(run, *rest),
    )
    place = (pack, tmp_path / "records", tmp_path / "trials.json")
    first = run_search(RUN, GRID, *place)
    grown = run_search(RUN, Search(space(lr=[0.001, 0.01, 0.1])), *place)
    assert trained == [0.001, 0.1, 0.01]
    assert [grown["trials"][0], grown["trials"][2]] == first["trials"]
    broken = sorted((tmp_path / "records").iterdir())[0]
    broken.write_text(broken.read_text()[:100])
    again = run_search(RUN, Search(space(lr=[0.001, 0.01, 0.1])), *place)["trials"]
    scores = [[(trial["top1"], trial["loss"]) for trial in trials] for trials in (again, grown["trials"])]
    assert scores[0] == scores[1]
    assert len(trained) == 4 and load_record(broken)
    run_search(RUN, Search(space(lr=[0.1]), seeds=(0, 1)), *place)
    assert trained[4:] == [0.1]  # the second seed


def test_halving_trains_the_best_longer(pack, tmp_path):
    lrs = [1e-5, 1e-4, 1e-2, 1e-1]
    search = Search(space(lr=lrs), min_epochs=1)
    run = Run(make_specification("demo/digits", "linear", training={"epochs": 4, "batch_size": 16}))
    result = run_search(run, search, pack, tmp_path / "records", tmp_path / "trials.json")
    assert result["search"]["rounds"] == [1, 2, 4]
    epochs = [trial["epochs"] for trial in result["trials"]]
    assert sorted(epochs) == [1, 1, 2, 4] and [t["status"] for t in result["trials"]].count("pruned") == 3
    assert result["trials"][epochs.index(4)]["training"]["lr"] >= 1e-2
    choice = choose([tmp_path / "trials.json"])
    assert choice["chosen"]["training"] == result["trials"][epochs.index(4)]["training"]


def test_a_trial_that_diverges_is_told_and_not_chosen(pack, tmp_path):
    search = Search(space(lr=[0.01, 1e30]))
    run_search(RUN, search, pack, tmp_path / "records", tmp_path / "trials.json")
    choice = choose([tmp_path / "trials.json"])
    assert choice["chosen"]["training"] == {"lr": 0.01}
    assert (
        choice["trials"][1]["status"] == "diverged" and "try a smaller lr" in choice["trials"][1]["notes"][0]
    )
    with pytest.raises(UserError, match="every trial diverged"):
        run_search(RUN, Search(space(lr=[1e30])), pack, tmp_path / "records", tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


# --- the choice


def test_the_best_mean_over_tasks_is_taken(tmp_path):
    one = written(tmp_path / "a.json", [entry(90, lr=1), entry(60, lr=2), entry(70, lr=3)])
    two = written(tmp_path / "b.json", [entry(10, lr=1), entry(60, lr=2), entry(60, lr=3)])
    choice = choose([one, two])
    assert choice["chosen"] == {"options": {}, "training": {"lr": 3}} and choice["top1"] == 65
    assert choice["at_edge"] == ["lr"] and choice["tasks"] == ["demo/a", "demo/b"]
    write_choice(choice, tmp_path / "choice.json")
    assert read_choice(tmp_path / "choice.json")["chosen"] == choice["chosen"]
    (tmp_path / "copy.json").write_text(one.read_text())
    with pytest.raises(UserError, match=r"copy\.json: of demo/a, as .*a\.json is; give one file"):
        choose([one, two, tmp_path / "copy.json"])


@pytest.mark.parametrize(
    ("entries", "best"),
    [
        ([entry(60, 1.0, lr=1), entry(60, 0.5, lr=2), entry(50, 0.1, lr=3)], 2),  # a tie: the lower loss
        ([entry(60, lr=1), entry(60, lr=2)], 1),  # a tie in both: the earlier trial
        ([entry(50.083333333333336, 9, lr=1), entry(50.08333333333333, 1, lr=2)], 2),  # as many images right
        ([entry(60, lr=1), entry(99, lr=2, status="pruned"), entry(None, None, "diverged", lr=3)], 1),
    ],
)
def test_the_rule_is_what_it_says(tmp_path, entries, best):
    choice = choose([written(tmp_path / "a.json", entries)])
    assert choice["chosen"]["training"]["lr"] == best


def test_what_is_no_search_is_refused(tmp_path):
    good = written(tmp_path / "a.json", [entry(60)])
    other = written(tmp_path / "b.json", [entry(60)], search={"kind": "random"})
    cases = [([good, other], "another search"), ([tmp_path / "none.json"], "cannot be read")]
    cases.append(([written(tmp_path / "c.json", [entry(60)], version=0)], "version: 0 is not allowed"))
    cases.append(
        ([written(tmp_path / "d.json", [entry(None, None, "diverged") | {"note": "x"}])], "no trial")
    )
    for paths, words in cases:
        with pytest.raises(UserError, match=words):
            choose(paths)


@pytest.mark.parametrize(
    ("space", "more", "words"),
    [
        ({"training": {"lrr": [0.1]}}, [], r"space.training.lrr: unknown key 'lrr'.*did you mean 'lr'"),
        ({"training": {"lr": ["x"]}}, [], r"space.training.lr.0: got 'x', expected a number"),
        ({"options": {"rank": [0]}}, [], r"space.options.rank.0: 0 is less than the minimum of 1"),
        (
            {"training": {"lr": {"low": 0.1, "high": 1}}},
            [],
            r"space.training.lr: a grid takes a list of values",
        ),
        ({"training": {"lr": {"low": 0.1, "high": 1}}}, ["--search", "sobol"], r"sobol: needs --trials"),
        ({"training": {"lr": [0.1]}}, ["--trials", "3"], r"--trials: a grid has as many trials"),
    ],
)
def test_a_space_of_the_command_line_is_checked_as_that_of_a_config(pack, tmp_path, space, more, words):
    arguments = ["tune", "--task", RUN.specification.task, "--pack", str(pack), "--method", "lora", *more]
    arguments += [
        "--space",
        json.dumps(space),
        "--folder",
        str(tmp_path),
        "--output",
        str(tmp_path / "a.json"),
    ]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, UserError) and re.search(words, str(done.exception))


def test_final_runs_take_the_choice(pack, tmp_path):
    of = {"task": RUN.specification.task, "backbone": "micro_vit", "variant": "linear"}
    trials = written(tmp_path / "a.json", [entry(60, lr=0.07)], **of)
    write_choice(choose([trials]), tmp_path / "choice.json")
    output = tmp_path / "run.json"
    arguments = [
        "train",
        "--task",
        RUN.specification.task,
        "--pack",
        str(pack),
        "--method",
        "linear",
        "--output",
        str(output),
    ]
    training = ["--training", '{"lr": 0.5, "epochs": 1}', "--choice", str(tmp_path / "choice.json")]
    done = CliRunner().invoke(cli, [*arguments, *training])
    assert done.exit_code == 0, done.output
    record = load_record(output)
    recipe = record["specification"]["training"]
    assert recipe["lr"] == 0.07 and recipe["epochs"] == 1
    assert record["splits"]["eval"] == "test"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"task": "demo/other"}, "a choice for the task demo/other, and the run is of demo/digits"),
        ({"backbone": "b"}, "a choice for the backbone b, and the run is of micro_vit"),
        ({"variant": "adapter"}, "a choice for the variant adapter, and the run is of lora_rank4"),
        ({"variant": "lora"}, ""),
        ({"variant": "lora_rank"}, "a choice for the variant lora_rank, and"),
        ({"variant": "lora", "run": "lora_rank8"}, "a choice for the variant lora, and the run is of lora_r"),
    ],
)
def test_a_choice_for_other_runs_is_refused(tmp_path, change, words):
    """A variant of a sweep, such as lora_rank4, takes the choice of the one that it is made from."""
    name = change.get("run", "lora_rank4")  # its rank is 4
    of = {"task": "demo/digits", "backbone": "micro_vit", "variant": name} | change
    of.pop("run", None)
    trials = written(tmp_path / "a.json", [entry(60, lr=0.07)], **of)
    write_choice(choose([trials]), tmp_path / "choice.json")
    run = make_specification("demo/digits", "lora", {"rank": 4}, variant=name)
    with pytest.raises(UserError, match=words) if words else contextlib.nullcontext():
        assert chosen_for(run, tmp_path / "choice.json").training.lr == 0.07


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({}, False),
        ({"tasks": ["demo/digits"]}, True),
        ({"tasks": ["demo/count", "demo/digits"]}, False),
        ({"backbone": "other"}, True),
        ({"variant": "adapter"}, True),
        ({"tasks": None}, True),
    ],
)
def test_a_choice_among_other_searches_is_made_again(tmp_path, change, stale):
    """As where a task was taken out, and Snakemake does not know what the choice was made from."""
    paths = {"results": str(tmp_path), "packs": str(tmp_path)}
    config = CONFIG | {"paths": paths, "tune": CONFIG["tune"] | {"per": "benchmark"}}
    workflow = Workflow.of(load_config(copy.deepcopy(config)))
    assert not workflow.stale_choices()
    run = workflow.at("demo", "digits", "micro_vit", "linear")
    chosen = {"options": {}, "training": {"lr": 0.1}}
    choice = {"tasks": ["demo/digits", "demo/count"], "backbone": "micro_vit", "variant": "linear"}
    path = tmp_path / f"tune/choices/{run.choice}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(choice | {"chosen": chosen} | change))
    assert workflow.stale_choices() == ({str(path)} if stale else set())
    assert workflow.stale_choices() <= workflow.stale_files()
    assert (workflow.meant_digest(run) == "") == stale


def test_tables_show_every_trial_and_mark_the_choice(tmp_path):
    paths = []
    for name in ("a", "b"):
        file = written(tmp_path / f"{name}.json", [entry(60, lr=0.1), entry(70, lr=0.3), entry(50, lr=1.0)])
        paths.append(file)
    write_choices(paths, tmp_path)
    rows = list(csv.DictReader((tmp_path / "chosen.csv").open()))
    assert [(row["scope"], row["lr"], row["top1"]) for row in rows if row["chosen"] == "True"] == [
        ("demo/a", "0.3", "70.0"), ("demo/b", "0.3", "70.0"),
    ]  # fmt: skip
    assert len(rows) == 6
    text = (tmp_path / "chosen.md").read_text()
    assert "| v | lr 0.3 (70.0) | lr 0.3 (70.0) | 3 |" in text
    assert len(json.loads((tmp_path / "chosen.json").read_text())) == 2
    write_choices(paths, tmp_path, per="benchmark")
    assert "| v | lr 0.3 (70.0) | 3 |" in (tmp_path / "chosen.md").read_text()
    assert "\nTrained on train, compared on val; test was not opened." in text
    search = {"kind": "grid", "folds": 3}
    write_choices([written(tmp_path / "c.json", [entry(60)], search=search)], tmp_path)
    text = (tmp_path / "chosen.md").read_text()
    assert (
        "\nTrained on all but one of 3 parts of train + val and compared on that one as val, in turn" in text
    )


# --- what trials are compared by: the metric that their task reports


def own_config(**metrics):
    """A config with own tasks that report these metrics."""
    config = copy.deepcopy(CONFIG) | {"benchmarks": {"own": list(metrics)}}
    config["tasks"] = {
        name: {"layout": "folder", "root": name, "metric": metric} for name, metric in metrics.items()
    }
    return config


def compared_by(metric, higher=True):
    return {"kind": "grid", "metric": metric, "higher_is_better": higher}


def test_trials_are_compared_by_what_their_task_reports(pack, tmp_path):
    """The records have all metrics; another one makes another choice, by its direction."""
    search = Search({"training": {"lr": [0.0001, 0.1, 3.0]}, "options": {}})
    for metric in ("top1", "mean_per_class", "nll"):
        output = tmp_path / f"{metric}.json"
        run_search(RUN, replace(search, metric=metric), pack, tmp_path / "records", output)
        records = [load_record(path)["metrics"] for path in sorted((tmp_path / "records").glob("*.json"))]
        assert len(records) == 3  # trained once, for all three
        best = (min if metric == "nll" else max)(record[metric] for record in records)
        choice = choose([output])
        assert choice["score"] == best and choice["top1"] in {record["top1"] for record in records}
        assert choice["search"].get("metric", "top1") == metric


def test_the_direction_of_a_metric_counts_and_is_said(tmp_path):
    trials = [entry(60, lr=0.1) | {"score": 0.9}, entry(70, lr=0.3) | {"score": 1.2}]
    low = written(tmp_path / "low.json", trials, search=compared_by("nll", higher=False))
    assert choose([low])["chosen"]["training"] == {"lr": 0.1}
    assert choose([low])["rule"].startswith("lowest NLL on val, mean over seeds and tasks; on a tie")
    high = written(tmp_path / "high.json", trials, search=compared_by("mean_per_class"))
    assert choose([high])["chosen"]["training"] == {"lr": 0.3}
    assert choose([high])["rule"].startswith("highest mean per class on val")
    write_choices([low], tmp_path)
    text = (tmp_path / "chosen.md").read_text()
    assert "lr 0.1\\* (0.900)" in text and "In brackets the NLL on val of the choice" in text
    rows = list(csv.DictReader((tmp_path / "chosen.csv").open()))
    assert [(row["metric"], row["score"], row["top1"]) for row in rows] == [
        ("nll", "0.9", "60.0"), ("nll", "1.2", "70.0"),
    ]  # fmt: skip
    plugin = written(tmp_path / "plugin.json", trials, search=compared_by("of_a_plugin"))
    assert choose([plugin])["rule"].startswith("highest of_a_plugin on val")
    done = CliRunner().invoke(cli, ["choose", str(low), "--output", str(tmp_path / "choice.json")])
    assert done.exit_code == 0 and "lr 0.1, 0.9000 on val" in done.output


def test_a_score_that_is_no_share_of_images_has_an_error_of_its_folds_alone(tmp_path):
    scores = {"scores": [50.0, 60.0, 70.0], "examples": 1000, "score": 60.0}
    search = compared_by("mean_per_class")
    one = written(tmp_path / "a.json", [entry(60.0) | scores], search=search)
    assert choose([one])["standard_error"] is None  # three seeds share the images of val
    folds = written(tmp_path / "b.json", [entry(60.0) | scores], search=search | {"folds": 3})
    assert choose([folds])["standard_error"] == pytest.approx(10 / 3**0.5)


def test_a_config_says_to_every_search_what_its_task_reports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        for split in ("train", "val", "test"):
            for label in ("x", "y"):
                save(tmp_path / name / split / label / "0.png", image(np.random.default_rng(0), 0))
    workflow = Workflow.of(load_config(own_config(a="top1", b="nll")))
    runs = {run.specification.task: run for run in workflow.searches.values()}
    settings = {name: workflow.search_settings(run) for name, run in runs.items()}
    assert "metric" not in settings["own/a"] and "metric" not in workflow.search_options(runs["own/a"])
    assert (settings["own/b"]["metric"], settings["own/b"]["higher_is_better"]) == ("nll", False)
    assert workflow.search_options(runs["own/b"])["metric"] == "nll"
    config = own_config(a="top1", b="nll")
    config["tune"]["per"] = "benchmark"
    with pytest.raises(UserError, match=r"tasks\.b\.metric.*'nll', and 'top1' for a: a choice per benchmark"):
        load_config(config)
    config = own_config(a="nll", b="nll")
    config["tune"]["per"] = "benchmark"
    assert load_config(config)["tune"]["per"] == "benchmark"


# --- what a search cannot mean is refused before anything is trained


LONGER = "a warm-up of 9 epochs is longer than the "
OTHER = {"adapter": space(lr=[1, 2, 3])}
BOTTLENECKS = {"options": {"bottleneck": [2, 4, 6]}}
LENGTHS = {"demo/count": {"epochs": 9}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"tune": {"variants": OTHER | {"linear": space(epochs=[2, 4, 8])}}},
            r"tune\.variants\.linear\.training\.epochs: all trials train as long as the final runs",
        ),
        (
            {"tune": {"variants": OTHER | {"linear": space(warmup_epochs=[0, 1, 9])}}},
            rf"linear\.training\.warmup_epochs: on demo/digits: {LONGER}4 epochs",
        ),
        (
            {"tune": {"variants": OTHER | {"linear": space(lr=[1, 2, 3]), "adapter": BOTTLENECKS}}},
            r"sweeps\.size\.adapter\.bottleneck: is tuned, too",
        ),
        (
            {"tune": CONFIG["tune"] | {"per": "benchmark"}, "training_by_task": LENGTHS},
            r"tune\.per: benchmark: linear trains for 4 epochs on demo/digits, 9 on demo/count; give them",
        ),
        (
            {
                "training": {"epochs": 20},
                "training_by_task": {"demo": {"warmup_epochs": 9}, "demo/count": {"epochs": 8}},
            },
            rf"linear on demo/count: {LONGER}8 epochs",
        ),
    ],
    ids=["epochs", "warm-up", "swept", "lengths", "by task"],
)
def test_what_a_search_cannot_mean_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        load_config(copy.deepcopy(CONFIG) | change)


def test_a_warm_up_on_the_command_line_is_not_longer_than_the_training(pack, tmp_path):
    with pytest.raises(UserError, match="a warm-up of 20 epochs is longer than the 12 epochs"):
        make_specification("demo/digits", "linear", training={"warmup_epochs": 20})
    search = Search({"training": {"warmup_epochs": [0.5, 3.0]}, "options": {}})
    with pytest.raises(UserError, match="warmup_epochs 3: a warm-up of 3 epochs is longer than the 2 epochs"):
        run_search(RUN, search, pack, tmp_path, tmp_path / "trials.json")


def test_trials_of_other_images_are_trained_again(pack, tmp_path, capsys):
    """By hand the specification does not say what a pack holds; its digest does."""
    other = tmp_path / "other.safetensors"
    with safe_open(pack, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        metadata = file.metadata() | {"digest": "0" * 64, "sums": "{}"}
    save_file(tensors | {"train.images": 255 - tensors["train.images"]}, other, metadata)
    first = run_search(RUN, GRID, pack, tmp_path / "records", tmp_path / "a.json")
    second = run_search(RUN, GRID, other, tmp_path / "records", tmp_path / "b.json")
    assert "was trained on other images than those of" in capsys.readouterr().err
    assert first["trials"][0]["loss"] != second["trials"][0]["loss"]


# --- folds, and how sure a choice is


def test_trials_measured_by_other_code_of_a_plugin_are_trained_again(pack, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = own_config(a="sure") | {"plugins": ["sure.py"]}
    save(tmp_path / "a" / "train" / "x" / "0.png", image(np.random.default_rng(0), 0))
    searched = Search(space(lr=[0.1]), metric="sure")
    results, settings = [], []
    for value in (0.25, 0.25, 0.5):
        (tmp_path / "sure.py").write_text(
            "from mosa.data.metrics import METRICS, Metric\n"
            f'METRICS["sure"] = Metric("sure", "s", "", True, 2, lambda logits, labels: {value}, "?")\n'
        )
        workflow = Workflow.of(load_config(copy.deepcopy(config)))
        (meant, *_) = workflow.searches.values()
        settings.append(workflow.search_settings(meant))
        run = Run(RUN.specification.model_copy(update={"measures": meant.specification.measures}))
        results.append(run_search(run, searched, pack, tmp_path / "records", tmp_path / "trials.json"))
    assert [result["trials"][0]["score"] for result in results] == [0.25, 0.25, 0.5]
    assert settings[0] == settings[1] != settings[2]
    assert [one["measured_by"] for one in settings] == [one["search"]["measured_by"] for one in results]
    assert capsys.readouterr().err.count("'sure' as its plugin defines it now; it is trained again") == 1


def test_folds_are_alike_and_have_every_image_once():
    labels = np.random.default_rng(0).integers(0, 7, 203)
    part = deal(labels, 5)
    for label in range(7):
        counts = np.bincount(part[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(part).tolist() == [41, 41, 41, 40, 40]
    assert (deal(labels, 5) == part).all() and (np.diff(part) != 1).any()


@pytest.mark.parametrize(
    ("tried", "best", "method", "further"),
    [
        ({"training": {"lr": [0.01, 0.1, 1.0]}}, {"lr": 0.01}, "linear", {"lr": 0.001}),
        ({"training": {"lr": [0.01, 0.03]}}, {"lr": 0.03}, "linear", {"lr": 0.09}),
        ({"training": {"lr": [0.01, 0.03, 0.1]}}, {"lr": 0.03}, "linear", None),
        ({"training": {"lr": [0.01]}}, {"lr": 0.01}, "linear", None),
        ({"options": {"bottleneck": [4, 16]}}, {"bottleneck": 16}, "adapter", {"bottleneck": 64}),
        ({"options": {"bottleneck": [1, 4]}}, {"bottleneck": 1}, "adapter", None),  # 0.25 channels
        ({"options": {"dropout": [0.1, 0.5]}}, {"dropout": 0.5}, "adapter", None),  # 2.5 is no rate
        ({"options": {"norm": [True, False]}}, {"norm": True}, "adapter", None),
        ({"training": {"weight_decay": [0.0, 0.1]}}, {"weight_decay": 0.1}, "adapter", None),  # no ratio
        ({"options": {"targets": [["q"], ["q", "v"]]}}, {"targets": ["q"]}, "lora", None),
    ],
)
def test_a_grid_grows_beyond_its_edge_in_the_same_ratio(tried, best, method, further):
    ((section, _),) = tried.items()
    trials = make_trials({"training": {}, "options": {}} | tried, method)
    trial = beyond(trials, Trial(**{section: best}), method)
    assert trial == (further and Trial(**{section: further}))


def test_a_number_grows_with_the_best_of_the_others():
    space = {"training": {"lr": [0.01, 0.1], "weight_decay": [0.001, 0.01, 0.1]}, "options": {}}
    best = Trial(training={"lr": 0.1, "weight_decay": 0.01})
    trial = beyond(make_trials(space, "linear"), best, "linear")
    assert trial == Trial(training={"lr": 1.0, "weight_decay": 0.01})


def test_a_search_grows_until_its_best_is_inside(pack, tmp_path, monkeypatch):
    """The score rises to a rate of 0.3 and falls: two trials are added, and a third is not."""

    def scored(score):
        def trained(run, trial, *rest, **how):
            rate = trial.training["lr"]
            return entry(score(rate), lr=rate) | {"score": score(rate)}

        monkeypatch.setattr(searches, "_try", trained)

    scored(lambda lr: 50 - abs(math.log(lr / 0.3)))
    found = {}
    for extend in (0, 1, 5):
        search = Search({"training": {"lr": [0.01, 0.1]}, "options": {}}, extend=extend)
        output = tmp_path / f"{extend}.json"
        run_search(RUN, search, pack, tmp_path / "records", output)
        found[extend] = choose([output])
    rates = {extend: [t["training"]["lr"] for t in choice["trials"]] for extend, choice in found.items()}
    assert rates == {0: [0.01, 0.1], 1: [0.01, 0.1, 1.0], 5: [0.01, 0.1, 1.0]}
    assert [choice["at_edge"] for choice in found.values()] == [["lr"], [], []]
    assert "extend" not in found[0]["search"] and found[5]["search"]["extend"] == 5

    scored(lambda lr: lr)
    search = Search({"training": {"lr": [0.01, 0.1]}, "options": {}}, extend=2)
    run_search(RUN, search, pack, tmp_path / "records", tmp_path / "edge.json")
    choice = choose([tmp_path / "edge.json"])
    assert [trial["extended"] for trial in choice["trials"]] == [False, False, True, True]
    assert choice["chosen"]["training"] == {"lr": 10.0} and choice["at_edge"] == ["lr"]
    write_choices([tmp_path / "edge.json"], tmp_path, "task")
    assert r"lr 10\*+ (" in (tmp_path / "chosen.md").read_text()


def test_folds_are_trained_on_the_others_and_compared_once(pack, tmp_path, monkeypatch):
    read = []
    images = running.Images.__init__

    def watched(self, split, *arguments, **options):
        read.append({tuple(place) for place in split.where})
        images(self, split, *arguments, **options)

    monkeypatch.setattr(running.Images, "__init__", watched)
    search = Search({"training": {"lr": [0.1]}, "options": {}}, seeds=[0, 1], folds=3)
    result = run_search(RUN, search, pack, tmp_path / "records", tmp_path / "trials.json")
    trained, compared = read[::2], read[1::2]
    assert len(trained) == len(compared) == 6
    everything = {tuple(place) for place in Pack(pack).split("trainval").where}
    assert all(
        not here & there and here | there == everything for here, there in zip(trained, compared, strict=True)
    )
    assert [len(part) for part in compared] == [20] * 6 and compared[0] == compared[1] != compared[2]
    (trial,) = result["trials"]
    assert len(trial["scores"]) == 6 and trial["examples"] == 20 and result["search"]["folds"] == 3
    records = [load_record(path) for path in (tmp_path / "records").iterdir()]
    assert {record["specification"]["fold"]["number"] for record in records} == {0, 1, 2}
    means = [sum(pair) / 2 for pair in batched(trial["scores"])]
    found = choose([tmp_path / "trials.json"])
    share = trial["top1"] / 100
    images = 100 * (share * (1 - share) / 60) ** 0.5  # of all folds
    assert found["standard_error"] == pytest.approx(max(statistics.stdev(means) / 3**0.5, images))


def test_folds_that_agree_by_chance_do_not_make_a_choice_sure(tmp_path):
    folds = {"kind": "grid", "folds": 3}
    trial = entry(75.0) | {"scores": [75.0, 75.0, 75.0], "examples": 100}
    apart = entry(75.0) | {"scores": [60.0, 75.0, 90.0], "examples": 100}
    errors = [
        choose([written(tmp_path / "trials.json", [one], search=folds)])["standard_error"]
        for one in (trial, apart)
    ]
    assert errors == pytest.approx([100 * (0.75 * 0.25 / 300) ** 0.5, 15 / 3**0.5])


def batched(values):
    return list(zip(values[::2], values[1::2], strict=True))


def test_a_search_without_folds_is_the_search_that_it_was(pack, tmp_path):
    """Neither its records nor what it says of itself change by an option that it does not use."""
    result = run_search(RUN, GRID, pack, tmp_path / "records", tmp_path / "trials.json")
    assert "folds" not in result["search"]
    plain = Specification.model_validate(RUN.specification.model_dump() | {"stage": "selection"})
    assert "fold" not in plain.decisive()


def test_the_standard_error_of_a_choice(tmp_path):
    """Two tasks, two seeds: the images of each val, and what differs between the seeds' means."""
    scores = {"a": [60.0, 64.0], "b": [80.0, 90.0]}
    paths = [
        written(tmp_path / f"{name}.json", [entry(sum(s) / 2) | {"scores": s, "examples": 200}])
        for name, s in scores.items()
    ]
    between = statistics.variance([70.0, 77.0]) / 2
    images = sum(1e4 * p * (1 - p) / 200 for p in (0.62, 0.85)) / 4
    found = choose(paths)
    assert found["standard_error"] == pytest.approx((between + images) ** 0.5)
    write_choices(paths, tmp_path, "benchmark")
    assert "(73.5 ± 4.1)" in (tmp_path / "chosen.md").read_text()
    one = written(tmp_path / "c.json", [entry(50.0) | {"scores": [50.0], "examples": 200}])
    assert choose([one])["standard_error"] == pytest.approx(100 * (0.25 / 200) ** 0.5)
    old = written(tmp_path / "d.json", [entry(50.0)])
    assert choose([old])["standard_error"] is None


@pytest.mark.parametrize(
    ("values", "trials"),
    [
        ({"lr": {"low": 0.001, "high": 0.1, "log": True}}, 16),
        ({"lr": [0.1, 1.0, 10]}, 3),
        ({"batch_size": {"low": 16, "high": 18}}, 3),
    ],
)
@pytest.mark.parametrize("search", ["random", "sobol"])
def test_samples_with_fewer_different_trials_are_refused(search, values, trials):
    config = copy.deepcopy(CONFIG)
    full = {"training": {"lr": {"low": 0.001, "high": 0.1, "log": True}}}
    space = {"linear": {"training": values}, "adapter": full}
    config["tune"] = {"search": search, "trials": 16, "seed": 3, "variants": space}
    if trials == 16:
        assert (
            count_trainings(load_config(config)["tune"], expand(load_config(config))[0].specification)[0][0]
            == 16
        )
    else:
        with pytest.raises(
            UserError, match=f"same number of different trials; they have linear {trials}, adapter 16"
        ):
            load_config(config)
        for each in space:
            space[each] = {"training": values}
        loaded = load_config(config)
        assert count_trainings(loaded["tune"], expand(loaded)[0].specification)[0][0] == trials


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({"halving": {"min_epochs": 4}}, "is no shorter than the 4 epochs of linear on demo/"),
        (
            {"extend": 2, "variants": {"weight_decay": [0, 0.01, 0.1]}},
            "linear has no list of two or more positive",
        ),
    ],
)
def test_what_a_search_cannot_do_is_refused(tune, words):
    config = copy.deepcopy(CONFIG)
    config["tune"] |= tune | {"per": "task"}
    if values := tune.get("variants"):
        config["tune"]["variants"] = {name: {"training": values} for name in ("linear", "adapter")}
    config["training"]["epochs"] = 4
    with pytest.raises(UserError, match=words):
        load_config(config)


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        (
            "variants: {adapter: {by_task: {demo/count: {training: {lr: 0.5}}}}}",
            r"by_task\.demo/count\.training",
        ),
        ("variants: {adapter: {training: {lr: 0.5}}}", r"variants\.adapter\.training"),
        ("variants: {adapter: {by_task: {demo: {options: {scale: 2}}}}}", ""),
    ],
)
def test_a_value_of_what_is_tuned_is_refused(tmp_path, overlay, words):
    base, file = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(yaml.safe_dump(CONFIG))
    file.write_text(overlay)
    if words:
        with pytest.raises(UserError, match=rf"overlay.yaml, line 1: {words}|.*\.lr: is tuned, too \(tune"):
            read_config(base, file)
    else:
        assert read_config(base, file)


def test_shared_values_of_what_all_tune_are_refused():
    config = copy.deepcopy(CONFIG) | {"training_by_task": {"demo": {"lr": 0.5}}}
    with pytest.raises(UserError, match=r"training_by_task\.demo\.lr: is tuned for every variant"):
        load_config(config)
    del config["tune"]["variants"]["linear"]["training"]["lr"]
    config["tune"]["variants"]["linear"]["training"]["weight_decay"] = [0, 0.1, 0.2]
    assert load_config(config)


def test_views_are_not_tuned_where_no_image_is_augmented():
    config = copy.deepcopy(CONFIG)
    config["tune"]["variants"]["adapter"] = {"training": {"views": [1, 2, 4]}}
    with pytest.raises(UserError, match=r"adapter\.training\.views: has no effect"):
        load_config(config)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--search-seed", "7"], "--search-seed: a grid draws nothing"),
        (["--search", "sobol", "--trials", "2", "--extend", "3"], "--extend: grows a grid"),
        (["--factor", "5"], "--factor: .* needs --min-epochs"),
    ],
)
def test_options_of_another_search_are_refused(pack, tmp_path, arguments, words):
    given = ["--task", "demo/digits", "--pack", pack, "--method", "linear", "--folder", tmp_path]
    given += ["--space", '{"training": {"lr": [0.1, 0.2]}}', "--output", tmp_path / "found.json"]
    done = CliRunner().invoke(cli, ["tune", *map(str, given), *arguments])
    assert done.exit_code and re.search(words, str(done.exception))


def test_a_config_with_folds_says_so_to_every_search(tmp_path):
    config = copy.deepcopy(CONFIG)
    config["tune"]["folds"] = 5
    loaded = load_config(config)
    what = next(run.specification for run in expand(loaded) if run.specification.variant == "linear")
    epochs = what.training.epochs
    assert count_trainings(loaded["tune"], what) == [(15, epochs)]
    assert count_trainings(loaded["tune"] | {"extend": 2}, what) == [(15, epochs), (10, epochs)]
    settings = search_settings(loaded["tune"], expand(loaded)[0].specification)
    assert settings["folds"] == 5
    config["tune"]["folds"] = 1
    with pytest.raises(UserError, match=r"tune\.folds.*2"):
        load_config(config)
