"""What a file claims is bounded before anything is allocated by it, and what cannot be read is named."""

import json
import os
import pickle
import shutil
import struct
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from standin import image, make_aircraft, make_cifar100, make_fgvc, make_food101, make_vtab, save

from mosa.base.errors import UserError
from mosa.data.catalogue import get_task
from mosa.data.content import task_content
from mosa.data.images import decode
from mosa.data.layouts import Report, read_source
from mosa.data.task import task_from_config

CUB, CIFAR = get_task("fgvc/cub"), get_task("vtab1k/cifar")
MEMORY = 32 << 20  # bytes that a reader may take for the tiny files here


def read(task, root=None):
    """Return a source and its problems, as "severity place: message", read in little memory."""
    report = Report()
    tracemalloc.start()
    source = read_source(task, root, report)
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()
    return source, [f"{p.severity} {p.place}: {p.message}" for p in report.problems]


def own(layout, root):
    return task_from_config("mine", {"layout": layout, "root": str(root)})


def told(problems, *words):
    for part in words:
        assert any(part in problem for problem in problems), problems


# Labels


@pytest.fixture
def lists(tmp_path):
    """Own lists of 20 images, and a function that mistypes the label of the sixth."""
    for split in ("train", "test"):
        for number in range(10):
            save(tmp_path / f"{split}{number}.png", image(np.random.default_rng(number), number % 2))
        (tmp_path / f"{split}.txt").write_text("".join(f"{split}{i}.png {i % 2}\n" for i in range(10)))

    def mistype(label):
        lines = (tmp_path / "train.txt").read_text().splitlines()
        lines[5] = f"train5.png {label}"
        (tmp_path / "train.txt").write_text("\n".join(lines))
        return own("lists", tmp_path)

    return mistype


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("1000000000", "label 1000000000: expected a whole number, 0 to 99999"),
        ("100000", "label 100000: expected a whole number, 0 to 99999"),
        ("99999", "label 99999: expected less than 200, 10 times the number of images"),
        ("200", "label 200: expected less than 200, 10 times the number of images"),
        ("12345678901", "label 12345678901: expected a whole number"),
        ("1" * 5000, "label '1111"),
    ],
)
def test_a_mistyped_label_is_named_before_its_classes_are_made(label, words, lists):
    source, problems = read(lists(label))
    (error,) = [problem for problem in problems if problem.startswith("error")]
    assert f"train.txt, line 6: {words}" in error and len(error) < 500
    assert source.num_classes == 2 and len(source.splits["train"]) + len(source.splits["val"]) == 9


def test_labels_may_leave_classes_out(lists):
    source, problems = read(lists("199"))
    assert source.num_classes == 200 and not [p for p in problems if p.startswith("error")]


def test_a_label_of_eleven_digits_is_not_cut_to_ten(tmp_path):
    folder = make_vtab(tmp_path, CIFAR)
    (folder / "test.txt").write_text(
        "images/test/000000.jpg 00000000001\nimages/test/000001.jpg 00000000070\n"
    )
    source, _ = read(CIFAR, tmp_path)
    assert [entry.label for entry in source.splits["test"]] == [1, 70]
    (folder / "test.txt").write_text("images/test/000000.jpg 10000000001\n")
    told(read(CIFAR, tmp_path)[1], "test.txt, line 1: label 10000000001: expected a whole number, 0 to 99")


