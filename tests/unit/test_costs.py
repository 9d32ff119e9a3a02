"""What variants cost: relative to the backbone itself, whichever variants are shown."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_analysis import make_frame

from mosa.base.timm import timm
from mosa.engine.cost.flops import count_backbones, inference_flops
from mosa.experiment.validation import merges_away, method_schemas
from mosa.peft import attach, example_batches, list_methods, merge
from mosa.results.aggregate import compare
from mosa.results.backbone_flops import COUNTED
from mosa.results.costs import COSTS
from mosa.results.report.sections import page_section
from mosa.results.tables.efficiency import efficiency_table, efficiency_text

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
FLOPS = {"linear": 1.0e6, "lora": 1.0e6, "adapter": 1.1e6, "mosa": 1.2e6}


def costly(*variants, **other):
    frame = make_frame({v: {"cats": [50, 52], "count": [60, 61]} for v in variants}, **other)
    return frame.assign(inference_flops_per_image=frame["method"].map(FLOPS))


def overheads(frame, order=None):
    table = efficiency_table(compare(frame, order)).set_index("variant")
    return table["inference_overhead"].to_dict()


@pytest.mark.parametrize("plain", ["linear", "lora"])
def test_inference_flops_are_relative_to_the_backbone_also_when_no_shown_variant_is_one(plain):
    frame = costly(plain, "adapter", "mosa")
    whole = overheads(frame)
    assert whole == pytest.approx({plain: 1.0, "adapter": 1.1, "mosa": 1.2})
    assert overheads(frame, ["adapter", "mosa"]) == pytest.approx({"adapter": 1.1, "mosa": 1.2})


def test_a_cost_that_a_task_lacks_has_no_mean_over_tasks():
    frame = costly("linear", "adapter", "mosa").assign(peak_memory_mib=1000.0, device_type="cuda")
    frame.loc[frame["task"] == "count", "peak_memory_mib"] = 5000.0
    frame.loc[(frame["variant"] == "adapter") & (frame["task"] == "cats"), "device_type"] = "cpu"
    frame.loc[(frame["variant"] == "mosa") & (frame["task"] == "cats"), "inference_flops_per_image"] = None
    table = efficiency_table(compare(frame)).set_index("variant")
    memory = table["peak_memory_mib"]
    assert pd.isna(memory["adapter"]) and memory["linear"] == memory["mosa"] == 3000
    assert pd.isna(table["inference_overhead"]["mosa"]) and table["inference_overhead"]["adapter"] == 1.1


def test_costs_do_not_need_a_seed_with_all_tasks():
    frame = costly("linear", "adapter").assign(train_seconds=2.0)
    alone = frame[(frame["variant"] == "linear") | ((frame["task"] == "cats") == (frame["seed"] == 0))]
    table = efficiency_table(compare(alone)).set_index("variant")
    assert pd.isna(table["mean_over_tasks"]["adapter"]) and table["train_seconds"]["adapter"] == 2
    lacking = frame[(frame["variant"] == "linear") | (frame["task"] == "cats")]
    assert pd.isna(efficiency_table(compare(lacking)).set_index("variant")["train_seconds"]["adapter"])


def test_nothing_else_stands_for_an_unknown_backbone():
    frame = costly("adapter", "mosa", architecture="strange_vit", image_size=32, head_parameters=970)
    assert pd.isna(list(overheads(frame).values())).all()
    text = efficiency_text(compare(frame))
    assert "inference FLOPs (backbone = 1)" in text and "1.000" not in text
    # An ensemble of experts is N networks, and no backbone.
    frame = costly("adapter", "lora").replace({"method": {"lora": "mosl"}})
    frame = frame.assign(inference_flops_per_image=1e6, options=[{"merge": "ensemble"}] * len(frame))
    assert pd.isna(list(overheads(frame).values())).all()


def test_without_a_run_of_the_backbone_its_flops_are_as_counted():
    backbone = json.loads(COUNTED.read_text())["mosa_vit_micro 32"]
    frame = costly("adapter", "mosa", architecture="mosa_vit_micro", image_size=32, head_parameters=10 * 97)
    expected = 1.1e6 / (backbone["flops"] + 2 * 96 * 10)
    assert overheads(frame)["adapter"] == pytest.approx(expected)


def test_the_counted_backbones_are_those_of_the_configs_and_their_counts_are_current():
    counted = json.loads(COUNTED.read_text())
    assert counted == count_backbones(), "run `mosa schema`"
    for config in CONFIGS:
        for entry in filter(None, (yaml.safe_load(config.read_text()).get("backbones") or {}).values()):
            assert f"{entry['architecture']} {entry.get('image_size', 224)}" in counted


@pytest.mark.parametrize("method", list_methods())
def test_methods_that_merge_away_leave_the_backbone_as_it_was(method):
    if method == "peft":
        pytest.importorskip("peft")
    model = timm.create_model("mosa_vit_micro", num_classes=5)
    counted = json.loads(COUNTED.read_text())["mosa_vit_micro 32"]
    backbone = counted["flops"] + 2 * counted["width"] * model.num_classes
    attach(model, method, verify=False, data=example_batches(model))
    merge(model)
    same = inference_flops(model, 32) == backbone
    assert (
        same == merges_away(method_schemas()[method], {}) or method == "peft"
    )  # which merges some of its types only


def test_one_text_says_what_the_unit_is():
    section = compare(costly("linear", "adapter"))[0]
    label = COSTS["inference_overhead"].label
    assert label == "inference FLOPs (backbone = 1)"
    assert label in efficiency_text([section])
    assert page_section(section, "s")["efficiency"]["titles"]["inference_overhead"] == label
    docs = (Path(__file__).parents[2] / "docs" / "tables-and-plots.md").read_text()
    assert "**Inference FLOPs (backbone = 1)**" in docs and "least = 1" not in docs
