"""Tables and plots: numbers checked by hand, nothing averaged away, the same bytes from any order."""

import json
import re
import shutil
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from html import unescape
from io import StringIO
from itertools import product

import matplotlib.style
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_records import make_record

from mosa.base import plugins
from mosa.base.errors import UserError
from mosa.base.files import PACKAGE
from mosa.data import catalogue
from mosa.data.metrics import METRICS, Metric
from mosa.experiment.curves import option_curves
from mosa.experiment.expand import Run
from mosa.experiment.outputs import KINDS, OUTPUTS, expected_outputs, read_outputs
from mosa.experiment.specification import make_specification
from mosa.records import write_record
from mosa.results import registry
from mosa.results.aggregate import MEAN_OF_GROUPS, MEAN_OVER_TASKS, Results, compare, sweep
from mosa.results.frame import load_records, read_table, write_table
from mosa.results.paired import differences
from mosa.results.plots.backbones import backbones_figure
from mosa.results.plots.chart import Axis, shown_range
from mosa.results.plots.comparison import comparison_figure
from mosa.results.plots.compute import compute_figure
from mosa.results.plots.figures import LOOK, STYLE, Look
from mosa.results.plots.options import options_figure, panel_grid
from mosa.results.plots.ranks import rank_figure
from mosa.results.plots.scaling import scaling_figure
from mosa.results.plots.write import write_plots
from mosa.results.provenance import lengths, mixture
from mosa.results.registry import generated_files, outputs_data, registered
from mosa.results.stats import ppt
from mosa.results.style import METHOD_STYLES, method_styles
from mosa.results.tables.columns import caption, compute_columns
from mosa.results.tables.combination import combination_table, combination_text
from mosa.results.tables.efficiency import efficiency_table, efficiency_text
from mosa.results.tables.render import escape_latex, escape_markdown, terminal_section
from mosa.results.tables.write import terminal_table, write_tables

# Tasks of a benchmark that the catalogue does not have: group, parameters of the head.
TASKS = {"cats": ("animals", 100), "dogs": ("animals", 200), "count": ("shapes", 60)}
# By variant and task, top-1 of seeds 0, 1, 2.
SCORES = {
    "adapter": {"cats": [80, 82, 84], "dogs": [60, 61, 62], "count": [40, 40, 46]},
    "mosa": {"cats": [81, 83, 88], "dogs": [60, 60, 60], "count": [50, 52, 51]},
}
SIZES = {"adapter": 1000, "mosa": 1000, "full": 500_000, "linear": 0, "lora": 800}
HOSTILE = r"a_b&c%$#{}~^\|<>[*]"


def run(variant, task, seed, top1, **other):
    """Return the row of one run."""
    method = variant.partition("-")[0]
    group, head = TASKS.get(task, ("animals", 100))
    size = other.get("adapter_parameters", SIZES.get(method, 900))
    return {
        "benchmark": "toys", "group": group, "task": task, "backbone": "tiny", "variant": variant,
        "method": method, "options": {}, "seed": seed, "train_split": "trainval", "eval_split": "test",
        "protocol": "toys", "protocol_version": 1, "top1": float(top1), "adapter_parameters": size,
        "total_parameters": size + head, "data_digest": task, "weights_sha256": "0" * 64,
    } | other  # fmt: skip


def make_frame(scores=SCORES, **other):
    """Return a frame of runs from {variant: {task: [top-1 of each seed]}}; None leaves the run out."""
    rows = [
        run(variant, task, seed, top1, **other)
        for variant, tasks in scores.items()
        for task, values in tasks.items()
        for seed, top1 in enumerate(values)
        if top1 is not None
    ]
    return pd.DataFrame(rows)


def make_sweep():
    """Return the base variants on three tasks and seeds, and a sweep on two tasks and seeds."""
    base = {name: SCORES["mosa"] for name in ("linear", "full", "adapter", "mosa")}
    rows = [make_frame(base)]
    for method in ("adapter", "mosa"):
        for bottleneck in (4, 64):
            scores = {f"{method}-{bottleneck}": {"cats": [70, 72], "count": [50, 51]}}
            options = [{"bottleneck": bottleneck}] * 4
            rows.append(make_frame(scores, adapter_parameters=60 * bottleneck).assign(options=options))
    frame = pd.concat(rows, ignore_index=True)
    is_base = frame["variant"].isin(["adapter", "mosa"])
    frame["options"] = [
        {"bottleneck": 16} if base else o for base, o in zip(is_base, frame["options"], strict=True)
    ]
    return frame


def without(frame, **cell):
    """Return the frame without the runs of a cell."""
    return frame[~(frame[list(cell)] == pd.Series(cell)).all(axis=1)]


def lines_of(text, variant):
    return [line.split() for line in text.splitlines() if line.startswith(f"{variant} ")]


