"""What a run keeps: predictions that give the record's metrics again, and a model that predicts."""

import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from marks import thorough
from models import spec
from safetensors.numpy import save as pack_tensors
from standin import save

from mosa import peft
from mosa.base.errors import UserError
from mosa.cli.commands import cli
from mosa.data import make_pack
from mosa.data import predictions as files
from mosa.data.catalogue import get_task, list_tasks
from mosa.data.metrics import METRICS
from mosa.data.packs import Pack
from mosa.data.task import kept_path, task_from_config
from mosa.engine.keep import Evaluated, Keep, keep_files
from mosa.engine.predict import find_images, load_classifier
from mosa.engine.run import execute
from mosa.records import load_record
from mosa.results.predictions import NotKept, read

BOTH = Keep("auto", True)


@pytest.fixture(scope="module")
def kept(pack, tmp_path_factory):
    """A record whose predictions and model are kept, and one of the same run without them."""
    folder = tmp_path_factory.mktemp("kept")
    for name, keep in (("seed0", BOTH), ("bare", Keep())):
        execute(spec("mosa", weights="builtin"), pack, folder / f"{name}.json", keep=keep)
    return folder


def test_predictions_give_the_metrics_of_the_record_again(kept):
    record, found = load_record(kept / "seed0.json"), read(kept / "seed0.json")
    logits, labels = torch.from_numpy(found.logits), torch.from_numpy(found.labels)
    assert found.exact and found.split == "test" and len(found) == record["metrics"]["examples"]
    assert {name: record["metrics"][name] for name in METRICS} == {
        name: metric.compute(logits, labels) for name, metric in METRICS.items()
    }
    assert found.ids[3] == "test/3" and found.classes[7] == "7"  # the pack knows no names


def test_what_is_kept_changes_neither_result_nor_specification(kept):
    one, other = (load_record(kept / f"{name}.json") for name in ("seed0", "bare"))
    for key in ("metrics", "specification_digest", "specification", "parameters", "data", "backbone"):
        assert one[key] == other[key], key
    assert set(other["kept"].values()) == {None} and one["kept"]["predictions"] and one["kept"]["model"]
    assert not list(kept.glob("bare.*.safetensors"))


def test_predictions_that_are_missing_or_others_are_told(kept, tmp_path):
    with pytest.raises(NotKept, match=r"bare\.json: the run kept no predictions; .*keep\.predictions"):
        read(kept / "bare.json")
    record = tmp_path / "seed0.json"
    record.write_bytes((kept / "seed0.json").read_bytes())
    with pytest.raises(NotKept, match="are not here; copy them, or repeat the run"):
        read(record)
    kept_path(record, "predictions").write_bytes(b"others")
    with pytest.raises(UserError, match="not the predictions of the record beside it"):
        read(record)


def test_large_predictions_are_rounded_without_a_change_of_accuracy(monkeypatch, tmp_path):
    """float16 above the limit of size; above twice the limit nothing, unless it is asked for."""
    rng = torch.Generator().manual_seed(0)
    logits, labels = 4 * torch.randn(600, 10, generator=rng), torch.randint(10, (600,), generator=rng)
    evaluated, record = Evaluated("test", logits, labels), tmp_path / "r.json"

    def keep(limit, wanted):
        monkeypatch.setattr(files, "SMALL", limit)
        kept = keep_files(record, Keep(wanted), evaluated, None, b"", tmp_path)
        return read(record, kept["predictions"])

    size = logits.nbytes
    for limit, wanted, exact in ((size, "auto", True), (size - 1, "auto", False), (1, True, False)):
        found = keep(limit, wanted)
        assert found.exact is exact
        for name, metric in METRICS.items():
            got = metric.compute(torch.from_numpy(found.logits), torch.from_numpy(found.labels))
            tolerance = 1e-3 if name in ("nll", "ece") and not exact else 0
            assert got == pytest.approx(metric.compute(logits, labels), abs=tolerance, rel=0), name
    kept_path(record, "model").write_bytes(b"of an earlier run")
    with pytest.raises(NotKept, match=r"not kept, as they take 0 MiB and keep.predictions: auto keeps"):
        keep(1, "auto")
    keep_files(record, Keep(False), evaluated, None, b"", tmp_path)
    assert not list(tmp_path.glob("r.*"))  # what is not this run's


