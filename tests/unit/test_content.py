"""Data on disk are identified by content: what a reader reads counts, and nothing else does."""

import contextlib
import csv
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from standin import image, make_aircraft, make_cifar100, make_fgvc, make_food101, make_vtab, save

from mosa.data import digests, formats
from mosa.data.catalogue import get_task, list_tasks
from mosa.data.content import file_content, task_content
from mosa.data.layouts import Report, read_source
from mosa.data.layouts.source import find_image
from mosa.data.task import pack_name, task_from_config

LAYOUTS = ("vtab", "fgvc", "cifar100", "aircraft", "food101", "lists", "folder", "csv")
OLD = 1_600_000_000  # an mtime, in seconds


def own(layout, root):
    return task_from_config("mine", {"layout": layout, "root": str(root)})


def make_lists(root):
    rng = np.random.default_rng(5)
    for split in ("train", "val", "test"):
        for number in range(4):
            save(root / split / f"{number}.png", image(rng, number % 2))
        rows = [f"{split}/{number}.png {number % 2}\n" for number in range(4)]
        (root / f"{split}.txt").write_text("".join(rows))


def make_folder(root):
    rng = np.random.default_rng(6)
    for label, name in enumerate(("cat", "dog")):
        for number in range(6):
            save(root / name / f"{number}.png", image(rng, label))


def make_csv(root):
    make_folder(root)
    rows = [[f"{name}/{number}.png", name] for name in ("cat", "dog") for number in range(6)]
    with (root / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])


class Data:
    """A stand-in of one layout, and how to change it."""

    _MAKERS = {
        "vtab": lambda root: make_vtab(root, get_task("vtab1k/cifar")),
        "fgvc": lambda root: make_fgvc(root, get_task("fgvc/cub")),
        "cifar100": make_cifar100,
        "aircraft": make_aircraft,
        "food101": make_food101,
        "lists": make_lists,
        "folder": make_folder,
        "csv": make_csv,
    }
    _TASKS = {
        "vtab": "vtab1k/cifar",
        "fgvc": "fgvc/cub",
        "cifar100": "general/cifar100",
        "aircraft": "general/aircraft",
        "food101": "general/food101",
    }

    def __init__(self, layout, root):
        self.layout, self.root = layout, root

    def make(self):
        self._MAKERS[self.layout](self.root)
        for file in self.root.rglob("*"):
            os.utime(file, (OLD, OLD))
        return self

    @property
    def task(self):
        if self.layout in self._TASKS:
            return get_task(self._TASKS[self.layout])
        return own(self.layout, self.root / "mine.csv" if self.layout == "csv" else self.root)

    @property
    def images(self):
        """The files of pixels that its reader reads."""
        if self.layout == "cifar100":
            return [self.root / "cifar-100-python" / name for name in ("train", "test")]
        source = read_source(self.task, self.root, Report())
        return [entry.image for entries in source.splits.values() for entry in entries]

    @property
    def list(self):
        """One of its lists."""
        names = {
            "vtab": "cifar/test.txt", "fgvc": "CUB_200_2011/test.json", "lists": "test.txt",
            "csv": "mine.csv", "aircraft": "fgvc-aircraft-2013b/data/images_variant_test.txt",
            "food101": "food-101/meta/test.json",
        }  # fmt: skip
        return self.root / names[self.layout] if self.layout in names else None

    def add(self):
        """Add an image, and list it."""
        first = self.images[0]
        if self.layout == "cifar100":
            table = pickle.loads(first.read_bytes())
            table["data"] = np.concatenate([table["data"], table["data"][:1]])
            first.write_bytes(pickle.dumps(table))
            return
        added = first.with_name(f"added{first.suffix}")
        shutil.copy(first, added)
        if self.list is None:
            return
        text = self.list.read_text()
        name = added.relative_to(self.root).as_posix()
        if self.layout == "fgvc":
            listed = json.loads(text) | {name.removeprefix("CUB_200_2011/images/"): 1}
            self.list.write_text(json.dumps(listed))
        elif self.layout == "food101":
            listed = json.loads(text)
            listed["dish_000"].append("dish_000/added")
            self.list.write_text(json.dumps(listed))
        else:
            row = {
                "vtab": f"{name.removeprefix('cifar/')} 0", "lists": f"{name} 0", "csv": f"{name},cat",
                "aircraft": "added Variant 00-000",
            }[self.layout]  # fmt: skip
            self.list.write_text(f"{text}{row}\n")

    def identify(self, cache=None):
        return task_content(self.task, self.root, cache)