def cells_of(html):
    """Return the text of each cell of an HTML table, by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [
        [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows
    ]


def labels_of(figure):
    """Return every text that a figure shows on axes and in legends."""
    parts = [figure, *figure.subfigs]
    legends = [text.get_text() for part in parts for legend in part.legends for text in legend.get_texts()]
    return legends + [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]


# --- aggregation


def test_task_means_and_sample_standard_deviations():
    (section,) = compare(make_frame())
    assert section.mean.loc["adapter", ("task", "cats")] == 82
    assert section.sd.loc["adapter", ("task", "cats")] == 2  # of 80, 82, 84 with n - 1
    assert section.n.loc["adapter", ("task", "cats")] == 3


def test_means_over_tasks_and_of_groups_are_taken_per_seed_first():
    (section,) = compare(make_frame())
    # Adapter's tasks per seed: 80, 60, 40; 82, 61, 40; 84, 62, 46. Animals: 70, 71.5, 73; shapes: 40, 40, 46.
    over_tasks, of_groups = [60, 61, 64], [55, 55.75, 59.5]
    row = section.mean.loc["adapter"], section.sd.loc["adapter"]
    assert [table["group", "animals"] for table in row] == [71.5, 1.5]
    assert row[0][MEAN_OVER_TASKS] == pytest.approx(statistics.mean(over_tasks))
    assert row[1][MEAN_OVER_TASKS] == pytest.approx(statistics.stdev(over_tasks))
    assert row[0][MEAN_OF_GROUPS] == pytest.approx(statistics.mean(of_groups))
    assert row[1][MEAN_OF_GROUPS] == pytest.approx(statistics.stdev(of_groups))


def test_a_seed_that_lacks_a_task_has_no_mean_over_it():
    (section,) = compare(without(make_frame(), variant="adapter", task="cats", seed=2))
    assert section.mean.loc["adapter", ("task", "cats")] == 81
    assert section.mean.loc["adapter", MEAN_OVER_TASKS] == 60.5  # of seeds 0 and 1: (60 + 61) / 2
    assert section.n.loc["adapter", MEAN_OVER_TASKS] == 2
    assert section.n.loc["adapter", ("group", "shapes")] == 3


def test_a_variant_that_lacks_a_task_has_no_mean_over_it():
    (section,) = compare(without(make_frame(), variant="adapter", task="cats"))
    mean, n = section.mean.loc["adapter"], section.n.loc["adapter"]
    for key in (("task", "cats"), ("group", "animals"), MEAN_OVER_TASKS, MEAN_OF_GROUPS):
        assert pd.isna(mean[key]) and n[key] == 0
    assert mean["task", "dogs"] == 61
    assert section.mean.loc["mosa", MEAN_OVER_TASKS] == 65


def test_parameters_are_counted_over_tasks():
    (section,) = compare(make_frame())
    counts = section.parameters.loc["mosa"]
    assert counts["adapter_mean"] == 1000
    assert (counts["total_min"], counts["total_mean"], counts["total_max"]) == (1060, 1120, 1200)
    (section,) = compare(without(make_frame(), variant="mosa", task="dogs"))
    assert section.parameters.loc["mosa", "adapter_mean"] == 1000
    assert pd.isna(section.parameters.loc["mosa", "total_mean"])
    (section,) = compare(make_frame({"adapter": SCORES["adapter"], "mosa": {"dogs": [60]}}))
    assert section.parameters.loc["mosa", "adapter_mean"] == 1000
    assert pd.isna(section.parameters.loc["mosa", "total_mean"])


def test_tasks_stand_in_the_order_of_the_catalogue():
    tasks = catalogue.list_tasks("demo")
    rows = [
        run("mosa", task, 0, 50, benchmark="demo", group=catalogue.get_task(f"demo/{task}").group)
        for task in reversed(tasks)
    ]
    (section,) = compare(pd.DataFrame(rows))
    assert section.task_names == tasks
    assert list(section.groups) == catalogue.list_groups("demo")


def test_order_selects_and_sorts_the_variants():
    (section,) = compare(make_sweep(), ["mosa", "adapter"])
    assert section.variants == ["mosa", "adapter"]
    (section,) = compare(make_frame(), ["mosa", "lora"])
    assert section.variants == ["mosa", "lora"] and section.n.loc["lora"].eq(0).all()
    with pytest.raises(UserError, match="no record of the variants moss: the records have adapter, mosa"):
        compare(make_frame(), ["moss"])


def test_the_sweep_is_compared_on_its_own_tasks_and_seeds():
    (section,) = sweep(make_sweep(), ["linear", "full", "adapter", "mosa"])
    assert section.variants == [
        "linear", "full", "adapter-4", "adapter", "adapter-64", "mosa-4", "mosa", "mosa-64"
    ]  # fmt: skip
    assert section.task_names == ["cats", "count"] and section.seeds == [0, 1]
    assert section.mean.loc["mosa", MEAN_OVER_TASKS] == 66.5  # (81 + 50) / 2 and (83 + 52) / 2
    assert section.n.to_numpy().min() == section.full_n == 2


def test_each_benchmark_and_backbone_has_its_own_section():
    frame = pd.concat([make_frame(), make_frame(backbone="big"), make_frame(benchmark="blocks")])
    assert [(s.benchmark, s.backbone) for s in compare(frame)] == [
        ("blocks", "tiny"), ("toys", "big"), ("toys", "tiny")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value"),
    [("eval_split", "val"), ("train_split", "train"), ("protocol", "other"), ("protocol_version", 2),
     ("data_digest", "else"), ("weights_sha256", "1" * 64), ("method", "lora"), ("group", "others"),
     ("architecture", "other"), ("image_size", 64)],
)  # fmt: skip
def test_runs_that_are_not_comparable_are_refused(column, value):
    frame = make_frame().assign(architecture="net", image_size=32).astype({column: object})
    frame.loc[0, column] = value
    for summarise in (compare, sweep):
        with pytest.raises(UserError, match=f"records with different {column} cannot be compared"):
            summarise(frame)


def test_backbones_may_take_the_same_images_in_other_sizes():
    """Each size has a pack of its own, with a digest of its own."""
    sizes = {"small": 32, "large": 224}
    frames = [make_frame(backbone=name, image_size=size, data_digest=name) for name, size in sizes.items()]
    assert [section.backbone for section in compare(pd.concat(frames))] == ["large", "small"]


def test_records_of_other_normalisations_are_not_mixed():
    """Weights whose statistics were guessed differently by two versions have one specification."""
    frame = make_frame().assign(normalization="known")
    frame["input_mean"] = [[0.5] * 3 for _ in range(len(frame))]
    assert "is a guess" not in caption(compare(frame)[0])
    frame["normalization"] = "guessed"
    assert "The normalisation of tiny is a guess" in caption(compare(frame)[0])
    frame.at[0, "input_mean"] = [0.485, 0.456, 0.406]
    with pytest.raises(UserError, match=r"different input_mean cannot be compared for toys/tiny"):
        compare(frame)


def test_val_and_test_are_refused_even_in_different_benchmarks():
    with pytest.raises(UserError, match=r"different eval_split .* got test, val"):
        compare(pd.concat([make_frame(), make_frame(benchmark="blocks", eval_split="val")]))


def test_bad_frames_are_refused():
    with pytest.raises(
        UserError, match=r"two records of the same run \(benchmark toys, task cats, .* seed 0\)"
    ):
        compare(pd.concat([make_frame(), make_frame().head(1)]))
    with pytest.raises(UserError, match="no record to summarise"):
        compare(make_frame().head(0))
    with pytest.raises(UserError, match=r"lacks the column\(s\) variant, top1"):
        compare(make_frame().drop(columns=["top1", "variant"]))


# --- metrics


def make_losses():
    """Return runs whose tasks report the NLL: adapter has the lowest on cats and dogs, mosa on count."""
    frame = make_frame(
        {
            "adapter": {"cats": [0.5, 0.52], "dogs": [0.7, 0.7], "count": [2.0, 2.2]},
            "mosa": {"cats": [0.6, 0.62], "dogs": [0.8, 0.7], "count": [1.0, 1.2]},
            "lora": {"cats": [0.9, 0.92], "dogs": [0.95, 0.96], "count": [3.0, 3.2]},
        }
    )
    return frame.assign(nll=frame["top1"], top1=100 - frame["top1"], metric="nll")


def test_the_metric_is_the_one_that_tasks_report_or_the_one_that_is_named():
    frame = make_losses()
    assert compare(make_frame())[0].metric.name == "top1"  # records that do not say
    assert compare(frame.assign(metric=None))[0].metric.name == "top1"
    for summarise in (compare, sweep):
        (section,) = summarise(frame)
        assert section.metric.name == "nll" and section.mean.loc["adapter", ("task", "cats")] == 0.51
        (section,) = summarise(frame, None, "top1")
        assert section.metric.name == "top1" and section.mean.loc[
            "adapter", ("task", "cats")
        ] == pytest.approx(99.49)


def test_metrics_that_do_not_go_together_are_refused():
    frame = make_losses()
    frame.loc[frame["task"] == "cats", "metric"] = "top1"
    for summarise in (compare, sweep):
        words = r"tasks of toys on tiny report different metrics \(nll, top1\): .* --metric nll"
        with pytest.raises(UserError, match=words):
            summarise(frame)
        assert summarise(frame, None, "nll")[0].metric.name == "nll"
    other = make_frame(benchmark="blocks")  # sections may differ
    assert [s.metric.name for s in compare(pd.concat([other, make_losses()]))] == ["top1", "nll"]
    with pytest.raises(UserError, match="unknown metric 'top2'"):
        compare(make_frame(), None, "top2")
    with pytest.raises(UserError, match=r"lacks the column\(s\) nll"):
        compare(make_frame(), None, "nll")


def test_the_lowest_loss_is_the_best(tmp_path):
    frame = make_losses()
    write_tables(frame, tmp_path)
    markdown = (tmp_path / "comparison.md").read_text()
    assert "| adapter | **0.510 ± 0.014** | **0.700 ± 0.000** | <ins>2.100 ± 0.141</ins> |" in markdown
    assert "| lora | 0.910 ± 0.014 | 0.955 ± 0.007 | 3.100 ± 0.141 |" in markdown
    assert "NLL on the test split" in markdown and "Bold: the lowest mean" in markdown
    assert set(pd.read_csv(tmp_path / "comparison.csv")["metric"]) == {"nll"}
    assert "test split, NLL" in (tmp_path / "comparison.txt").read_text()
    for path in tmp_path.iterdir():
        assert "op-1" not in path.read_text(), path.name
    efficiency = (tmp_path / "efficiency.md").read_text()
    assert "PPT" not in efficiency and "mean over tasks of NLL" in efficiency
    write_tables(frame, tmp_path, metric="top1")
    assert "| adapter | **99.5 ± 0.0** |" in (tmp_path / "comparison.md").read_text()
    assert "PPT" in (tmp_path / "efficiency.md").read_text()


def test_the_rounding_of_a_sum_is_no_improvement():
    frame = make_frame()
    frame["top1"] = 60.0
    frame.loc[frame["variant"] == "mosa", "top1"] += 1e-13
    (section,) = compare(frame)
    (mosa,) = [one for one in differences(section, "adapter") if one.variant == "mosa"]
    assert (mosa.better, mosa.worse, mosa.improvement) == (0, 0, 0.5)


def test_a_lower_loss_is_an_improvement():
    (section,) = compare(make_losses())
    found = {difference.variant: difference for difference in differences(section, "adapter")}
    mosa, lora = found["mosa"], found["lora"]
    # Per seed: (0.1 + 0.1 - 1) / 3 and (0.1 + 0 - 1) / 3.
    assert mosa.mean == pytest.approx((-0.8 - 0.9) / 6)
    assert (mosa.better, mosa.equal, mosa.worse) == (1, 0, 2)
    assert (lora.better, lora.worse, lora.improvement) == (0, 3, 0)
    assert mosa.improvement == pytest.approx((0 + 0.25 + 1) / 3)  # dogs: of four pairs, two are equal
    assert mosa.sentence.startswith("mosa - adapter: -0.283 over 3") and "better on 1 of 3" in mosa.sentence
    table = efficiency_table([section]).set_index("variant")
    assert table["pareto"].to_dict() == {"lora": True, "adapter": False, "mosa": True}
    assert table["ppt"].isna().all()


def test_plots_follow_the_metric():
    results = Results(make_losses())
    figures = [comparison_figure(results), scaling_figure(results), rank_figure(results)]
    for figure in figures:
        assert figure.subfigs[0].get_suptitle() == "toys, tiny: NLL, test split"
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["1.655", "1.103", "0.820"]
    low, high = figures[0].axes[0].get_xlim()
    assert 0 < low < 0.82 and 1.655 < high < 2
    assert figures[1].axes[0].get_ylabel() == "mean over tasks of NLL"
    ranks = {text.get_text() for text in figures[2].axes[0].texts}
    assert {"adapter 1.33", "mosa 1.67", "3.00 lora"} <= ranks
    close = make_frame({"adapter": {"cats": [0.5]}, "mosa": {"cats": [0.501]}})
    axes = comparison_figure(Results(close.assign(nll=close["top1"]), None, "nll")).axes[0]
    assert axes.get_xlim()[1] - axes.get_xlim()[0] == pytest.approx(0.03)  # 30 printed steps


# --- tables


def test_csv_has_plain_numbers(tmp_path):
    write_tables(make_frame(), tmp_path)
    row = pd.read_csv(tmp_path / "comparison.csv").set_index("variant").loc["adapter"]
    assert (row["cats_mean"], row["cats_sd"], row["cats_n"]) == (82, 2, 3)
    assert (row["group_animals_mean"], row["group_animals_sd"]) == (71.5, 1.5)
    assert row["mean_over_tasks_mean"] == 61.6667
    assert row["mean_of_groups_mean"] == 56.75
    assert row["adapter_parameters_mean"] == 1000 and row["total_parameters_max"] == 1200
    assert ",1000,1000,1000,1120,1060,1200," in (tmp_path / "comparison.csv").read_text()


def test_a_task_named_as_another_column_is_refused(tmp_path):
    frame = make_frame({"mosa": {"group_animals": [50, 60], "cats": [70, 71]}})
    for task in ("group_animals", "mean_over_tasks", "adapter_parameters"):
        other = frame.replace({"task": {"group_animals": task}}).assign(group="animals")
        with pytest.raises(
            UserError, match=r"the table of means has another column .*; give the task another"
        ):
            write_tables(other, tmp_path)


def test_csv_of_two_benchmarks_keeps_counts_whole(tmp_path):
    other = make_frame({"mosa": {"cubes": [50, 60]}}, benchmark="blocks", group="shapes")
    write_tables(pd.concat([make_frame(), other]), tmp_path)
    text = pd.read_csv(StringIO((tmp_path / "comparison.csv").read_text()), dtype=str, keep_default_na=False)
    assert text["cats_n"].tolist() == ["", "3", "3"] and text["cubes_n"].tolist() == ["2", "", ""]


def test_cells_show_mean_spread_and_best(tmp_path):
    write_tables(make_frame(), tmp_path)
    markdown = (tmp_path / "comparison.md").read_text()
    assert "| variant | cats (animals) | dogs (animals) | count (shapes) |" in markdown
    assert "| adapter | 82.0 ± 2.0 | **61.0 ± 1.0** | 42.0 ± 3.5 |" in markdown
    assert "| mosa | **84.0 ± 3.6** | 60.0 ± 0.0 | **51.0 ± 1.0** |" in markdown
    assert "over 3 seeds (0, 1, 2)" in markdown and "on the test split of toys with tiny" in markdown
    latex = (tmp_path / "comparison.tex").read_text()
    assert r"\textbf{84.0}{\scriptsize$\,\pm\,$3.6} & 60.0{\scriptsize$\,\pm\,$0.0}" in latex
    assert r"\multicolumn{2}{c}{animals} & \multicolumn{1}{c}{shapes}" in latex
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in latex


def test_the_second_is_underlined(tmp_path):
    scores = {"adapter": {"cats": [80, 81]}, "mosa": {"cats": [82, 83]}, "lora": {"cats": [80.01, 81]}}
    write_tables(make_frame(scores | {"linear": {"cats": [50, 51]}}), tmp_path)
    markdown = (tmp_path / "comparison.md").read_text()
    assert "| mosa | **82.5 ± 0.7** |" in markdown and "| linear | 50.5 ± 0.7 |" in markdown
    assert all(f"| {v} | <ins>80.5 ± 0.7</ins> |" in markdown for v in ("adapter", "lora"))  # as printed
    assert r"\underline{80.5}{\scriptsize" in (tmp_path / "comparison.tex").read_text()
    html = (tmp_path / "comparison.html").read_text()
    assert (
        re.findall(r'<td class="[^"]*\bsecond" >([^<]*)</td>', html) == ["80.5 ± 0.7"] * 2 * 2
    )  # both tables
    assert re.findall(r'<td class="[^"]*\bbest" >([^<]*)</td>', html) == ["82.5 ± 0.7"] * 2


def test_equal_as_printed_is_equally_good(tmp_path):
    scores = {"adapter": {"cats": [80, 80.02]}, "mosa": {"cats": [80.04, 80]}, "lora": {"cats": [80]}}
    write_tables(make_frame(scores), tmp_path)
    rows = [line for line in (tmp_path / "comparison.md").read_text().splitlines() if "80.0" in line]
    assert [row.split(" | ")[0:2] for row in rows[-3:]] == [
        ["| lora", "80.0 (n=1) |"], ["| adapter", "**80.0 ± 0.0** |"], ["| mosa", "**80.0 ± 0.0** |"]
    ]  # fmt: skip


def test_missing_cells_are_shown_and_never_best(tmp_path):
    frame = without(make_frame(), variant="mosa", task="cats", seed=0)
    frame = without(frame, variant="adapter", task="count")
    write_tables(frame, tmp_path)
    markdown = (tmp_path / "comparison.md").read_text()
    # Where one variant alone has all seeds, it is not the best of anything.
    assert "| adapter | 82.0 ± 2.0 | **61.0 ± 1.0** | — |" in markdown
    assert "| mosa | 85.5 ± 3.5 (n=2) | 60.0 ± 0.0 | 51.0 ± 1.0 |" in markdown
    # adapter: animals, shapes, mean over tasks, mean of groups, without head, with head
    assert "| adapter | 71.5 ± 1.5 | — | — | — | 1.0 | — |" in markdown
    assert lines_of(terminal_table(frame), "adapter")[0] == [
        "adapter", "71.5", "±", "1.5", "—", "—", "—", "1.0", "—"
    ]  # fmt: skip
    csv = pd.read_csv(tmp_path / "comparison.csv").set_index("variant")
    assert (
        pd.isna(csv.loc["adapter", "mean_over_tasks_mean"]) and csv.loc["adapter", "mean_over_tasks_n"] == 0
    )
    assert csv.loc["mosa", "cats_n"] == 2


def test_one_seed_has_no_spread(tmp_path):
    frame = make_frame().query("seed == 1")
    write_tables(frame, tmp_path)
    markdown = (tmp_path / "comparison.md").read_text()
    assert "| adapter | 82.0 | **61.0** | 40.0 |" in markdown
    assert "1 seed (1), hence no spread" in markdown
    assert "±" not in terminal_table(frame)


def test_a_split_stands_beside_what_it_splits():
    adapter, lora, split = {"bottleneck": 16}, {"rank": 4}, {"consistency": 1.0, "experts": 4}

    def splits(of, **options):
        return split | {"of": of, "of_options": options}

    variants = {
        "adapter": (80, adapter), "adapter-large": (82, {"bottleneck": 64}), "lora": (70, lora),
        "mosa": (78, adapter | split), "mosa-large": (83, {"bottleneck": 64} | split),
        "mosl": (71, lora | split), "mosl-alone": (75, {"rank": 8} | split),
        "hydra": (72, {"rank": 2, "scale": 0.5}), "hydra-split": (74, splits("hydra", scale=0.5)),
        "hydra-other": (79, splits("hydra", rank=4)),
    }  # fmt: skip
    frame = make_frame({name: {"cats": [top1, top1 + 1]} for name, (top1, _) in variants.items()})
    frame["options"] = [{"consistency": 0.0} | variants[name][1] for name in frame["variant"]]
    frame.loc[frame["variant"].isin(["hydra-split", "hydra-other"]), "method"] = "split"
    rows = combination_table(compare(frame)).set_index("variant")
    dense = {"mosl": "lora", "mosa": "adapter", "mosa-large": "adapter-large", "hydra-split": "hydra"}
    assert rows["reference"].to_dict() == dense
    assert rows["mean"].to_dict() == {"mosl": 1, "mosa": -2, "mosa-large": 1, "hydra-split": 2}
    assert "| adapter-large | 82.5 | mosa-large | 83.5 | +1.0" in combination_text(compare(frame))
    assert "No variant" in combination_text(compare(make_frame().query("method == 'adapter'")))


def test_selection_runs_are_called_so(tmp_path):
    write_tables(make_frame(eval_split="val", train_split="train"), tmp_path)
    assert "on the val split (runs for selection, not a result)" in (tmp_path / "comparison.md").read_text()


TABLES = {
    *("agreement", "classes", "combination", "comparison", "confused", "differences", "efficiency"),
    *("intervals", "mcnemar", "sweep"),
}


def test_the_sweep_has_a_table_of_its_own(tmp_path):
    paths = write_tables(make_sweep(), tmp_path, ["linear", "full", "adapter", "mosa"])
    kinds = dict.fromkeys(sorted(TABLES), ("csv", "md"))
    kinds |= dict.fromkeys(("comparison", "sweep"), ("csv", "html", "md", "tex", "txt"))
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in kinds for kind in kinds[name]]
    variants = {path.stem: pd.read_csv(path)["variant"].tolist() for path in paths if path.suffix == ".csv"}
    assert variants["differences"] == ["linear", "full", "mosa"]
    assert variants["comparison"] == ["linear", "full", "adapter", "mosa"]
    assert len(variants["sweep"]) == 8


@pytest.mark.parametrize("width", [90, 120])
def test_terminal_table_fits_and_is_aligned(width):
    many = {f"task{i}": [50 + i, 51.5 + i] for i in range(19)}
    text = terminal_table(make_frame({"adapter": many, "mosa": many}), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "".join(text.split()).count("task") == 19 + text.count("over tasks") + 1  # "with missing tasks"


def test_escapes():
    assert escape_latex(HOSTILE) == (
        r"a\_b\&c\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textbar{}"
        r"\textless{}\textgreater{}{[}{*}{]}"
    )
    assert escape_markdown("a|b*c `d` <e> [f] \\ a_b _g_") == r"a\|b\*c \`d\` \<e\> \[f\] \\ a_b \_g\_"
    assert escape_latex("two\nlines") == escape_markdown("two\nlines") == "two lines"


def test_hostile_names_stay_inside_their_cells(tmp_path):
    frame = make_frame().replace({"cats": HOSTILE, "animals": HOSTILE + "2", "mosa": "[*]" + HOSTILE})
    write_tables(frame, tmp_path)
    for line in (tmp_path / "comparison.md").read_text().splitlines():
        if line.startswith("| "):
            assert line.replace(r"\|", "").count("|") in (5, 8)  # three tasks, or six columns of the means
    body = (tmp_path / "comparison.tex").read_text()
    assert HOSTILE not in body
    assert pd.read_csv(tmp_path / "comparison.csv")["variant"].tolist()[1] == "[*]" + HOSTILE
    html = (tmp_path / "comparison.html").read_text()
    assert HOSTILE not in html
    means, tasks = html.split("</table>")[:2]
    rows = {7: cells_of(means), 4: cells_of(tasks)}
    for width, table in rows.items():
        assert [len(row) for row in table] == [width] * 3
        assert [row[0] for row in table] == ["variant", "adapter", "[*]" + HOSTILE]
    assert f"{HOSTILE} ({HOSTILE}2)" in rows[4][0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs and graphicx")
def test_latex_compiles(tmp_path):
    write_tables(make_frame().replace({"cats": HOSTILE, "mosa": "x" + HOSTILE, "animals": HOSTILE}), tmp_path)
    document = [r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"]
    document += [rf"\input{{{name}}}" for name in ("comparison", "sweep")] + [r"\end{document}"]
    (tmp_path / "all.tex").write_text("\n".join(document))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_table_says_when_its_variants_differ_in_epochs(tmp_path):
    frame = make_frame()
    assert frame.variant.nunique() == 2 and "epochs" not in frame and lengths(frame) == ""
    assert lengths(frame.assign(epochs=25)) == ""
    assert lengths(frame.assign(epochs=range(1, len(frame) + 1))[::9]) == "Trained for 1 epoch; mosa for 10."
    of_mosa = frame.variant == "mosa"
    frame["epochs"] = 25 + 25 * of_mosa
    said = "Trained for 25 epochs; mosa for 50."
    assert lengths(frame) == said
    (section,) = compare(frame)
    assert said in caption(section) and said in terminal_section(section, 120).splitlines()
    frame.loc[frame.index[of_mosa][0], "epochs"] = 100
    assert lengths(frame.assign(display_name=frame.variant.str.upper())) == (
        "Trained for 25 epochs; MOSA for 50 to 100."
    )
    many = pd.DataFrame({"variant": list("abcdefgh"), "epochs": [8, 8, 8, 8, 100, 100, 25, 25]})
    assert lengths(many) == "Trained for 8 epochs; g, h for 25; e, f for 100."
    assert lengths(many.assign(epochs=[8] * 4 + [9] * 3 + [10])) == (
        "Trained for 8 epochs; e, f, g for 9; h for 10."
    )
    assert lengths(many.assign(epochs=[8] * 2 + [8, 8] + [9] * 4)).endswith("e, f, g and 1 other for 9.")


def test_a_table_says_when_its_records_come_from_different_code(tmp_path):
    frame = make_frame().assign(commit="a" * 40, dirty=False)
    frame["versions"] = [{"torch": "2.9.0", "timm": "1.0"} for _ in frame.index]
    assert mixture(make_frame()) == mixture(frame) == ""
    assert "The records come from" not in caption(compare(frame)[0])
    frame.loc[0, "dirty"] = True
    assert mixture(frame) == "The records come from 2 states of the code."
    frame.loc[1, "commit"] = None
    frame.at[2, "versions"] = {"torch": "2.10.0", "timm": "2.0"}
    words = "The records come from 3 states of the code and 2 versions of torch (2.10.0, 2.9.0)."
    assert mixture(frame) == words
    write_tables(frame, tmp_path)
    for suffix in ("md", "html", "tex"):
        assert words in (tmp_path / f"comparison.{suffix}").read_text()
    frame["versions"] = [{"mosa-benchmark": f"0.{seed}"} for seed in frame["seed"]]
    assert mixture(frame).endswith("3 versions of this package (0.0, 0.1, 0.2).")


# --- registries


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_is_whole(kind):
    entries = registered(kind)
    assert [output for output, _ in entries] == read_outputs(kind), "run `mosa schema`"
    assert len({output.name for output, _ in entries}) == len({output.label for output, _ in entries})
    for output, _ in entries:
        assert output.embedded in output.formats and output.caption.endswith(".") and output.label


def test_generated_files_are_what_the_registries_say():
    assert json.loads(OUTPUTS.read_text()) == json.loads(json.dumps(outputs_data())), "run `mosa schema`"
    for path, text in generated_files().items():
        assert path.read_text() == text, f"{path}: run `mosa schema`"
    captions = {path for path in generated_files() if path.suffix == ".rst"}
    assert captions == set((PACKAGE.parent / "report").glob("*/*.rst"))


def test_a_decorated_function_is_all_that_a_table_or_plot_needs(tmp_path, monkeypatch):
    for kind in KINDS:
        registered(kind)  # imports all modules that register
        monkeypatch.setitem(plugins.REGISTRIES, kind.removesuffix("s"), None)  # put back at the end
        monkeypatch.setitem(registry._ENTRIES, kind, plugins.Registry(kind.removesuffix("s"), {}))

    @registry.table("names", label="names", caption="The variants.", formats=["md"])
    def names(results):
        return {"md": ", ".join(results.compared[0].variants)}

    @registry.plot("nothing", label="nothing", caption="Nothing.")
    def nothing(results):
        return None

    assert write_tables(make_frame(), tmp_path) == [tmp_path / "names.md"]
    assert (tmp_path / "names.md").read_text() == "adapter, mosa"
    assert not write_plots(make_frame(), tmp_path)
    assert "| `names.md` | The variants |" in registry.outputs_table()
    with pytest.raises(ValueError, match="no condition 'sometimes'"):
        registry.table("more", label="more", caption="More.", when="sometimes")

    @registry.table("broken", label="broken", caption="Broken.", formats=["md"])
    def broken(results):
        raise KeyError("x")

    @registry.table("seeds", label="seeds", caption="The seeds.", formats=["md"])
    def seeds(results):
        return {"md": str(len(results.compared[0].seeds))}

    with pytest.raises(KeyError):
        write_tables(make_frame(), tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"names.md", "seeds.md"}


def names_of(kind, *runs, **config):
    config = {
        "benchmarks": {"demo": ["digits"]},
        "backbones": {"tiny": {}},
        "tune": None,
        "plugins": [],
    } | config
    return {output.name for output in expected_outputs(kind, config, runs)}


def test_conditions_say_what_an_experiment_has():
    assert names_of("tables") == TABLES
    assert names_of("tables", benchmarks={"vtab1k": []}) - names_of("tables") == {"published"}
    assert names_of("plots") == {
        "agreement",
        "comparison",
        "compute",
        "confusion",
        "ranks",
        "reliability",
        "scaling",
    }
    assert names_of("plots", backbones={"tiny": {}, "big": {}}) - names_of("plots") == {"backbones"}
    swept = [
        Run(make_specification("demo/digits", "mosa", {"experts": n}, variant=f"v{n}")) for n in (1, 2, 4)
    ]
    assert names_of("plots", *swept) - names_of("plots") == {"options"}
    assert (
        names_of("plots", *swept[:2]) == names_of("plots", *swept, tune={"per": "task"}) == names_of("plots")
    )


# --- plots


@pytest.fixture
def only_svg(monkeypatch):
    """Plots are drawn as SVG; of the other formats, empty files are written."""
    save = Figure.savefig

    def savefig(figure, path, format, **how):
        save(figure, path, format=format, **how) if format == "svg" else path.touch()

    monkeypatch.setattr(Figure, "savefig", savefig)


NO_ANSWERS = ("agreement", "confusion", "reliability")  # these runs kept no predictions: plots that say so


def test_plots_are_written(tmp_path):
    paths = write_plots(make_sweep(), tmp_path, ["linear", "full", "adapter", "mosa"])
    assert [path.name for path in paths] == [
        f"{name}.{kind}"
        for name in ("agreement", "comparison", "confusion", "options", "ranks", "reliability", "scaling")
        for kind in ("svg", "pdf", "png", "caption.txt")
    ]
    for path in paths:
        if path.suffix == ".svg":
            assert ET.parse(path).getroot().tag.endswith("svg")
            assert "<dc:date>" not in path.read_text()
        else:
            start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".txt": b"toys, tiny"}[path.suffix]
            assert path.read_bytes().startswith(start) and (
                path.stat().st_size > 10_000 or path.suffix == ".txt" or path.stem in NO_ANSWERS
            )


def test_same_records_in_any_order_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setitem(STYLE, "savefig.dpi", 40)
    frame = make_sweep()
    tuned = (frame["variant"] == "adapter") & (frame["task"] == "count")  # options may depend on the task
    frame["options"] = [{**o, "scale": 2} if t else o for o, t in zip(frame["options"], tuned, strict=True)]
    for folder, rows in (("a", frame), ("b", frame[::-1])):
        write_tables(rows, tmp_path / folder, ["adapter", "mosa"])
        write_plots(rows, tmp_path / folder, ["adapter", "mosa"])
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 26 + 7 * 4
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_folder_of_records_and_its_csv_give_the_same_bytes(tmp_path, only_svg):
    paths = []
    for index, (task, variant, seed) in enumerate(product(["digits", "count"], ["adapter", "mosa"], [0, 1])):
        metrics = {"top1": 100 / 3 + index / 7}
        record = make_record(task=task, variant=variant, method=variant, seed=seed, metrics=metrics)
        paths.append(tmp_path / "runs" / task / variant / f"seed{seed}.json")
        write_record(record, paths[-1])
    write_table(load_records(paths), tmp_path / "records.csv")
    for source in ("runs", "records.csv"):
        frame = read_table(tmp_path / source)
        write_tables(frame, tmp_path / "out" / source)
        write_plots(frame, tmp_path / "out" / source)
    for path in (tmp_path / "out" / "runs").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "records.csv" / path.name).read_bytes(), path.name


def test_every_method_is_named_in_both_plots():
    frame = make_sweep()
    frame = pd.concat([frame, make_frame({"unheard": {"cats": [1, 2]}})])
    assert set(labels_of(comparison_figure(Results(frame)))) >= set(frame["variant"])
    legend = [
        label.split("\n")[0].split(":")[0] for label in labels_of(scaling_figure(Results(frame))) if label
    ]
    assert {"linear", "full", "adapter", "mosa", "unheard"} <= set(legend)
    assert "unheard: missing" in labels_of(scaling_figure(Results(frame)))


def test_variants_with_other_options_are_a_curve_of_their_own():
    frame = make_sweep()
    other = frame.query("method == 'mosa'").assign(
        options=lambda f: [{**o, "experts": 8} for o in f["options"]]
    )
    other = other.query("task != 'dogs' and seed < 2").assign(variant=other["variant"] + "-8")
    frame = pd.concat([frame, other], ignore_index=True)
    labels = labels_of(scaling_figure(Results(frame, ["linear", "full", "adapter", "mosa"])))
    assert {"mosa\nbottleneck 4, 16, 64", "mosa-8\nbottleneck 4, 16, 64"} <= set(labels)


def test_points_of_the_scaling_plot_are_the_means():
    figure = scaling_figure(Results(make_sweep(), ["linear", "full", "adapter", "mosa"]))
    lines = {line.get_label().split("\n")[0]: line for line in figure.axes[0].get_lines()}
    assert lines["mosa"].get_ydata().tolist() == [
        60.75,
        66.5,
        60.75,
    ]  # mean of (70 + 50) / 2 and (72 + 51) / 2
    assert lines["adapter"].get_xdata().tolist() == [240, 1000, 3840]


OPTIONS = {"bottleneck": 16, "experts": 4, "consistency": 1.0, "split": "up", "split_bias": False}


def make_ablation():
    """Return a dense adapter, a mosa, and variants of it with one other option (one has two) on two seeds."""
    changes = [
        *({"experts": value} for value in (1, 2, 16)),
        *({"consistency": value} for value in (0.0, 10.0)),
        *({"split": value} for value in ("down", "both")),
        {"split_bias": True},
        {"experts": 8, "consistency": 0.0},
    ]
    rows = [make_frame({"adapter": {"cats": [70, 72]}}).assign(options=[{"bottleneck": 16}] * 2)]
    for index, change in enumerate([{}, *changes]):
        frame = make_frame({"mosa-" + "".join(map(str, change.values())): {"cats": [60 + index, 62 + index]}})
        rows.append(frame.assign(options=[OPTIONS | change] * len(frame)))
    return pd.concat(rows, ignore_index=True)


def test_a_curve_changes_one_option_and_nothing_else():
    variants = {row.variant: (row.method, row.options, {"lr": 0.1}) for row in make_ablation().itertuples()}
    curves = option_curves(variants)
    assert curves.keys() == {"experts", "consistency", "split"}  # split_bias has two values
    (experts,) = curves["experts"]
    assert experts.method == "mosa"  # and 8 is not among its values: that variant has another option beside
    assert [value for value, _ in experts.variants] == [1, 2, 4, 16]
    assert [value for value, _ in curves["consistency"][0].variants] == [0.0, 1.0, 10.0]
    assert [value for value, _ in curves["split"][0].variants] == ["both", "down", "up"]
    variants["mosa-1"] = (*variants["mosa-1"][:2], {"lr": 0.2})  # another recipe: not the same curve
    assert [value for value, _ in option_curves(variants)["experts"][0].variants] == [2, 4, 16]


def test_the_options_plot_shows_means_beside_the_dense_adapter():
    figure = options_figure(Results(make_ablation(), ["adapter", "mosa-"]))
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert panels.keys() == {"experts", "consistency", "split"}
    experts = panels["experts"]
    assert [text.get_text() for text in experts.get_xticklabels()] == [
        "1\n0 %", "2\n50 %", "4\n75 %", "16\n93.8 %"
    ]  # fmt: skip
    lines = [line.get_ydata() for line in experts.get_lines()]
    assert [62.0, 63.0, 61.0, 64.0] in [list(line) for line in lines]
    assert [71.0, 71.0] in [list(line) for line in lines]
    assert "adapter: 71.0" in [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert options_figure(Results(make_frame())) is None


def test_keys_of_the_recipe_are_curves_too():
    variants = {
        f"v{fraction}": ("lora", {"rank": 4}, {"fraction": fraction, "lr": 1}) for fraction in (1, 0.5, 0.1)
    }
    assert [value for value, _ in option_curves(variants)["fraction"][0].variants] == [0.1, 0.5, 1]


def test_backbones_stand_by_size_and_only_where_there_are_two():
    sizes = {"tiny": 1e6, "large": 3e8, "base": 9e7}
    frames = [make_frame().assign(backbone=name, model_parameters=size) for name, size in sizes.items()]
    frame = pd.concat(frames, ignore_index=True)
    frame.loc[frame["backbone"] == "large", "top1"] += 5
    (axes,) = backbones_figure(Results(frame, ["adapter", "mosa"])).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["tiny\n1M", "base\n90M", "large\n300M"]
    lines = {line.get_label(): line for line in axes.get_lines()}
    means = lines["adapter"].get_ydata()
    assert means[0] == means[1] and means[2] == pytest.approx(means[0] + 5)
    assert backbones_figure(Results(frames[0])) is None
    assert "over 3 seeds" in backbones_figure(Results(frame)).subfigs[0].get_supxlabel().replace("\n", " ")
    small = pd.concat([frames[0], frames[1].query("seed < 2")], ignore_index=True)
    figure = backbones_figure(Results(small, ["adapter", "mosa", "lora"]))  # lora has no run yet
    assert "seeds (tiny: 3 seeds; large: 2 seeds)" in figure.subfigs[0].get_supxlabel().replace("\n", " ")
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert [label for label in labels if not label.startswith("_")] == ["adapter", "mosa"]
    other = frames[1].query("task != 'dogs'")  # other tasks: not comparable
    assert backbones_figure(Results(pd.concat([frames[0], other]))) is None
    third = pd.concat([frames[0], other, frames[2]])
    assert "Not drawn here, as their tasks differ: large." in noted(backbones_figure(Results(third)))


def test_compute_is_drawn_where_it_is_known():
    known = {"epochs": 2, "train_examples": 100, "passes": 1, "train_flops_per_image": 1e6}
    figure = compute_figure(Results(make_frame(**known)))
    assert figure.axes[0].get_lines()[0].get_xdata().tolist() == [2e8]
    assert compute_figure(Results(make_frame())) is None


def test_small_differences_do_not_fill_an_axis():
    figure = comparison_figure(Results(make_frame({"adapter": {"cats": [50.0]}, "mosa": {"cats": [50.1]}})))
    low, high = figure.axes[0].get_xlim()
    assert high - low == pytest.approx(3)


def test_missing_means_are_told_and_not_drawn():
    frame = without(make_frame(), variant="adapter", task="cats")
    (overall, *_) = comparison_figure(Results(frame)).axes
    assert [text.get_text() for text in overall.texts] == ["missing", "65.0"]
    figure = scaling_figure(Results(frame))
    assert "adapter: missing" in labels_of(figure)
    assert "as runs are missing: adapter." in noted(figure)
    extra = make_frame({"adapter-4": {"cats": [80]}}).assign(seed=1, options=[{"bottleneck": 4}])
    frame = make_frame(
        {"adapter": {"cats": [80, 81]}, "mosa": {"cats": [70]}}
    )  # of the sweep's seed: adapter
    figure = scaling_figure(Results(pd.concat([frame, extra]), ["adapter", "mosa"]))
    assert "as runs are missing: mosa." in noted(figure)


EDGES = {
    "one seed": make_frame().query("seed == 0"),
    "one run": make_frame().head(1),
    "one group": make_frame().query("group == 'animals'"),
    "a variant without runs": make_frame({"mosa": SCORES["mosa"]}),
    "no complete variant": make_frame({"adapter": {"cats": [1]}, "mosa": {"dogs": [2]}}),
    "nothing tuned": make_frame({"linear": SCORES["mosa"]}),
    "many variants": make_frame({f"m{i}": {"cats": [50 + i, 51], "count": [9, 9]} for i in range(20)}),
    "hostile names": make_frame().replace({"cats": HOSTILE, "mosa": HOSTILE, "animals": HOSTILE}),
    "seven groups": pd.concat([make_frame({"mosa": {f"t{i}": [i, 9]}}, group=f"g{i}") for i in range(7)]),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.filterwarnings("error")
def test_edge_cases_are_drawn(name, tmp_path, only_svg):
    order = ["mosa", "adapter"] if name == "a variant without runs" else None
    assert len(write_plots(EDGES[name], tmp_path, order)) == 6 * 4
    assert len(write_tables(EDGES[name], tmp_path, order)) == 26


def noted(figure):
    """Return the note below a figure's first part, in one line."""
    return " ".join(figure.subfigs[0].get_supxlabel().split())


