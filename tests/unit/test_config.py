"""Configs: what is wrong is refused in one sentence, what is right becomes the runs that it says."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from snakemake.utils import update_config

from mosa.base.errors import UserError
from mosa.base.files import SCHEMAS
from mosa.experiment.config import expand, load_config, read_config
from mosa.experiment.recipe import Recipe
from mosa.experiment.schema import config_schema, configuration_page
from mosa.experiment.validation import options_model, read_schema
from mosa.peft import build_method, get_method, list_methods

ROOT = Path(__file__).parents[2]
CONFIGS = sorted([ROOT / "config.yaml", *(ROOT / "configs").glob("*.yaml")])

TINY = """\
name: tiny
benchmarks:
  demo: [digits, count]
backbones:
  micro_vit: {architecture: mosa_vit_micro}
seeds: [0, 1]
training: {epochs: 1}
variants:
  linear: {method: linear}
  mosa:
    method: mosa
    options: {bottleneck: 4}
    training: {lr: 0.01}
sweeps:
  size:
    mosa: {bottleneck: [2, 4, 8]}
"""


def tiny():
    return yaml.safe_load(TINY)


def changed(path, value):
    config = tiny()
    *parents, last = path
    node = config
    for key in parents:
        node = node[key]
    if value is KeyError:
        del node[last]
    else:
        node[last] = value
    return config


def test_the_grid_is_complete_and_ordered():
    runs = expand(load_config(tiny()))
    variants = ["linear", "mosa", "mosa_bottleneck2", "mosa_bottleneck8"]  # 4 is the variant's own value
    assert [(r.specification.task, r.specification.variant, r.seed) for r in runs] == [
        (task, variant, seed)
        for task in ("demo/digits", "demo/count")
        for variant in variants
        for seed in (0, 1)
    ]
    assert len({run.path for run in runs}) == len(runs)
    assert runs[0].path == "runs/demo/digits/micro_vit/linear/seed0.json"


def test_a_swept_option_counts_more_than_one_by_task():
    config = changed(("sweeps",), {"size": {"mosa": {"bottleneck": [8, 12]}}})
    config["variants"]["mosa"]["by_task"] = {"demo/digits": {"options": {"bottleneck": 2, "experts": 2}}}
    made = {
        (r.specification.variant, r.specification.task): r.specification.options
        for r in expand(load_config(config))
    }
    for size in (8, 12):
        options = made[f"mosa_bottleneck{size}", "demo/digits"]
        assert (options["bottleneck"], options["experts"]) == (size, 2)
    assert made["mosa", "demo/digits"]["bottleneck"] == 2


def test_sweeps_name_what_they_change():
    sweeps = {"size": {"mosa": {"bottleneck": [8]}}, "split": {"mosa": {"split_bias": [False, True]}}}
    runs = {
        r.specification.variant: r.specification for r in expand(load_config(changed(("sweeps",), sweeps)))
    }
    assert list(runs) == ["linear", "mosa", "mosa_bottleneck8", "mosa_split_biastrue"]
    assert runs["mosa_bottleneck8"].options == runs["mosa"].options | {"bottleneck": 8}
    assert runs["mosa_bottleneck8"].training == runs["mosa"].training


def test_defaults_are_filled_in_everywhere():
    config = load_config(tiny())
    assert config["stage"] == "final" and config["paths"]["packs"] == "results/packs"
    assert config["backbones"]["micro_vit"]["weights"] == "builtin"
    mosa = config["variants"]["mosa"]
    assert build_method("mosa", **mosa["options"]) == build_method("mosa", bottleneck=4)
    assert mosa["options"].keys() == get_method("mosa").model_fields.keys()
    assert mosa["training"] == Recipe(epochs=1, lr=0.01).model_dump()
    assert config["variants"]["linear"]["training"]["lr"] == Recipe().lr
    assert load_config(config) == config  # a loaded config loads to itself


def test_overrides_of_a_task_stand_over_those_of_its_benchmark():
    by_task = {
        "demo": {"options": {"experts": 2}, "training": {"lr": 0.2}},
        "demo/count": {"options": {"experts": 8}},
    }
    runs = [
        run.specification for run in expand(load_config(changed(("variants", "mosa", "by_task"), by_task)))
    ]
    found = {run.task: (run.options["experts"], run.training.lr) for run in runs if run.variant == "mosa"}
    assert found == {"demo/digits": (2, 0.2), "demo/count": (8, 0.2)}


def test_recipes_of_tasks_are_those_of_all_variants_that_do_not_say_otherwise():
    config = changed(
        ("training_by_task",),
        {"demo": {"fraction": 0.2, "lr": 0.3}, "demo/count": {"fraction": 0.5}, "vtab1k": {"epochs": 100}},
    )
    config["variants"]["mosa"]["by_task"] = {"demo": {"training": {"batch_size": 8}}}
    config["variants"]["linear"]["by_task"] = {"demo": {"training": {"fraction": 1.0}}}
    config = load_config(config | {"training": {"epochs": 1}})
    found = {
        (run.variant, run.task): (run.training.fraction, run.training.lr, run.training.batch_size)
        for run in (run.specification for run in expand(config))
    }
    lr = config["variants"]["mosa"]["training"]["lr"]  # which the variant says itself
    assert found[("mosa", "demo/digits")] == (0.2, lr, 8) and found[("mosa", "demo/count")] == (0.5, lr, 8)
    assert found[("linear", "demo/digits")] == found[("linear", "demo/count")] == (1.0, 0.3, 32)
    assert load_config(config) == config


def test_a_preset_sets_normalisation_and_resizing_together():
    def runs(protocol, **backbone):
        config = changed(("protocol",), protocol) | {"benchmarks": {"vtab1k": ["kitti"]}}
        config["backbones"] = {
            "vit": {"architecture": "vit_base_patch16_224", "weights": "random"} | backbone
        }
        return expand(load_config(config))[0].specification

    assert (
        runs("standard").backbone.normalization == "weights"
        and runs("vpt").backbone.normalization == "imagenet"
    )
    assert runs("vpt", normalization="inception").backbone.normalization == "inception"
    packs = {protocol: runs(protocol).data.pack for protocol in ("standard", "noah", "vpt")}
    assert packs["standard"] == packs["noah"] != packs["vpt"]  # resized alike, and bilinearly
    assert runs("vpt").backbone.image_size == 224 and runs("vpt", image_size=384).data.pack != packs["vpt"]
    assert len({runs(protocol).protocol.name for protocol in packs}) == 3


def test_own_tasks_form_a_benchmark():
    config = changed(("tasks",), {"trees": {"layout": "csv", "root": "trees.csv"}, "none": None})
    config["benchmarks"] = {"own": "all"}
    run = expand(load_config(config))[0].specification
    assert run.task == "own/trees" and run.data.pack.startswith("own/trees-32-")
    config["tasks"]["trees"]["root"] = "other.csv"
    assert expand(load_config(config))[0].specification.data.pack != run.data.pack


def test_loading_does_not_change_its_input():
    config = tiny()
    before = copy.deepcopy(config)
    load_config(config)
    assert config == before


def test_all_is_every_task():
    runs = expand(load_config(changed(("benchmarks", "demo"), "all")))
    assert len({run.specification.task for run in runs}) == 7


def test_specification_has_what_changes_the_result_and_nothing_else():
    base = expand(load_config(tiny()))[0]

    def specification(path, value):
        runs = {run.path: run for run in expand(load_config(changed(path, value)))}
        return runs[base.path].specification

    same = [("name", "other"), ("seeds", [0, 1, 2]), ("paths", {"results": "elsewhere"})]
    for path, value in same:
        assert specification((path,), value).digest == base.specification.digest
    different = [
        (("variants", "linear", "training"), {"lr": 0.5}),
        (("training", "epochs"), 2),
        (("stage",), "selection"),
        (("backbones", "micro_vit", "weights"), "random"),
    ]
    for path, value in different:
        assert specification(path, value).digest != base.specification.digest


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("seed",), [1], "seed: unknown key 'seed': expected one of name, .*did you mean 'seeds'"),
        (("variants", "mosa", "option"), {}, "variants.mosa.option: unknown key 'option'.*mean 'options'"),
        (("variants", "mosa", "method"), "moza", "variants.mosa.method: unknown method 'moza'.*mean 'mosa'"),
        (
            ("variants", "mosa", "options", "expert"), 4,
            "variants.mosa.options.expert: unknown key 'expert'.*did you mean 'experts'",
        ),
        (("variants", "mosa", "options", "bottleneck"), 0, ".*bottleneck: 0 is less than the minimum of 1"),
        (("variants", "mosa", "options", "bottleneck"), "x", "got 'x', expected a whole number"),
        (("variants", "mosa", "options", "split"), "upp", "'upp' is not allowed: expected one of up"),
        (("variants", "mosa", "training", "lrr"), 1, "mosa.training.lrr: unknown key 'lrr'.*mean 'lr'"),
        (("variants", "mosa", "training", "lr"), "fast", ".*training.lr: got 'fast', expected a number"),
        (("variants", "mosa", "training", "lr"), "1e-3", "'1e-3', expected a number; YAML .* write 0.001"),
        (("variants", "mosa", "training", "lr"), float("nan"), "lr: got nan, expected a number"),
        (("variants", "mosa", "options", "bottleneck"), 4.0, "got 4.0, expected a whole number"),
        (("variants", "MoSA"), {"method": "mosa"}, "the name 'MoSA' cannot .* expected lower-case letters"),
        (("variants", 7), {"method": "mosa"}, "variants: got 7, expected text; put it in quotes"),
        (("variants", "a b"), {"method": "linear"}, "the name 'a b' cannot be part of a path"),
        (("variants", "../x"), {"method": "linear"}, "the name '../x' cannot be part of a path"),
        (("variants", "linear"), {}, "variants.linear: key 'method' is missing"),
        (("variants",), {}, "variants: is empty"),
        (("training", "epochs"), 1.5, "training.epochs: got 1.5, expected a whole number"),
        (("training", "epochs"), True, "got True, expected a whole number"),
        (("seeds",), [0, 1, 0], "seeds: 0 is listed twice"),
        (("seeds",), [], "seeds: is empty"),
        (("seeds",), [1.0], "seeds.0: got 1.0, expected a whole number"),
        (("seeds",), [-1], "seeds.0: -1 is less than the minimum of 0"),
        (("seeds",), 3, "seeds: got 3, expected a list"),
        (("seeds",), KeyError, "key 'seeds' is missing"),
        (("benchmarks", "demo"), [], "benchmarks.demo: is empty"),
        (("benchmarks", "demo"), ["digit"], "benchmarks.demo.0: unknown task 'digit'.*did you mean 'digits'"),
        (("benchmarks", "demo"), ["count", "count"], "benchmarks.demo: 'count' is listed twice"),
        (("benchmarks", "demo"), "some", "expected `all` or a list of tasks"),
        (("benchmarks", "dem"), "all", "benchmarks.dem: unknown benchmark 'dem'.*did you mean 'demo'"),
        (("stage",), "test", "stage: 'test' is not allowed: expected one of final, selection"),
        (("backbones",), {}, "backbones: is empty"),
        (
            ("backbones", "micro_vit", "architecture"), "mosa_vit_mico",
            "'mosa_vit_mico' has no builtin weights.*did you mean 'mosa_vit_micro'",
        ),
        (("backbones", "micro_vit", "weight"), "x", "unknown key 'weight'.*did you mean 'weights'"),
        (("sweeps", "size", "moza"), {"bottleneck": [1]}, "sweeps.size.moza: unknown variant 'moza'"),
        (("sweeps", "size", "mosa"), {"rank": [1]}, "unknown option of 'mosa': 'rank'"),
        (("sweeps", "size", "mosa"), {"bottleneck": [0]}, "bottleneck.0: 0 is less than the minimum of 1"),
        (
            ("sweeps", "size", "mosa"), {"bottleneck": [8], "experts": [2]},
            "changes bottleneck, experts; a sweep changes one option",
        ),
        (
            ("variants", "mosa_bottleneck8"), {"method": "mosa"},
            "sweeps.size.mosa.bottleneck.2: makes a variant 'mosa_bottleneck8', which there is already",
        ),
        (("sweeps", "size", "mosa"), {"bottleneck": []}, "sweeps.size.mosa.bottleneck: is empty"),
        (("protocol",), "vtp", "protocol: 'vtp' is not allowed: expected one of demo, .*did you mean 'vpt'"),
        (("backbones", "micro_vit", "image_size"), 64, "takes images of 64 pixels and demo/digits has 32"),
        (("backbones", "micro_vit", "kind"), "npy", "'npy' is not allowed: .*did you mean 'npz'"),
        (("training", "warmup_epochs"), 2, "a warm-up of 2 epochs is longer than the 1 epoch of training"),
        (("training", "drop_path"), 1.0, "drop_path: 1.0 is not below 1"),
        (("training", "fraction"), 0, "fraction: 0 is not above 0"),
        (("benchmarks", "own"), "all", "benchmarks.own: unknown benchmark 'own'"),
        (("tasks",), {"a": {"layout": "folder"}}, "tasks.a: key 'root' is missing"),
        (("tasks",), {"a": {"layout": "foldr", "root": "x"}}, "'foldr' is not allowed: .*mean 'folder'"),
        (
            ("tasks",), {"a": {"layout": "csv", "root": "x", "augment": "crop_flip", "resize": "direct"}},
            "tasks.a.augment: tasks.a: augment 'crop_flip' needs room to crop",
        ),
        (
            ("variants", "mosa", "by_task"), {"demo/digit": {}},
            "by_task.demo/digit: unknown task 'demo/digit': expected one of demo, .*mean 'demo/digits'",
        ),
        (
            ("training_by_task",), {"demo/digit": {}},
            "training_by_task.demo/digit: unknown task 'demo/digit': .*mean 'demo/digits'",
        ),
        (("training_by_task",), {"vtab1k": {"epoch": 2}}, "by_task.vtab1k.epoch: unknown key 'epoch'"),
        (("training_by_task",), {"own/a": {"epochs": 2}}, "unknown task 'own/a'"),
        (("variants", "mosa", "by_task"), {"demo": {"options": {"expert": 2}}}, "unknown key 'expert'"),
        (("variants", "mosa", "by_task"), {"demo": {"training": {"lr": -1}}}, "lr: -1 is not above 0"),
        (("backbones", "micro_vit", "kind"), "mae", "kind: is the format of a file, .* 'builtin'"),
        (("keep",), {"val": True}, "keep.val: final runs have no curve on val; add `stage: selection`"),
        (("training", "views"), 4, "training.views: has no effect, .* none of its tasks .demo/count, "),
        (("variants", "mosa", "training", "views"), 4, "mosa.training.views: has no effect, .*demo/"),
        (
            ("variants", "linear"), {"method": "dtl", "options": {"kernel": 5}},
            "variants.linear.options.kernel: kernel needs plus: true; set that",
        ),
        (
            ("variants", "mosa", "options"), {"norm": False, "norm_eps": 1e-6},
            "mosa.options.norm_eps: norm_eps needs norm: true; set that",
        ),
        (
            ("variants", "mosa", "options"), {"every_expert": True},
            "mosa.options.every_expert: every_expert needs consistency: 0.0; set that",
        ),
        (("variants", "mosa"), {"method": "mosl", "options": {"split_bias": True}}, "split_bias: True"),
        (("name",), "../x", "name: the name '../x' cannot be part of a path"),
        (("paths",), {"results": "out/{x}"}, "paths.results: got 'out/{x}', expected a path without braces"),
        (("paths",), {"packs": "~/packs"}, "paths.packs: got '~/packs', expected a path that is written out"),
        (("paths",), {"data": {"fgvc": "~ann/x"}}, "paths.data.fgvc: got '~ann/x', expected a path that is"),
        (("backbones", "micro_vit", "weights"), "~/w.pth", "weights: got '~/w.pth', expected a path that is"),
        (("paths",), {"packs": "{packs}"}, "paths.packs: got '{packs}', expected a path without braces"),
    ],
)  # fmt: skip
def test_wrong_configs_are_refused_in_one_sentence(tmp_path, path, value, words):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changed(path, value), sort_keys=False))
    with pytest.raises(UserError) as error:
        read_config(file)
    message = str(error.value)
    assert re.search(words, message), message
    assert "\n" not in message
    place = re.match(rf"{file}, line (\d+): ([^:]+): ", message)
    if place:  # the line named is the line of the key named, or of the item of its list
        line, key = file.read_text().splitlines()[int(place[1]) - 1], place[2].rpartition(".")[2]
        assert re.search(rf"- |\b{re.escape(key)}: ?", line), message
    else:
        assert message.startswith("the config: ")


def test_duplicate_keys_are_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(TINY + "seeds: [7]\n")
    with pytest.raises(UserError, match=r"config\.yaml, line 17: key 'seeds' stands in line 6 already"):
        read_config(file)


@pytest.mark.parametrize("content", ["a: [1", "\t", "- a\n", "", "\xff: 1"])
def test_files_that_are_no_config(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_config(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "seeds: [0]\nname: " + "9" * 5000,
            ": not a readable YAML file .a number has too many digits, or a date",
        ),
        ("name: 2020-13-45", ": not a readable YAML file .a number has too many digits, or a date is none"),
        ("name: x\nseeds: [0\nvariants: {}", ", line 3: not a readable YAML file .expected"),
        ("name: x\n\tseeds: [0]", ", line 2: not a readable YAML file .found character"),
        ("a: " + "[" * 3000, ": not a readable YAML file .nested too deeply"),
        ("name: \xff", ": is not text in UTF-8 .its byte 6 is none"),
    ],
)
def test_files_that_are_no_yaml_are_refused_in_our_words(text, words, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"config.yaml{words}") as error:
        read_config(file)
    assert "sys." not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("number", "read"),
    [("010", 8), ("-0_10", -8), ("1:30", 90), ("1:30.5", 90.5), ("0o10", None), ("0", None)],
)
def test_numbers_that_yaml_reads_in_another_base_are_refused(tmp_path, number, read):
    (tmp_path / "config.yaml").write_text(f"seeds: [0]\nname: x\ntraining: {{epochs: {number}}}\n")
    words = rf"config\.yaml, line 3: YAML reads {number} as {read}; write that" if read else "is missing|o10"
    with pytest.raises(UserError, match=words):
        read_config(tmp_path / "config.yaml")


def test_a_sweep_over_mappings_is_refused():
    pytest.importorskip("peft")
    config = changed(("variants", "linear"), {"method": "peft"})
    config["sweeps"] = {"s": {"linear": {"config": [{"r": 4}, {"r": 8}]}}}
    with pytest.raises(UserError, match=r"s\.linear\.config\.0: a mapping makes no name; give each value"):
        load_config(config)


def test_a_sweep_knows_what_its_base_has_on_some_tasks():
    config = changed(("variants", "mosa", "by_task"), {"demo/count": {"options": {"bottleneck": 8}}})
    found = {run.specification.variant for run in expand(load_config(config))}
    assert found == {"linear", "mosa", "mosa_bottleneck2", "mosa_bottleneck4", "mosa_bottleneck8"}


@pytest.mark.parametrize(
    ("overlay", "refused"),
    [
        ("training: {lr: 0.5}", "training.lr"),
        ("training_by_task: {demo: {lr: 0.5}}", "training_by_task.demo.lr"),
        ("training_by_task: {demo/count: {lr: 0.5}}", "training_by_task.demo/count.lr"),
        ("training: {lr: 0.1}", "training.lr"),  # which `linear` has of its own
        ("training: {epochs: 2}", ""),  # which `linear` takes
        ("training: {lr: 0.5}\nvariants: {mosa: {training: {lr: 0.1}}}", "training.lr"),
        ("training: {lr: 0.5}\nvariants: {linear: null, mosa: {training: {lr: 0.1}}}", ""),
    ],
)
def test_a_recipe_that_no_variant_takes_is_refused(tmp_path, overlay, refused):
    base, file = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(TINY.replace("{method: linear}", "{method: linear, training: {lr: 0.1}}"))
    file.write_text(overlay + "\n")
    if refused:
        with pytest.raises(
            UserError, match=f"line 1: {refused}: has no effect, as every variant has a value"
        ):
            read_config(base, file)
    else:
        assert read_config(base, file)


@pytest.mark.parametrize(
    ("overlay", "refused"),
    [
        ("{training: {epochs: 2}}", "training.epochs"),
        ("{options: {bottleneck: 2}}", "options.bottleneck"),
        ("{options: {bottleneck: 8}}", ""),  # what it has there
        ("{by_task: {demo/count: {training: {epochs: 2}}}}", ""),
        ("{training: {epochs: 2}, by_task: {demo: {training: {epochs: 2}}}}", ""),
        ("{training: {epochs: 2}, by_task: {demo: null}}", ""),
        ("{training: {lr: 0.2}}", ""),
    ],
)
def test_a_value_of_a_variant_that_gives_way_to_a_weaker_file_is_refused(tmp_path, overlay, refused):
    own = "by_task: {demo: {options: {bottleneck: 8}, training: {epochs: 3}}}"
    base, file = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(TINY.replace("{method: linear}", f"{{method: adapter, {own}}}"))
    file.write_text(f"variants: {{linear: {overlay}}}\n")
    if refused:
        words = f"overlay.yaml, line 1: variants.linear.{refused}: has no effect, as `by_task` counts more"
        with pytest.raises(UserError, match=words):
            read_config(base, file)
    else:
        assert read_config(base, file)


def test_runs_that_share_a_gpu_need_one():
    with pytest.raises(UserError, match="runs_per_gpu: has no effect with `device: cpu`"):
        load_config(changed(("runs_per_gpu",), 2))
    assert load_config(changed(("runs_per_gpu",), 2) | {"device": "cuda"})


def test_a_recipe_on_the_command_line_that_no_variant_takes_is_refused(tmp_path):
    (tmp_path / "base.yaml").write_text(TINY.replace("  linear: {method: linear}\n", ""))
    with pytest.raises(
        UserError, match=r"^--config training\.lr: has no effect, as every variant has a value"
    ):
        read_config(tmp_path / "base.yaml", overrides={"training": {"lr": 0.5}})
    assert read_config(tmp_path / "base.yaml", overrides={"training": {"epochs": 2}})
    with pytest.raises(UserError, match="--config: YAML reads 010 as 8; write that number"):
        read_config(tmp_path / "base.yaml", overrides={"training": {"epochs": "010"}})


def test_an_alias_within_what_it_stands_for_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("seeds: [0]\nname: &a [1, *a]\n")
    with pytest.raises(UserError, match=r"config\.yaml, line 2: not a readable YAML file .an alias within"):
        read_config(tmp_path / "config.yaml")


def test_a_name_that_no_disk_can_hold_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changed(("variants", "a" * 300), {"method": "linear"})))
    with pytest.raises(UserError, match=r"variants: .* has 300 characters, expected at most 200"):
        read_config(file)


def test_what_a_second_file_adds_stands_last(tmp_path):
    base, overlay, merged = changed(("sweeps",), {}), tmp_path / "overlay.yaml", {}
    added = {"name": "more", "variants": {"linear": None, "norm": {"method": "norm"}}}
    overlay.write_text(yaml.safe_dump(added))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    for config in (added, base, added):  # in the order in which Snakemake does it for --configfile
        update_config(merged, config)
    assert list(merged["variants"]) == ["linear", "norm", "mosa"]
    loaded = load_config(merged, [tmp_path / "base.yaml", overlay])
    assert list(loaded["variants"]) == ["mosa", "norm"]
    assert read_config(tmp_path / "base.yaml", overlay) == loaded


def test_a_second_file_changes_and_drops(tmp_path):
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(TINY)
    overlay.write_text(
        "seeds: [5]\nvariants: {linear: null}\nsweeps: {size: null}\ntraining: {weight_decay: 0.5}\n"
    )
    config = read_config(base, overlay)
    assert config["seeds"] == [5] and list(config["variants"]) == ["mosa"] and not config["sweeps"]
    assert config["training"]["weight_decay"] == 0.5 and config["training"]["epochs"] == 1
    base.write_text(TINY + "    linear: {consistency: [1.0]}\n")
    overlay.write_text("variants: {linear: null}\nsweeps: {size: {linear: null}}\n")
    assert read_config(base, overlay)["sweeps"] == {"size": {"mosa": {"bottleneck": [2, 4, 8]}}}
    base.write_text(TINY + "training_by_task: {demo/digits: {epochs: 2}}\n")
    base.write_text(
        base.read_text().replace("{lr: 0.01}", "{lr: 0.01}\n    by_task: {demo: {training: {epochs: 3}}}")
    )
    for section, name, nearest in (
        ("variants", "liner", "linear"),
        ("backbones", "micro_vti", "micro_vit"),
        ("training_by_task", "demo/digts", "demo/digits"),
        ("sweeps", "sise", "size"),
        ("sweeps.size", "msoa", "mosa"),
        ("variants.mosa.by_task", "dmeo", "demo"),
    ):
        text = f"{{{name}: null}}"
        for key in reversed(section.split(".")):
            text = f"{{{key}: {text}}}"
        overlay.write_text(f"{text}\n")
        words = rf"line 1: {section}\.{name}: is empty, and null drops .*did you mean '{nearest}'"
        with pytest.raises(UserError, match=words):
            read_config(base, overlay)
    overlay.write_text("training: {epochs: 1, warmup_epochs: 0}\n")
    base.write_text(TINY.replace("epochs: 1", "epochs: 4, warmup_epochs: 3"))
    assert read_config(base, overlay)["training"]["epochs"] == 1
    overlay.write_text("training: {epochs: 2}\n")
    with pytest.raises(UserError, match=r"overlay\.yaml, line 1: training\.epochs: a warm-up of 3 epochs"):
        read_config(base, overlay)
    base.write_text(TINY)
    overlay.write_text("keep: {predictions: atuo}\n")
    with pytest.raises(UserError, match=r"keep\.predictions: got 'atuo', expected `true`, `false` or `auto`"):
        read_config(base, overlay)
    overlay.write_text("variants: {mosa: {options: {experts: 0}}}\n")
    with pytest.raises(
        UserError, match=r"overlay\.yaml, line 1: variants\.mosa\.options\.experts: 0 is less"
    ):
        read_config(base, overlay)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_load(path):
    files = [ROOT / "config.yaml"] + ([path] if path.parent.name == "configs" else [])
    runs = expand(read_config(*files))
    for run in runs:
        get_method(run.specification.method)(**run.specification.options)
    text = path.read_text()
    assert int(re.search(r"^#   snakemake .* (\d+) runs", text, re.MULTILINE)[1]) == len(runs)
    assert text.startswith("# yaml-language-server: $schema=")
    schema = text.partition("$schema=")[2].splitlines()[0]
    assert (path.parent / schema).resolve() == SCHEMAS / "config.schema.json"


def test_overrides_for_tasks_without_runs_are_checked_and_change_nothing():
    """The default's recipe for the demo leaves an experiment on another benchmark as it is."""
    plain = load_config(yaml.safe_load(TINY))
    there = {"vtab1k": {"training": {"epochs": 5}}, "vtab1k/cifar": {}, "demo": None}
    assert load_config(changed(("variants", "mosa", "by_task"), there)) == plain
    with pytest.raises(UserError, match=r"by_task\.vtab1k\.training\.epochs: 0 is less than"):
        load_config(changed(("variants", "mosa", "by_task"), {"vtab1k": {"training": {"epochs": 0}}}))


