"""Runs that learned nothing: found by their records alone, marked wherever they count, and never left out."""

import math
from pathlib import Path

import pytest
from test_records import make_record

from mosa.engine.reproduce import compare as compare_records
from mosa.records import load_record, write_record
from mosa.results.aggregate import Results, compare
from mosa.results.frame import read_table, write_table
from mosa.results.learned import COLUMN, learned_note, learned_nothing
from mosa.results.plots.comparison import comparison_chart
from mosa.results.plots.scaling import cost_chart
from mosa.results.report import write_report
from mosa.results.tables.columns import caption
from mosa.results.tables.write import terminal_table, write_tables

GOOD = {"top1": 80.0, "mean_per_class": 79.0, "train_loss": [2.0, 1.0]}  # digits: 10 classes, 797 images


def record(method="linear", options=None, **metrics):
    return make_record(variant=method, method=method, options=options, metrics=GOOD | metrics)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({}, ""),
        ({"top1": 10.0}, "top-1 10.0 %, a guess up to 12.2 %"),
        ({"top1": 4.0}, "top-1 4.0 %"),  # also below
        ({"top1": 12.1}, "top-1 12.1 %"),
        ({"top1": 12.3}, ""),
        (
            {"top1": 40.0, "mean_per_class": 10.0},
            "mean per class 10.0 %, a guess 10.0 %",
        ),  # one class for all
        ({"train_loss": [2.0, 15.0]}, "training loss 15.00, a guess 2.30"),
        ({"train_loss": [2.0, math.log(10) - 0.01]}, ""),
        ({"train_loss": [15.0, 2.0]}, ""),  # the last epoch counts
        ({"train_loss": [15.0]}, ""),  # an only epoch begins untrained
        ({"mean_per_class": None}, ""),  # a record that is older than a metric
    ],
)
def test_a_record_says_whether_its_run_is_better_than_a_guess(metrics, words):
    found = learned_nothing(record(**metrics))
    assert found.startswith(words) if words else found == ""


def test_the_loss_of_a_guess_counts_every_pass():
    two = {"second_pass": 1.0, "consistency": 0.1}
    assert learned_nothing(record("mosa", two, train_loss=[9.0, 4.5])) == ""
    assert "a guess 4.61" in learned_nothing(record("mosa", two, train_loss=[9.0, 4.7]))
    assert learned_nothing(record("mosa", {"feature_consistency": 1.0}, train_loss=[9.0, 9.0])) == ""


def test_tasks_of_ones_own_are_judged_by_their_own_number_of_classes(tmp_path):
    own = make_record(benchmark="own", task="cats", metrics=GOOD | {"top1": 30.0})
    assert learned_nothing(own | {"data": own["data"] | {"classes": None}}) == ""
    own["data"]["classes"] = 3
    assert learned_nothing(own)
    old = record(top1=10.0)
    del old["data"]["classes"]  # written before the key existed
    write_record(old, tmp_path / "seed0.json")
    assert learned_nothing(load_record(tmp_path / "seed0.json"))


def test_a_key_that_a_record_is_older_than_is_no_difference():
    old, new = record(), record()
    old["data"]["classes"] = None
    new["data"]["classes"] = 10
    assert compare_records(old, new, Path("seed0.json")).verdict == "bit-equal"


@pytest.fixture
def frame(tmp_path):
    """Two variants on two tasks with three seeds; one run of lora is at chance."""
    paths = []
    for task, group in (("digits", "natural"), ("count", "structured")):
        for method in ("adapter", "lora"):
            for seed in range(3):
                nothing = (task, method, seed) == ("digits", "lora", 1)
                one = make_record(
                    task=task, group=group, variant=method, method=method, seed=seed,
                    metrics=GOOD | {"top1": 10.0 if nothing else 80.0 + seed},
                )  # fmt: skip
                one["data"]["digest"] = ("1" if task == "digits" else "2") * 64
                paths.append(tmp_path / task / method / f"seed{seed}.json")
                write_record(one, paths[-1])
    return read_table(tmp_path)


def test_it_counts_like_any_other_and_is_marked_wherever_it_counts(frame, tmp_path):
    assert list(frame.loc[frame[COLUMN] != "", "variant"]) == ["lora"]
    (section,) = compare(frame)
    assert section.mean.loc["lora", ("task", "digits")] == pytest.approx((80 + 10 + 82) / 3)
    text = terminal_table(frame)
    lines = text.splitlines()
    assert all("†" in line for line in lines if line.startswith("lora"))
    assert not any("†" in line for line in lines if line.startswith("adapter"))
    note = "† has a run that is no better than a guess, which counts like any other (1 run: lora on digits"
    assert note in " ".join(text.split()) and note in caption(section) and note in learned_note(frame)
    named = learned_note(frame.assign(display_name=frame["variant"].replace({"lora": "LoRA (ours)"})))
    assert "LoRA (ours) on digits" in named and "lora on" not in named
    chart = comparison_chart(section, Results(frame).styles)
    assert note in chart.note
    lines = {series.label: series.points[0].text for series in chart.series}
    assert "†" in lines["lora"] and "†" not in lines["adapter"]
    scaling = cost_chart(section, "adapter_parameters", Results(frame).styles).note  # which marks nothing
    assert "†" not in scaling and "Runs that are no better than a guess count like any other" in scaling
    write_tables(frame, tmp_path / "tables")
    for kind in ("md", "html", "tex"):
        assert (tmp_path / f"tables/comparison.{kind}").read_text().count("†") >= 4
    write_report(frame, tmp_path / "report.html")
    assert note in (tmp_path / "report.html").read_text()


def test_without_such_runs_nothing_is_marked(frame, tmp_path):
    good = frame[frame[COLUMN] == ""]
    assert learned_note(good) == "" and "†" not in terminal_table(good)
    assert learned_note(frame.drop(columns=COLUMN)) == ""


def test_the_column_survives_the_table_of_records(frame, tmp_path):
    write_table(frame, tmp_path / "runs.csv")
    assert list(read_table(tmp_path / "runs.csv")[COLUMN]) == list(frame[COLUMN])