def test_panels_that_share_an_axis_show_what_is_near_in_any_of_them():
    frame = make_ablation().query("variant != 'adapter'")  # whose level is in all panels
    frame.loc[frame["variant"] == "mosa-16", "top1"] = 5.0
    panels = options_figure(Results(frame, ["mosa-"])).axes
    low, high = panels[0].get_ylim()
    near = [score for score in frame.groupby("variant").top1.mean() if score > 5]
    assert len(near) == frame["variant"].nunique() - 1 and 5 < low < min(near) and max(near) < high
    assert {axes.get_ylim() for axes in panels if axes.axison} == {(low, high)}


@pytest.mark.parametrize("draw", [scaling_figure, compute_figure])
def test_bars_are_whole_beside_a_variant_that_collapsed(draw):
    scores = {f"adapter-{i}": {"cats": [65 + i, 71 + i, 77 + i]} for i in range(5)} | {
        "lora": {"cats": [5, 6, 7]}
    }
    known = {"epochs": 2, "train_examples": 100, "passes": 1, "train_flops_per_image": 1e6}
    axes = draw(Results(make_frame(scores, **known))).axes[0]
    low, high = axes.get_ylim()
    assert 7 < low < 71 - 6 and high > 75 + 6


def test_a_metric_of_a_plugin_may_be_negative(monkeypatch):
    mcc = Metric("mcc", "MCC", "", True, 3, lambda logits, labels: 0.0, "Matthews correlation.")
    monkeypatch.setitem(METRICS, "mcc", mcc)
    frame = make_frame().assign(mcc=lambda frame: -frame["top1"] / 1000)
    assert scaling_figure(Results(frame, None, "mcc")).axes[0].get_ylim()[0] < 0
    (overall, *_) = comparison_figure(Results(frame, None, "mcc")).axes
    low, high = overall.get_xlim()
    (section,) = Results(frame, None, "mcc").compared
    assert low < section.mean[MEAN_OVER_TASKS].min() and section.mean[MEAN_OVER_TASKS].max() < high
    assert METRICS["nll"].floor == 0 and mcc.floor is None