def test_rounding_keeps_the_order_of_the_best():
    """Also of logits that float16 cannot tell apart, and of those that are equal."""
    rng = np.random.default_rng(0)
    logits = np.float32(20 + rng.normal(size=(500, 40)) * 1e-3 * rng.integers(1, 9, (500, 1)))
    logits[:, 7] = logits[:, 3]
    logits[:, 0] += 30  # from which the others are too far to be told apart
    plain = (logits - logits.max(1, keepdims=True)).astype(np.float16)
    small = files.rounded(logits)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :6]
    before, after, naive = (np.take_along_axis(x, order, 1) for x in (logits, small, plain))
    assert ((np.diff(before) < 0) == (np.diff(after) < 0)).all()
    assert not ((np.diff(before) < 0) == (np.diff(naive) < 0)).all()  # or nothing was to be done
    assert np.isfinite(small).all() and (small.max(1) == 0).all()


GOOD = {"format": files.FORMAT, "split": "test", "images": "", "sets": [], "left_out": ""}
NUMBERS = {"labels": np.int32([0, 1]), "logits": np.zeros((2, 3), np.float32)}


@pytest.mark.parametrize(
    ("described", "tensors", "words"),
    [
        ("[" * 100_000, {}, "recursion depth"),
        ([1], {}, "no predictions of format"),
        ({"split": 3}, {}, "no valid 'split'"),
        ({"images": None}, {}, "no valid 'images'"),
        ({"sets": 3}, {}, "no valid 'sets'"),
        ({"left_out": None}, {"logits": None}, "no valid 'left_out'"),
        ({}, {"labels": None}, "has the tensors logits"),
        ({}, {"labels": np.int32([0, 3])}, "labels from 0 to 3 for 3 classes"),
        ({}, {"labels": np.int32([0, -1])}, "labels from -1 to 0 for 3 classes"),
        ({}, {"labels": np.float32([0, 1])}, "labels are float32"),
        ({}, {"logits": np.zeros((2, 3), np.int64)}, "logits are int64"),
        ({}, {"logits": np.zeros((3, 3), np.float32)}, r"\(3, 3\) for 2 labels"),
        ({}, {"logits": np.full((2, 3), np.nan, np.float32)}, "not numbers"),
        ({}, {"sets": np.int32([0])}, "sets do not fit"),
        ({"sets": ["a"]}, {"sets": np.int32([0, 1])}, "sets do not fit 2 labels and 1 names"),
    ],
)
def test_what_is_not_as_predictions_are_written_is_refused(described, tensors, words, tmp_path):
    text = described if isinstance(described, str) else json.dumps(
        GOOD | described if isinstance(described, dict) else described
    )  # fmt: skip
    kept = {name: value for name, value in (NUMBERS | tensors).items() if value is not None}
    path = tmp_path / "p.safetensors"
    path.write_bytes(pack_tensors(kept, metadata={files._KEY: text}))
    with pytest.raises(UserError, match=words):
        files.read_predictions(path)


def test_a_number_is_not_taken_for_a_name_that_is_missing(tmp_path):
    path, (logits, labels) = tmp_path / "p.safetensors", (NUMBERS["logits"], NUMBERS["labels"])
    for images, classes in ((None, ("0", "1", "2")), (tmp_path / "images-0.json.gz", ("#0", "#1", "#2"))):
        files.write_predictions(path, "test", logits, labels, images=images)
        assert files.read_predictions(path).classes == classes


def test_names_of_images_are_bounded_and_are_texts(monkeypatch, tmp_path):
    name = files.write_images(tmp_path, ["a"] * 100, [])
    monkeypatch.setattr(files, "LARGEST_NAMES", 50)
    with pytest.raises(UserError, match="more than 0 MiB unpacked"):
        files.read_images(tmp_path / name, (None, None))
    monkeypatch.undo()
    with pytest.raises(UserError, match="a name is no text"):
        files.read_images(tmp_path / files.write_images(tmp_path, [1], []), (None, None))