def test_labels_of_a_csv_are_sorted_as_numbers_and_not_converted(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", image(np.random.default_rng(number)))
    (tmp_path / "all.csv").write_text("path,label\n0.png,10\n1.png,9\n2.png,009\n3.png,0\n")
    source, _ = read(own("csv", tmp_path / "all.csv"))
    labels = {entry.image.name: entry.label for entries in source.splits.values() for entry in entries}
    assert labels == {"3.png": 0, "2.png": 1, "1.png": 2, "0.png": 3}
    (tmp_path / "all.csv").write_text(f"path,label\n0.png,{'7' * 5000}\n1.png,8\n2.png,8\n3.png,8\n")
    _, problems = read(own("csv", tmp_path / "all.csv"))
    assert all(len(problem) < 1200 for problem in problems)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("9" * 5000, "class id '9999"),
        (
            {"a": {"b": [1] * 1000}},
            "class id {'a': {'b': [...]}} of 'val/003 class/0.jpg': expected an integer",
        ),
        ([[["deep"] * 100] * 100], "class id [["),
        ("x" * 10000, "class id 'xxx"),
        (None, "class id None"),
    ],
)
def test_a_class_id_of_any_kind_is_quoted_shortly(value, words, tmp_path):
    file = make_fgvc(tmp_path, CUB) / "val.json"
    content = json.loads(file.read_text()) | {"val/003 class/0.jpg": value}
    text = json.dumps(content, indent=1)
    file.write_text(text.replace(f'"{value}"', value) if isinstance(value, str) and value.isdigit() else text)
    _, problems = read(CUB, tmp_path)
    (error,) = [problem for problem in problems if problem.startswith("error")]
    assert f"val.json, line 5: {words}" in error and len(error) < 500
    assert "set_int_max_str_digits" not in error


def test_lines_of_keys_are_right_however_they_are_written(tmp_path):
    folder = make_fgvc(tmp_path, CUB)
    for name in ("\u00e9.jpg", 'a"b.jpg', "no/1.jpg"):
        save(folder / "images" / name, image(np.random.default_rng(0)))
    text = (folder / "test.json").read_text().rstrip("}\n")
    more = [
        '"\\u00e9.jpg": 900',
        '"a\\"b.jpg"  : 901',
        '"gone: \\"x\\": 3.jpg"\n:\n5',
        '"no\\/1.jpg":902,"no/2.jpg": 903',
    ]
    (folder / "test.json").write_text(text + ",\n" + ",\n".join(more) + "}")
    _, problems = read(CUB, tmp_path)
    found = [problem for problem in problems if "no such image" in problem]
    assert [problem.split(": ")[0].rpartition("line ")[2] for problem in found] == ["204", "207"]


def test_lines_of_a_list_of_50000_images_are_found_in_one_pass(tmp_path):
    from mosa.data.texts import read_object

    keys = [f"{index % 555:04d}/{index:032x}.jpg" for index in range(50_000)]
    (tmp_path / "train.json").write_text(json.dumps(dict.fromkeys(keys, 1), indent=0))
    start = time.process_time()
    listed = read_object(tmp_path / "train.json", "", Report(), "")
    assert [listed.lines[key] for key in keys] == list(range(2, 50_002))
    assert time.process_time() - start < 5  # in quadratic time, a minute


def test_a_list_that_is_no_list_is_not_read(tmp_path):
    folder = make_vtab(tmp_path, CIFAR)
    with (folder / "test.txt").open("wb") as file:
        file.truncate(1 << 40)  # a sparse file
    told(read(CIFAR, tmp_path)[1], "test.txt: has 1,048,576 MiB, and a list at most 256")
    (folder / "test.txt").unlink()
    os.mkfifo(folder / "test.txt")  # a reader would wait for a writer
    told(read(CIFAR, tmp_path)[1], "test.txt: is not a file")
    task_content(CIFAR, tmp_path, None)
    (folder / "test.txt").unlink()
    (folder / "test.txt").write_bytes("images/test/000000.jpg 1\n".encode("utf-16"))
    told(read(CIFAR, tmp_path)[1], "test.txt: is not text in UTF-8")


# The pickles of CIFAR-100


def int32(value):
    return struct.pack("<I", value)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR"