def test_titles_are_beside_a_plot_unless_asked_for():
    widths = {}
    for titles, width in ((True, 6.9), (False, 3.3)):
        token = LOOK.set(Look(width, titles))
        try:
            figure = scaling_figure(Results(make_frame()))
        finally:
            LOOK.reset(token)
        widths[titles] = figure.get_figwidth()
        assert bool(figure.subfigs[0].get_suptitle()) == bool(figure.subfigs[0].get_supxlabel()) == titles
        assert figure.get_label().startswith("toys, tiny: top-1 (%), test split. Over 3 tasks")
    assert widths == {True: 6.9, False: 3.3}


def test_a_variant_that_collapsed_does_not_squeeze_the_others():
    percent, number = Axis("top-1", unit="%"), Axis("NLL")
    assert shown_range([70, 72, 74, 75, 5], percent) == (70, 75)
    assert shown_range([70, 72, 74, 75, 66], percent) == (66, 75)  # not that far
    assert shown_range([70, 5, 6], percent) == (5, 70)  # of three, none is the rule
    assert shown_range([0.5, 0.6, 0.55, 0.7, 9.0, float("nan")], number) == (0.5, 0.7)
    scores = {f"adapter-{i}": {"cats": [70 + i, 71 + i]} for i in range(5)} | {"lora": {"cats": [5, 6]}}
    frame = make_frame(scores)
    for draw, low in ((scaling_figure, "get_ylim"), (comparison_figure, "get_xlim")):
        axes = draw(Results(frame)).axes[0]
        assert getattr(axes, low)()[0] > 60
        assert "5.5" in [text.get_text() for text in axes.texts]  # it is marked, with its value


