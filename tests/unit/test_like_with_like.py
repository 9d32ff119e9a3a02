"""What is paired or joined differs in what is named, and in nothing else."""

import pandas as pd
from test_analysis import make_frame, names_of
from test_report import CHOICE

from mosa.experiment.curves import option_curves, settings_of
from mosa.experiment.expand import Run
from mosa.experiment.specification import make_specification
from mosa.results.aggregate import Results, compare
from mosa.results.plots.backbones import backbones_figure
from mosa.results.plots.options import options_figure
from mosa.results.plots.scaling import scaling_figure
from mosa.results.report.data import trials_chart
from mosa.results.style import method_styles
from mosa.results.tables.combination import combination_table, combination_text

RECIPE = {"epochs": 8, "lr": 0.06, "batch_size": 32}
ADAPTER = {"bottleneck": 16, "consistency": 0.0}
MOSA = {"bottleneck": 16, "consistency": 1.0, "experts": 4}


def runs(variants, tasks=("cats",), **other):
    """Return a frame of {variant: (method, top-1, options, changes of the recipe)}."""
    frames = []
    for name, (method, top1, options, recipe) in variants.items():
        frame = make_frame({name: {task: [top1, top1 + 1] for task in tasks}}, **other)
        rows = len(frame)
        recipes = [RECIPE | recipe] * rows
        frames.append(frame.assign(method=method, options=[options] * rows, recipe=recipes))
    return pd.concat(frames, ignore_index=True)


def words(figure):
    return " ".join(figure.subfigs[0].get_supxlabel().split())


# --- with and without the split


def pairs_of(frame):
    table = combination_table(compare(frame))
    return {(row.reference, row.variant): row.also_different for row in table.itertuples()}, combination_text(
        compare(frame)
    )


def test_a_split_is_not_paired_with_another_training_length():
    frame = runs({
        "adapter": ("adapter", 75, ADAPTER, {}),
        "mosa": ("mosa", 66, MOSA, {"lr": 0.03}),
        "mosa_4x": ("mosa", 73, MOSA, {"lr": 0.03, "epochs": 32}),
    })  # fmt: skip
    pairs, text = pairs_of(frame)
    assert pairs == {("adapter", "mosa"): "consistency 0 / 1, lr 0.06 / 0.03"}
    assert "| consistency 0 / 1, lr 0.06 / 0.03 |" in text
    assert "Not paired, as the recipes differ: mosa_4x (epochs 8 / 32 against adapter)" in text


def test_each_split_stands_beside_the_dense_ones_of_its_own_recipe():
    frame = runs({
        "adapter": ("adapter", 75, ADAPTER, {}),
        "adapter_long": ("adapter", 76, ADAPTER, {"epochs": 32}),
        "adapter_rdrop": ("adapter", 74, ADAPTER | {"consistency": 1.0}, {}),
        "adapter_wide": ("adapter", 77, ADAPTER | {"bottleneck": 64}, {}),
        "mosa": ("mosa", 66, MOSA, {}),
        "mosa_alone": ("mosa", 67, MOSA | {"consistency": 0.0}, {}),
        "mosa_long": ("mosa", 73, MOSA, {"epochs": 32}),
        "mosa_bf16": ("mosa", 73, MOSA, {"precision": "bfloat16"} | {"batch_size": 64}),
    })  # fmt: skip
    pairs, text = pairs_of(frame)
    assert pairs == {
        ("adapter", "mosa"): "consistency 0 / 1",
        ("adapter_rdrop", "mosa"): "",
        ("adapter", "mosa_alone"): "",
        ("adapter_rdrop", "mosa_alone"): "consistency 1 / 0",
        ("adapter_long", "mosa_long"): "consistency 0 / 1",
    }
    assert "mosa_bf16 (batch size 32 / 64 against adapter_rdrop)" in text


