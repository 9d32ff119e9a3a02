"""Data of one's own, as people have them: what is not read is said, and splits share no image."""

import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from standin import image, make_vtab, save

from mosa.base.errors import UserError
from mosa.data import make_pack
from mosa.data.catalogue import get_task
from mosa.data.content import task_content
from mosa.data.formats import LAYOUTS, Layout, all_files, count_own
from mosa.data.layouts import Entry, Report, Source, read_source
from mosa.data.naming import like_a_split, split_named
from mosa.data.packs import Pack
from mosa.data.task import task_from_config
from mosa.engine import preflight

CIFAR = get_task("vtab1k/cifar")


def own(layout, root):
    return task_from_config("mine", {"layout": layout, "root": str(root)})


class Told:
    """What the reader, or the whole check, says of a task."""

    def __init__(self, task, root, opened=False):
        self.report = Report()
        self.source = read_source(task, root, self.report)
        if opened and self.source is not None:
            preflight._check_images(task, self.source, self.report, 1)
        self.lines = [f"{p.severity} {p.place}: {p.message}" for p in self.report.problems]
        self.errors = [line for line in self.lines if line.startswith("error")]
        self.notes = self.report.notes + (self.source.notes if self.source else [])

    def __contains__(self, pattern):
        return any(re.search(f"^(?:{pattern})", line) for line in self.lines)

    @property
    def counts(self):
        return {split: len(entries) for split, entries in self.source.splits.items()}

    def __repr__(self):
        return "\n".join([*self.lines, *self.notes])


def images(root, *folders, number=10, suffix="png"):
    """Write different images into folders of a root."""
    for folder in folders:
        rng = np.random.default_rng(list(folder.encode()))
        for index in range(number):
            save(root / folder / f"{index}.{suffix}", image(rng))


def test_the_five_best_of_few_classes_are_no_metric(tmp_path):
    images(tmp_path, "cat", "dog")
    entry = {"layout": "folder", "root": str(tmp_path), "metric": "top5"}
    report = Report()
    read_source(task_from_config("mine", entry), tmp_path, report)
    assert [one.message for one in report.errors] == [
        "top5 of 2 classes is 100 in any case; set metric: top1"
    ]


def of_folder(root, **options):
    return Told(own("folder", root), root, **options)


# Names of splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(name, "train") for name in ("train", "Train", "TRAINING", "train_set", "trainset")],
        *[(name, "train") for name in ("Train-Images", "trn", "images_train", "1_Train", "01 - train")],
        *[(name, "val") for name in ("val", "valid", "Validation", "VAL", "dev", "val_data", "development")],
        *[(name, "test") for name in ("test", "Testing", "TEST", "test_set", "eval", "evaluation", "tests")],
        *[(name, None) for name in ("", "cat", "trainval", "train2017", "test_a", "trainer", "devil")],
        *[(name, None) for name in ("latest", "bullet train", "test tube", "contest", "fold1")],
    ],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_named(name) == split


def test_names_that_are_nearly_those_of_splits():
    near = ("trainval", "train2017", "test_a", "val1", "test-2", "Train")
    assert all(map(like_a_split, near))
    assert not any(map(like_a_split, ("train station", "test tube", "latest", "trainer", "fold1", "cat", "")))


NAMES = [("train", "valid", "test"), ("Train", "VALIDATION", "Testing"), ("training", "dev", "eval")]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("layout", ["folder", "csv", "lists"])
def test_synonyms_of_splits_are_read(layout, names, tmp_path):
    for name, number in zip(names, (6, 3, 2), strict=True):
        images(tmp_path, f"{name}/cat", f"{name}/dog", number=number)
    files = [(path.relative_to(tmp_path), path.parent.name) for path in sorted(tmp_path.rglob("*.png"))]
    root = tmp_path
    if layout == "csv":
        rows = [f"{path},{label},{path.parts[0]}\n" for path, label in files]
        root = tmp_path / "all.csv"
        root.write_text("Path,Label,Split\n" + "".join(rows))
    if layout == "lists":
        for name in names:
            rows = [f"{path} {int(label == 'dog')}\n" for path, label in files if path.parts[0] == name]
            (tmp_path / f"{name}.txt").write_text("".join(rows))
    told = Told(own(layout, root), root)
    assert not told.lines and told.counts == {"train": 12, "val": 6, "test": 4}
    assert told.source.num_classes == 2 and not told.source.notes
    assert any("val: " in note and names[1] in note for note in told.notes), told
    before = task_content(own(layout, root), root, None)
    changed = next((tmp_path / names[1]).rglob("*.png"))
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    assert task_content(own(layout, root), root, None) != before


