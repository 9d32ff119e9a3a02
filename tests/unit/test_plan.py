"""`mosa check` and `mosa plan`: what they say of a config before anything runs."""

import json
import re

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from standin import image, make_vtab, save
from test_records import make_record

from mosa.cli.commands import cli
from mosa.data.catalogue import get_task
from mosa.data.layouts import Report, read_source
from mosa.data.task import task_from_config
from mosa.experiment.config import expand, load_config
from mosa.experiment.cost import image_passes
from mosa.experiment.plan import plan
from mosa.experiment.resources import run_minutes
from mosa.peft import build_method, get_method, list_methods
from mosa.records import write_record

CONFIG = {
    "name": "planned",
    "benchmarks": {"demo": ["digits"], "vtab1k": ["kitti"]},
    "backbones": {"vit": {"architecture": "vit_tiny_patch16_224", "weights": "random", "image_size": 32}},
    "seeds": [0, 1],
    "training": {"epochs": 10},
    "variants": {
        "linear": {"method": "linear"},
        "half": {"method": "linear", "training": {"fraction": 0.5}},
        "mosa": {"method": "mosa", "by_task": {"vtab1k": {"training": {"epochs": 100}}}},
    },
}


def planned(tmp_path, **changes):
    paths = {"results": str(tmp_path / "results"), "packs": str(tmp_path / "packs")}
    return plan(load_config(CONFIG | {"paths": paths} | changes))


def record_of_linear(tmp_path, **changes):
    """Write the record of a run as it is meant; return its path."""
    run = next(run for run in expand(load_config(CONFIG)) if run.specification.variant == "linear")
    what = run.specification
    record = make_record(specification=what.model_dump(), specification_digest=what.digest, seed=run.seed)
    path = tmp_path / "results" / run.path
    write_record(record | changes, path)
    return path


def row(text, variant):
    """Return runs, done, image-passes and hours of a variant."""
    cells = re.search(rf"^vit +{variant} +(.*)$", text, re.MULTILINE)[1].split()
    return int(cells[0]), int(cells[1]), int(cells[2].replace(",", "")), cells[3]


def test_image_passes_are_counted(tmp_path):
    text = planned(tmp_path)
    assert row(text, "linear") == (4, 0, 2 * 2 * 10 * 1000, "~0.1")  # tasks x seeds x epochs x images
    assert row(text, "half")[2] == 2 * 2 * 10 * 500
    assert row(text, "mosa")[2] == 2 * 2 * (10 + 100) * 1000  # two passes; epochs of its own on VTAB
    assert "no record of the backbone" in text
    assert row(planned(tmp_path, stage="selection"), "linear")[2] == 2 * 2 * 10 * 800


@pytest.mark.parametrize(("folds", "images"), [(None, 800), (2, 2 * 500), (5, 5 * 800)])
def test_trials_are_planned_with_the_images_they_train_on(folds, images, tmp_path):
    rates = {"training": {"lr": [0.1, 0.01]}}
    tune = {"search": "grid", "seeds": [0], "folds": folds, "variants": {"linear": rates}}
    variants = {"linear": CONFIG["variants"]["linear"]}
    text = planned(tmp_path, benchmarks={"demo": ["digits"]}, variants=variants, tune=tune)
    assert row(text, "linear: tuning")[2] == 2 * 10 * images  # rates x epochs x images, of all folds


PASSES = {  # options that change the forward passes of a step
    "": {},
    "consistency": {"consistency": 1.0},
    "second_pass": {"consistency": 0.0, "second_pass": 1.0},
    "feature_consistency": {"consistency": 0.0, "feature_consistency": 0.1},
    "every_expert": {"consistency": 0.0, "every_expert": True, "experts": 3},
}


@pytest.mark.parametrize("term", PASSES)
def test_every_method_is_planned_with_the_passes_that_it_makes(term):
    fitting = [name for name in list_methods() if PASSES[term].keys() <= get_method(name).model_fields.keys()]
    variants = {name: {"method": name, "options": PASSES[term]} for name in fitting}
    runs = expand(load_config(CONFIG | {"benchmarks": {"demo": ["digits"]}, "variants": variants}))
    assert {run.specification.variant for run in runs} == set(fitting) != set()
    for what in (run.specification for run in runs):
        passes = image_passes(what, get_task(what.task)) / (1000 * what.training.epochs)
        assert passes == build_method(what.method, **what.options).passes, what.variant


