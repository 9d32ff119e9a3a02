"""Specifications: the digest covers what decides a result, and options that come later repeat nothing."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError, create_model
from test_config import changed, tiny
from test_records import make_record

from mosa.base.errors import UserError
from mosa.experiment import validation
from mosa.experiment.config import expand, load_config
from mosa.experiment.declared import STORED, option
from mosa.experiment.expand import left_out
from mosa.experiment.manifest import read_manifest, with_choice, write_manifest
from mosa.experiment.recipe import Recipe
from mosa.experiment.specification import (
    Specification,
    make_specification,
    read_specification,
    write_specification,
)
from mosa.experiment.workflow import Workflow
from mosa.records import write_record
from mosa.results.collect import collect
from mosa.results.frame import read_table


def with_option(**declared):
    """The models as they are once the recipe has another option."""
    recipe = create_model("Later", __base__=Recipe, mixup=(float, option(**declared)))
    return recipe, create_model("LaterSpecification", __base__=Specification, training=(recipe, option()))


def later(specification, recipe, model, **training):
    """The same run, expanded from the same config by a later version."""
    plain = specification.model_dump()
    plain["training"] = recipe(**(plain["training"] | training)).model_dump()
    return model.model_validate(plain)


@pytest.fixture
def old():
    return make_specification("demo/digits", "mosa", {"bottleneck": 8}, {"epochs": 2})


def test_a_new_option_with_a_neutral_default_repeats_nothing(old):
    recipe, model = with_option(default=0.0, neutral=0.0)
    assert later(old, recipe, model).digest == old.digest
    assert later(old, recipe, model, mixup=0.2).digest != old.digest
    stored = model.model_validate(json.loads(old.model_dump_json()), context=STORED)
    assert stored.training.mixup == 0.0 and stored.digest == old.digest


def test_a_new_option_with_another_default_repeats_what_uses_it(old):
    recipe, model = with_option(default=0.2, neutral=0.0)
    assert later(old, recipe, model).digest != old.digest
    assert later(old, recipe, model, mixup=0.0).digest == old.digest
    stored = model.model_validate(json.loads(old.model_dump_json()), context=STORED)
    assert stored.training.mixup == 0.0 and stored.digest == old.digest  # it was trained without


def test_an_option_without_a_neutral_value_cannot_be_read_into_old_files(old):
    _, model = with_option(default=0.2)
    with pytest.raises(ValidationError, match="missing"):
        model.model_validate(json.loads(old.model_dump_json()), context=STORED)


def test_options_of_methods_may_be_neutral_too(old, monkeypatch):
    schema = json.loads(json.dumps(validation.read_schema("methods")))
    schema["$defs"]["mosa"]["properties"]["warm"] = {"type": "number", "default": 0.5, "neutral": 0.0}
    monkeypatch.setattr(validation, "read_schema", lambda name: schema)
    validation.options_model.cache_clear()
    try:
        again = Specification.model_validate(old.model_dump())
        assert again.digest == old.digest  # stored without it
        new = make_specification("demo/digits", "mosa", {"bottleneck": 8}, {"epochs": 2})
        assert new.options["warm"] == 0.5 and new.digest != old.digest
        off = make_specification("demo/digits", "mosa", {"bottleneck": 8, "warm": 0.0}, {"epochs": 2})
        assert off.digest == old.digest
    finally:
        validation.options_model.cache_clear()


def test_where_files_lie_decides_nothing(old):
    plain = old.model_dump()
    plain["backbone"]["weights"], plain["data"]["root"] = "/elsewhere/weights.npz", "/elsewhere/images"
    assert Specification.model_validate(plain).digest == old.digest
    plain["backbone"]["identity"] = "0" * 64
    assert Specification.model_validate(plain).digest != old.digest


def test_a_choice_is_laid_over_and_has_a_digest_of_its_own(old):
    before = old.digest
    chosen = with_choice(old, {"options": {"scale": 0.5}, "training": {"lr": 0.07}})
    assert (chosen.options["scale"], chosen.training.lr) == (0.5, 0.07)
    assert chosen.digest != before == old.digest
    assert old.differences(chosen) == {"options.scale": (0.1, 0.5), "training.lr": (0.001, 0.07)}


def test_a_file_is_named_by_its_content_and_written_once(old, tmp_path):
    path = write_specification(old, tmp_path)
    assert path.stem == old.digest[:16] and read_specification(path) == old
    before = path.stat().st_mtime_ns
    assert write_specification(old, tmp_path) == path and path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text.replace('"epochs": 2', '"epochs": 3'), "was changed .its digest is"),
        (
            lambda text: text.replace('"epochs": 2', '"epochs": "x"'),
            "not a specification, training.epochs: got",
        ),
        (lambda text: text[:100], "not a specification"),
    ],
)
def test_a_file_that_was_changed_is_refused(old, tmp_path, spoil, words):
    path = write_specification(old, tmp_path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UserError, match=words):
        read_specification(path)
    with pytest.raises(UserError, match=r"none\.json: cannot be read"):
        read_specification(tmp_path / "none.json")


def test_a_manifest_names_each_record_and_its_specification(tmp_path):
    runs = expand(load_config(tiny()))
    path = write_manifest(runs, tmp_path, ["linear", "mosa"], "tiny", {"a, b": "why"})
    head, meant = read_manifest(path)
    assert head == {"name": "tiny", "variants": ["linear", "mosa"], "left_out": {"a, b": "why"}}
    assert [(str(one.path), one.seed) for one in meant] == [
        (str(tmp_path / run.path), run.seed) for run in runs
    ]
    assert [one.specification.digest for one in meant] == [run.specification.digest for run in runs]
    assert len(list((tmp_path / "specifications").iterdir())) == len(runs) // 2  # seeds share them
    for content in ("", "{}", '{"version": 0}', "[" * 10_000):
        path.write_text(content)
        with pytest.raises(UserError, match="not a manifest"):
            read_manifest(path)


def test_another_reference_makes_tables_anew_and_repeats_no_run(tmp_path, monkeypatch):
    """Their input is the manifest, also where Snakemake has forgotten their parameters."""
    monkeypatch.chdir(tmp_path)
    plain, *others = (Workflow.from_config(tiny() | {"reference": one}) for one in (None, "linear", "mosa"))
    assert "reference" not in json.loads(Path(plain.manifest).read_text())
    assert len({plain.manifest, *(one.manifest for one in others)}) == 3
    assert all(read_manifest(Path(one.manifest)) == read_manifest(Path(plain.manifest)) for one in others)


OWN_TASK = {"layout": "folder", "root": "images"}


def of_own(**entry):
    """The runs of a config with a task of the user's own."""
    config = changed(("benchmarks",), {"own": ["mine"]}) | {"tasks": {"mine": OWN_TASK | entry}}
    return expand(load_config(config))