def test_two_folders_for_one_split_are_refused(tmp_path):
    images(
        tmp_path, *(f"{split}/{name}" for split in ("train", "val", "validation", "test") for name in "ab")
    )
    assert r"error .*'val' and 'validation' both stand for val; keep one" in of_folder(tmp_path)
    for name in ("train", "test", "testing"):
        (tmp_path / f"{name}.txt").write_text(f"{name}/a/0.png 0\n")
    found = Told(own("lists", tmp_path), tmp_path)
    assert r"error .*'test.txt' and 'testing.txt' both stand for test" in found


@pytest.mark.parametrize("names", [("birds_train", "birds_val"), ("Test-xy", "TRAIN-xy")])
def test_splits_named_by_their_set_are_no_classes(names, tmp_path):
    images(tmp_path, *(f"{split}/{name}" for split in names for name in "ab"))
    assert f"error .*{', '.join(sorted(names))} look like splits; name them train, val" in of_folder(tmp_path)


def test_classes_with_the_same_folders_within_are_said(tmp_path):
    images(tmp_path, *(f"{split}/{name}" for split in ("entreno", "prueba") for name in "ab"))
    told = of_folder(tmp_path)
    assert "warning .*entreno, prueba have the same folders within .a, b., and are taken for classes" in told
    assert not told.errors


def test_splits_without_train_are_refused(tmp_path):
    images(tmp_path, *(f"{split}/{name}" for split in ("train2017", "val2017") for name in "ab"))
    assert "error .*has splits and no train; .* 'train' .found train2017, val2017" in of_folder(tmp_path)
    (tmp_path / "train2017").rename(tmp_path / "a")
    (tmp_path / "val2017").rename(tmp_path / "val")
    assert "error .*has splits and no train" in of_folder(tmp_path)


def test_classes_may_be_named_like_a_split_if_it_is_said(tmp_path):
    images(tmp_path, "bus", "car", "train")
    told = of_folder(tmp_path)
    assert told.source.names == ("bus", "car", "train") and not told.errors
    assert "warning .*'train' is taken for a class" in told
    images(tmp_path, "test")
    assert "error .*test, train: the name of a split, with images and no folders of classes" in of_folder(
        tmp_path
    )


def test_images_of_a_split_without_classes_are_refused(tmp_path):
    images(tmp_path, "train/cat", "train/dog", "test")
    assert "error .*/test: has 10 images and no folders of classes" in of_folder(tmp_path)
    images(tmp_path / "other", "train", "test")
    assert "error .*other: test, train: no folders of classes within" in of_folder(tmp_path / "other")


def test_splits_below_classes_are_refused(tmp_path):
    images(tmp_path, *(f"{name}/{split}" for split in ("train", "test") for name in ("cat", "dog")))
    assert (
        "error .*/cat: holds test, train, the names of splits; order the folders as <split>/<class>"
        in of_folder(tmp_path)
    )


# What is not read


def test_a_folder_that_is_not_used_is_said(tmp_path):
    images(tmp_path, "train/a", "train/b", "test/a", "test/b", "extra/a", "trainval/a")
    told = of_folder(tmp_path)
    assert not told.errors and "warning .*'extra', 'trainval': not read" in told
    shutil.rmtree(tmp_path / "test")
    assert "error .*'train' stands for a split, and 'extra', 'trainval' beside it for none" in of_folder(
        tmp_path
    )


@pytest.mark.parametrize("name", ["1.gif", "1.heic", "1.HEIC", "1.avif", "1.jfif", "photo"])
def test_formats_that_are_not_read_are_said(name, tmp_path):
    images(tmp_path, "cat", "dog")
    (tmp_path / "dog" / name).write_bytes(b"x")
    told = of_folder(tmp_path)
    suffix = os.path.splitext(name)[1].lower() or "no suffix"
    assert rf"warning .*'dog/{name}': not read \(1 {suffix}\); images end in \.jpg, " in told
    assert not told.errors


def test_webp_is_read(tmp_path):
    images(tmp_path, "cat", "dog", suffix="webp")
    told = of_folder(tmp_path, opened=True)
    assert not told.lines and sum(told.counts.values()) == 20


