"""Names for readers: shown wherever a variant is, and nothing else of an experiment depends on them."""

import json
from copy import deepcopy
from pathlib import Path

import matplotlib.style
import pytest
import yaml
from test_analysis import make_frame

from mosa.base.errors import UserError
from mosa.experiment.config import expand, load_config
from mosa.experiment.manifest import read_manifest
from mosa.experiment.workflow import Workflow
from mosa.records import write_record
from mosa.results.aggregate import Results, compare
from mosa.results.collect import collect
from mosa.results.frame import read_table
from mosa.results.plots.comparison import comparison_figure
from mosa.results.plots.figures import STYLE
from mosa.results.plots.ranks import rank_figure
from mosa.results.plots.scaling import scaling_figure
from mosa.results.tables.write import write_tables

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
CONFIG["sweeps"] = {"size": {"lora": {"rank": [2]}, "mosa": {"bottleneck": [4]}}}
NAMES = {"lora": "LoRA (r=8)", "adapter": "AdaptFormer & co_1 50%"}


def config(**names):
    changed = deepcopy(CONFIG)
    for variant, name in names.items():
        changed["variants"][variant]["display_name"] = name
    return changed


def shown_frame(**names):
    variants = ("adapter", "lora", "mosa")
    frame = make_frame({v: {"cats": [50 + i, 52], "dogs": [60, 61 + i]} for i, v in enumerate(variants)})
    return frame.assign(display_name=frame["variant"].replace(names))


def test_a_display_name_is_in_no_digest_and_in_no_file_that_a_run_waits_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, named = (Workflow.from_config(config(**names)) for names in ({}, NAMES))
    assert [run.specification for run in expand(plain.config)] == [
        run.specification for run in expand(named.config)
    ]
    files = [{plain.specification_file(run) for run in one.runs.values()} for one in (plain, named)]
    assert files[0] == files[1]
    assert plain.checked_config == named.checked_config
    assert "display_names" not in json.loads(Path(plain.manifest).read_text())
    assert read_manifest(Path(named.manifest))[0]["display_names"] == NAMES
    assert not named.stale_records()


def test_what_is_checked_before_a_run_does_not_depend_on_display_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = {"backbones": {"micro_vit": {"architecture": "vit_tiny_patch16_224", "weights": "random",
                                           "image_size": 32}}}  # fmt: skip
    files = [Workflow.from_config(config(**names) | weights).checked_config for names in ({}, NAMES)]
    assert files[0] == files[1] is not None


@pytest.mark.parametrize(
    ("names", "message"),
    [({"lora": "LoRA", "mosa": "LoRA"}, "'LoRA' is the name of 'lora' already"),
     ({"lora": "mosa"}, "'mosa' is the name of 'mosa' already"),
     ({"lora": "mosa_bottleneck4"}, "is the name of 'mosa_bottleneck4' already"),
     ({"lora": "  "}, "expected one line of text"), ({"lora": "a\nb"}, "expected one line of text"),
     ({"lora": 8}, "display_name")],
)  # fmt: skip
def test_a_display_name_is_one_line_and_means_one_variant(names, message):
    with pytest.raises(UserError, match=message):
        load_config(config(**names))


def test_a_sweep_keeps_its_own_names_and_may_make_a_variant_that_is_named():
    variants = {run.specification.variant for run in expand(load_config(config(**NAMES)))}
    assert {"lora", "lora_rank2"} <= variants
    both = config(**NAMES)
    both["variants"]["lora_rank2"] = {"method": "lora", "options": {"rank": 2}, "training": {"lr": 0.03}}
    both["variants"]["lora_rank2"]["display_name"] = "LoRA (r=2)"
    load_config(both)


def test_collected_records_have_the_names_of_the_config(tmp_path, monkeypatch):
    from test_records import make_record

    from mosa.experiment.expand import Run
    from mosa.experiment.manifest import write_manifest
    from mosa.experiment.specification import Specification

    record = make_record()
    specification = Specification.model_validate(record["specification"])
    run = Run(specification, record["seed"])
    path = tmp_path / run.path
    path.parent.mkdir(parents=True)
    write_record(record, path)
    names = {specification.variant: "MoSA, ours"}
    manifest = write_manifest([run], tmp_path, [specification.variant], "x", None, names)
    collect(manifest, tmp_path / "runs.csv")
    assert read_table(tmp_path / "runs.csv")["display_name"].tolist() == ["MoSA, ours"]
    assert read_table(tmp_path / "runs")["display_name"].tolist() == [specification.variant]


def test_tables_show_it_escaped_and_the_csv_keeps_the_key(tmp_path):
    write_tables(shown_frame(**NAMES), tmp_path)
    text = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert r"AdaptFormer \& co\_1 50\%" in text["comparison.tex"] and "LoRA (r=8) &" in text["comparison.tex"]
    assert "AdaptFormer &amp; co_1 50%" in text["comparison.html"]
    assert "| LoRA (r=8) |" in text["comparison.md"] and "LoRA (r=8) " in text["comparison.txt"]
    assert "| LoRA (r=8) |" in text["efficiency.md"]
    assert r"LoRA (r=8) - AdaptFormer \& co_1 50%" in text["differences.md"]
    assert "adapter" not in text["comparison.md"].replace("adapter = 1", "")
    assert ",lora,lora," in text["comparison.csv"] and "LoRA" not in text["comparison.csv"]


def test_a_name_of_two_variants_is_shown_of_neither():
    section = compare(shown_frame(lora="LoRA", mosa="LoRA", adapter="A"))[0]
    assert [section.name(variant) for variant in ("adapter", "lora", "mosa")] == ["A", "lora", "mosa"]


def test_plots_show_it():
    results = Results(shown_frame(**NAMES))
    with matplotlib.style.context(["default", STYLE], after_reset=True):
        comparison, scaling = comparison_figure(results), scaling_figure(results)
        ranks = rank_figure(results)
    assert NAMES["lora"] in [label.get_text() for label in comparison.axes[0].get_yticklabels()]
    assert NAMES["lora"] in [text.get_text() for text in scaling.subfigs[0].legends[0].get_texts()]
    assert any("LoRA (r=8)" in text.get_text() for text in ranks.axes[0].texts)
