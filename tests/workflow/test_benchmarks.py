"""The published experiments on stand-ins in their exact layouts: checked, planned, a run of each layout."""

import re
import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import standin
import torch
import yaml
from forked import run_mosa, run_snakemake
from marks import thorough

from mosa.base.timm import timm
from mosa.data.catalogue import get_task
from mosa.records import load_record

ROOT = Path(__file__).parents[2]
PUBLISHED = ("vtab1k", "fgvc", "general", "backbones", "released-recipe", "low-resource", "multi-task")
VIT, SWIN = "test_vit", "swin_tiny_patch4_window7_224"  # the smallest that timm has
# Small files in the genuine formats, for the backbones that the configs name.
SMALL = {
    "vit_b16_in21k": (VIT, "vit.npz"),
    "vit_l16_in21k": (VIT, "vit.npz"),
    "vit_b16_mae": (VIT, "mae.pth"),
    "vit_b16_mocov3": (VIT, "mocov3.pth"),
    "swin_b_in22k": (SWIN, "swin.pth"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout's workflow and configs, beside data/ and weights/ as a user has them."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for name in ("rules", "profiles", "report", "envs", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder)
    standin.make_all(folder / "data")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("oak", "elm")):
        for number in range(30):
            standin.save(folder / "trees" / name / f"{number}.png", standin.image(rng, label))
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    vit, swin = (timm.create_model(name, num_classes=5, img_size=224) for name in (VIT, SWIN))
    np.savez(folder / "weights/vit.npz", **checkpoints.npz_arrays(vit))
    torch.save(checkpoints.mae(vit), folder / "weights/mae.pth")
    torch.save(checkpoints.mocov3(vit), folder / "weights/mocov3.pth")
    torch.save(checkpoints.swin(swin), folder / "weights/swin.pth")
    for name in PUBLISHED:
        wanted = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())["backbones"]
        small = {
            backbone: {
                "architecture": SMALL[backbone][0],
                "weights": f"weights/{SMALL[backbone][1]}",
                "image_size": 224,
            }
            for backbone, entry in wanted.items()
            if entry is not None
        }
        training = {"epochs": 1, "warmup_epochs": 0}
        if name == "backbones":  # whose Swin takes a second per image
            training["fraction"] = 0.3
        overlay = {"backbones": small, "device": "cpu", "training": training}
        (folder / f"small-{name}.yaml").write_text(yaml.safe_dump(overlay))
    return folder


def files(name):
    return ["--configfile", f"configs/{name}.yaml", f"small-{name}.yaml"]


def runs_of(name):
    return int(re.search(r"snakemake .* (\d+) runs", (ROOT / "configs" / f"{name}.yaml").read_text())[1])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_experiment_is_in_order(name, folder):
    overlays = [f"--configfile={path}" for path in files(name)[1:]]
    checked = run_mosa(folder, "check", "--quick", *overlays)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "error" not in checked.stdout
    planned = run_mosa(folder, "plan", *overlays)
    assert planned.returncode == 0 and re.search(rf"^all +{runs_of(name)} +0 ", planned.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", [*PUBLISHED[-1:], *thorough(*PUBLISHED[:-1])])
def test_a_dry_run_plans_every_run(name, folder):
    dry = run_snakemake(folder, "-n", "--quiet", "rules", *files(name))
    assert dry.returncode == 0, dry.stderr[-3000:]
    assert re.search(rf"^train +{runs_of(name)}$", dry.stdout + dry.stderr, re.MULTILINE)


LAYOUTS = {
    "vtab1k": (
        "vtab1k/cifar/vit_b16_in21k/mosa",
        {"resize": "direct", "interpolation": "legacy_bilinear", "train_examples": 14},
    ),
    "fgvc": ("fgvc/flowers/vit_b16_in21k/adapter", {"augment": "crop_flip", "train_examples": 102}),
    "general": ("general/cifar100/vit_b16_in21k/linear", {"train_examples": 200, "eval_examples": 100}),
    "backbones": ("vtab1k/kitti/swin_b_in22k/mosa", {"train_examples": 4}),
}


@pytest.mark.parametrize("name", ["vtab1k", "fgvc", "general", *thorough("backbones")])
def test_one_run_of_each(name, folder):
    where, expected = LAYOUTS[name]
    record = f"results/{name}/runs/{where}/seed0.json"
    benchmark, task, _, variant = where.split("/")
    alone = {"seeds": [0]}
    if name != "fgvc":  # whose learning rates are given by task
        alone["benchmarks"] = {benchmark: [task]}
    variants = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())["variants"]
    alone["variants"] = {other: None for other in variants if other != variant}
    (folder / "alone.yaml").write_text(yaml.safe_dump(alone))
    command = ["--cores", "2", *files(name), "alone.yaml", "--", record]
    done = run_snakemake(folder, *command)
    assert done.returncode == 0, done.stderr[-3000:]
    content = load_record(folder / record)
    assert expected.items() <= content["data"].items()
    assert content["specification"]["protocol"]["name"] == "vpt"
    assert content["backbone"]["mean"] == [0.485, 0.456, 0.406]
    assert content["splits"]["train"] == get_task(where.rsplit("/", 2)[0]).final_train
    assert content["backbone"]["image_size"] == 224 and content["backbone"]["sha256"]
    assert "Nothing to be done" in run_snakemake(folder, *command).stderr