def test_hours_come_from_the_records_and_done_runs_are_done(tmp_path):
    path = record_of_linear(tmp_path, images_per_second=100.0, steps=make_record()["steps"] | {"passes": 1})
    text = planned(tmp_path)
    assert row(text, "linear") == (4, 1, 30_000, "0.1")  # 300 s
    assert row(text, "mosa")[3] == "~1.2"  # the rate on kept features says nothing of it
    assert re.search(r"^all +12 +1 +490,000 +~1\.4$", text, re.MULTILINE)
    changed = planned(tmp_path, training={"epochs": 11})
    assert row(changed, "linear") == (4, 0, 44_000, "0.1")  # to be made again, and its rate is known
    path.write_text("{")  # a broken one counts for nothing
    assert row(planned(tmp_path), "linear")[3] == "~0.1"


def test_the_rate_of_a_cpu_is_not_that_of_a_gpu(tmp_path):
    steps = make_record()["steps"] | {"passes": 1}
    record_of_linear(tmp_path, images_per_second=0.5, steps=steps)
    assert row(planned(tmp_path), "linear") == (4, 1, 30_000, "16.7")
    text = planned(tmp_path, device="cuda")
    assert row(text, "linear") == (4, 1, 30_000, "~0.1") and "made with `device: cuda`" in text


def test_other_variants_are_planned_at_the_rate_of_the_backbone(tmp_path):
    mosa = {"method": "mosa"}
    variants = {"first": mosa, "other": {"method": "adapter"}}
    config = CONFIG | {"benchmarks": {"demo": ["digits"]}, "variants": variants}
    run = expand(load_config(config))[0]
    what = run.specification
    made = {"images_per_second": 50.0, "steps": make_record()["steps"] | {"passes": 2}}
    record = make_record(specification=what.model_dump(), specification_digest=what.digest, seed=run.seed)
    write_record(record | made, tmp_path / "results" / run.path)
    text = planned(tmp_path, benchmarks=config["benchmarks"], variants=variants)
    assert row(text, "first") == (2, 1, 20_000, "0.1") and row(text, "other") == (2, 0, 20_000, "0.1")


@pytest.mark.parametrize("search", ["grid", "sobol"])
def test_options_that_are_searched_count_with_the_most_passes(search, tmp_path):
    tried = [0.0, 1.0] if search == "grid" else {"low": 0.0, "high": 1.0}
    tune = {"search": search, "variants": {"mosa": {"options": {"consistency": tried}}}}
    tune |= {"trials": 2} if search == "sobol" else {}
    variants = {"mosa": {"method": "mosa", "options": {"consistency": 0.0}}}
    text = planned(tmp_path, benchmarks={"demo": ["digits"]}, variants=variants, tune=tune)
    assert row(text, "mosa")[2] == 2 * 10 * 2 * 1000 and row(text, "mosa: tuning")[2] == 2 * 10 * 2 * 800
    config = load_config(CONFIG | {"benchmarks": {"demo": ["digits"]}, "variants": variants, "tune": tune})
    what = expand(config)[0].specification
    task = get_task(what.task)
    assert run_minutes(what, task, False, 1, config["tune"]) > run_minutes(what, task, False)


def test_runs_that_lack_what_is_to_be_kept_are_named(tmp_path):
    record = record_of_linear(tmp_path)
    text = planned(tmp_path)
    assert "keep.predictions: lacking in 1 of 1 finished run, done" in text and "keep.model" not in text
    assert "(demo/digits/vit/linear/seed0); no run is repeated for it, unless" in text
    assert text.count(f"snakemake {record.with_suffix('.predictions.safetensors')}") == 1
    assert re.search(r"^predictions: about [\d.]+ MiB in \S+$", text, re.MULTILINE)
    own = {"benchmarks": {"own": "all"}, "tasks": {"mine": {"layout": "folder", "root": "x"}}}
    assert re.search(r"^predictions: of unknown size in ", planned(tmp_path, **own), re.MULTILINE)
    both = planned(tmp_path, **own | {"benchmarks": {"own": "all", "demo": ["digits"]}})
    assert re.search(r"^predictions: about .* without those of 1 task of unknown size$", both, re.MULTILINE)
    text = planned(tmp_path, keep={"predictions": False, "model": True})
    assert (
        "keep.predictions" not in text
        and "\npredictions:" not in text
        and "keep.model: lacking in 1 of 1" in text
    )
    record.with_suffix(".model.safetensors").touch()
    assert "keep." not in planned(tmp_path, keep={"predictions": False, "model": True})