@pytest.fixture(params=LAYOUTS)
def data(request, tmp_path):
    return Data(request.param, tmp_path / "data").make()


@pytest.fixture
def folder(tmp_path):
    return Data("folder", tmp_path / "data").make()


def change_in_place(path):
    """Change a byte, so that the size stays."""
    old = path.read_bytes()
    path.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))


@contextlib.contextmanager
def opened_below(root):
    """Collect the files below a folder that are opened to be read."""
    opened = set()
    _HOOKED.append((str(root), opened))
    yield opened
    _HOOKED.pop()


_HOOKED = []


def _hook(event, arguments):
    if event == "open" and _HOOKED and isinstance(arguments[0], str):
        root, opened = _HOOKED[-1]
        if arguments[0].startswith(f"{root}/"):
            opened.add(arguments[0])


sys.addaudithook(_hook)


# What counts


def test_the_joint_list_of_vtab_is_read_where_the_others_are_missing(tmp_path):
    data = Data("vtab", tmp_path / "data").make()
    joint = data.root / "cifar" / "images" / "train800val200" / "000003.jpg"
    before = data.identify()
    change_in_place(joint)
    assert data.identify() == before
    for name in ("train800.txt", "val200.txt"):
        (data.root / "cifar" / name).unlink()
    before = data.identify()
    change_in_place(joint)
    assert data.identify() != before


def test_what_a_reader_reads_is_what_is_identified(data):
    with opened_below(data.root) as read:
        source = read_source(data.task, data.root, Report())
    entries = [entry for split in source.splits.values() for entry in split]
    read |= {str(entry.image) for entry in entries if isinstance(entry.image, Path)}
    with opened_below(data.root) as identified:
        data.identify()
    assert identified == read


def test_the_content_is_made_as_it_says(data):
    place = data.root if data.task.root else data.root / data.task.folders[0]
    with opened_below(data.root) as read:
        found = data.identify()
    pairs = [(os.path.relpath(path, place), hashlib.sha256(Path(path).read_bytes())) for path in read]
    if data.layout == "folder":
        pairs += [("cat/", hashlib.sha256()), ("dog/", hashlib.sha256())]
    text = "".join(f"{name}\0{digest.hexdigest()}\n" for name, digest in sorted(pairs, key=lambda p: p[0]))
    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_a_change_of_an_image_or_a_list_shows(data, tmp_path):
    seen = [data.identify(tmp_path / "packs")]

    def changed():
        seen.append(data.identify(tmp_path / "packs"))
        assert seen[-1] == data.identify()  # as if nothing were kept
        return seen[-1] not in seen[:-1]

    data.add()
    assert changed()
    for path in (data.images[0], data.images[-1]):
        change_in_place(path)
        assert changed()
    data.images[1].unlink()
    assert changed()
    if data.list:
        data.list.write_text(data.list.read_text().replace("0", "1", 1))
        assert changed()


def test_place_mtimes_and_unrelated_files_do_not_count(data, tmp_path):
    before = data.identify(tmp_path / "packs")
    copy = Data(data.layout, tmp_path / "copy")
    shutil.copytree(data.root, copy.root)
    assert copy.identify() == copy.identify(tmp_path / "packs") == before
    for file in data.images:
        os.utime(file)
    assert data.identify(tmp_path / "packs") == before
    for folder in {data.root, *(path.parent for path in data.images)}:
        for name in ("README", "README.txt", "archive.zip", ".DS_Store", "more.csv"):
            (folder / name).write_text("unrelated")
    assert data.identify(tmp_path / "packs") == data.identify() == before


def test_classes_count_without_images_too(folder):
    before = folder.identify()
    (folder.root / "bird").mkdir()  # the first class by name, so that the others are numbered anew
    assert folder.identify() != before