def test_names_are_shared_by_all_runs_on_a_task(flowers, tmp_path):
    pack = Pack(flowers)
    assert pack.names("test")[0].endswith(".jpg") and len(pack.names("trainval")) == len(
        pack.split("trainval")
    )
    assert pack.content_digest() == pack.digest
    run = spec("linear", task="fgvc/flowers", weights="builtin", protocol="demo")
    records = [tmp_path / f"runs/fgvc/flowers/b/{variant}/seed0.json" for variant in "xy"]
    names = files.write_images(tmp_path, pack.names("test"), pack.class_names)
    for record in records:
        logits, labels = np.zeros((len(pack.names("test")), 102), np.float32), pack.split("test").labels
        record.parent.mkdir(parents=True)
        path = kept_path(record, "predictions")
        files.write_predictions(path, "test", logits, labels, images=tmp_path / names)
        found = files.read_predictions(path)
        assert list(found.ids) == pack.names("test") and found.classes[101] == "101"
    assert run.specification.task == "fgvc/flowers"
    (tmp_path / names).write_bytes(b"broken")
    with pytest.raises(UserError, match="names of images cannot be read"):
        files.read_predictions(path)


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A task of image files, a run on it that kept its model, and an image that is none."""
    folder = tmp_path_factory.mktemp("animals")
    for name, shade in (("cat", 40), ("newt", 200)):
        rng = np.random.default_rng(shade)
        for number in range(12):
            pixels = np.clip(rng.normal(shade, 30, (40, 50, 3)), 0, 255).astype(np.uint8)
            save(folder / f"images/{name}/{number}.png", pixels)
    task = task_from_config("animals", {"layout": "folder", "root": str(folder / "images")})
    make_pack(task, folder / "pack", image_size=32)
    run = spec("adapter", task="own/animals", weights="builtin", options={"bottleneck": 4})
    record = folder / "results" / run.path
    execute(run, folder / "pack", record, keep=BOTH)
    (folder / "broken.png").write_bytes(b"no image")
    return folder, record


def test_a_users_images_are_predicted_as_they_were_evaluated(animals):
    folder, record = animals
    kept = read(record)
    assert kept.classes == ("cat", "newt") and kept.ids[0].startswith("cat/")
    images = [str(folder / "images" / name) for name in kept.ids]
    arguments = ["predict", str(record), *images, str(folder / "broken.png"), "--batch-size", "3"]
    done = CliRunner().invoke(cli, [*arguments, "--format", "json"])
    assert done.exit_code == 1 and done.stderr.startswith(f"left out: {folder}/broken.png: is not an image")
    *found, broken = json.loads(done.stdout)
    assert "is not an image" in broken["error"]
    for one, name, logits in zip(found, images, kept.probabilities, strict=True):
        assert one["image"] == name
        shares = {each["class"]: each["probability"] for each in one["predictions"]}
        np.testing.assert_allclose([shares[name] for name in kept.classes], logits, atol=1e-6)
        assert one["predictions"][0]["class"] == kept.classes[logits.argmax()]


def test_predictions_are_written_as_a_table_of_a_folder(animals, tmp_path):
    folder, record = animals
    model = record.with_name("seed0.model.safetensors")
    for name in ("cat/1.HEIC", "2.gif", "notes.txt"):  # beside the images: the first two may be some
        (folder / "images" / name).touch()
    arguments = [
        "predict",
        str(model),
        str(folder / "images"),
        "--top",
        "1",
        "--output",
        str(tmp_path / "p.csv"),
    ]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0 and "24 of 24 images -> " in done.output, done.output
    assert f"{folder}/images: '2.gif' and 1 more: not read (1 .gif, 1 .heic); images end in" in done.stderr
    assert "notes" not in done.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert len(rows) == 24 and rows[0].keys() == {"image", "class", "probability"}
    assert rows[0]["image"].endswith("images/cat/0.png") and 0.5 <= float(rows[0]["probability"]) <= 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda record: record.with_name("seed0.model.safetensors").unlink(), "is not here; copy it beside"),
        (
            lambda record: record.with_name("seed0.model.safetensors").write_bytes(b"other"),
            "not the model of the record",
        ),
        (lambda record: record.unlink(), "cannot read the record"),
    ],
)
def test_a_model_that_is_missing_or_another_is_refused(animals, tmp_path, spoil, words):
    folder, record = animals
    copied = shutil.copytree(record.parent, tmp_path / "run") / record.name
    spoil(copied)
    done = CliRunner().invoke(cli, ["predict", str(copied), str(folder / "images")])
    assert isinstance(done.exception, UserError) and words in str(done.exception)


def test_a_run_that_kept_no_model_says_what_to_do(kept):
    with pytest.raises(UserError, match=r"\.predictions\.safetensors: is neither a record \(seed<n>\.json\)"):
        load_classifier(kept / "seed0.predictions.safetensors")
    with pytest.raises(UserError, match=r"kept no model; set keep: \{model: true\}, delete the record"):
        load_classifier(kept / "bare.json")


@pytest.mark.parametrize(
    "method",
    ["lora", "mosa", *thorough(*(name for name in peft.list_methods() if name not in ("lora", "mosa")))],
)
def test_the_model_of_every_method_is_loaded_as_it_was(method, pack, tmp_path):
    """Also where merging leaves changed weights of the backbone alone, and where a method chooses."""
    record = tmp_path / "seed0.json"
    execute(spec(method, training={"epochs": 1, "batch_size": 32}), pack, record, keep=BOTH)
    classifier, kept = load_classifier(record), read(record)
    pixels = Pack(pack).split("test").read(np.arange(len(kept)))
    mean, std = (255 * torch.tensor(x).view(3, 1, 1) for x in (classifier.mean, classifier.std))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - mean) / std
    with torch.inference_mode():
        torch.testing.assert_close(
            classifier.model(images), torch.from_numpy(kept.logits), atol=1e-5, rtol=1e-5
        )


def test_the_demo_has_a_name_for_every_class():
    from mosa.data.class_names import known_classes
    from mosa.data.demo import flowers, textures

    for name in list_tasks("demo"):
        names = known_classes(f"demo/{name}")
        assert len(set(names)) == len(names) == get_task(f"demo/{name}").num_classes
    drawn = [material.__name__.lstrip("_") for material in textures.MATERIALS]
    same = [one == other for one, other in zip(drawn, known_classes("demo/textures"), strict=True)]
    assert same.count(False) == 2  # truchet: tiles; hatch: hatching
    for label, name in enumerate(known_classes("demo/flowers")):
        petals, form = flowers._PETALS[label % 4], flowers._FORMS[label // 4 % 3]
        assert name.split()[1:] == [str(petals), form]
    assert known_classes("vtab1k/cifar") == ()


def test_no_image_is_predicted_twice_and_none_that_is_hidden(tmp_path):
    for name in ("a.png", "b/c.png", ".hidden/d.png", "__MACOSX/e.png", ".f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "b")
    found, others = find_images([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.png", "b/c.png"] and not others


@pytest.mark.parametrize("folder", ["", "b"])
def test_a_folder_of_images_that_cannot_be_read_is_refused(folder, tmp_path, lock):
    for name in ("a.png", "b/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lock(tmp_path / folder)
    with pytest.raises(UserError, match=rf"^{tmp_path / folder}: cannot be read \(Permission denied\)"):
        find_images([tmp_path])


def test_a_name_that_is_no_utf8_is_written_as_the_file_has_it(animals, tmp_path):
    folder, record = animals
    name = os.fsdecode(b"caf\xe9.png")
    try:
        shutil.copy(folder / "images/cat/0.png", tmp_path / name)
    except OSError:
        pytest.skip("a file system that takes UTF-8 alone")
    for kind in ("csv", "json"):
        output = tmp_path / f"found.{kind}"
        done = CliRunner().invoke(
            cli, ["predict", str(record), str(tmp_path / name), "--output", str(output)]
        )
        assert done.exit_code == 0, done.output
        if kind == "csv":
            assert b"caf\xe9.png" in output.read_bytes()
        else:
            assert json.loads(output.read_text())[0]["image"] == str(tmp_path / name)


def test_nothing_that_is_read_is_overwritten(animals, tmp_path):
    folder, record = animals
    copied = shutil.copytree(record.parent, tmp_path / "run") / record.name
    image = shutil.copy(folder / "images/cat/0.png", tmp_path / "cat.png")
    model = copied.with_name("seed0.model.safetensors")
    other = shutil.copy(copied, tmp_path / "seed1.json")
    for path, words in (
        (copied, "is read"),
        (image, "is read"),
        (model, "is read"),
        (other, "the record of a run"),
    ):
        before = path.read_bytes()
        done = CliRunner().invoke(cli, ["predict", str(copied), str(image), "--output", str(path)])
        assert isinstance(done.exception, UserError) and words in str(done.exception)
        assert path.read_bytes() == before