def test_what_the_split_trains_otherwise_is_named():
    ours = MOSA | {"consistency": 0.0, "every_expert": False, "split_lr": 1.0}
    frame = runs({
        "adapter": ("adapter", 75, ADAPTER, {}),
        "mosa_alone": ("mosa", 66, ours, {}),
        "mosa_every": ("mosa", 72, ours | {"every_expert": True}, {}),
        "mosa_fast": ("mosa", 67, ours | {"split_lr": 8.0}, {}),
    })  # fmt: skip
    assert pairs_of(frame)[0] == {
        ("adapter", "mosa_alone"): "",
        ("adapter", "mosa_every"): "every expert false / true",
        ("adapter", "mosa_fast"): "split lr 1 / 8",
    }


def test_options_of_every_task_count():
    frame = runs({"adapter": ("adapter", 75, ADAPTER, {}), "mosa": ("mosa", 66, MOSA, {})}, ("cats", "dogs"))
    wide = (frame["variant"] == "mosa") & (frame["task"] == "dogs")
    frame["options"] = [
        MOSA | {"bottleneck": 64} if w else o for w, o in zip(wide, frame["options"], strict=True)
    ]
    pairs, text = pairs_of(frame)
    assert pairs == {} and "No variant" in text


# --- curves


def curves_of(frame, order=None):
    (part,) = scaling_figure(Results(frame, order)).subfigs
    return [text.get_text() for text in part.legends[0].get_texts()]


def test_a_curve_of_sizes_has_one_recipe():
    frame = runs({
        "mosa_small": ("mosa", 60, MOSA | {"bottleneck": 4}, {}),
        "mosa": ("mosa", 66, MOSA, {}),
        "mosa_4x": ("mosa", 73, MOSA, {"epochs": 32}),
    })  # fmt: skip
    assert sorted(curves_of(frame)) == ["mosa\nbottleneck 4, 16", "mosa_4x"]
    figure = scaling_figure(Results(frame))
    assert "differ in size only, neither in other options nor in the recipe" in words(figure)


def test_keys_of_the_recipe_count_also_where_a_frame_has_them_as_columns_only():
    frame = runs({
        "mosa": ("mosa", 66, MOSA, {}), "mosa_b4": ("mosa", 60, MOSA | {"bottleneck": 4}, {}),
    }).drop(columns="recipe")  # fmt: skip
    assert curves_of(frame.assign(epochs=8)) == ["mosa\nbottleneck 4, 16"]
    frame["epochs"] = [8 if variant == "mosa" else 32 for variant in frame["variant"]]
    assert sorted(curves_of(frame)) == ["mosa", "mosa_b4"]


def test_consistency_0_is_on_its_curve_though_it_takes_one_pass_less():
    weights = {0.0: 90, 0.1: 80, 1.0: 70, 10.0: 60}
    frame = runs({
        f"mosa_{weight}": ("mosa", top1, MOSA | {"consistency": weight}, {"passes": 2 if weight else 1})
        for weight, top1 in weights.items()
    })  # fmt: skip
    frame["passes"] = [recipe["passes"] for recipe in frame["recipe"]]
    panels = {axes.get_title(loc="left"): axes for axes in options_figure(Results(frame)).axes}
    (line,) = [line for line in panels["consistency"].get_lines() if line.get_label() == "mosa"]
    assert line.get_ydata().tolist() == [90.5, 80.5, 70.5, 60.5]
    assert [text.get_text() for text in panels["consistency"].get_xticklabels()] == [
        "0.0", "0.1", "1.0", "10.0"
    ]  # fmt: skip


def test_the_line_beside_the_curves_says_in_what_it_differs_more():
    variants = {f"mosa_{n}": ("mosa", 60 + n, MOSA | {"experts": n}, {"lr": 0.03}) for n in (1, 2, 4)}
    frame = runs(variants | {"adapter": ("adapter", 75, ADAPTER, {})})
    assert "adapter / curve): consistency 0 / 1, lr 0.06 / 0.03" in words(options_figure(Results(frame)))
    same = ("adapter", 75, ADAPTER | {"consistency": 1.0}, {"lr": 0.03})
    assert "adapter / curve" not in words(options_figure(Results(runs(variants | {"adapter": same}))))


