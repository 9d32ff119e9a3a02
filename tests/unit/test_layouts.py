"""Benchmarks as they lie on disk: read whole, and every planted problem is told with file and line."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import standin
from PIL import Image
from standin import image, make_aircraft, make_cifar100, make_fgvc, make_food101, make_vtab, save

from mosa.base.errors import UserError
from mosa.data import make_pack
from mosa.data.catalogue import get_task, list_tasks
from mosa.data.images import read_image
from mosa.data.layouts import Entry, Report, read_source
from mosa.data.layouts.source import hold_out, stratified
from mosa.data.packs import Pack
from mosa.data.task import task_from_config
from mosa.engine.preflight import check
from mosa.experiment.config import load_config

ON_DISK = [
    f"{benchmark}/{task}" for benchmark in ("vtab1k", "fgvc", "general") for task in list_tasks(benchmark)
]
CIFAR, CUB = get_task("vtab1k/cifar"), get_task("fgvc/cub")


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """All 27 tasks, to be read and never changed."""
    return standin.make_all(tmp_path_factory.mktemp("data"))


def root_of(tree, task):
    return tree / {"vtab1k": "vtab-1k", "multitask": "fgvc"}.get(task.benchmark, task.benchmark)


def read(task, root):
    report = Report()
    return read_source(task, root, report), report


def problems(task, root):
    """Return the problems that `mosa check` finds, as "severity place: message"."""
    config = {
        "variants": {"linear": {"method": "linear"}},
        "seeds": [0],
        "name": "planted",
        "benchmarks": {task.benchmark: [task.name]},
        "paths": {"data": {} if task.root else {task.benchmark: str(root)}},
        "tasks": {task.name: {"layout": task.layout, "root": task.root}} if task.root else {},
        "backbones": {"micro": {"architecture": "mosa_vit_micro", "weights": "builtin"}},
    }
    loaded = load_config(config) | {"backbones": {}}  # of which the check says nothing here
    finding = next(f for f in check(loaded) if f.name == task.full_name)
    return [f"{p.severity} {p.place}: {p.message}" for p in finding.problems]


def own(layout, root, **options):
    return task_from_config("mine", {"layout": layout, "root": str(root), **options})


# What is in order


@pytest.mark.parametrize("name", ON_DISK)
def test_every_task_is_read_whole(name, tree):
    task = get_task(name)
    source, report = read(task, root_of(tree, task))
    assert not report.errors
    assert source.num_classes == task.num_classes
    assert all(source.splits[split] for split in ("train", "val", "test"))
    assert all(0 <= e.label < task.num_classes for entries in source.splits.values() for e in entries)


def test_the_literature_has_27_tasks():
    assert len(ON_DISK) == 27 == len(set(ON_DISK))
    assert sum(get_task(f"fgvc/{name}").num_classes for name in list_tasks("fgvc")) == 1173
    assert [len(list_tasks(name)) for name in ("vtab1k", "fgvc", "general")] == [19, 5, 3]
    assert sum(get_task(name).sizes["test"] for name in ON_DISK if name.startswith("vtab1k")) == 387_904


def test_a_pack_has_the_pixels_of_the_files(tmp_path):
    folder = make_vtab(tmp_path, CIFAR, suffix="png")
    make_pack(CIFAR, tmp_path / "pack", tmp_path, image_size=24)
    pack = Pack(tmp_path / "pack")
    expected = [
        np.asarray(Image.open(folder / f"images/test/{i:06d}.png").resize((24, 24), Image.Resampling.BICUBIC))
        for i in range(6)
    ]
    test = pack.split("test")
    np.testing.assert_array_equal(test.read(np.arange(6)), expected)
    assert test.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(pack.split("trainval")) == 14


@pytest.mark.parametrize("alias", ["cifar100", "cifar_100"])
def test_aliases_are_found(alias, tmp_path):
    make_vtab(tmp_path, CIFAR).rename(tmp_path / alias)
    assert read(CIFAR, tmp_path)[0].root == tmp_path / alias


def test_without_its_two_lists_the_joint_list_is_cut_at_row_800(tmp_path):
    folder = make_vtab(tmp_path, CIFAR, sizes=(800, 3, 2))
    (folder / "train800.txt").unlink()
    (folder / "val200.txt").unlink()
    source, report = read(CIFAR, tmp_path)
    assert not report.errors and len(source.splits["train"]) == 800 and len(source.splits["val"]) == 3
    assert "rows 1-800" in source.notes[0]


def test_lists_may_have_crlf_a_bom_blank_lines_at_the_end_and_spaces_in_paths(tmp_path):
    folder = make_vtab(tmp_path, CIFAR)
    shutil.copy(folder / "images/test/000000.jpg", folder / "images/test/a b.jpg")
    lines = (folder / "test.txt").read_text().splitlines()
    lines[0] = "images/test/a b.jpg 7"
    (folder / "test.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n\r\n \r\n")
    source, report = read(CIFAR, tmp_path)
    assert not report.errors
    assert [entry.label for entry in source.splits["test"]] == [7, 1, 2, 3, 4, 5]


def test_linked_folders_and_files_are_legal(tmp_path):
    folder = make_vtab(tmp_path / "real", CIFAR)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cifar").symlink_to(folder)
    (folder / "elsewhere.jpg").write_bytes((folder / "images/test/000000.jpg").read_bytes())
    (folder / "images/test/000000.jpg").unlink()
    (folder / "images/test/000000.jpg").symlink_to(folder / "elsewhere.jpg")
    source, report = read(CIFAR, tmp_path / "root")
    assert not report.errors and len(source.splits["test"]) == 6


def test_class_ids_of_fgvc_are_counted_in_their_order(tmp_path):
    folder = make_fgvc(tmp_path, CUB)
    for split in ("train", "val", "test"):
        entries = json.loads((folder / f"{split}.json").read_text())
        renamed = {name: 7 * class_id - 3 for name, class_id in entries.items()}
        (folder / f"{split}.json").write_text(json.dumps(renamed))
    source, report = read(CUB, tmp_path)
    assert not report.errors and [entry.label for entry in source.splits["val"]] == list(range(200))


def test_low_resource_subsets_that_come_with_the_data_are_taken(tmp_path):
    folder = make_fgvc(tmp_path, CUB)
    names = list(json.loads((folder / "train.json").read_text()))
    (folder / "train_0.1.json").write_text(json.dumps({name: 1 for name in names[5:25]}))
    make_pack(CUB, tmp_path / "pack", tmp_path, image_size=16)
    pack = Pack(tmp_path / "pack")
    assert pack.fraction(0.1, seed=0).tolist() == list(range(5, 25))
    assert len(pack.fraction(0.5, seed=0)) == 200  # one of each class, as there is one


def test_fgvc_is_cropped_from_its_shorter_side(tmp_path):
    make_fgvc(tmp_path, CUB)
    make_pack(CUB, tmp_path / "pack", tmp_path, image_size=14)
    train = Pack(tmp_path / "pack").split("train")
    store = train.stores[0]
    assert {tuple(size) for size in store.sizes.tolist()} == {(16, w) for w in (16, 17, 18, 20, 21)}
    assert train.read(np.arange(3)).shape == (3, 14, 14, 3)
    whole = store[4]
    first = tmp_path / "CUB_200_2011/images/train/004 class/0.jpg"
    np.testing.assert_array_equal(whole, read_image(first, 14, "shorter", "bicubic"))
    top, left = 1, round((whole.shape[1] - 14) / 2)
    np.testing.assert_array_equal(train.read(np.array([4]))[0], whole[top : top + 14, left : left + 14])
    windows = [
        whole[y : y + 14, x : x + 14][:, ::flip]
        for y in range(3)
        for x in range(whole.shape[1] - 13)
        for flip in (1, -1)
    ]
    rng = np.random.default_rng(0)
    drawn = [train.read(np.array([4]), [rng])[0] for _ in range(1000)]
    seen = {next(i for i, window in enumerate(windows) if np.array_equal(window, crop)) for crop in drawn}
    assert seen == set(range(len(windows)))  # every crop, both ways round


def test_the_union_keeps_its_data_sets_apart(tree, tmp_path):
    task = get_task("multitask/fgvc")
    make_pack(task, tmp_path / "pack", tree / "fgvc", image_size=16)
    pack = Pack(tmp_path / "pack")
    test = pack.split("test")
    assert pack.num_classes == 1173 and pack.sets == ["cub", "nabirds", "flowers", "dogs", "cars"]
    first = {number: int(test.labels[test.sets == number].min()) for number in range(5)}
    assert first == {0: 0, 1: 200, 2: 755, 3: 857, 4: 977}


@pytest.mark.parametrize("name", ["general/cifar100", "general/food101"])
def test_val_is_held_out_where_there_is_none_and_said(name, tree):
    task = get_task(name)
    source, _ = read(task, root_of(tree, task))
    again, _ = read(task, root_of(tree, task))
    assert [e.place for e in source.splits["val"]] == [e.place for e in again.splits["val"]]
    assert not {e.place for e in source.splits["train"]} & {e.place for e in source.splits["val"]}
    assert sorted(e.label for e in source.splits["val"]) == list(range(task.num_classes))
    assert "held out of train, 10% of each class, seed 0" in source.notes[0]


def test_a_hold_out_takes_its_share_of_every_class():
    entries = [entry for label in range(3) for entry in _entries(label, 10 * (label + 1))]
    stays, held = hold_out(entries)
    assert [sum(e.label == label for e in held) for label in range(3)] == [1, 2, 3]
    assert len(stays) + len(held) == 60
    assert hold_out(_entries(0, 1))[1] == []  # the only image of a class stays
    chosen = stratified([0] * 10 + [1] * 30, 0.1, seed=1)
    assert len(chosen) == 4 and (chosen < 10).sum() == 1
    assert stratified([0] * 10, 0.1, 1).tolist() != stratified([0] * 10, 0.1, 2).tolist()


def _entries(label, count):
    return [Entry(Path(f"{label}-{i}"), label, f"{label}-{i}") for i in range(count)]


# Own data


@pytest.mark.parametrize("split", [False, True])
def test_a_folder_of_classes(split, tmp_path):
    rng = np.random.default_rng(0)
    places = [tmp_path / part for part in ("train", "test")] if split else [tmp_path]
    for place in places:
        for label, name in enumerate(("cat", "dog")):
            for number in range(20):
                save(place / name / f"{number}.png", image(rng, label))
            (place / name / "notes.txt").write_text("not an image")
    source, report = read(own("folder", tmp_path), tmp_path)
    assert not report.errors and source.num_classes == 2
    sizes = {name: len(entries) for name, entries in source.splits.items()}
    assert sizes == ({"train": 36, "val": 4, "test": 40} if split else {"train": 28, "val": 4, "test": 8})
    assert len(source.notes) == (1 if split else 2)
    assert not problems(own("folder", tmp_path), tmp_path)


def test_a_csv(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    for number in range(30):
        save(tmp_path / f"a/{number}.png", image(rng, number % 3))
        split = "test" if number >= 24 else "train"
        lines.append(f'"a/{number}.png",{("oak", "elm", "ash")[number % 3]},{split}')
    (tmp_path / "all.csv").write_text("\n".join(lines))
    source, report = read(own("csv", tmp_path / "all.csv"), tmp_path)
    assert not report.errors and source.num_classes == 3
    assert [e.label for e in source.splits["test"]] == [2, 1, 0, 2, 1, 0]  # ash, elm, oak
    assert {name: len(entries) for name, entries in source.splits.items()} == {
        "train": 21,
        "val": 3,
        "test": 6,
    }
    (tmp_path / "all.csv").write_text("path,label\na/0.png,10\na/1.png,9\n" * 1)
    source, _ = read(own("csv", tmp_path / "all.csv"), tmp_path)
    labels = sorted(e.label for entries in source.splits.values() for e in entries)
    assert labels == [0, 1]  # 9 and 10, in the order of numbers


def test_lists_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    for split, size in (("train", 20), ("test", 4)):
        for number in range(size):
            save(tmp_path / f"{split}{number}.png", image(rng, number % 2))
        (tmp_path / f"{split}.txt").write_text("".join(f"{split}{i}.png {i % 2}\n" for i in range(size)))
    source, report = read(own("lists", tmp_path), tmp_path)
    assert not report.errors and source.num_classes == 2 and len(source.splits["val"]) == 2


def test_the_same_image_in_train_and_test_of_own_data_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(10):
            save(tmp_path / split / "cat" / f"{number}.png", image(rng))
    shutil.copy(tmp_path / "train/cat/0.png", tmp_path / "test/cat/9.png")
    found = problems(own("folder", tmp_path), tmp_path)
    assert any("error" in p and "9.png: the same image is in train" in p for p in found), found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,class\nx,1\n", "line 1: has the columns file, class; expected path,label"),
        ("path,label\n../x.png,1\n", "line 2: '../x.png' leads out of"),
        ("path,label\n{root}/x.png,1\n", "line 2: '/.*/x.png' is an absolute path; list images by"),
        ("path,label\n{root}/../x.png,1\n", "line 2: '/.*/x.png' leads out of"),
        ("path,label\nx.png,\n", "line 2: the label is empty"),
        ("path,label,split\nx.png,1,fold2\n", "line 2: split 'fold2': expected train, val or test"),
        ("path,label\nno.png,1\n", "line 2: .*no.png: no such image"),
        ("path,label\nx.png,1\nx.png,1\n", "line 3: 'x.png' is already listed in line 2"),
    ],
)
def test_problems_of_a_csv(text, words, tmp_path):
    save(tmp_path / "x.png", image(np.random.default_rng(0)))
    (tmp_path / "all.csv").write_text(text.format(root=tmp_path))
    _told(problems(own("csv", tmp_path / "all.csv"), tmp_path), f"error .*all.csv, {words}")


def test_own_tasks_cannot_be_cropped_from_what_has_no_margin(tmp_path):
    with pytest.raises(UserError, match=r"tasks\.mine: augment 'crop_flip' needs room"):
        own("folder", tmp_path, resize="direct", augment="crop_flip")


# What is wrong


def edit(name, change):
    def plant(folder):
        file = folder / name
        file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))

    return plant


def replaced(line, text):
    return lambda lines: [*lines[: line - 1], text, *lines[line:]]


def truncate(folder):
    path = folder / "images/test/000001.jpg"
    path.write_bytes(path.read_bytes()[:200])


def empty_image(folder):
    (folder / "images/test/000001.jpg").write_bytes(b"")


def text_image(folder):
    (folder / "images/test/000001.jpg").write_text("<html>404</html>")


def leak(folder):
    shutil.copy(folder / "images/train800/000003.jpg", folder / "images/test/000004.jpg")


VTAB_PROBLEMS = {
    "a missing list": (lambda f: (f / "test.txt").unlink(), r"error .*test\.txt: no such file"),
    "a missing image": (
        lambda f: (f / "images/test/000002.jpg").unlink(),
        r"error .*test\.txt, line 3: .*000002\.jpg: no such image",
    ),
    "a dead link": (
        lambda f: ((f / "images/test/000002.jpg").unlink(), os.symlink("gone", f / "images/test/000002.jpg")),
        r"error .*test\.txt, line 3: .*000002\.jpg: no such image",
    ),
    "a truncated image": (
        truncate,
        r"error .*test\.txt, line 2: .*000001\.jpg: cannot be decoded .*[Tt]runcated",
    ),
    "an empty image": (empty_image, r"error .*test\.txt, line 2: .*000001\.jpg: is an empty file"),
    "a page for an image": (text_image, r"error .*test\.txt, line 2: .*000001\.jpg: is not an image"),
    "a label out of range": (
        edit("test.txt", replaced(2, "images/test/000001.jpg 100")),
        r"error .*test\.txt, line 2: label 100: expected a whole number, 0 to 99",
    ),
    "a negative label": (
        edit("test.txt", replaced(2, "images/test/000001.jpg -1")),
        r"error .*test\.txt, line 2: label '-1': expected a whole number",
    ),
    "a label that is no number": (
        edit("val200.txt", replaced(1, "images/val200/000000.jpg 1.0")),
        r"error .*val200\.txt, line 1: label '1\.0': expected a whole number",
    ),
    "a line without a label": (
        edit("test.txt", replaced(4, "images/test/000003.jpg")),
        r"error .*test\.txt, line 4: .*expected a path, a space and a label",
    ),
    "an entry above the root": (
        edit("test.txt", replaced(2, "images/../../../x.jpg 1")),
        r"error .*test\.txt, line 2: 'images/\.\./.* leads out of",
    ),
    "an absolute entry": (
        edit("test.txt", replaced(2, "/etc/passwd 1")),
        r"error .*test\.txt, line 2: '/etc/passwd' leads out of",
    ),
    "an empty split": (edit("test.txt", lambda lines: []), r"error .*cifar: its split test is empty"),
    "a line twice": (
        edit("test.txt", lambda lines: [*lines, lines[0]]),
        r"error .*test\.txt, line 7: 'images/test/000000\.jpg' is already listed in line 1",
    ),
    "the same image in train and test": (
        leak, r"warning .*test\.txt, line 5: the same image is in train \(.*train800\.txt, line 4\)"
    ),
    "lists of two copies": (
        edit("train800.txt", replaced(1, "images/train800/000000.jpg 9")),
        r"error .*train800val200\.txt: its labels are not those of train800\.txt and then val200\.txt",
    ),
    "classes without images": (lambda f: None, r"warning .*cifar: no training image of 90 of 100 classes"),
    "other counts": (lambda f: None, r"warning .*10 / 4 / 6 images, the literature 800 / 200 / 10000"),
    "no folder": (
        shutil.rmtree,
        r"error .*cifar: no such folder \(also tried: cifar100, cifar_100\); put vtab1k",
    ),
}  # fmt: skip


def _told(found, words):
    assert any(re.search(f"^{words}", problem) for problem in found), "\n".join(found)


@pytest.mark.parametrize("name", VTAB_PROBLEMS)
def test_problems_of_vtab(name, tmp_path):
    plant, words = VTAB_PROBLEMS[name]
    plant(make_vtab(tmp_path, CIFAR))
    found = problems(CIFAR, tmp_path)
    _told(found, words)
    if words.startswith("error"):
        with pytest.raises(UserError) as error:
            make_pack(CIFAR, tmp_path / "out" / "pack", tmp_path, image_size=8)
        assert "\n" not in str(error.value)
        assert not [p for p in (tmp_path / "out").glob("*") if not p.name.endswith(".lock")]


def test_every_problem_is_told_not_only_the_first(tmp_path):
    folder = make_vtab(tmp_path, CIFAR)
    for number in range(3):
        (folder / f"images/test/{number:06d}.jpg").unlink()
    truncate_later = folder / "images/test/000004.jpg"
    truncate_later.write_bytes(b"")
    errors = [problem for problem in problems(CIFAR, tmp_path) if problem.startswith("error")]
    assert len(errors) == 4


def _json(folder, split, change):
    file = folder / f"{split}.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content), indent=1))


FGVC_PROBLEMS = {
    "not an object": (
        lambda f: _json(f, "val", lambda c: list(c)), r"error .*val\.json, line 1: is not a JSON object"
    ),
    "not json": (
        lambda f: (f / "val.json").write_text('{"a": 1,\n oops'), r"error .*val\.json, line 2: is not JSON"
    ),
    "missing": (lambda f: (f / "val.json").unlink(), r"error .*val\.json: cannot be read"),
    "a class id that is text": (
        lambda f: _json(f, "val", lambda c: c | {"val/003 class/0.jpg": "4"}),
        r"error .*val\.json, line 5: class id '4' of 'val/003 class/0\.jpg': expected an integer",
    ),
    "ids of another release": (
        lambda f: _json(f, "test", lambda c: {k: v + 1 for k, v in c.items()}),
        r"error .*test\.json: has 1 class id that train\.json lacks \(201\)",
    ),
    "a missing image": (
        lambda f: (f / "images/test/002 class/0.jpg").unlink(),
        r"error .*test\.json, line 4: .*no such image",
    ),
    "an entry above the root": (
        lambda f: _json(f, "test", lambda c: c | {"../x.jpg": 1}),
        r"error .*test\.json, line 202: '\.\./x\.jpg' leads out of",
    ),
    "an entry twice": (
        lambda f: (f / "val.json").write_text('{"val/000 class/0.jpg": 1,\n"val/000 class/0.jpg": 1}'),
        r"error .*val\.json, line 1: 'val/000 class/0\.jpg' is listed twice",
    ),
    "an entry in two spellings": (
        lambda f: _json(f, "val", lambda c: c | {"./val//000 class/0.jpg": 7}),
        r"error .*val\.json, line 202: './val//000 class/0\.jpg' is the image of line 2; keep one",
    ),
    "an entry of another suffix": (
        lambda f: _json(f, "val", lambda c: c | {"val/000 class/0.png": 1}),
        r"error .*val\.json, line 202: 'val/000 class/0\.png' is the image of line 2; keep one",
    ),
    "a subset with strangers": (
        lambda f: (f / "train_0.2.json").write_text('{"no.jpg": 1}'),
        r"error .*train_0\.2\.json, line 1: 'no\.jpg' is not in train\.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FGVC_PROBLEMS)
def test_problems_of_fgvc(name, tmp_path):
    plant, words = FGVC_PROBLEMS[name]
    plant(make_fgvc(tmp_path, CUB))
    _told(problems(CUB, tmp_path), words)


class Hostile:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_of_cifar_runs_nothing(tmp_path, capsys):
    folder = make_cifar100(tmp_path)
    (folder / "test").write_bytes(pickle.dumps({"data": Hostile()}, protocol=2))
    _told(
        problems(get_task("general/cifar100"), tmp_path), r"error .*test: is not a part of CIFAR-100 .*print"
    )
    assert "must not run" not in capsys.readouterr().out


def test_problems_of_the_general_sets(tmp_path):
    make_cifar100(tmp_path), make_aircraft(tmp_path), make_food101(tmp_path)
    _told(problems(get_task("general/cifar100"), tmp_path), r"warning .*train: is not the original file")
    lists = tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt"
    lists.write_text(lists.read_text().replace("Variant 01-100", "Variant 77x", 1))
    _told(
        problems(get_task("general/aircraft"), tmp_path),
        r"error .*_test\.txt, line 2: variant 'Variant 77x' is not",
    )
    (tmp_path / "food-101/meta/test.json").write_text("[1]")
    _told(
        problems(get_task("general/food101"), tmp_path), r"error .*test\.json, line 1: is not a JSON object"
    )