HUGE = b"\x8a\x08" + struct.pack("<q", 10**12)  # a number
OBJECTS = b"cnumpy\ndtype\n(U\2O8K\0K\1tR(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
BOMBS = {
    "an index of the memo": b"\x80\x02}r" + int32(2**32 - 1) + b".",
    "a buffer": b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b".",
    "a string": b"\x80\x04\x8d" + struct.pack("<Q", 10**12) + b".",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 10**12) + b"}.",
    "an array": b"\x80\x02cnumpy\nndarray\n(" + HUGE + b"tR.",
    "an array of objects": b"\x80\x02}U\4data" + ARRAY + b"(K\1(" + HUGE + b"t" + OBJECTS + b"\x89]tbs.",
    "text that doubles": b"\x80\x02U\4abcd" + b"".join(
        b"q\0" + b"0c_codecs\nencode\n(h\0U\3hextR" for _ in range(64)
    ) + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_takes_no_more_than_it_has(name, tmp_path):
    folder = make_cifar100(tmp_path)
    (folder / "test").write_bytes(BOMBS[name])
    _, problems = read(get_task("general/cifar100"), tmp_path)
    told(problems, "test: is not a part of CIFAR-100")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"fine_labels": [1.5, *t["fine_labels"][1:]]}, "row 0: label 1.5: expected 0 to 99"),
        (lambda t: t | {"fine_labels": ["7", *t["fine_labels"][1:]]}, "row 0: label '7': expected 0 to 99"),
        (
            lambda t: t | {"fine_labels": [10**5000, *t["fine_labels"][1:]]},
            "row 0: label an integer of 16,610 bits",
        ),
        (lambda t: t | {"fine_labels": [100, *t["fine_labels"][1:]]}, "row 0: label 100: expected 0 to 99"),
        (lambda t: t | {"fine_labels": [-1, *t["fine_labels"][1:]]}, "row 0: label -1: expected 0 to 99"),
        (lambda t: t | {"fine_labels": t["fine_labels"][1:]}, "99 labels"),
        (lambda t: t | {"data": t["data"].astype(np.float32)}, "an array of type 'f4'"),
        (lambda t: t | {"data": t["data"].astype(np.int64)}, "int64 (100, 3072)"),
        (lambda t: t | {"data": t["data"].reshape(-1, 32, 32, 3)}, "uint8 (100, 32, 32, 3)"),
        (lambda t: {"data": t["data"], "labels": t["fine_labels"]}, "(it lacks 'fine_labels')"),
        (lambda t: [1], "is not a part of CIFAR-100"),
    ],
)
def test_parts_of_other_sets_are_none_of_cifar100(change, words, tmp_path):
    folder = make_cifar100(tmp_path)
    table = pickle.loads((folder / "test").read_bytes())
    (folder / "test").write_bytes(pickle.dumps(change(table), protocol=2))
    told(read(get_task("general/cifar100"), tmp_path)[1], words)


def test_arrays_of_any_byte_order_and_age_are_read(tmp_path):
    folder = make_cifar100(tmp_path)
    task = get_task("general/cifar100")
    expected, _ = read(task, tmp_path)
    table = pickle.loads((folder / "test").read_bytes())
    for labels in (np.array(table["fine_labels"]), np.array(table["fine_labels"], ">i2")):
        changed = {"data": np.asfortranarray(table["data"]), "fine_labels": labels}
        content = pickle.dumps(changed, protocol=2).replace(b"numpy._core", b"numpy.core")
        (folder / "test").write_bytes(content)
        source, problems = read(task, tmp_path)
        assert not [problem for problem in problems if problem.startswith("error")]
        for one, other in zip(source.splits["test"], expected.splits["test"], strict=True):
            assert one.label == other.label
            np.testing.assert_array_equal(one.image, other.image)


# The other general sets


def edit(file, change):
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))


