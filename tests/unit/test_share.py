"""Bundles: what is exported is verified when it is imported, and what was changed is refused by name."""

import builtins
import contextlib
import gzip
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from travelling import write_results

from mosa.base.errors import UserError
from mosa.base.files import WORKFLOW
from mosa.cli.commands import cli
from mosa.engine.verify import Wanted, verify
from mosa.experiment.config import read_config
from mosa.experiment.manifest import read_manifest
from mosa.experiment.workflow import Workflow
from mosa.records import seal
from mosa.results.bundle.contents import METADATA, contents_of
from mosa.results.bundle.crate import digests_of
from mosa.results.bundle.export import SOURCES, _workflow, write_bundle
from mosa.results.bundle.read import import_bundle, unpacked
from mosa.results.collect import collect
from mosa.results.frame import find_records, read_table
from mosa.results.predictions import read

RECORD = "runs/demo/digits/micro_vit/mosa/seed1.json"


def export(folder, **options):
    """Export the experiment of a folder, and return the bundle."""
    with contextlib.chdir(folder):
        workflow = Workflow.of(read_config("config.yaml"))
        contents = contents_of(Path(workflow.manifest), **options)
        write_bundle(contents, Path(workflow.shown_config), Path("lab.zip"))
    return folder / "lab.zip"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return a folder with an experiment and its bundle."""
    pytest.importorskip("rocrate")
    folder = tmp_path_factory.mktemp("lab")
    write_results(folder, predictions=True)
    export(folder)
    return folder


def rewritten(bundle, target, change=None, drop=(), add=(), sealed=False):
    """Write a bundle anew, with members that are changed, dropped or added; `sealed`: its metadata agree."""
    import hashlib

    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name not in drop}
    for name, content in (change or {}).items():
        members[name] = content(members[name])
    if sealed:
        metadata = json.loads(members[METADATA])
        for entity in metadata["@graph"]:
            if entity["@id"] in members and "sha256" in entity:
                entity["sha256"] = hashlib.sha256(members[entity["@id"]]).hexdigest()
        members[METADATA] = json.dumps(metadata).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in [*members.items(), *add]:
            archive.writestr(name, content)
    return target


def other_score(text):
    return re.sub(rb'"top1": [\d.]+', b'"top1": 99.0', text)


def test_a_bundle_travels_and_is_verified(lab, tmp_path):
    found = import_bundle(lab / "lab.zip", tmp_path / "in")
    assert (found.records, found.missing, found.there) == (8, 0, 0)
    records = find_records(tmp_path / "in" / "runs")
    assert len(records) == 8
    assert not [one.problems for one in verify(map(Wanted, records), tmp_path) if one.problems]
    assert read(tmp_path / "in" / RECORD).ids == ("a", "b", "c")
    assert collect(found.manifest, tmp_path / "in" / "runs.csv")[:2] == (8, 8)
    assert import_bundle(lab / "lab.zip", tmp_path / "in").there == found.written  # again: nothing to do
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [
        "manifests", "runs", "runs.csv", "runs.made-from", "specifications",
    ]  # fmt: skip


def test_the_same_results_give_the_same_bytes(lab, tmp_path):
    shutil.copytree(lab, tmp_path / "copy")
    (tmp_path / "copy" / "results" / RECORD).touch()
    assert export(tmp_path / "copy").read_bytes() == (lab / "lab.zip").read_bytes()


def test_the_metadata_are_a_workflow_run_crate(lab):
    with zipfile.ZipFile(lab / "lab.zip") as archive:
        text, names = archive.read(METADATA).decode(), set(archive.namelist())
    entities = {one["@id"]: one for one in json.loads(text)["@graph"]}
    root, main = entities["./"], entities["workflow/Snakefile"]
    assert {one["@id"].rpartition("/wfrun/")[2] for one in root["conformsTo"]} >= {
        "workflow/0.5",
        "process/0.5",
    }
    assert root["mainEntity"] == {"@id": main["@id"]} and "ComputationalWorkflow" in main["@type"]
    action = entities[root["mentions"]["@id"]]
    assert action["instrument"] == {"@id": main["@id"]}
    assert {"@id": RECORD} in action["result"]
    assert digests_of(text).keys() == names - {METADATA}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({RECORD: other_score}, f"{RECORD}: was changed after it was exported"),
        (
            {RECORD.replace(".json", ".predictions.safetensors"): lambda text: text[:-1] + b"x"},
            "was changed after",
        ),
    ],
)
def test_what_was_changed_is_refused_by_name(lab, tmp_path, change, words):
    bundle = rewritten(lab / "lab.zip", tmp_path / "bad.zip", change)
    with pytest.raises(UserError, match=re.escape(words)):
        import_bundle(bundle, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def other_names(content):
    return gzip.compress(gzip.decompress(content).replace(b'"a"', b'"z"'))


def named(lab, pattern):
    with zipfile.ZipFile(lab / "lab.zip") as archive:
        return next(name for name in archive.namelist() if re.fullmatch(pattern, name))


@pytest.mark.parametrize(
    ("pattern", "change", "words"),
    [
        (re.escape(RECORD), other_score, f"{RECORD}: was changed after it was written"),
        (r"runs/.*linear/seed0\.predictions.*", lambda text: text[:-1] + b"x", "safetensors: was changed"),
        (r"specifications/.*", lambda text: text.replace(b'"epochs": 1', b'"epochs": 2'), "was changed (its"),
        (r"manifests/runs-.*", lambda text: text.replace(b"lab", b"bal"), "(it is named by its content)"),
        (r"manifests/config-.*", lambda text: text + b"# x\n", "(it is named by its content)"),
        (r"runs/.*/images-.*", other_names, "was changed after it was"),
    ],
)  # fmt: skip
def test_a_change_that_the_metadata_cover_up_is_refused_by_name(lab, tmp_path, pattern, change, words):
    name = named(lab, pattern)
    bundle = rewritten(lab / "lab.zip", tmp_path / "bad.zip", {name: change}, sealed=True)
    with pytest.raises(UserError) as error:
        import_bundle(bundle, tmp_path / "in")
    assert words in str(error.value) and name.rpartition("/")[2] in str(error.value)
    assert str(error.value).startswith(f"{bundle}: ") and not (tmp_path / "in").exists()


def test_a_name_that_is_file_and_folder_and_names_that_are_no_gzip_are_refused(lab, tmp_path):
    inside = f"{RECORD}/x"

    def listed(text):
        found = json.loads(text)
        found["@graph"].append({"@id": inside, "@type": "File", "sha256": "0"})
        return json.dumps(found).encode()

    broken = {named(lab, r"runs/.*/images-.*"): lambda content: b"no gzip"}
    for number, bundle in enumerate((
        rewritten(lab / "lab.zip", tmp_path / "0.zip", {METADATA: listed}, add=[(inside, b"")]),
        rewritten(lab / "lab.zip", tmp_path / "1.zip", broken, sealed=True),
    )):  # fmt: skip
        with pytest.raises(UserError, match=rf"{number}\.zip: (cannot be unpacked|not a bundle)"), \
            unpacked(bundle):  # fmt: skip
            pass


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", {}, "got {}"),
        ("variants", [3], "got 3"),
        ("left_out", 3, "no attribute"),
        ("display_names", {"mosa": 3}, "got 3"),
        ("specification", "/etc/passwd", "got '/etc/passwd'"),
        ("specification", "../../x.json", "got '../../x.json'"),
        ("seeds", "ab", "got the seed 'a'"),
        ("seeds", [-1], "got the seed -1"),
        ("seeds", [True], "got the seed True"),
        ("choice", 4, "got 4"),
        ("choice", "tune/choices/../../x.json", "got 'tune/choices/"),
    ],
)
def test_a_manifest_names_no_file_elsewhere_and_nothing_of_another_kind(lab, tmp_path, key, value, words):
    (path,) = (lab / "results/manifests").glob("runs-*.json")
    content = json.loads(path.read_text())
    (content if key not in ("specification", "seeds", "choice") else content["groups"][0])[key] = value
    bad = tmp_path / "manifests/runs.json"
    bad.parent.mkdir()
    bad.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"not a manifest .*{re.escape(words)}"):
        read_manifest(bad)


LINK = zipfile.ZipInfo("runs/link.json")
LINK.external_attr = 0o120777 << 16


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (("../evil.json", b"{}"), "no bundle has"),
        (("/tmp/evil.json", b"{}"), "no bundle has"),
        (("runs\\evil.json", b"{}"), "no bundle has"),
        ((LINK, b"/etc/passwd"), "no bundle has"),
        ((RECORD, b"{}"), f"has {RECORD} twice"),
        (("runs/more.json", b"{}"), "runs/more.json is not in its ro-crate-metadata.json"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_lead_elsewhere_are_refused(lab, tmp_path, entry, words):
    bundle = rewritten(lab / "lab.zip", tmp_path / "bad.zip", add=[entry])
    with pytest.raises(UserError, match=re.escape(words)):
        import_bundle(bundle, tmp_path / "in" / "deep")
    assert not list(tmp_path.rglob("evil*"))


def test_sizes_are_bounded_before_anything_is_unpacked(lab, tmp_path):
    with pytest.raises(UserError, match=r"takes [1-9]\d KiB unpacked, more than 1e-05 GiB; raise it"):
        import_bundle(lab / "lab.zip", tmp_path / "in", limit_gib=1e-5)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA, b" " * (65 << 20))
    with pytest.raises(UserError, match="takes 65 MiB; nothing was unpacked"):
        import_bundle(tmp_path / "bomb.zip", tmp_path / "in")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_bundle_is_refused(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.zip: (not a bundle|has no)"):
        import_bundle(tmp_path / "x.zip", tmp_path / "in")


def test_a_file_that_is_missing_is_named(lab, tmp_path):
    bundle = rewritten(lab / "lab.zip", tmp_path / "bad.zip", drop=[RECORD])
    with pytest.raises(UserError, match=f"'{RECORD}' is missing"):
        import_bundle(bundle, tmp_path / "in")


def test_a_record_that_its_predictions_contradict_is_refused(lab, tmp_path):
    """Whoever changes a score can make every digest anew, but not the predictions."""

    def sealed(text):
        record = json.loads(text)
        record["metrics"]["top1"] = 99.0
        return json.dumps(seal(record)).encode()

    bundle = rewritten(lab / "lab.zip", tmp_path / "bad.zip", {RECORD: sealed}, sealed=True)
    words = r"seed1\.json: seed1\.predictions\.safetensors gives top1 66\.6667, the record 99: they are not"
    with pytest.raises(UserError, match=words):
        import_bundle(bundle, tmp_path / "in")


def test_another_record_is_never_replaced(lab, tmp_path):
    import_bundle(lab / "lab.zip", tmp_path / "in")
    mine = tmp_path / "in" / RECORD
    mine.write_bytes(other_score(mine.read_bytes()))
    (tmp_path / "in" / "runs/demo/count/micro_vit/mosa/seed0.json").unlink()
    with pytest.raises(UserError, match="is there and differs from the bundle's; nothing was imported"):
        import_bundle(lab / "lab.zip", tmp_path / "in")
    assert b"99.0" in mine.read_bytes()
    assert not (tmp_path / "in" / "runs/demo/count/micro_vit/mosa/seed0.json").exists()


def test_missing_records_are_refused_unless_asked(tmp_path):
    pytest.importorskip("rocrate")
    write_results(tmp_path)
    (tmp_path / "results" / RECORD).unlink()
    with pytest.raises(UserError, match=r"seed1\.json: missing"):
        export(tmp_path)
    found = import_bundle(export(tmp_path, existing=True), tmp_path / "in")
    assert (found.records, found.missing) == (7, 1)


def test_without_the_library_one_sentence_names_the_extra(lab, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("rocrate"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    shutil.copytree(lab, tmp_path / "copy")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"exporting needs the library rocrate: pip install .*\[share\]"):
        export(tmp_path / "copy")
    assert import_bundle(lab / "lab.zip", tmp_path / "in").records == 8  # which needs no library


def test_the_commands_as_typed(lab, tmp_path):
    shutil.copy(lab / "config.yaml", tmp_path)
    shutil.copytree(lab / "results", tmp_path / "results")
    commands = (
        ["export", "-o", "lab.zip"],
        ["import", "lab.zip"],
        ["compare", "ours=results", "theirs=lab.zip", "--format", "csv", "--output", "both.csv"],
    )
    with contextlib.chdir(tmp_path):
        for command in commands:
            done = CliRunner().invoke(cli, command, catch_exceptions=False)
            assert done.exit_code == 0, done.output
        done = CliRunner().invoke(cli, ["export", "-o", "models.zip", "--models"])
        assert re.search(r"--models: (\d+) of \1 runs kept no model", done.output)
    assert (tmp_path / "both.csv").read_text().startswith("benchmark,backbone,variant,task,source,")
    assert (tmp_path / "lab" / RECORD).is_file()


def test_a_single_record_is_counted_as_one(tmp_path):
    pytest.importorskip("rocrate")
    one = {"seeds": [0], "benchmarks": {"demo": ["digits"]}, "variants": {"linear": {"method": "linear"}}}
    write_results(tmp_path, config=one)
    bundle, into = str(export(tmp_path)), str(tmp_path / "in")
    done = CliRunner().invoke(cli, ["import", bundle, "--into", into], catch_exceptions=False)
    assert done.output.startswith("1 record verified -> ")


def test_an_installed_package_has_the_workflow_to_export(tmp_path, monkeypatch):
    monkeypatch.setattr("mosa.results.bundle.export.SOURCES", tmp_path)  # as `mosa/workflow` in a wheel
    (tmp_path / "rules").mkdir()
    for name in ("Snakefile", "rules/train.smk"):
        (tmp_path / name).touch()
    assert _workflow() == {f"workflow/{name}": tmp_path / name for name in ("Snakefile", "rules/train.smk")}
    assert SOURCES == WORKFLOW


def test_a_source_is_not_overwritten_by_the_comparison(lab, tmp_path):
    bundle = shutil.copy(lab / "lab.zip", tmp_path / "lab.zip")
    done = CliRunner().invoke(cli, ["compare", f"a={lab}/results", f"b={bundle}", "--output", str(bundle)])
    assert isinstance(done.exception, UserError) and "is a file that is read" in str(done.exception)
    assert bundle.read_bytes() == (lab / "lab.zip").read_bytes()


def test_what_a_killed_import_left_is_no_result(lab, tmp_path):
    left = tmp_path / ".bundle-left" / RECORD
    left.parent.mkdir(parents=True)
    shutil.copy(lab / "results" / RECORD, left)
    os.utime(tmp_path / ".bundle-left", (0, 0))
    with pytest.raises(UserError, match="no records below it"):
        find_records(tmp_path)
    import_bundle(lab / "lab.zip", tmp_path)
    assert not left.exists() and (tmp_path / RECORD).is_file() and not list(tmp_path.glob(".bundle-*"))


def test_a_collected_table_that_was_changed_is_refused(lab, tmp_path):
    found = import_bundle(lab / "lab.zip", tmp_path / "in")
    table, own = tmp_path / "in" / "runs.csv", tmp_path / "own.csv"
    collect(found.manifest, table)
    text = table.read_text()
    assert len(read_table(table)) == 8
    for changed in (text.replace("66.6", "99.6"), "".join(text.splitlines(keepends=True)[:-1])):
        table.write_text(changed)
        with pytest.raises(UserError, match=r"runs\.csv: was changed since `mosa collect` wrote it; collect"):
            read_table(table)
    own.write_text(changed)
    assert len(read_table(own)) == 7
    for cut in (20, 60):
        own.write_text(text[:-cut])
        with pytest.raises(UserError, match=r"own\.csv: "):
            read_table(own)