@pytest.mark.parametrize("place", ["0.png", "train/0.png"])
def test_images_outside_of_classes_are_said(place, tmp_path):
    images(tmp_path, "train/a", "train/b")
    save(tmp_path / place, image(np.random.default_rng(0)))
    assert f"warning .*'{place}': not read: in no folder of a class" in of_folder(tmp_path)


def test_images_in_folders_below_a_class_are_said(tmp_path):
    images(tmp_path, "animals/cat", "animals/dog", "plants/rose")
    told = of_folder(tmp_path)
    assert told.source.names == ("animals", "plants")
    assert "warning .*'animals/cat/0.png' and 29 more: deeper than the folders of classes; the class" in told


def test_hidden_files_and_folders_are_no_classes_and_no_images(tmp_path):
    images(tmp_path, "cat", "dog")
    before = task_content(own("folder", tmp_path), tmp_path, None)
    images(tmp_path, ".ipynb_checkpoints", "__MACOSX", "cat/.ipynb_checkpoints", number=2)
    (tmp_path / "cat" / "._0.png").write_bytes(b"x")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    told = of_folder(tmp_path)
    assert not told.lines and told.source.names == ("cat", "dog") and sum(told.counts.values()) == 20
    assert any(".ipynb_checkpoints" in note and "hidden, and not read" in note for note in told.notes)
    assert any("'cat/notes.txt': no image, and not read" in note for note in told.notes)
    assert task_content(own("folder", tmp_path), tmp_path, None) == before