@pytest.mark.parametrize(("number", "grid"), [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (5, (2, 3))])
def test_no_panel_of_options_is_blank(number, grid):
    places = panel_grid(number)
    assert (len(places), len(places[0])) == grid and sum(place < 0 for row in places for place in row) <= 1


@pytest.mark.parametrize("draw", [comparison_figure, scaling_figure, options_figure, rank_figure])
def test_nothing_is_cut_off(draw):
    frame = make_frame({f"adapter-with-a-rather-long-name-{i}": SCORES["mosa"] for i in range(4)})
    frame["options"] = [{"bottleneck": int(variant[-1])} for variant in frame["variant"]]
    with matplotlib.style.context(["default", STYLE], after_reset=True):
        figure = draw(Results(frame))
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def test_methods_look_the_same_whatever_else_is_there_and_different_from_each_other():
    new = [f"new{i}" for i in range(16)]
    styles = method_styles([*METHOD_STYLES, *new])
    assert len({(style.color, style.marker) for style in styles.values()}) == 5 + 16
    assert method_styles(["mosa"]) == {"mosa": styles["mosa"]}


def test_tables_import_neither_matplotlib_nor_torch():
    code = (
        "import sys, mosa.results.tables.write as t; from mosa.data import catalogue; "
        "print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("column", "value"),
    [("options", {"bottleneck": 9}), ("lr", 0.5), ("epochs", 3), ("specification", "other")],
)
def test_one_cell_does_not_average_runs_of_different_recipes(column, value):
    frame = make_sweep().assign(lr=0.1, epochs=8, specification="one")
    frame[column] = [value if index == 0 else old for index, old in enumerate(frame[column])]
    with pytest.raises(UserError, match=f"records with different {column} cannot be compared"):
        compare(frame)