def test_what_an_own_task_is_trained_on_repeats_its_runs():
    def digest(**entry):
        return of_own(**entry)[0].specification.digest

    assert digest(augment="none") == digest()
    for change in ({"augment": "crop_flip"}, {"resize": "direct"}, {"root": "others"}, {"layout": "csv"}):
        assert digest(**change) != digest(), change
    for change in ({"metric": "nll"}, {"group": "trees"}):  # of tables
        assert digest(**change) == digest(), change


@pytest.mark.parametrize("change", [{"metric": "nll"}, {"group": "trees"}], ids=str)
def test_how_an_own_task_stands_in_tables_makes_them_anew(change, tmp_path):
    def collected(**entry):
        runs = of_own(**entry)[:1]
        manifest = write_manifest(runs, tmp_path, ["linear"], "x")
        _, (meant,) = read_manifest(manifest)
        what = meant.specification
        record = make_record(
            specification=what.model_dump(), specification_digest=what.digest, seed=meant.seed
        )
        if not meant.path.exists():
            write_record(record, meant.path)
        collect(manifest, tmp_path / "runs.csv")
        return manifest, read_table(tmp_path / "runs.csv").iloc[0]

    before, old_row = collected()
    assert (old_row["metric"], old_row["group"]) == ("top1", "own")
    after, row = collected(**change)
    assert after != before and {name: row[name] for name in change} == change


def test_a_frozen_experiment_is_the_same_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workflow = Workflow.from_config(changed(("name",), "frozen"))
    again = Workflow.from_frozen(str(workflow.freeze()))
    assert again.config == workflow.config
    assert {path: run.specification.digest for path, run in again.runs.items()} == {
        path: run.specification.digest for path, run in workflow.runs.items()
    }
    for path, words in ((None, "MOSA_EXPERIMENT is not set"), ("none.json", "cannot be read")):
        with pytest.raises(UserError, match=words):
            Workflow.from_frozen(path)


def test_unfit_pairs_have_no_runs_and_a_reason():
    backbones = {
        name: {"architecture": architecture, "weights": "random", "image_size": 32}
        for name, architecture in (("vit", "vit_tiny_patch16_224"), ("cnn", "convnext_atto"))
    }
    config = changed(("backbones",), backbones)
    config["variants"] = {name: {"method": name} for name in ("linear", "vpt")}
    config["sweeps"] = {}
    workflow = Workflow.of(load_config(config))
    pairs = {(run.specification.backbone.name, run.specification.variant) for run in workflow.runs.values()}
    assert pairs == {("vit", "linear"), ("vit", "vpt"), ("cnn", "linear")}
    assert "vpt does not fit ConvNeXt" in left_out(workflow.config)["cnn, vpt"]
    config["variants"], config["backbones"] = {"vpt": {"method": "vpt"}}, {"cnn": backbones["cnn"]}
    with pytest.raises(UserError, match="no method fits any backbone: vpt does not fit ConvNeXt"):
        load_config(config)