def test_links_are_said_or_followed(tmp_path):
    images(tmp_path / "real", "cat", "dog", "more")
    (tmp_path / "root" / "cat").mkdir(parents=True)
    images(tmp_path / "root", "cat")
    (tmp_path / "root" / "dog").symlink_to(tmp_path / "real" / "dog")
    (tmp_path / "root" / "cat" / "more").symlink_to(tmp_path / "real" / "more")
    told = of_folder(tmp_path / "root")
    assert sum(told.counts.values()) == 20
    assert "warning .*'cat/more': not read, as links to folders are followed for classes only" in told
    (tmp_path / "root" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "error .*'cat/gone.png': a broken link" in of_folder(tmp_path / "root")


def test_images_that_no_list_names_are_said(tmp_path):
    images(tmp_path, "i", number=12)
    rows = [f"i/{index}.png,{'ab'[index % 2]}" for index in range(10)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label", *rows]))
    told = Told(own("csv", tmp_path / "all.csv"), tmp_path)
    assert not told.errors and "warning .*2 images beside the listed ones in no line, and not read" in told
    (tmp_path / "train.txt").write_text("".join(f"i/{index}.png {index % 2}\n" for index in range(10)))
    (tmp_path / "train2.txt").write_text("")
    (tmp_path / "classes.txt").write_text("")
    told = Told(own("lists", tmp_path), tmp_path)
    assert not told.errors and "warning .*2 images beside the listed ones" in told
    assert r"warning .*train2\.txt: not read; lists are train\.txt, val\.txt and test\.txt" in told
    assert any("not read: all.csv, classes.txt" in note for note in told.notes)


def test_columns_that_are_not_read_are_said(tmp_path):
    images(tmp_path, "i", number=20)
    rows = [f"i/{index}.png,{'ab'[index % 2]},7" for index in range(20)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,width", *rows]))
    told = Told(own("csv", tmp_path / "all.csv"), tmp_path)
    assert not told.lines and any("not read: the columns width" in note for note in told.notes)
    rows = [f"i/{index}.png,{'ab'[index % 2]},{'Train' if index < 15 else 'test'}" for index in range(20)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,subset", *rows]))
    told = Told(own("csv", tmp_path / "all.csv"), tmp_path)
    assert "error .*line 1: the column 'subset' has names of splits; rename it to 'split'" in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na,b.png,1\n", "line 2: has 3 fields, not 2 as line 1; quote a path that has a comma"),
        ("path,label,split\nx.png,1\n", "line 2: split '': expected train, val or test"),
        ("path,path,label\nx.png,x.png,1\n", "line 1: has the columns path, path, label; expected"),
        ("", "is empty; expected a CSV: path,label"),
        ("path;label\nx.png;1\n", "line 1: has the columns path;label, and no comma but ';' between"),
        ("path\tlabel\nx.png\t1\n", r"line 1: .* and no comma but '\\t' between"),
        ("path,label\na\\x.png,1\n", "line 2: .*no such image; write / between folders, not a backslash"),
        ("path,label\nx\0.png,1\n", "line 2: .*is no path: it has a character with the code 0"),
        ("path,label\nx.png,1\n./x.png,1\n", r"line 3: './x.png' is already listed in line 2"),
        ("path,label\nx.png,cat\ny.png,Cat\nz.png,dog\n", "the classes 'Cat', 'cat' look like one"),
        ("path,label\nx.png,cat\ny.png,cat \nz.png,dog\n", "the classes 'cat', 'cat ' look like one"),
        ("path,label\nx.png,01\ny.png,1\nz.png,2\n", "the classes '01', '1' look like one"),
        ("path,label\nx.png,1.0\ny.png,1\nz.png,2\n", "the classes '1', '1.0' look like one"),
        ("path,label\nx.png,\u00e9\ny.png,e\u0301\nz.png,2\n", "the classes .* look like one"),
        ('path,label\nx.png,1\n"y.png,2\nz.png,3\n', "line 3: a quote is not closed; expected a CSV"),
        ('path,label\n"x".png,1\ny.png,2\n', "line 2: cannot be read: .* expected after"),
        ('path,label\n"x.png","a\nb"\nno.png,2\n', "line 4: .*no such image"),
        ("path,label\nx.png," + "1" * 5000 + "\ny.png,2\nz.png,2\n", "line 2: label '1+"),
    ],
)  # fmt: skip
def test_problems_of_a_csv(text, words, tmp_path):
    for name in "xyz":
        save(tmp_path / f"{name}.png", image(np.random.default_rng(ord(name))))
    (tmp_path / "all.csv").write_text(text)
    told = Told(own("csv", tmp_path / "all.csv"), tmp_path)
    assert rf"error .*all\.csv(: |, ){words}" in told, told
    assert all(len(line) < 1000 for line in told.lines)


def test_a_csv_is_bounded_text_in_utf8(tmp_path):
    (tmp_path / "all.csv").write_bytes("path,label\nx.png,1\n".encode("utf-16"))
    task = own("csv", tmp_path / "all.csv")
    assert "error .*all.csv: is not text in UTF-8 .its byte 0 is none.; expected a CSV" in Told(
        task, tmp_path
    )
    os.truncate(tmp_path / "all.csv", 257 << 20)
    assert "error .*all.csv: has 257 MiB, and a list at most 256" in Told(task, tmp_path)


@pytest.mark.parametrize("second", ["./i/1.png", "i//1.png", "i/./1.png"])
@pytest.mark.parametrize("layout", ["lists", "vtab"])
def test_another_spelling_of_a_path_is_the_same_file(layout, second, tmp_path):
    if layout == "vtab":
        folder, name, task = make_vtab(tmp_path, CIFAR), "test.txt", CIFAR
    else:
        folder, name, task = tmp_path, "train.txt", own("lists", tmp_path)
    images(folder, "i")
    (folder / name).write_text(f"i/1.png 0\n{second} 1\n")
    assert rf"error .*{name}, line 2: '{second}' is already listed in line 1" in Told(task, tmp_path)


# Splits that are missing, and classes


@pytest.mark.parametrize("layout", ["folder", "csv", "lists"])
def test_a_missing_test_is_held_out_of_train(layout, tmp_path):
    images(tmp_path, "train/cat", "train/dog", number=20)
    images(tmp_path, "val/cat", "val/dog", number=4)
    files = [(path.relative_to(tmp_path), path.parent.name) for path in sorted(tmp_path.rglob("*.png"))]
    root = tmp_path
    if layout == "csv":
        root = tmp_path / "all.csv"
        root.write_text("path,label,split\n" + "".join(f"{p},{label},{p.parts[0]}\n" for p, label in files))
    if layout == "lists":
        for split in ("train", "val"):
            rows = [f"{p} {int(label == 'dog')}\n" for p, label in files if p.parts[0] == split]
            (tmp_path / f"{split}.txt").write_text("".join(rows))
    told = Told(own(layout, root), root)
    assert not told.lines and told.counts == {"train": 32, "val": 8, "test": 8}
    assert told.source.notes == ["test: 8 images held out of train, 20% of each class, seed 0"]
    train = [e for e in Told(own(layout, root), root).source.splits["train"]]
    assert sorted(e.image for e in train) == sorted(e.image for e in told.source.splits["train"])


def test_a_train_alone_is_cut_as_all_images_are(tmp_path):
    images(tmp_path, "train/cat", "train/dog", number=20)
    alone = of_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "images")
    whole = of_folder(tmp_path / "images")
    assert alone.counts == whole.counts == {"train": 28, "val": 4, "test": 8}
    names = [
        [[e.image.name for e in told.source.splits[split]] for split in told.counts]
        for told in (alone, whole)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("numbers", [(1, 1), (2, 2), (1, 2)])
def test_too_few_images_say_how_many_a_class_needs(numbers, tmp_path):
    for name, number in zip(("cat", "dog"), numbers, strict=True):
        images(tmp_path, name, number=number)
    told = of_folder(tmp_path)
    shown = ", ".join(f"'{name}' has {number}" for name, number in zip(("cat", "dog"), numbers, strict=True))
    assert rf"error .*too few images: test and val are held out of train.* at least 3 \({shown}\)" in told
    assert len(told.errors) == 1
    with pytest.raises(UserError, match="a class needs at least 3"):
        make_pack(own("folder", tmp_path), tmp_path / "pack", image_size=8)


def test_a_class_that_is_too_small_is_named(tmp_path):
    images(tmp_path, "cat", "dog")
    images(tmp_path, "emu", number=2)
    told = of_folder(tmp_path)
    assert "warning .*1 of 3 classes are not in every split: .* at least 3 images .'emu' has 2" in told
    assert not told.errors


def test_an_empty_class_is_named(tmp_path):
    images(tmp_path, "cat", "dog")
    (tmp_path / "bird").mkdir()
    assert r"warning .*no training image of 1 of 3 classes \('bird'\)" in of_folder(tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    images(tmp_path, "train/cat", "train/dog")
    (tmp_path / "val").mkdir()
    told = of_folder(tmp_path)
    assert told.errors == [f"error {tmp_path}: its split val has no image; add some, or take the split away"]


@pytest.mark.parametrize("layout", ["folder", "csv", "lists"])
def test_a_single_class_is_refused(layout, tmp_path):
    images(tmp_path, "cat", number=20)
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(f"cat/{i}.png,cat\n" for i in range(20)))
    (tmp_path / "train.txt").write_text("".join(f"cat/{i}.png 0\n" for i in range(20)))
    root = tmp_path / "all.csv" if layout == "csv" else tmp_path
    name = "0" if layout == "lists" else "'cat'"
    assert rf"error .*of one class only \({name}\)" in Told(own(layout, root), root)


def test_a_single_class_of_train_is_refused(tmp_path):
    images(tmp_path, "train/a", "val/a", "val/b", "test/a", "test/b")
    assert r"error .*its images of train are of one class only \('a'\)" in of_folder(tmp_path)


def test_classes_that_val_lacks_are_named(tmp_path):
    images(tmp_path, "train/a", "train/b", "val/a", "test/a", "test/b")
    assert of_folder(tmp_path).lines == [f"warning {tmp_path}: val has no image of 1 of 2 classes ('b')"]


def test_classes_that_train_lacks_are_named(tmp_path):
    images(tmp_path, "train/a", "train/b", "val/a", "val/c", "test/a", "test/d")
    told = of_folder(tmp_path)
    assert (
        r"warning .*val has 1 of 4 classes that train lacks \('c'\): .* stage selection .* cannot learn"
        in told
    )
    assert r"warning .*test has 1 of 4 classes that train lacks \('d'\)" in told
    assert r"warning .*no training image of 1 of 4 classes \('d'\)" in told
    assert r"warning .*test has no image of 1 of 4 classes \('b'\)" in told
    assert not told.errors


def test_splits_without_a_common_class_are_refused(tmp_path):
    images(tmp_path, "train/cat", "train/dog", "test/cats", "test/dogs")
    assert r"error .*test and train have no class in common \('cats', 'dogs' are in test\)" in of_folder(
        tmp_path
    )


def test_classes_of_val_that_train_lacks_are_named_in_a_benchmark(tmp_path):
    folder = make_vtab(tmp_path, CIFAR)
    (folder / "val200.txt").write_text("".join(f"images/val200/{i:06d}.jpg {i * 50}\n" for i in range(2)))
    (folder / "train800val200.txt").unlink()
    assert r"warning .*val has 1 of 100 classes that train lacks \(50\)" in Told(CIFAR, tmp_path)


# Images in two splits


def copied(path, to):
    shutil.copy(path, to)


def encoded_anew(path, to):
    with Image.open(path) as opened:
        opened.save(to, compress_level=0)


def linked(path, to):
    to.unlink()
    to.symlink_to(path)


def hard_linked(path, to):
    to.unlink()
    os.link(path, to)


@pytest.mark.parametrize("way", [copied, encoded_anew, linked, hard_linked])
@pytest.mark.parametrize("pair", [("train", "val"), ("train", "test"), ("val", "test")])
def test_an_image_in_two_splits_of_own_data_is_an_error(way, pair, tmp_path):
    images(tmp_path, *(f"{split}/{name}" for split in ("train", "val", "test") for name in ("cat", "dog")))
    first, second = (
        tmp_path / split / "cat" / f"{number}.png" for split, number in zip(pair, (3, 5), strict=True)
    )
    way(first, second)
    told = of_folder(tmp_path, opened=True)
    assert told.errors == [
        f"error {second}: the same image is in {pair[0]} ({first}); take it out of one of them"
    ]
    if "linked" in way.__name__:  # which shows in the lists
        with pytest.raises(UserError, match=f"the same image is in {pair[0]}"):
            make_pack(own("folder", tmp_path), tmp_path / "pack", image_size=8)


@pytest.mark.parametrize("pair", [("train800", "val200"), ("train800", "test"), ("val200", "test")])
@pytest.mark.parametrize("by", ["path", "content"])
def test_an_image_in_two_splits_of_a_benchmark_is_a_warning(by, pair, tmp_path):
    folder = make_vtab(tmp_path, CIFAR, sizes=(10, 6, 6))
    first, second = (folder / f"images/{part}/000003.jpg" for part in pair)
    if by == "content":
        shutil.copy(first, second)
    else:
        lines = (folder / f"{pair[1]}.txt").read_text().splitlines()
        lines[3] = lines[3].replace(f"images/{pair[1]}", f"images/{pair[0]}")
        (folder / f"{pair[1]}.txt").write_text("\n".join(lines))
    told = Told(CIFAR, tmp_path, opened=by == "content")
    split = pair[0].rstrip("0128")
    assert (
        rf"warning .*{pair[1]}\.txt, line 4: the same image is in {split} \(.*{pair[0]}\.txt, line 4\)"
        in told
    )
    assert not told.errors


@pytest.mark.parametrize("pair", [("train800", "val200"), ("train800", "test"), ("val200", "test")])
@pytest.mark.parametrize("by", ["path", "content"])
def test_a_split_that_is_another_as_a_whole_is_an_error(by, pair, tmp_path):
    folder = make_vtab(tmp_path, CIFAR, sizes=(6, 6, 6))
    if by == "content":
        shutil.rmtree(folder / "images" / pair[1])
        shutil.copytree(folder / "images" / pair[0], folder / "images" / pair[1])
    else:
        shutil.copy(folder / f"{pair[0]}.txt", folder / f"{pair[1]}.txt")
    told = Told(CIFAR, tmp_path, opened=by == "content")
    splits = [part.rstrip("0128") for part in pair]
    assert rf"error .*6 of 6 images of {splits[1]} are in {splits[0]} too" in told


@pytest.mark.parametrize(
    ("sizes", "shared", "severity"),
    [
        ((12, 3, 6), 2, "error"), ((12, 3, 6), 1, "warning"),  # most of val, and less than half of it
        ((3, 12, 6), 2, "error"), ((3, 12, 6), 1, "warning"),  # most of train, and less than half of it
    ],
)  # fmt: skip
def test_most_of_either_split_is_an_error(sizes, shared, severity, tmp_path):
    folder = make_vtab(tmp_path, CIFAR, sizes=sizes)
    for number in range(shared):
        name = f"{number:06d}.jpg"
        shutil.copy(folder / "images/train800" / name, folder / "images/val200" / name)
    told = Told(CIFAR, tmp_path, opened=True)
    assert "warning .*the same image is in train" in told
    assert (f"error .*{shared} of {sizes[1]} images of val are in train too" in told) is (severity == "error")
    assert bool(told.errors) is (severity == "error")


def test_another_label_of_the_same_image_is_said(tmp_path):
    images(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")))
    shutil.copy(tmp_path / "train/cat/1.png", tmp_path / "train/dog/2.png")
    shutil.copy(tmp_path / "train/cat/1.png", tmp_path / "test/dog/3.png")
    told = of_folder(tmp_path, opened=True)
    assert (
        "error .*test/dog/3.png: the same image is in (train|val) .*, with class 'cat' where this is 'dog'"
        in told
    )
    assert r"(warning|error) .*the same image is in (two classes|train)" in told


def test_an_image_in_two_classes_of_one_split_is_said(tmp_path):
    images(tmp_path, *(f"{split}/{name}" for split in ("train", "val", "test") for name in ("cat", "dog")))
    shutil.copy(tmp_path / "train/cat/1.png", tmp_path / "train/dog/2.png")
    told = of_folder(tmp_path, opened=True)
    assert (
        "warning .*train/dog/2.png: the same image is in two classes: 'dog' here, and 'cat' in .*cat/1.png"
        in told
    )


# What is missing or broken


def test_a_broken_own_file_is_not_told_to_be_in_an_archive(tmp_path):
    images(tmp_path, "cat", "dog")
    (tmp_path / "cat/0.png").write_bytes(b"")
    (tmp_path / "cat/1.png").write_bytes(b"no image")
    (tmp_path / "cat/2.png").write_bytes((tmp_path / "cat/3.png").read_bytes()[:80])
    (tmp_path / "all.csv").write_text("path,label\ncat/3.png,a\nno.png,b\n")
    told = of_folder(tmp_path, opened=True)
    assert len(told.errors) == 3
    listed = Told(own("csv", tmp_path / "all.csv"), tmp_path)
    assert r"error .*line 3: .*no\.png: no such image; copy it there again, or take the line out" in listed
    assert not any("archive" in line for line in told.lines + listed.lines)


def test_a_missing_image_of_vtab_does_not_make_its_lists_disagree(tmp_path):
    folder = make_vtab(tmp_path, CIFAR)
    (folder / "images/train800/000003.jpg").unlink()
    told = Told(CIFAR, tmp_path)
    assert len(told.errors) == 1 and r"error .*train800\.txt, line 4: .*000003\.jpg: no such image" in told


@pytest.mark.parametrize("line", ["images/train800/000003.jpg", "images/train800/000003.jpg x", ""])
def test_a_line_that_is_not_valid_does_not_make_its_lists_disagree(line, tmp_path):
    folder = make_vtab(tmp_path, CIFAR)
    lines = (folder / "train800.txt").read_text().splitlines()
    (folder / "train800.txt").write_text("\n".join([*lines[:3], line, *lines[4:]]))
    told = Told(CIFAR, tmp_path)
    assert len(told.errors) == 1 and r"error .*train800\.txt, line 4: " in told


def test_images_that_vtab_does_not_use_need_not_be_there(tmp_path):
    folder = make_vtab(tmp_path, CIFAR)
    shutil.rmtree(folder / "images/train800val200")
    assert not Told(CIFAR, tmp_path, opened=True).errors


@pytest.mark.parametrize("folder", ["train", "train/dog", "train/dog/more"])
def test_a_folder_that_cannot_be_read_is_an_error(folder, tmp_path, lock):
    images(tmp_path, "train/cat", "train/dog", "train/dog/more")
    lock(tmp_path / folder)
    told = of_folder(tmp_path)
    error = f"error {tmp_path / folder}: cannot be read (Permission denied); change its permissions"
    assert told.errors.count(error) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: [1], "a list, expected a Source"),
        (lambda s: replace(s, names=("a",)), "1 names for 2 classes; expected a name for each"),
        (lambda s: replace(s, names=(1, 2)), "names of classes that are no texts"),
        (lambda s: replace(s, num_classes=2.0), r"num_classes 2\.0; expected an int"),
        (
            lambda s: replace(s, num_classes=1),
            "the label 1 in train .*1.png.; expected a whole number, 0 to 0",
        ),
        (lambda s: relabelled(s, lambda label: label + 0.7), r"the label 0\.7 in train"),
        (lambda s: relabelled(s, str), "the label '0' in train"),
        (
            lambda s: replace(s, splits=s.splits | {"extra": []}),
            "the splits train, val, test, extra; expected",
        ),
        (lambda s: replace(s, splits={"train": s.splits["train"]}), "the splits train; expected"),
        (lambda s: replace(s, notes=["x" * 30_000]), "notes of more than 20,000 characters"),
        (lambda s: repainted(s, str), "'.*0.png' in train .*; expected a Path, or an array uint8"),
        (lambda s: repainted(s, lambda _: np.zeros((4, 4))), r"an array float64 \(4, 4\) in train"),
    ],
)
def test_a_reader_of_a_plugin_that_returns_something_else_is_refused(change, words, tmp_path, monkeypatch):
    source = of_plugin(tmp_path, monkeypatch, change)
    assert (
        source.source is None and rf"error {tmp_path}: the reader of layout 'mine' returns {words}" in source
    )