def test_the_default_has_the_learning_rates_that_were_chosen():
    choices = json.loads((ROOT / "configs" / "demo-chosen.json").read_text())
    config = read_config(ROOT / "config.yaml")
    search = read_config(ROOT / "config.yaml", ROOT / "configs" / "demo-tune.yaml")
    assert [choice["variant"] for choice in choices] == list(config["variants"])
    for choice in choices:
        assert (
            config["variants"][choice["variant"]]["training"].items() >= choice["chosen"]["training"].items()
        )
        assert choice["search"]["space"] == search["tune"]["variants"][choice["variant"]]
        assert {tuple(task.split("/")) for task in choice["tasks"]} == {
            (benchmark, task) for benchmark, tasks in search["benchmarks"].items() for task in tasks
        }


def test_shipped_configs_keep_their_results_apart():
    folders = [read_config(ROOT / "config.yaml", path)["paths"]["results"] for path in CONFIGS]
    assert len(set(folders)) == len(folders)


def test_every_method_is_compared_at_the_same_cost():
    config = read_config(ROOT / "config.yaml", ROOT / "configs" / "methods.yaml")
    assert {entry["method"] for entry in config["variants"].values()} == set(list_methods())
    assert config["tune"]["variants"].keys() == config["variants"].keys()
    assert {len(space["training"]["lr"]) for space in config["tune"]["variants"].values()} == {5}


