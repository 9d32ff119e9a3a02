"""Several sources side by side: paired where seeds are common, and refused where not the same is measured."""

import json
import math
import re
from functools import cache

import pytest
from test_records import make_record
from travelling import write_results

from mosa.base.errors import UserError
from mosa.results.side_by_side import FORMATS, opened, rendered, side_by_side
from mosa.results.side_by_side.scores import MEAN
from mosa.results.stats import student_interval


def theirs(task, variant, seed):
    return 61 + 4 * (variant == "mosa") + seed**2


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    """Return a folder with experiments of four labs."""
    folder = tmp_path_factory.mktemp("labs")
    write_results(folder / "a", config={"seeds": [0, 1, 2]})
    changes = {"versions": {"torch": "2.12.0"}, "device": make_record()["device"] | {"name": "H100"}}
    again = {"seeds": [0, 1, 2, 3], "training": {"epochs": 2}}
    write_results(folder / "b", config=again, score=theirs, **changes)
    data = make_record()["data"] | {"digest": "2" * 64}
    write_results(folder / "c", config={"benchmarks": {"demo": ["digits"]}}, data=data)
    write_results(folder / "d", config={"protocol": "vpt"})
    return folder


@cache
def compared(labs, *names, **options):
    with opened([f"{name}={labs / name / 'results'}" for name in names]) as sources:
        return side_by_side(sources, **options)


def score_of(found, source, variant, task):
    (one,) = [one for one in found.scores if (one.source, one.variant, one.task) == (source, variant, task)]
    return one


def test_differences_are_paired_over_common_seeds(labs):
    found = compared(labs, "a", "b")
    differences = [(61 + seed**2) - (60 + seed) for seed in (0, 1, 2)]
    low, high = student_interval(differences)
    for task in ("digits", MEAN):
        one = score_of(found, "b", "linear", task)
        assert (one.seeds, one.common) == (4, 3)
        assert one.mean == pytest.approx(61 + (0 + 1 + 4 + 9) / 4)
        assert one.difference == pytest.approx(sum(differences) / 3)
        assert (one.low, one.high) == pytest.approx((low, high))
    assert math.isnan(score_of(found, "a", "linear", MEAN).difference)
    assert not found.reasons


def test_means_are_over_the_tasks_that_all_have(labs):
    found = compared(labs, "a", "c")
    assert found.tasks == {("demo", "micro_vit"): ["digits"]}
    assert score_of(found, "c", "mosa", "count").seeds == 0


@pytest.mark.parametrize(
    ("lab", "words"),
    [("c", "data_digest is 2222222222222222, not 1111111111111111"), ("d", "protocol is vpt, not demo")],
)
def test_what_does_not_measure_the_same_is_marked_and_not_compared(labs, lab, words):
    found = compared(labs, "a", lab)
    assert words in found.reasons[0] and found.reasons[0].startswith(
        f"{lab} is not compared with a (demo on "
    )
    for task in ("digits", MEAN):
        one = score_of(found, lab, "mosa", task)
        assert one.mark == 1 and one.seeds == 2 and one.common == 0 and math.isnan(one.difference)
    assert "not compared [1]" in rendered(found, "text")


def test_there_is_no_mean_over_tasks_where_a_source_has_none(labs, tmp_path):
    """A benchmark that one of them did not run."""
    write_results(tmp_path / "e", config={"benchmarks": {"vtab1k": ["kitti"]}, "seeds": [0, 1, 2]})
    with opened([f"a={labs / 'a' / 'results'}", f"e={tmp_path / 'e' / 'results'}"]) as sources:
        found = side_by_side(sources)
    for (benchmark, _), tasks in found.tasks.items():
        assert tasks == [], benchmark
    assert all(math.isnan(one.mean) for one in found.scores if one.task == MEAN)
    assert any(one.mean > 0 for one in found.scores if one.task != MEAN)


def test_sources_that_report_different_metrics_are_not_compared_by_both(labs, tmp_path):
    write_results(tmp_path / "e", metric="top5")
    names = [f"{name}={folder}/results" for name, folder in (("a", labs / "a"), ("e", tmp_path / "e"))]
    with opened(names) as sources:
        with pytest.raises(UserError, match=r"different metrics .*\(a top1, e top5\): name the one"):
            side_by_side(sources)
        assert side_by_side(sources, metric="top1").sources == ["a", "e"]


