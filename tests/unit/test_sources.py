"""Where data and weights come from, and what was published for each task: complete, sourced, and usable."""

import re
from pathlib import Path

import pytest
import yaml

from mosa.base.errors import UserError
from mosa.data.catalogue import get_task, list_tasks
from mosa.data.sources import LOOKED_UP, origins, read_sources, where
from mosa.experiment.config import read_config
from mosa.peft import build_method
from mosa.results.published import settings

ROOT = Path(__file__).parents[2]
ON_DISK = [
    f"{benchmark}/{name}" for benchmark in ("vtab1k", "fgvc", "general") for name in list_tasks(benchmark)
]


@pytest.mark.parametrize("task", ON_DISK)
def test_every_task_on_disk_has_an_official_page(task):
    assert get_task(task).on_disk
    found = origins("data", task)
    assert found and all(row.page.startswith("http") for row in found)


def test_every_weights_file_of_the_configs_has_an_address():
    files = set()
    for path in ROOT.glob("configs/*.yaml"):
        backbones = (yaml.safe_load(path.read_text()).get("backbones") or {}).values()
        files |= {Path(one["weights"]).name for one in backbones if one and "." in one.get("weights", "")}
    assert len(files) >= 5
    assert all(origins("weights", name) for name in files)


def test_every_row_names_its_source_and_a_plausible_checksum():
    for row in read_sources():
        assert row.kind in ("data", "weights") and row.source and row.file, row
        assert re.fullmatch(r"|sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|md5:[0-9a-f]{6}\.\.\.", row.checksum), row
        assert row.page == "" or re.fullmatch(r"https?://[^\s|]+", row.page), row
    for page in ("data.md", "weights.md"):
        assert LOOKED_UP in (ROOT / "docs" / page).read_text()


def test_sources_and_settings_are_in_the_package():
    listed = (ROOT / "pyproject.toml").read_text()
    assert "data/*.csv" in listed and "results/published/*.csv" in listed


def test_errors_name_the_official_page_where_it_is_known():
    assert where("weights", "ViT-B_16.npz").startswith("https://storage.googleapis.com/vit_models/")
    assert where("data", "vtab1k/kitti") == "docs/data.md links prepared collections"
    assert where("data", "fgvc/nabirds").endswith(", see docs/data.md")
    assert where("weights", "mine.pth") == "docs/weights.md says where others are"


# --- settings

NAMES = list(dict.fromkeys(row.name for row in settings.read_settings()))


@pytest.mark.parametrize("name", NAMES)
def test_published_settings_are_options_of_the_method(name):
    rows = [row for row in settings.read_settings() if row.name == name]
    tasks = [row.task for row in rows]
    assert len(set(tasks)) == len(tasks) and set(tasks) <= set(ON_DISK)
    for row in rows:
        assert row.repository.startswith("https://github.com/") and re.fullmatch("[0-9a-f]{40}", row.commit)
        if row.method:
            build_method(row.method, **row.options)
    page = (ROOT / "docs" / "settings.md").read_text()
    assert re.search(rf"^\| {re.escape(name)}(?: \([^|]*\))? \|[^|]*\| {len(rows)} \|", page, re.MULTILINE)


def test_a_variant_says_for_each_task_what_its_row_says():
    variant = settings.published_variant("SSF")
    (row,) = [row for row in settings.read_settings() if (row.name, row.task) == ("SSF", "vtab1k/svhn")]
    assert variant["training"] | variant["by_task"]["vtab1k/svhn"]["training"] == row.training
    assert row.training["lr"] == 0.01 and "lr" not in variant["training"]


def test_unknown_names_and_methods_that_are_not_here_are_refused():
    with pytest.raises(UserError, match="did you mean 'FacT-T"):
        settings.published_variant("FacT")
    with pytest.raises(UserError, match="no such method"):
        settings.published_variant("RepAdapter-attn")


@pytest.mark.parametrize("name", settings.CONFIGS)
def test_published_configs_are_written_from_the_settings_and_load(name, monkeypatch):
    path = ROOT / "configs" / f"{name}.yaml"
    assert path.read_text() == settings.config_text(name), "run `mosa schema`"
    config = read_config(ROOT / "config.yaml", path)
    assert set(config["variants"]) == set(settings.CONFIGS[name][1])
    assert all(len(one["by_task"]) == 19 for one in config["variants"].values())