def test_a_value_that_depends_on_the_task_is_no_place_on_an_axis():
    by_task = {"cats": ({"experts": 2}, {"lr": 1.0}), "dogs": ({"experts": 4}, {"lr": 1.0})}
    settings = settings_of(by_task)
    assert settings == {"experts": {"cats": 2, "dogs": 4}, "lr": 1.0}
    variants = {f"v{n}": ("mosa", {"experts": n, "lr": 1.0}, {}) for n in (1, 2, 4)}
    assert len(option_curves(variants)["experts"][0].variants) == 3
    assert len(option_curves(variants | {"tuned": ("mosa", settings, {})})["experts"][0].variants) == 3


def test_the_workflow_expects_an_options_plot_only_where_each_task_has_the_curve():
    def swept(tasks):
        return [
            Run(make_specification(f"demo/{task}", "mosa", {"experts": n}, {"epochs": e}, variant=f"v{n}"))
            for n, e in ((1, 8), (2, 8), (4, 8))
            for task in tasks
        ]

    assert "options" in names_of("plots", *swept(["digits", "count"]))
    one_differs = swept(["digits"]) + [
        Run(make_specification("demo/tissue", "mosa", {"experts": n}, {"epochs": 7 + n}, variant=f"v{n}"))
        for n in (1, 2, 4)
    ]
    assert "options" not in names_of("plots", *one_differs)


# --- other figures


def test_the_backbones_plot_says_what_changes_beside_the_backbone():
    def on(backbone, size, lr):
        variants = {"mosa": ("mosa", 66, MOSA, {"lr": lr}), "adapter": ("adapter", 70, ADAPTER, {})}
        return runs(variants, backbone=backbone, model_parameters=size)

    frame = pd.concat([on("tiny", 1e6, 0.03), on("big", 9e7, 0.01)], ignore_index=True)
    assert "Not the backbone alone changes: mosa in lr." in words(backbones_figure(Results(frame)))
    frame = pd.concat([on("tiny", 1e6, 0.03), on("big", 9e7, 0.03)], ignore_index=True)
    assert "Not the backbone" not in words(backbones_figure(Results(frame)))


def trial(lr, decay, top1, epochs=2):
    result = {"status": "complete", "epochs": epochs, "score": top1, "top1": top1, "loss": 1, "notes": []}
    return {"options": {}, "training": {"lr": lr, "weight_decay": decay}} | result


def test_trials_are_joined_only_where_one_key_changes():
    def series_of(*trials):
        chosen = {"options": {}, "training": {"lr": 0.1, "weight_decay": 0.1}}
        choice = CHOICE | {"trials": list(trials), "chosen": chosen}
        return trials_chart([choice], method_styles(["mosa"])).series[0]

    one = series_of(trial(0.1, 0.1, 70.0), trial(0.01, 0.1, 60.0))
    assert one.joined and [point.x for point in one.points] == [0.01, 0.1]
    grid = series_of(trial(0.1, 0.0, 69.0), trial(0.1, 0.1, 70.0), trial(0.01, 0.0, 60.0))
    assert not grid.joined and [point.marked for point in grid.points] == [False, False, True]
    assert grid.points[-1].name == "mosa, weight_decay 0.1"
    assert not series_of(trial(0.1, 0.1, 70.0), trial(0.01, 0.1, 60.0, epochs=4)).joined  # halving


def test_trials_say_how_long_they_trained_and_which_were_stopped():
    pruned = trial(0.01, 0.1, 72.0, epochs=1) | {"status": "pruned"}
    chosen = {"options": {}, "training": {"lr": 0.1, "weight_decay": 0.1}}
    choice = CHOICE | {"trials": [pruned, trial(0.1, 0.1, 71.0)], "chosen": chosen}
    (series,) = trials_chart([choice], method_styles(["mosa"])).series
    names = ["mosa, weight_decay 0.1, 1 epoch, pruned", "mosa, weight_decay 0.1, 2 epochs"]
    assert [point.name for point in series.points] == names
    both = trials_chart([choice, choice | {"backbone": "tiny"}], method_styles(["mosa"])).series
    assert [one.label for one in both] == ["demo (2 tasks), micro_vit, mosa", "demo (2 tasks), tiny, mosa"]