def test_differences_are_paired_by_seed_and_checked_by_hand():
    section = compare(make_frame())[0]
    (difference,) = differences(section)
    # Per seed, mosa - adapter over cats, dogs, count: (1 + 0 + 10) / 3, (1 - 1 + 12) / 3, (4 - 2 + 5) / 3.
    values = [11 / 3, 4.0, 7 / 3]
    margin = 4.302653 * statistics.stdev(values) / 3**0.5  # t of 2 degrees of freedom at 97.5 %
    assert (difference.variant, difference.reference) == ("mosa", "adapter")
    assert difference.mean == pytest.approx(10 / 3)
    assert (difference.low, difference.high) == pytest.approx((10 / 3 - margin, 10 / 3 + margin), rel=1e-5)
    assert (difference.seeds, difference.better, difference.tasks) == (3, 2, 3)
    assert (
        difference.sentence
        == "mosa - adapter: +3.3 [+1.1, +5.5] over 3 tasks x 3 seeds, better on 2 of 3 tasks"
    )


def test_a_section_without_the_chosen_reference_has_its_own():
    frames = [
        make_frame(),
        make_frame({"linear": SCORES["mosa"], "adapter": SCORES["mosa"]}, backbone="other"),
    ]
    frame = pd.concat(frames, ignore_index=True)
    ours, other = Results(frame, reference="mosa").compared
    assert {ours.reference, other.reference} == {"mosa", "adapter"}