@pytest.mark.parametrize(("device", "size", "rate"), [("cpu", 224, 2), ("cuda", 224, 120), ("cpu", 32, 100)])
def test_hours_without_records_are_at_an_assumed_rate_and_marked(device, size, rate, tmp_path):
    backbones = {"vit": CONFIG["backbones"]["vit"] | {"image_size": size}}
    text = planned(tmp_path, backbones=backbones, device=device, benchmarks={"vtab1k": ["kitti", "dtd"]})
    passes = {"linear": 40_000, "half": 20_000, "mosa": 800_000}  # as the test above counts them
    for variant, number in passes.items():
        assert row(text, variant)[2:] == (number, f"~{number / rate / 3600:.1f}")
    assert re.search(rf"^all .* ~{860_000 / rate / 3600:.1f}$", text, re.MULTILINE)
    assert f"assumed rate, as no record of the backbone is in {tmp_path}/results yet" in text
    assert f"per second and {'GPU' if device == 'cuda' else 'core'}, {rate} for vit" in text


OWN = {"benchmarks": {"own": "all"}, "variants": {"linear": {"method": "linear"}}, "seeds": [0]}


def make_folder(root, images):
    rng = np.random.default_rng(0)
    for split, number in images.items():
        for name in ("cat", "dog"):
            for index in range(number):
                save(root / split / name / f"{index}.png", image(rng))
    return {"layout": "folder", "root": str(root)}


def make_csv(root, images):
    make_folder(root, images)
    rows = [f"{path.relative_to(root)},{path.parent.name}\n" for path in root.rglob("*.png")]
    (root / "all.csv").write_text("path,label\n" + "".join(rows))
    return {"layout": "csv", "root": str(root / "all.csv")}


def make_lists(root, images):
    make_folder(root, images)
    for split in images:
        rows = [f"{p.relative_to(root)} {int('dog' in str(p))}\n" for p in (root / split).rglob("*.png")]
        (root / f"{split}.txt").write_text("".join(rows))
    return {"layout": "lists", "root": str(root)}


@pytest.mark.parametrize(
    ("make", "images"),
    [
        (make_folder, {"": 10}), (make_folder, {"Train": 10, "Validation": 3}), (make_csv, {"": 20}),
        (make_lists, {"train": 20, "test": 5}), (make_lists, {"training": 8, "valid": 3, "test": 2}),
    ],
)  # fmt: skip
def test_own_tasks_are_counted_as_their_reader_reads_them(make, images, tmp_path):
    entry = make(tmp_path / "mine", images)
    source = read_source(task_from_config("mine", entry), tmp_path, Report())
    text = planned(tmp_path, tasks={"mine": entry}, **OWN)
    assert row(text, "linear")[2] == 10 * (len(source.splits["train"]) + len(source.splits["val"])) > 0
    selection = planned(tmp_path, tasks={"mine": entry}, stage="selection", **OWN)
    assert row(selection, "linear")[2] == 10 * len(source.splits["train"])
    assert "not counted" not in text


def test_own_tasks_that_are_not_there_are_said(tmp_path):
    present = make_folder(tmp_path / "mine", {"": 10})
    tasks = {"mine": present, "gone": {"layout": "folder", "root": str(tmp_path / "gone")}}
    text = planned(tmp_path, tasks=tasks, **OWN)
    assert row(text.replace(">= ", ""), "linear")[2] == 160 and ">= 160" in text
    assert f"own/gone: not counted, as no images for train are found in {tmp_path / 'gone'}" in text
    alone = planned(tmp_path, tasks={"gone": tasks["gone"]}, **OWN)
    assert re.search(r"^vit +linear +1 +0 +\? +\?$", alone, re.MULTILINE)


def test_disk_is_what_the_packs_take(tmp_path):
    text = planned(tmp_path)
    mib = 3 * 32**2 * (1000 + 711 + 1000 + 797) / 2**20
    assert f"need about {mib:.0f} MiB" in text
    over = planned(tmp_path, packing={"limit_gib": 1e-6})
    assert "2 tasks are over packing.limit_gib" in over
    own = {"benchmarks": {"own": "all"}, "tasks": {"mine": {"layout": "folder", "root": "x"}}}
    variants = {"linear": {"method": "linear"}}
    assert "1 task is not counted, as no images are found" in planned(tmp_path, **own, variants=variants)


def checked(tmp_path, config):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return CliRunner().invoke(cli, ["check", "--alone", "--configfile", str(file)])


