"""Files from strangers: whatever they hold, the answer is data or one of our own errors, and nothing runs."""

import contextlib
import copy
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from standin import image, make_aircraft, make_cifar100, make_fgvc, make_food101, make_vtab, save
from test_config import tiny
from test_records import make_record

from mosa.backbones.build import build_backbone
from mosa.backbones.kinds import KINDS
from mosa.backbones.weights import load_weights
from mosa.base.errors import UserError
from mosa.data.catalogue import get_task
from mosa.data.content import task_content
from mosa.data.images import decode, decode_for
from mosa.data.layouts import Report, read_source
from mosa.data.packs import Pack
from mosa.data.task import task_from_config
from mosa.experiment.config import expand, load_config, read_config
from mosa.records import load_record, write_record
from mosa.results.frame import load_records, read_table, write_table
from mosa.search.choose import choose, read_choice

fuzzed = settings(
    max_examples=int(os.environ.get("MOSA_FUZZ", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@contextlib.contextmanager
def only_our_errors():
    with contextlib.suppress(UserError):
        yield


def places(value, path=()):
    """Every place in nested mappings and lists."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def altered(draw, value):
    """A copy in which something is replaced, removed or added."""
    value = copy.deepcopy(value)
    path = draw(st.sampled_from([p for p in places(value) if p]))
    node = value
    for key in path[:-1]:
        node = node[key]
    match draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            node[path[-1]] = draw(VALUES)
        case "remove":
            del node[path[-1]]
        case "add" if isinstance(node, dict):
            node[draw(st.text(max_size=8))] = draw(VALUES)
    return value


def bytes_altered(draw, content):
    """The bytes of a file, cut off, or with some of them changed."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, min(len(changed), 4000) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


@fuzzed
@given(st.data())
def test_configs(tmp_path, data):
    config = tiny() | {
        "tune": {"variants": {name: {"training": {"lr": [0.1, 1]}} for name in ("linear", "mosa")}},
        "tasks": {"mine": {"layout": "folder", "root": "x"}},
    }
    changed = altered(data.draw, config)
    with only_our_errors():
        expand(load_config(changed))
    path = tmp_path / "config.yaml"
    path.write_text(
        data.draw(st.sampled_from([yaml.safe_dump(changed), data.draw(st.text())])), encoding="utf-8"
    )
    with only_our_errors():
        read_config(path)


@fuzzed
@given(st.data())
def test_records_and_choices(tmp_path, data):
    path = tmp_path / "seed0.json"
    path.write_text(json.dumps(altered(data.draw, make_record())))
    with only_our_errors():
        assert load_record(path)["status"] == "complete"
    trials = {
        "version": 2, "specification": "0", "task": "a/b", "backbone": "b", "variant": "v", "method": "m",
        "search": {},
        "trials": [
            {"options": {}, "training": {"lr": 1}, "status": "complete", "epochs": 1, "top1": 1, "loss": 1}
        ],
    }  # fmt: skip
    path.write_text(json.dumps(altered(data.draw, trials)))
    with only_our_errors():
        choose([path])
    choice = {
        "version": 2,
        "rule": "r",
        "tasks": [],
        "backbone": "b",
        "variant": "v",
        "chosen": {"options": {}, "training": {}},
    }
    path.write_text(json.dumps(altered(data.draw, choice)))
    with only_our_errors():
        read_choice(path)["chosen"]["training"].items()


@fuzzed
@given(st.binary(max_size=300))
def test_bytes_instead_of_a_file(tmp_path, content):
    for name, read in {
        "a.json": load_record, "a.csv": read_table, "a.safetensors": Pack, "b.json": read_choice,
        "c.png": decode, "c.yaml": read_config,
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with only_our_errors():
            read(tmp_path / name)


@fuzzed
@given(st.data())
def test_a_table_of_records(tmp_path, data):
    if not (tmp_path / "runs.csv").is_file():
        write_record(make_record(), tmp_path / "seed0.json")
        write_table(load_records([tmp_path / "seed0.json"]), tmp_path / "runs.csv")
    text = (tmp_path / "runs.csv").read_bytes()
    (tmp_path / "changed.csv").write_bytes(bytes_altered(data.draw, text))
    with only_our_errors():
        read_table(tmp_path / "changed.csv")


def read_whatever_it_is(task, root):
    """Read a task; every problem is one short line that any terminal prints, and every label has a class."""
    report = Report()
    with only_our_errors():
        source = read_source(task, root, report)
        if source is not None:
            entries = [entry for entries in source.splits.values() for entry in entries]
            assert all(0 <= entry.label < source.num_classes for entry in entries)
    for problem in report.problems:
        for text in (problem.place, problem.message):
            assert text.isprintable() and len(text.encode()) < 5000
    task_content(task, root, None)


@fuzzed
@given(st.data())
def test_lists(tmp_path, data):
    task = get_task("vtab1k/cifar")
    if not (tmp_path / "cifar").exists():
        make_vtab(tmp_path, task)
        (tmp_path / "keep").write_text((tmp_path / "cifar" / "train800.txt").read_text())
    content = (
        bytes_altered(data.draw, (tmp_path / "keep").read_bytes()) + data.draw(st.text(max_size=30)).encode()
    )
    (tmp_path / "cifar" / "train800.txt").write_bytes(content)
    read_whatever_it_is(task, tmp_path)
    for split in ("train", "test"):
        (tmp_path / "cifar" / f"{split}.txt").write_bytes(content)
    own = {"root": str(tmp_path / "cifar"), "group": "g"}
    read_whatever_it_is(task_from_config("mine", own | {"layout": "lists"}), tmp_path)
    rows = data.draw(st.text(max_size=60))
    (tmp_path / "own.csv").write_text("path,label\n" + rows, encoding="utf-8", errors="replace")
    own = {"root": str(tmp_path / "own.csv"), "group": "g"}
    read_whatever_it_is(task_from_config("mine", own | {"layout": "csv"}), tmp_path)


@fuzzed
@given(st.data())
def test_fgvc_lists(tmp_path, data):
    task = get_task("fgvc/flowers")
    if not (tmp_path / "keep").exists():
        make_fgvc(tmp_path, task)
        (folder,) = [path.parent for path in tmp_path.rglob("train.json")]
        (tmp_path / "keep").write_text((folder / "train.json").read_text())
    (folder,) = [path.parent for path in tmp_path.rglob("train.json")]
    entries = json.loads((tmp_path / "keep").read_text())
    changed = altered(data.draw, entries) if data.draw(st.booleans()) else data.draw(VALUES)
    (folder / data.draw(st.sampled_from(["train.json", "train_0.5.json"]))).write_text(json.dumps(changed))
    read_whatever_it_is(task, tmp_path)


@fuzzed
@given(st.data())
def test_lists_of_the_general_sets(tmp_path, data):
    makers = {"aircraft": make_aircraft, "food101": make_food101, "cifar100": make_cifar100}
    name = data.draw(st.sampled_from(list(makers)))
    root = tmp_path / name
    if not root.exists():
        makers[name](root)
        for file in root.rglob("*"):
            if file.is_file() and file.suffix != ".jpg":
                file.with_name(f"{file.name}.kept").write_bytes(file.read_bytes())
    kept = data.draw(st.sampled_from(sorted(root.rglob("*.kept"))))
    content = kept.read_bytes()
    if name == "food101" and data.draw(st.booleans()):
        changed = json.dumps(altered(data.draw, json.loads(content))).encode()
    else:
        changed = bytes_altered(data.draw, content)
    kept.with_suffix("").write_bytes(changed)
    read_whatever_it_is(get_task(f"general/{name}"), root)
    kept.with_suffix("").write_bytes(content)


@fuzzed
@given(st.binary(max_size=200))
def test_any_pickle_for_cifar100(tmp_path, content):
    if not (tmp_path / "cifar-100-python").exists():
        make_cifar100(tmp_path, 100)
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"\x80\x02" + content)
    read_whatever_it_is(get_task("general/cifar100"), tmp_path)


@fuzzed
@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30), st.binary(max_size=40))
def test_names_of_any_kind(tmp_path, name, content):
    """Classes and files are named in any alphabet, with line breaks, escapes, and bytes that are no text."""
    folder = tmp_path / "own"
    shutil.rmtree(folder, ignore_errors=True)
    for label in ("a", name):
        for number in range(4):
            save(folder / "train" / f"x{label}" / f"{number}.png", image(np.random.default_rng(number)))
    with contextlib.suppress(OSError, ValueError):  # a name that this disk cannot hold
        path = (
            os.fsencode(folder / "train" / "xa")
            + b"/"
            + content.replace(b"/", b"").replace(b"\0", b"")
            + b".png"
        )
        Path(os.fsdecode(path)).write_bytes(content)
    read_whatever_it_is(task_from_config("mine", {"layout": "folder", "root": str(folder)}), tmp_path)


@fuzzed
@given(st.data())
def test_packs(pack, flowers, tmp_path, data):
    """Its description, and what follows: labels and sizes, of which a wrong one is a wrong number."""
    whole = data.draw(st.sampled_from([pack, flowers])).read_bytes()
    if data.draw(st.booleans()):
        content = bytes_altered(data.draw, whole)
    else:
        start = 8 + int.from_bytes(whole[:8], "little")
        tensors = json.loads(whole[8:start])
        names = [name for name in tensors if name.endswith((".labels", ".sizes"))]
        first, last = tensors[data.draw(st.sampled_from(names))]["data_offsets"]
        changed = bytearray(whole)
        changed[start + data.draw(st.integers(first, last - 1))] = data.draw(st.integers(0, 255))
        content = bytes(changed)
    path = tmp_path / "pack"
    path.write_bytes(content)
    with only_our_errors():
        opened = Pack(path)
        for name in ("train", "val", "test"):
            split = opened.split(name)
            split.read(np.arange(min(2, len(split))))
            assert all(0 <= label < opened.num_classes for label in split.labels)


EXIF_TAGS = (0x100, 0x10E, 0x112, 0x11A, 0x128, 0x131, 0x132, 0x8769, 0x8825, 0x927C, 0xA005, 700)


@st.composite
def exif_blocks(draw):
    """EXIF data whose tags have any type, count and place."""
    order, mark = draw(st.sampled_from([("<", b"II*\0"), (">", b"MM\0*")]))
    entries = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            entries.append(struct.pack(order + "HHIHH", 0x112, 3, 1, draw(st.integers(0, 9)), 0))
        else:
            tag, kind = draw(st.sampled_from(EXIF_TAGS)), draw(st.integers(0, 14))
            count = draw(st.sampled_from([0, 1, 2, 4, 5, 100, 2**31]))
            value = draw(
                st.sampled_from([b"800\0", bytes(4), b"\xff" * 4]) | st.binary(min_size=4, max_size=4)
            )
            entries.append(struct.pack(order + "HHI", tag, kind, count) + value)
    head = mark + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(entries) + struct.pack(order + "I", 0) + draw(st.binary(max_size=20))


@fuzzed
@given(exif_blocks(), st.sampled_from(["jpg", "png", "webp"]))
def test_exif_data(tmp_path, exif, suffix):
    """An image whose pixels are whole is read, whatever its EXIF data say."""
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(image(np.random.default_rng(0))).save(path, exif=exif)
    assert decode(path).size in [(16, 12), (12, 16)]


def images_of_every_kind(folder):
    """Small images in the modes and formats that Pillow writes."""
    rgb = image(np.random.default_rng(0))
    colour, deep = Image.fromarray(rgb), Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
    made = {mode: colour.convert(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I", "F")}
    for number, picture in enumerate([*made.values(), deep]):
        for suffix in ("png", "tif", "jpg", "webp", "bmp", "gif", "pgm"):
            with contextlib.suppress(OSError, ValueError):  # a mode that the format does not have
                picture.save(folder / f"{number}.{suffix}")
    colour.save(folder / "pages.tif", save_all=True, append_images=[colour])
    return sorted(folder.iterdir())


@fuzzed
@given(st.data())
def test_images(tmp_path, data):
    if not (tmp_path / "good").exists():
        (tmp_path / "good").mkdir()
        images_of_every_kind(tmp_path / "good")
    good = data.draw(
        st.sampled_from(sorted(path for path in (tmp_path / "good").iterdir() if path.stat().st_size))
    )
    bad = tmp_path / f"bad{good.suffix}"
    bad.write_bytes(bytes_altered(data.draw, good.read_bytes()))
    try:
        pixels = np.asarray(decode(bad))
        decode_for(bad, "shorter")
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    except UserError as error:
        assert str(bad) in str(error) and "\n" not in str(error) and len(str(error)) < 1000


@fuzzed
@given(st.data())
def test_weights(tmp_path, data):
    model, _ = build_backbone("mosa_vit_micro", "random", 2, 0)
    if not (tmp_path / "good.npz").exists():
        tensors = {name: value.numpy() for name, value in list(model.state_dict().items())[:5]}
        np.savez(tmp_path / "good.npz", **tensors)
        torch.save(dict(list(model.state_dict().items())[:5]), tmp_path / "good.pth")
    for name in ("good.npz", "good.pth"):
        path = tmp_path / f"bad{name[4:]}"
        path.write_bytes(bytes_altered(data.draw, (tmp_path / name).read_bytes()))
        with only_our_errors():
            load_weights(model, path)


ODD = (
    *(
        lambda v, d=d: v.to(d)
        for d in (torch.int8, torch.complex64, torch.bool, torch.float8_e5m2, torch.float64)
    ),
    lambda v: v.to_sparse(),
    lambda v: v.to("meta"),
    lambda v: v[None].expand(7, *v.shape),
    lambda v: v * float("nan"),
    lambda v: torch.zeros(()),
    lambda v: torch.zeros(0, 3),
    lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
    lambda v: v.tolist(),
    lambda v: {"x": v},
    lambda v: None,
)
NAMES = (
    st.text(max_size=12)
    | st.integers()
    | st.sampled_from(["model", "teacher", "head.x", "mask_token", "a.b"])
)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage is deprecated")
@fuzzed
@given(st.data())
def test_states_of_weights(tmp_path, data):
    """Names, tensors and dictionaries that are not as they should be: the weights are right, or refused."""
    model, _ = build_backbone("test_vit", "random", 2, 0)
    state = {**model.state_dict()}
    for name in data.draw(st.lists(st.sampled_from(list(state)), min_size=1, max_size=3, unique=True)):
        value = state.pop(name)
        match data.draw(st.sampled_from(["drop", "rename", "replace", "replace"])):
            case "rename":
                state[data.draw(NAMES)] = value
            case "replace":
                state[name] = data.draw(st.sampled_from(ODD))(value)
    prefix = data.draw(st.sampled_from(["", "module.", "a.b."]))
    state = {prefix + name if isinstance(name, str) else name: value for name, value in state.items()}
    for name in data.draw(st.lists(NAMES, max_size=3)):
        state = {name: state, **data.draw(st.dictionaries(NAMES, VALUES, max_size=2))}
    torch.save(state, tmp_path / "x.pth")
    with only_our_errors():
        load_weights(model, tmp_path / "x.pth", data.draw(st.sampled_from(KINDS)))
        for name, value in model.state_dict().items():
            assert value.isfinite().all() and value.device.type == "cpu", name


def test_images_that_are_none_are_refused_by_name(tmp_path):
    save(tmp_path / "good.png", image(np.random.default_rng(0)))
    whole = (tmp_path / "good.png").read_bytes()
    contents = {
        "empty.png": b"",
        "cut.png": whole[:60],
        "text.png": b"<svg onload=alert(1)>",
        "zip.png": b"PK\3\4",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            decode(tmp_path / name)


def test_sizes_are_checked_before_anything_is_allocated(tmp_path):
    """A header that promises a terabyte is refused; it is not believed."""
    described = {"dtype": "U8", "shape": [10**12], "data_offsets": [0, 10**12]}
    header = json.dumps({"train.images": described}).encode()
    for length in (len(header), 2**60):
        (tmp_path / "huge").write_bytes(length.to_bytes(8, "little") + header)
        with pytest.raises(UserError, match="not a readable pack"):
            Pack(tmp_path / "huge")
