"""`mosa check` and `mosa plan`: what they say of a config before anything runs."""

import json
import re

import pytest
import yaml
from click.testing import CliRunner
from standin import make_vtab
from test_records import make_record

from mosa.cli import cli
from mosa.data.catalogue import get_task
from mosa.experiment.config import load_config
from mosa.experiment.plan import plan
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


def row(text, variant):
    """Return runs, done, image-passes and hours of a variant."""
    cells = re.search(rf"^vit +{variant} +(.*)$", text, re.MULTILINE)[1].split()
    return int(cells[0]), int(cells[1]), int(cells[2].replace(",", "")), cells[3]


def test_image_passes_are_counted(tmp_path):
    text = planned(tmp_path)
    assert row(text, "linear") == (4, 0, 2 * 2 * 10 * 1000, "?")  # tasks x seeds x epochs x images
    assert row(text, "half")[2] == 2 * 2 * 10 * 500
    assert row(text, "mosa")[2] == 2 * 2 * (10 + 100) * 1000  # two passes; epochs of its own on VTAB
    assert "no record of the backbone" in text
    assert row(planned(tmp_path, stage="selection"), "linear")[2] == 2 * 2 * 10 * 800


def test_hours_come_from_the_records_and_done_runs_are_done(tmp_path):
    record = make_record(task="digits", backbone="vit", variant="linear")
    record["images_per_second"], record["steps"]["passes"] = 100.0, 1
    write_record(record, tmp_path / "results/runs/demo/digits/vit/linear/seed0.json")
    text = planned(tmp_path)
    assert row(text, "linear") == (4, 1, 30_000, "0.1")  # 300 s
    assert row(text, "mosa") == (4, 0, 440_000, "1.2")  # 4400 s, at the rate of the backbone
    assert re.search(r"^all +12 +1 +490,000 +1\.4$", text, re.MULTILINE)
    (tmp_path / "results/runs/demo/digits/vit/linear/seed0.json").write_text(
        "{"
    )  # a broken one counts for nothing
    assert row(planned(tmp_path), "linear")[3] == "?"


def test_disk_is_what_the_packs_take(tmp_path):
    text = planned(tmp_path)
    gib = 3 * 32**2 * (1000 + 711 + 1000 + 797) / 2**30
    assert f"need about {gib:.1f} GiB" in text
    over = planned(tmp_path, packing={"limit_gib": 1e-6})
    assert "2 tasks are over packing.limit_gib" in over
    own = {"benchmarks": {"own": "all"}, "tasks": {"mine": {"layout": "folder", "root": "x"}}}
    variants = {"linear": {"method": "linear"}}
    assert "1 task of your own is not counted" in planned(tmp_path, **own, variants=variants)


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
    assert "variant vpt: vpt does not fit ConvNeXt (fits ViT): it has no runs here" in result.output
    assert "variant lora: target 'q': ConvNeXtBlock has no such Linear layer" in result.output


def test_missing_weights_and_data_are_told_together(tmp_path):
    config = json.loads(json.dumps(CONFIG)) | {"paths": {"data": {"vtab1k": str(tmp_path)}}}
    config["backbones"]["vit"]["weights"] = str(tmp_path / "ViT.npz")
    result = checked(tmp_path, config)
    assert result.exit_code == 1
    assert f"{tmp_path}/kitti: no such folder; put vtab1k/kitti there" in result.output
    assert "ViT.npz: no such file; download the weights" in result.output


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