def test_differences_leave_out_seeds_that_one_side_lacks():
    scores = {"adapter": SCORES["adapter"], "mosa": SCORES["mosa"] | {"dogs": [60, 60, None]}}
    (difference,) = differences(compare(make_frame(scores))[0])
    assert difference.seeds == 2 and difference.mean == pytest.approx((11 / 3 + 4) / 2)
    nothing = {"adapter": SCORES["adapter"], "mosa": {"cats": [1, 2, 3]}}
    (difference,) = differences(compare(make_frame(nothing))[0])
    assert difference.seeds == 0 and "no seed has all tasks of both" in difference.sentence


def test_compute_is_what_a_run_takes_relative_to_the_adapter():
    recipe = {"epochs": 8, "train_examples": 1000, "passes": 1, "train_flops_per_image": 2e6}
    frame = make_frame(**recipe)
    mosa = frame["variant"] == "mosa"
    frame.loc[mosa, "passes"], frame.loc[mosa, "train_flops_per_image"] = 2, 3e6
    section = compare(frame)[0]
    assert section.compute.loc["mosa"].tolist() == [16_000, 8 * 1000 * 3e6]
    columns = {column.title: [cell.value for cell in column.cells] for column in compute_columns(section)}
    assert columns["image-passes\n(k)"] == ["8", "16"]
    assert columns["training FLOPs\n(adapter = 1)"] == ["1.00", "1.50"]
    assert compute_columns(compare(make_frame())[0]) == []
    assert "FLOPs" not in caption(compare(make_frame())[0])  # records that do not say have no such column