def test_methods_that_do_not_fit_a_backbone_are_told_before_anything_starts(tmp_path):
    backbones = {
        name: {"architecture": architecture, "weights": "random", "image_size": 32}
        for name, architecture in (("vit", "vit_tiny_patch16_224"), ("cnn", "convnext_atto"))
    }
    variants = {name: {"method": name} for name in ("vpt", "lora", "adapter")}
    config = CONFIG | {"benchmarks": {"demo": ["digits"]}, "backbones": backbones, "variants": variants}
    result = checked(tmp_path, config)
    assert result.exit_code == 1
    assert re.search(r"^ok +vit ", result.output, re.MULTILINE)
    assert "cnn: 1 error\n" in result.output and "cnn: 1 warning" in result.output
    assert re.search(
        r"variant vpt: vpt does not fit ConvNeXt \(fits ViT, .*\): it has no runs here", result.output
    )
    assert "variant lora: target 'q': ConvNeXtBlock has no such Linear layer" in result.output


def test_missing_weights_and_data_are_told_together(tmp_path):
    config = json.loads(json.dumps(CONFIG)) | {"paths": {"data": {"vtab1k": str(tmp_path)}}}
    config["backbones"]["vit"]["weights"] = str(tmp_path / "ViT.npz")
    result = checked(tmp_path, config)
    assert result.exit_code == 1
    assert f"{tmp_path}/kitti: no such folder; put vtab1k/kitti there" in result.output
    assert "ViT.npz: no such file; download the weights" in result.output
    assert "(docs/data.md links prepared" in result.output and "(docs/weights.md says where" in result.output


def test_missing_weights_are_told_once(tmp_path):
    config = json.loads(json.dumps(CONFIG)) | {"benchmarks": {"demo": ["digits"]}}
    config["variants"] = {"linear": {"method": "linear"}}
    names = [f"b{number}" for number in range(6)]
    config["backbones"] = {
        name: config["backbones"]["vit"] | {"weights": f"{tmp_path}/{name}.npz"} for name in names
    }
    result = checked(tmp_path, config)
    assert result.exit_code == 1 and result.output.count("download the weights") == 1
    assert "b4.npz, ...: no such files, of 6 backbones (b0, b1, b2, b3, b4, ...)" in result.output


def test_a_missing_root_is_told_once_for_all_of_its_tasks(tmp_path):
    missing = CONFIG | {"benchmarks": {"vtab1k": "all"}, "paths": {"data": {"vtab1k": str(tmp_path / "x")}}}
    result = checked(tmp_path, missing)
    assert result.exit_code == 1
    assert result.output.count(f"{tmp_path}/x: no such folder; put the tasks of the config there (19: ") == 1
    assert result.output.count("no such folder") == 1 and "paths.data.vtab1k" in result.output
    assert re.search(r"^error +vtab1k +19 tasks are missing", result.output, re.MULTILINE)
    make_vtab(tmp_path / "x", get_task("vtab1k/kitti"))
    result = checked(tmp_path, missing)
    assert f"{tmp_path}/x: has no folders for 18 of 19 tasks" in result.output
    assert re.search(r"^warning +vtab1k/kitti +10 / 4 / 6 images", result.output, re.MULTILINE)


def test_a_missing_root_is_told_once_for_two_benchmarks_that_share_it(tmp_path):
    paths = {"data": {"fgvc": str(tmp_path / "x")}}
    shared = CONFIG | {"benchmarks": {"fgvc": "all", "multitask": "all"}, "paths": paths}
    shared |= {"variants": {"linear": {"method": "linear"}}}
    for benchmarks in ({"fgvc": "all", "multitask": "all"}, {"multitask": "all"}):
        output = checked(tmp_path, shared | {"benchmarks": benchmarks}).output
        assert output.count("no such folder") == 1 and "paths.data.fgvc" in output


def test_what_was_decided_is_said(tmp_path):
    make_folder(tmp_path / "mine", {"": 10})
    result = checked(
        tmp_path, CONFIG | OWN | {"tasks": {"mine": {"layout": "folder", "root": str(tmp_path / "mine")}}}
    )
    assert result.exit_code == 0, result.output
    assert "own/mine: 2 notes\n  test: 4 images held out of train, 20% of each class" in result.output


@pytest.mark.parametrize("quick", [True, False])
def test_what_is_in_order_is_written_down(quick, tmp_path):
    make_vtab(tmp_path, get_task("vtab1k/kitti"))
    config = CONFIG | {"paths": {"data": {"vtab1k": str(tmp_path)}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = [
        "check",
        "--alone",
        "--configfile",
        f"{tmp_path}/config.yaml",
        "--output",
        f"{tmp_path}/out.txt",
    ]
    result = CliRunner().invoke(cli, arguments + ["--quick"] * quick)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.txt").read_text() == result.output
    assert "10 / 4 / 6 images, 4 classes" in result.output
    assert bool(re.search(r"4 classes +[0-9a-f]{12} ", result.output)) is not quick