TEST = "images_variant_test.txt"
AIRCRAFT = {
    "a row again, of another variant": (
        TEST, lambda lines: [*lines, lines[0].split()[0] + " " + lines[5].partition(" ")[2]],
        f"{TEST}, line 101: image '0000200' is already listed in line 1",
    ),
    "a row in two spellings": (TEST, lambda lines: [*lines, "./" + lines[0]], "image '0000200' is already"),
    "a row twice": (TEST, lambda lines: [*lines, lines[3]], f"{TEST}, line 101: image '0000203' is already"),
    "two variants more": (
        "variants.txt", lambda lines: [*lines, "A", "B"], "has 102 variants, expected 100"
    ),
    "a variant less": ("variants.txt", lambda lines: lines[1:], "has 99 variants, expected 100"),
    "a variant twice": (
        "variants.txt", lambda lines: [lines[0], *lines],
        "variants.txt, line 2: variant 'Variant 00-000' is empty or listed before",
    ),
    "a variant for another": (
        "variants.txt", lambda lines: [*lines[:-1], lines[0]], "has 99 variants, expected 100"
    ),
    "an empty line": ("variants.txt", lambda lines: ["", *lines], "line 1: variant '' is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", AIRCRAFT)
def test_problems_of_aircraft(name, tmp_path):
    file, change, words = AIRCRAFT[name]
    edit(make_aircraft(tmp_path) / "data" / file, change)
    source, problems = read(get_task("general/aircraft"), tmp_path)
    told([problem for problem in problems if problem.startswith("error")], words)
    labels = {entry.label for entries in source.splits.values() for entry in entries}
    assert max(labels) < source.num_classes


def without(name):
    return lambda listed: {key: value for key, value in listed.items() if key != name}


FOOD = {
    "100 classes": ("train", without("dish_007"), "train.json: has 100 classes, expected 101"),
    "102 classes": ("train", lambda c: c | {"more": ["more/1"]}, "train.json: has 102 classes, expected 101"),
    "a class that is not tested": ("test", without("dish_007"), "test.json: has 100 classes, expected 101"),
    "another class": (
        "test", lambda c: without("dish_007")(c) | {"more": []}, "class 'more' is not in train.json"
    ),
    "an image in two classes": (
        "train", lambda c: c | {"dish_008": [*c["dish_008"], "dish_007/1"]},
        "train.json, line 10: 'dish_007/1' is already listed as 'dish_007'",
    ),
    "an image twice": (
        "train", lambda c: c | {"dish_008": c["dish_008"] * 2},
        "train.json, line 10: 'dish_008/0' is already listed as 'dish_008'",
    ),
    "an image of another class": (
        "test", lambda c: c | {"dish_008": ["dish_007/1"]},
        "test.json, line 10: 'dish_007/1' is listed as 'dish_008', whose folder it is not in",
    ),
    "a class that is text": (
        "test", lambda c: c | {"dish_008": "dish_008/2"},
        "line 10: 'dish_008': 'dish_008/2'; expected"
    ),
    "images that are objects": (
        "test", lambda c: c | {"dish_008": [{"a": {"b": list(range(1000))}}]},
        "test.json, line 10: 'dish_008': [{'a': {...}}]; expected",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOOD)
def test_problems_of_food101(name, tmp_path):
    split, change, words = FOOD[name]
    file = make_food101(tmp_path) / "meta" / f"{split}.json"
    text = json.dumps(change(json.loads(file.read_text())))
    file.write_text(
        text.replace("], ", "],\n").replace("{", "{\n", 1).replace('", "dish_008"', '",\n"dish_008"')
    )
    _, problems = read(get_task("general/food101"), tmp_path)
    told([problem for problem in problems if problem.startswith("error")], words)


def test_a_class_of_food101_that_is_listed_twice_is_named(tmp_path):
    file = make_food101(tmp_path) / "meta" / "test.json"
    file.write_text('{"dish_000": [],\n' + file.read_text()[1:])
    told(read(get_task("general/food101"), tmp_path)[1], "test.json, line 1: 'dish_000' is listed twice")


# Files and folders that may not be read


@pytest.fixture
def unprivileged():
    """A folder, and the rights of a user who owns it but is not the superuser, who may read anything."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    "".encode("utf-8-sig")  # loads what another user may not

    def drop():
        for place, _, files in os.walk(folder):
            for path in (place, *(os.path.join(place, name) for name in files)):
                os.chown(path, 65534, -1)
        os.seteuid(65534)

    yield folder, drop if user == 0 else lambda: None
    os.seteuid(user)
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o700)
    shutil.rmtree(folder)


READERS = {
    "vtab1k/cifar": (make_vtab, ["cifar", "cifar/test.txt", "cifar/images/test", "cifar/train800val200.txt"]),
    "fgvc/flowers": (make_fgvc, ["OxfordFlower", "OxfordFlower/val.json", "OxfordFlower/test"]),
    "general/aircraft": (
        make_aircraft, ["fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b/data/variants.txt",
                        "fgvc-aircraft-2013b/data/images"],
    ),
    "general/food101": (make_food101, ["food-101/meta", "food-101/meta/test.json", "food-101/images"]),
    "general/cifar100": (make_cifar100, ["cifar-100-python", "cifar-100-python/test"]),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_what_may_not_be_read_is_named(name, unprivileged):
    make, places = READERS[name]
    root, drop = unprivileged
    task = get_task(name)
    make(root, task) if name.startswith(("vtab", "fgvc")) else make(root)
    drop()
    for place in ("", *places):
        mode = (root / place).stat().st_mode
        (root / place).chmod(0)
        _, problems = read(task, root)
        task_content(task, root, None)  # which leaves out what cannot be read
        (root / place).chmod(mode)
        words = [problem for problem in problems if "Permission denied" in problem]
        assert words and all(problem.startswith("error") for problem in words), (place, problems)
        assert "no such" not in words[0]
    assert not [problem for problem in read(task, root)[1] if problem.startswith("error")]


def test_an_image_that_may_not_be_read_is_named(unprivileged):
    root, drop = unprivileged
    save(root / "x.png", image(np.random.default_rng(0)))
    drop()
    (root / "x.png").chmod(0)
    with pytest.raises(UserError, match=r"x\.png: cannot be read \(Permission denied\)"):
        decode(root / "x.png")


OWN = {
    "folder": ["own", "own/train", "own/train/a", "own/test/b"],
    "csv": ["own", "own/own.csv", "own/train"],
    "lists": ["own", "own/train.txt", "own/test.txt", "own/train"],
}


@pytest.mark.parametrize("layout", OWN)
def test_what_may_not_be_read_of_own_data_is_named(layout, unprivileged):
    root, drop = unprivileged
    rows = []
    for split in ("train", "test"):
        for number in range(12):
            path = f"{split}/{'ab'[number % 2]}/{number}.png"
            save(root / "own" / path, image(np.random.default_rng(len(rows)), number % 2))
            rows.append((path, number % 2, split))
    if layout == "csv":
        lines = ["path,label,split", *(f"{path},{label},{split}" for path, label, split in rows)]
        (root / "own" / "own.csv").write_text("\n".join(lines))
    for split in ("train", "test") if layout == "lists" else ():
        lines = [f"{path} {label}" for path, label, of in rows if of == split]
        (root / "own" / f"{split}.txt").write_text("\n".join(lines))
    task = own(layout, root / "own" / "own.csv" if layout == "csv" else root / "own")
    drop()
    for place in ("", *OWN[layout]):
        mode = (root / place).stat().st_mode
        (root / place).chmod(0)
        _, problems = read(task, root)
        task_content(task, root, None)
        (root / place).chmod(mode)
        errors = [problem for problem in problems if problem.startswith("error")]
        told(errors, "Permission denied")
    assert not [problem for problem in read(task, root)[1] if problem.startswith("error")]