def test_efficiency_is_what_the_records_say():
    cost = {"train_seconds": 4.0, "peak_memory_mib": 300.0, "inference_flops_per_image": 1e6}
    frame = make_frame(**cost)
    mosa = frame["variant"] == "mosa"
    frame.loc[mosa, "adapter_parameters"], frame.loc[mosa, "inference_flops_per_image"] = 900, 1.1e6
    frame.loc[mosa & (frame["task"] == "cats"), "train_seconds"] = 10.0
    table = efficiency_table(compare(frame)).set_index("variant")
    assert table.loc["mosa", "train_seconds"] == pytest.approx((10 + 4 + 4) / 3)
    assert pd.isna(table["inference_overhead"]).all()  # no run says what the backbone takes
    assert table.loc["mosa", "pareto"] and not table.loc["adapter", "pareto"]  # fewer and better
    assert table.loc["adapter", "storage_mib"] == pytest.approx(4 * (1000 + (100 + 200 + 60) / 3) / 2**20)
    assert table.loc["mosa", "ppt"] == pytest.approx(ppt(table.loc["mosa", "mean_over_tasks"], 900))
    absent = efficiency_table(compare(without(frame, variant="mosa", task="cats"))).set_index("variant")
    assert pd.isna(absent.loc["mosa", ["train_seconds", "mean_over_tasks", "ppt"]].astype(float)).all()
    text = efficiency_text(compare(make_frame()))
    assert "| mosa | 65.0 | 1,000 |" in text and "—" in text
    assert "several machines" not in efficiency_text(compare(frame.assign(device="a")))
    mixed = efficiency_text(compare(frame.assign(device=mosa.astype(str))))
    assert "The records name several machines, whose seconds do not compare." in mixed


def test_the_rank_plot_names_every_variant_with_its_rank():
    order = {"adapter": 80, "mosa": 85, "lora": 70, "full": 90}
    frame = make_frame({v: {t: [s, s] for t in TASKS} for v, s in order.items()})
    texts = [text.get_text() for text in rank_figure(Results(frame)).axes[0].texts]
    assert {"full 1.00", "mosa 2.00", "3.00 adapter", "4.00 lora"} <= set(texts)
    assert any(text.startswith("critical difference 2.71") for text in texts)
    assert "ranks need three variants" in rank_figure(Results(make_frame())).axes[0].texts[0].get_text()