def test_a_union_has_the_accuracy_of_each_of_its_data_sets(folder):
    small = {"image_size": 32, "architecture": VIT, "weights": "random", "kind": "auto"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"backbones": {"vit_b16_in21k": small}}))
    record = "results/multi-task/runs/multitask/fgvc/vit_b16_in21k/linear/seed0.json"
    done = run_snakemake(folder, "--cores", "2", *files("multi-task"), "tiny.yaml", "--", record)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = load_record(folder / record)["metrics"]
    assert list(metrics["per_set"]) == ["cub", "nabirds", "flowers", "dogs", "cars"]
    sizes = {"cub": 200, "nabirds": 555, "flowers": 102, "dogs": 120, "cars": 196}
    mean = sum(sizes[name] * top1 for name, top1 in metrics["per_set"].items()) / 1173
    assert metrics["top1"] == pytest.approx(mean)


def test_ones_own_images_by_config_alone(folder):
    overlay = {
        "protocol": "standard",
        "tasks": {"trees": {"layout": "folder", "root": "trees", "augment": "crop_flip"}},
        "benchmarks": {"demo": None, "own": "all"},
        "paths": {"results": "results/own"},
        "training": {"epochs": 2, "warmup_epochs": 0},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(overlay))
    result = run_snakemake(folder, "--cores", "2", "--configfile", "own.yaml", "--config",
        'backbones={"micro_vit": {"architecture": "mosa_vit_micro", "weights": "builtin"}}',
        "--", "results/own/runs/own/trees/micro_vit/mosa/seed0.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    record = load_record(folder / "results/own/runs/own/trees/micro_vit/mosa/seed0.json")
    assert record["group"] == "own" and len(record["data"]["notes"]) == 2
    assert record["data"]["eval_examples"] == 12


def test_nothing_is_trained_where_something_is_missing(folder):
    lists = folder / "data/vtab-1k/kitti/test.txt"
    text = lists.read_text()
    lists.write_text(text.replace("000001.jpg 1", "000001.jpg 4"))
    try:
        result = run_snakemake(
            folder, "--cores", "1", *files("vtab1k"), "--config", "seeds=[0]", 'paths={"results": "broken"}'
        )
        assert result.returncode == 1, result.stdout[-3000:] + result.stderr[-6000:]
        assert "test.txt, line 2: label 4: expected a whole number, 0 to 3" in result.stdout + result.stderr
        assert not list(folder.glob("broken/runs/**/*.json"))
        checked = run_mosa(folder, "check", *[f"--configfile={path}" for path in files("vtab1k")[1:]])
        assert checked.returncode == 1 and "vtab1k/kitti: 1 error" in checked.stdout
    finally:
        lists.write_text(text)


def test_a_first_start_says_what_to_get(folder):
    """Without data and weights nothing fails but the check, which names every one of them."""
    paths = 'paths={"results": "first", "data": {"vtab1k": "x"}}'
    arguments = ["--configfile", "configs/vtab1k.yaml", "--config", "seeds=[0]", paths]
    dry = run_snakemake(folder, "-n", "--quiet", "rules", *arguments)
    assert dry.returncode == 0, dry.stderr[-3000:]
    result = run_snakemake(folder, "--cores", "1", *arguments)
    assert result.returncode == 1
    output = result.stdout + result.stderr
    assert output.count("x: no such folder; put the tasks of the config there (19: ") == 1
    assert "weights/ViT-B_16.npz: no such file; download the weights" in output