def test_a_folder_may_be_cut_into_splits_and_linked_to(folder, tmp_path):
    (tmp_path / "split" / "train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (tmp_path / "split" / "train" / name).symlink_to(folder.root / name)
    (tmp_path / "split" / "train" / "cat" / "loop").symlink_to(tmp_path / "split")
    (tmp_path / "split" / "other").mkdir()
    split = Data("folder", tmp_path / "split")
    before = split.identify()
    save(tmp_path / "split" / "other" / "unread.png", image(np.random.default_rng(0)))
    assert split.identify() == before
    change_in_place(folder.root / "cat" / "0.png")
    assert split.identify() != before


def test_an_image_of_another_format_takes_the_place_of_a_missing_one(tmp_path):
    data = Data("lists", tmp_path / "data").make()
    listed = data.images[0]
    shutil.copy(listed, listed.with_suffix(".jpeg"))
    before = data.identify()
    change_in_place(listed.with_suffix(".jpeg"))
    assert data.identify() == before
    listed.unlink()
    assert listed.with_suffix(".jpeg") in data.images
    found = data.identify()
    change_in_place(listed.with_suffix(".jpeg"))
    assert data.identify() != found


@pytest.mark.parametrize(
    ("listed", "beside", "found"),
    [
        ("i/1.png", ["i/1.jpg", "i/1.png.jpg"], "i/1.jpg"),
        ("i/1.GIF", ["i/1.png"], "i/1.png"),
        ("i/1", ["i/1.jpeg"], "i/1.jpeg"),
        ("i/1.2", ["i/1.2.png", "i/1.jpg"], "i/1.2.png"),
        ("i/1.2", ["i/1.jpg"], None),
    ],
)
def test_a_name_without_a_suffix_may_have_dots(listed, beside, found, tmp_path):
    for path in beside:
        save(tmp_path / path, image(np.random.default_rng(0)))
    (tmp_path / "all.csv").write_text(f"path,label\n{listed},cat\n")
    report = Report()
    assert find_image(tmp_path, listed, "", report) == (found and tmp_path / found)
    assert bool(report.errors) == (found is None)
    files = formats.LAYOUTS["csv"].files(own("csv", tmp_path / "all.csv"), tmp_path / "all.csv")
    names = {file.name for file in files}
    assert names == {"all.csv", found} - {None}


def test_a_union_is_identified_by_its_members(tmp_path):
    names = list_tasks("fgvc")
    for name in names:
        make_fgvc(tmp_path / "data", get_task(f"fgvc/{name}"))
    union = get_task("multitask/fgvc")
    before = task_content(union, tmp_path / "data", tmp_path / "packs")
    assert before == task_content(union, tmp_path / "data", None)
    last = tmp_path / "data" / get_task(f"fgvc/{names[-1]}").folders[0]
    change_in_place(next(last.rglob("*.jpg")))
    assert task_content(union, tmp_path / "data", tmp_path / "packs") not in (before, None)
    shutil.rmtree(last)
    assert task_content(union, tmp_path / "data", tmp_path / "packs") is None


def test_rendered_tasks_and_missing_folders_have_no_content(tmp_path):
    assert task_content(get_task("demo/digits"), tmp_path, tmp_path) is None
    for layout in LAYOUTS:
        data = Data(layout, tmp_path / "missing")
        assert data.identify(tmp_path) is None
    assert file_content(tmp_path / "missing", tmp_path) is None
    assert file_content(tmp_path, tmp_path) is None
    assert not list(tmp_path.iterdir())


BROKEN = [
    b"\xff\xfe\x00", b"", b"[[1]]", b"[" * 100_000, b'{"a": 1, "a": {}}', b'{"\\ud800": [1, null]}',
    b"path\n", b'path,label\n"', b"path,label\n/etc/passwd,1\n../../x,2\n" + b"x" * 5000 + b",3\n",
    b"/etc/passwd 0\n../x.png 1\na\0b.png 2\n \n" + b"x" * 5000 + b" 3\n",
    b"path,label\n" + b"y" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("layout", ["vtab", "fgvc", "aircraft", "food101", "lists", "csv"])
def test_broken_lists_are_identified_too(layout, tmp_path):
    data = Data(layout, tmp_path / "data").make()
    before = data.identify()
    for number, broken in enumerate(BROKEN):
        data.list.write_bytes(broken)
        assert data.identify(tmp_path / f"packs{number}") not in (before, None), broken[:50]


# What is kept


def refuse(what):
    raise AssertionError(f"{what} was read")


def test_untouched_data_are_not_read_again(data, tmp_path, monkeypatch):
    before = data.identify(tmp_path / "packs")
    monkeypatch.setattr(digests, "_digest", refuse)
    monkeypatch.setattr(digests._Cache, "digests", refuse)  # nor are their digests
    with opened_below(data.root) as read:
        assert data.identify(tmp_path / "packs") == before
    assert all(path.endswith((".txt", ".json", ".csv")) for path in read)  # lists name the images


def test_only_what_changed_is_read_again(folder, tmp_path, monkeypatch):
    folder.identify(tmp_path / "packs")
    kept = [path for path in (tmp_path / "packs").rglob("*") if path.is_file()]
    assert [path.parent for path in kept] == [tmp_path / "packs" / "sources" / "own"]
    change_in_place(folder.images[0])
    folder.add()
    read, digest = [], digests._digest
    monkeypatch.setattr(digests, "_digest", lambda file: read.append(file.path) or digest(file))
    folder.identify(tmp_path / "packs")
    assert sorted(read) == [str(folder.root / "cat" / name) for name in ("0.png", "added.png")]


def test_a_file_that_was_just_written_is_not_trusted(folder, tmp_path):
    """A change within a tick of the disk's clock leaves the mtime as it is."""
    path = folder.images[0]
    change_in_place(path)
    mtime = path.stat().st_mtime_ns
    before = folder.identify(tmp_path / "packs")
    change_in_place(path)
    os.utime(path, ns=(mtime, mtime))
    assert folder.identify(tmp_path / "packs") != before


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[]\n{}\n", b'{"fingerprint": 1}\n{}\n'])
def test_a_damaged_cache_is_ignored_and_written_again(damage, folder, tmp_path, monkeypatch):
    before = folder.identify(tmp_path / "packs")
    (kept,) = (tmp_path / "packs" / "sources" / "own").iterdir()
    whole = kept.read_bytes()
    head = whole.splitlines()[0]
    for damaged in (damage, whole[:-20], head + b"\n[1]\n", head + b'\n{"cat/0.png": 3}\n'):
        kept.write_bytes(damaged)
        os.utime(folder.images[0])
        os.utime(folder.images[0], (OLD + 1, OLD + 1))
        assert folder.identify(tmp_path / "packs") == before
        os.utime(folder.images[0], (OLD, OLD))
        assert folder.identify(tmp_path / "packs") == before
        assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_a_warning_once(folder, tmp_path, capsys):
    (tmp_path / "packs").write_text("no folder")
    expected = folder.identify()
    capsys.readouterr()
    assert folder.identify(tmp_path / "packs") == folder.identify(tmp_path / "packs") == expected
    told = capsys.readouterr().err
    assert told.count("warning: ") == 1 and f"{tmp_path / 'packs' / 'sources'} cannot be written" in told


def test_reading_many_files_is_announced(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digests, "_MANY", 12)
    folder.identify()
    monkeypatch.setattr(digests, "_MANY", 11)
    folder.identify(tmp_path / "packs")
    folder.identify(tmp_path / "packs")
    told = "own: reading 12 files of mine once, to identify them by content\n"
    assert capsys.readouterr().err == told


def test_a_single_file_has_the_digest_of_its_bytes(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    for size in (3, digests._WHOLE + 1):
        path.write_bytes(b"a" * size)
        os.utime(path, (OLD, OLD))
        expected = hashlib.sha256(b"a" * size).hexdigest()
        assert file_content(path, None) == file_content(path, tmp_path / "packs") == expected
    monkeypatch.setattr(digests, "_digest", refuse)
    assert file_content(path, tmp_path / "packs") == expected
    with pytest.raises(AssertionError, match="was read"):
        os.utime(path)
        file_content(path, tmp_path / "packs")


def test_the_workflow_imports_it_cheaply():
    code = "import mosa.data.content, sys; print({'numpy', 'tqdm', 'PIL', 'torch'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "set()\n"


# Names of packs


def test_the_content_is_part_of_the_name_of_a_pack():
    digits, cub = get_task("demo/digits"), get_task("fgvc/cub")
    names = {pack_name(cub, 224, "bicubic", content) for content in (None, "a", "b")}
    assert len(names) == 3
    assert pack_name(digits, 224) == pack_name(digits, 224, content=None)


def test_a_folder_that_is_moved_keeps_its_pack():
    here, there = own("folder", "here"), own("folder", "elsewhere/there")
    assert pack_name(here, 224, "bicubic", "a") == pack_name(there, 224, "bicubic", "a")
    assert pack_name(here, 224) != pack_name(there, 224)  # what is in them is not known