def test_labels_of_a_plugin_may_be_numpys_and_its_val_may_be_empty(tmp_path, monkeypatch):
    told = of_plugin(tmp_path, monkeypatch, lambda s: relabelled(s, np.int64))
    assert not told.lines and {type(e.label) for es in told.source.splits.values() for e in es} == {int}
    told = of_plugin(tmp_path, monkeypatch, lambda s: replace(s, splits=s.splits | {"val": [], "test": []}))
    assert told.errors == [f"error {tmp_path}: its split test is empty; own/mine needs images in it"]


def relabelled(source, how):
    return replace(
        source, splits={s: [e._replace(label=how(e.label)) for e in es] for s, es in source.splits.items()}
    )


def repainted(source, how):
    return replace(
        source, splits={s: [e._replace(image=how(e.image)) for e in es] for s, es in source.splits.items()}
    )


def of_plugin(root, monkeypatch, change):
    """What is said of a reader that returns a changed source of twelve images of two classes."""
    images(root, "i", number=12)
    entries = [Entry(root / f"i/{n}.png", n % 2, str(root / f"i/{n}.png")) for n in range(12)]
    splits = {"train": entries[:6], "val": entries[6:8], "test": entries[8:]}
    monkeypatch.setitem(LAYOUTS, "mine", Layout(lambda *_: change(Source(root, 2, splits)), all_files))
    task = task_from_config("mine", {"layout": "mine", "root": str(root), "reader": "0" * 64})
    return Told(task, root, opened=True)