def test_it_says_what_differs_in_specification_machine_and_version(labs):
    found = compared(labs, "a", "b", "c")
    changed = {(one.source, one.variant, one.key): (one.ours, one.theirs, one.where) for one in found.changed}
    both = ["demo/count on micro_vit", "demo/digits on micro_vit"]
    assert changed == {("b", name, "training.epochs"): (1, 2, both) for name in ("linear", "mosa")}
    assert found.same == {"b": 0, "c": 2}
    assert found.origins["machine"] == [["some processor"], ["H100"], ["some processor"]]
    assert found.origins["torch"] == [["2.13.0"], ["2.12.0"], ["2.13.0"]]


def test_the_reference_is_compared_within_each_source(labs):
    found = compared(labs, "a", "b", reference="linear")
    against = found.against["demo", "micro_vit"]
    assert [(one.variant, one.mean) for one in against["a"]] == [("mosa", pytest.approx(5))]
    assert [(one.variant, one.mean) for one in against["b"]] == [("mosa", pytest.approx(4))]
    with pytest.raises(UserError, match=r"unknown reference 'linera'.*did you mean 'linear'"):
        compared(labs, "a", "b", reference="linera")
    with pytest.raises(UserError, match=r"unknown variant 'mos'.*did you mean 'mosa'"):
        compared(labs, "a", "b", variants=("mos",))


def test_predictions_of_both_are_compared_image_by_image(tmp_path):
    one_task = {"benchmarks": {"demo": ["digits"]}, "variants": {"linear": {"method": "linear"}}}
    write_results(tmp_path / "a", config=one_task, predictions=True)
    write_results(tmp_path / "b", config=one_task, predictions="wrong")
    with opened([f"{name}={tmp_path / name / 'results'}" for name in "ab"]) as sources:
        found = side_by_side(sources)
    assert [one[2:9] for one in found.tested] == [("linear", "digits", "b", seed, 3, 1, 2) for seed in (0, 1)]
    assert all(one.p == one.holm_p == 1 for one in found.tested)  # of 3 images: not to be told apart
    (line,) = [line.split() for line in rendered(found, "text").splitlines() if line.endswith("0 of 2")]
    assert line == ["linear", "digits", "b", "3", "1.0", "2.0", "0", "of", "2"]


def test_a_task_that_is_not_the_same_leaves_the_tests_of_the_others(tmp_path):
    variants = {"linear": {"method": "linear"}}
    for task in ("digits", "count"):
        other = {"data": make_record()["data"] | {"digest": "2" * 64}} if task == "count" else {}
        for lab, predictions, changes in (("a", True, {}), ("b", "wrong", other)):
            config = {"benchmarks": {"demo": [task]}, "variants": variants}
            write_results(tmp_path / lab, config=config, predictions=predictions, **changes)
    with opened([f"{name}={tmp_path / name / 'results'}" for name in "ab"]) as sources:
        found = side_by_side(sources)
    assert {one.task for one in found.tested} == {"digits"} and len(found.tested) == 2
    assert score_of(found, "b", "linear", "count").mark and score_of(found, "b", "linear", MEAN).mark
    assert not math.isnan(score_of(found, "b", "linear", "digits").difference)
    assert math.isnan(score_of(found, "b", "linear", MEAN).difference)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_the_scores_and_the_reasons(labs, form):
    text = rendered(compared(labs, "a", "b", "c"), form)
    assert "2222222222222222, not 1111111111111111" in " ".join(text.split())
    assert text.endswith("\n") and ("+1.7" in text or "1.66667" in text or "1.6666" in text)
    if form == "json":
        assert json.loads(text)["scores"][0]["source"] == "a"


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["a=x"], "give two sources at least"),
        (["x/results", "y/results"], "two sources are called 'results'; name them"),
        (["a=x.csv", "b=y.csv"], "x.csv: no such file or folder; expected a results folder, a record"),
        (["=x", "b=y"], "expected NAME=PATH"),
        (["a=x.zip", "b=y.zip"], "x.zip: there is no such file"),
        (["a=x.json", "b=y.json"], "x.json: cannot read the record"),
    ],
)
def test_sources_that_are_none_are_refused(tmp_path, monkeypatch, sources, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(words)), opened(sources):
        pass