def test_the_configuration_page_is_what_the_schema_says():
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration_page(), "run `mosa schema`"


def test_the_schema_is_closed_described_and_agrees_with_the_models():
    schema = read_schema("config")
    assert schema == config_schema(), "run `mosa schema`"

    def walk(node, where):
        for key, child in node.get("properties", {}).items():
            assert child.get("description"), f"{where}.{key}"
            assert "default" in child or key in node.get("required", []), f"{where}.{key}"
            walk(child, f"{where}.{key}")
        if "properties" in node:
            assert node["additionalProperties"] is False, where
        for entry in (node.get("additionalProperties"), *node.get("patternProperties", {}).values()):
            if isinstance(entry, dict):
                walk(entry, f"{where}.*")

    walk(schema, "config")
    assert schema["properties"]["training"]["properties"].keys() == Recipe.model_fields.keys()


def test_editors_accept_the_default():
    jsonschema.validate(yaml.safe_load((ROOT / "config.yaml").read_text()), read_schema("config"))


def test_options_of_methods_are_what_their_schema_says():
    for name in list_methods():
        model, cls = options_model(name), get_method(name)
        defaults = {key: field.default for key, field in cls.model_fields.items()}
        assert {key: field.default for key, field in model.model_fields.items()} == {
            key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()
        }


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        ({"seeds": ["0", "1", "2"]}, "seeds", [0, 1, 2]),  # as Snakemake reads --config 'seeds=[0,1,2]'
        ({"seeds": "[3]"}, "seeds", [3]),
        ({"name": "'7'"}, "name", "7"),
        ({"training": {"epochs": "7"}}, "training", Recipe(epochs=7).model_dump()),
    ],
)
def test_the_command_line_sets_keys(overrides, key, value):
    assert load_config(tiny(), overrides=overrides)[key] == value


@pytest.mark.parametrize("text", ["out #1", " out"])
def test_a_text_of_the_command_line_is_taken_as_it_is(text):
    """Snakemake has read it as YAML, where a second time `#` would begin a comment."""
    assert load_config(tiny(), overrides={"paths": {"results": text}})["paths"]["results"] == text


def test_mistakes_on_the_command_line_are_not_blamed_on_a_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(TINY)
    with pytest.raises(UserError, match=r"^--config seeds\.0: got 'x', expected a whole number"):
        load_config(tiny(), [file], {"seeds": ["x"]})


def test_conda_environments_agree_with_the_constraints():
    lines = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    pins = dict(line.split("==") for line in lines)
    for path in (ROOT / "envs").glob("*.yaml"):
        packages = yaml.safe_load(path.read_text())["dependencies"][-1]["pip"]
        assert packages
        for package in packages:
            name, version = package.split("==")
            assert pins[name] == version, f"{path.name}: {package}"
        assert path.with_suffix(".post-deploy.sh").is_file()