FUZZED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
USUAL = ["train", "Val", "test", "cat", "1.png", "2.jpg", "train.txt", "dev.txt", os.fsdecode(b"\xff.png")]
NAMES_ON_DISK = st.sampled_from(USUAL) | st.text(
    st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))


@FUZZED
@given(
    st.lists(st.lists(NAMES_ON_DISK, min_size=1, max_size=4), max_size=8),
    st.sampled_from(["folder", "lists"]),
)
def test_any_tree_is_data_or_an_error(tmp_path, paths, layout):
    root = tmp_path / "any"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for parts in paths:
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("train/1.png 0\n")
        except OSError:  # a folder where a file is, or a name that is too long
            continue
    told = Told(own(layout, root), root)
    assert told.errors or all(told.counts.values())
    sum(count_own(own(layout, root)).values())
    task_content(own(layout, root), root, None)
    "\n".join([*told.lines, *told.report.notes]).encode()


@FUZZED
@given(
    st.binary(max_size=80)
    | st.text(st.sampled_from('path,label,splitx.png"\n;1 TrainVal'), max_size=80).map(str.encode),
    st.sampled_from([b"path,label,split\n", b"path,label\n", b""]),
)
def test_any_csv_is_data_or_an_error(tmp_path, body, head):
    save(tmp_path / "x.png", image(np.random.default_rng(0)))
    root = tmp_path / "all.csv"
    root.write_bytes(head + body)
    told = Told(own("csv", root), root)
    assert told.errors or all(told.counts.values())
    count_own(own("csv", root))
    task_content(own("csv", root), root, None)


def test_packing_says_what_is_not_read(tmp_path, capsys):
    images(tmp_path / "data", "train/a", "train/b", "test/a", "test/b", "valdation/a")
    make_pack(own("folder", tmp_path / "data"), tmp_path / "pack", image_size=8)
    assert "'valdation': not read, since the splits are" in capsys.readouterr().err
    assert Pack(tmp_path / "pack").notes == ["val: 2 images held out of train, 10% of each class, seed 0"]


def test_decoding_many_images_is_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preflight, "_MANY", 19)
    images(tmp_path, "cat", "dog")
    of_folder(tmp_path, opened=True)
    assert capsys.readouterr().err == "own/mine: decoding 20 images\n"
