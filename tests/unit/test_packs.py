"""Packs survive a crowd, a kill, too little room, and damage."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from standin import make_vtab

from mosa.base.errors import UserError
from mosa.data import make_pack, packing
from mosa.data.catalogue import get_task
from mosa.data.content import task_content
from mosa.data.packs import PARTS, Pack
from mosa.engine.batches import RESIDENT_SHARE, Images, lies_on_device

TASK = get_task("vtab1k/cifar")


# Packs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vtab")
    make_vtab(folder, TASK, sizes=(300, 20, 20))
    return folder


def prepare(root, output):
    make_pack(TASK, output, root, image_size=160)


def leftovers(folder, path):
    return [p.name for p in folder.iterdir() if p != path and not p.name.endswith(".lock")]


def test_eight_processes_leave_one_good_pack(root, tmp_path):
    path = tmp_path / "pack"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=prepare, args=(root, path)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert len(Pack(path).split("train")) == 300
    assert not leftovers(tmp_path, path)


@pytest.mark.parametrize("moment", [0.0, 0.5])
def test_a_kill_in_the_middle_leaves_no_broken_pack(moment, root, tmp_path):
    path = tmp_path / "pack"
    code = (
        f"from mosa.data import make_pack; make_pack({TASK.full_name!r}, {str(path)!r}, {str(root)!r}, 224)"
    )
    code = code.replace(f"{str(root)!r}", f"__import__('pathlib').Path({str(root)!r})")
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while not (
        found := [p for p in tmp_path.glob(".pack.*.tmp") if p.stat().st_size > moment * 300 * 150_528]
    ):
        assert process.poll() is None, "it was done before it could be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not path.exists() and found
    make_pack(TASK, path, root, image_size=32)
    assert len(Pack(path).split("train")) == 300
    assert not leftovers(tmp_path, path)  # what the killed one left is gone


def test_a_set_over_the_limit_is_decoded_while_it_is_read(root, tmp_path):
    make_pack(TASK, tmp_path / "pack", root, image_size=32)
    make_pack(TASK, tmp_path / "list", root, image_size=32, limit_gib=1e-6)
    packed, listed = Pack(tmp_path / "pack"), Pack(tmp_path / "list")
    assert packed.packed and not listed.packed
    assert (tmp_path / "list").stat().st_size < 0.2 * (tmp_path / "pack").stat().st_size
    index = np.array([5, 319, 3])
    np.testing.assert_array_equal(packed.split("trainval").read(index), listed.split("trainval").read(index))
    assert packed.split("test").labels.tolist() == listed.split("test").labels.tolist()


def test_the_digest_of_a_list_follows_the_content_of_the_files(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    digests = []
    for _ in range(2):
        make_pack(TASK, tmp_path / "list", tmp_path / "copy", image_size=32, limit_gib=1e-6)
        digests.append(Pack(tmp_path / "list").digest)
        image = tmp_path / "copy" / "cifar" / "images" / "test" / "000003.jpg"
        Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(image)
    assert digests[0] != digests[1]


def test_a_listed_file_that_changed_is_refused_when_it_is_read(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    make_pack(TASK, tmp_path / "list", tmp_path / "copy", image_size=32, limit_gib=1e-6)
    listed = Pack(tmp_path / "list")
    assert listed.content_digest() == listed.digest
    image = tmp_path / "copy" / "cifar" / "images" / "test" / "000003.jpg"
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(image)
    test = listed.split("test")
    test.read(np.array([0, 1]))
    with pytest.raises(UserError, match=r"000003\.jpg: was changed since the pack was made, which lists it"):
        test.read(np.array([3]))
    assert listed.content_digest() != listed.digest  # which `mosa verify` compares
    image.unlink()
    assert listed.content_digest() == listed.digest


def test_too_little_room_is_told_before_anything_is_written(root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(UserError, match=r"needs about 1 MiB and the disk has 0\.98 KiB; make room"):
        make_pack(TASK, tmp_path / "pack", root, image_size=32)
    assert not leftovers(tmp_path, None)


def test_threads_change_nothing(root, tmp_path):
    for threads in (1, 3):
        make_pack(TASK, tmp_path / f"{threads}", root, image_size=32, threads=threads)
    assert Pack(tmp_path / "1").digest == Pack(tmp_path / "3").digest


# The files that a pack was made from


def test_a_pack_knows_its_source(root, tmp_path):
    content = task_content(TASK, root, tmp_path)
    for name, options in (("pack", {}), ("list", {"limit_gib": 1e-6}), ("cached", {"cache": tmp_path})):
        make_pack(TASK, tmp_path / name, root, image_size=32, content=content, **options)
        assert Pack(tmp_path / name).source == content
    make_pack(TASK, tmp_path / "unknown", root, image_size=32)
    make_pack("demo/digits", tmp_path / "rendered")
    assert Pack(tmp_path / "unknown").source is None and Pack(tmp_path / "rendered").source is None
    assert Pack(tmp_path / "unknown").digest == Pack(tmp_path / "pack").digest


@pytest.mark.parametrize("limit_gib", [None, 1e-6])
@pytest.mark.parametrize("cached", [True, False])
def test_images_that_change_while_they_are_packed_leave_no_pack(
    cached, limit_gib, root, tmp_path, monkeypatch
):
    shutil.copytree(root, tmp_path / "data")
    cache = tmp_path / "cache" if cached else None
    changed = tmp_path / "data" / "cifar" / "images" / "test" / "000003.jpg"
    content = task_content(TASK, tmp_path / "data", cache)
    finish = packing._add_split

    def read_and_change(*arguments):
        finish(*arguments)
        changed.write_bytes(changed.read_bytes() + b"\0")

    monkeypatch.setattr(packing, "_add_split", read_and_change)
    how = {"image_size": 32, "limit_gib": limit_gib, "content": content, "cache": cache}
    with pytest.raises(
        UserError, match=r"vtab1k/cifar: the images changed while they were packed; run again"
    ):
        make_pack(TASK, tmp_path / "packs" / "pack", tmp_path / "data", **how)
    assert not leftovers(tmp_path / "packs", None)


def test_a_pack_of_other_files_is_not_taken_for_that_of_another_process(root, tmp_path, monkeypatch):
    path = tmp_path / "pack"
    content = task_content(TASK, root, tmp_path)
    make_pack(TASK, path, root, image_size=32)
    monkeypatch.setattr(packing.time, "time", lambda: 0)  # the pack is new, as if made meanwhile
    make_pack(TASK, path, root, image_size=32, content=content)
    assert Pack(path).source == content


# What the trainer reads


def test_batches_from_disk_are_those_from_memory(root, tmp_path, monkeypatch):
    make_pack(TASK, tmp_path / "pack", root, image_size=16)
    split = Pack(tmp_path / "pack").split("trainval")
    mean, std, order = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), torch.randperm(320)
    resident = Images(split, mean, std, torch.device("cpu"))
    monkeypatch.setattr("mosa.engine.batches.RESIDENT_BYTES", 0)
    streamed = Images(split, mean, std, torch.device("cpu"))
    assert resident.images is not None and streamed.images is None
    for (a, x), (b, y) in zip(resident.batches(48, order), streamed.batches(48, order), strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)


def shown(pack, epoch, size=40, device="cpu", **options):
    """The images of an epoch, in their order."""
    split = Pack(pack).split("train")
    data = Images(split, (0, 0, 0), (1, 1, 1), torch.device(device), **options)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(epoch))
    images = torch.cat([images for images, _ in data.batches(size, order, epoch)])
    return images.cpu()[order.argsort()]


@pytest.mark.parametrize("views", [0, 3])
def test_any_number_of_threads_reads_the_same(flowers, views):
    one, four = (shown(flowers, 1, augment=1, views=views, workers=workers) for workers in (1, 4))
    assert torch.equal(one, four)


@pytest.mark.parametrize("views", [0, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_crops_gathered_on_the_device_are_those_read_from_disk(flowers, views, channels_last):
    how = {"augment": 1, "views": views, "channels_last": channels_last}
    for epoch in (1, 2):
        read, gathered = (shown(flowers, epoch, resident=resident, **how) for resident in (False, True))
        assert torch.equal(read, gathered)


@pytest.mark.gpu
def test_crops_on_a_gpu_are_those_of_the_cpu(flowers):
    assert torch.equal(shown(flowers, 1, augment=1), shown(flowers, 1, augment=1, device="cuda"))


def test_files_cannot_be_kept_on_the_device(root, tmp_path):
    make_pack(TASK, tmp_path / "listed", root, image_size=16, limit_gib=1e-9)
    split = Pack(tmp_path / "listed").split("train")
    with pytest.raises(ValueError, match="decoded as they are read"):
        Images(split, (0, 0, 0), (1, 1, 1), torch.device("cpu"), augment=1, resident=True)


def test_only_the_pixels_of_its_own_images_lie_on_the_device(flowers):
    pack = Pack(flowers)
    half = pack.split("trainval").subset(np.arange(0, len(pack.split("trainval")), 2))
    data = Images(half, (0, 0, 0), (1, 1, 1), torch.device("cpu"), augment=1, resident=True)
    assert len(data.pixels.pixels) == sum(half[number].size for number in range(len(half))) // 3
    rest = [images for images, _ in data.batches(8, epoch=2, start=2)]  # a run that goes on draws the same
    assert torch.equal(torch.cat(rest), torch.cat([images for images, _ in data.batches(8, epoch=2)][2:]))


def test_pixels_lie_on_the_device_where_that_pays(flowers, monkeypatch):
    split, place, gpu = Pack(flowers).split("train"), torch.device("cpu"), torch.device("cuda")
    free = 3 * int(split.sizes.prod(axis=1).sum()) * RESIDENT_SHARE
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert lies_on_device(split, 1, gpu) and not lies_on_device(split, 1, place)
    assert not lies_on_device(split, None, place)  # its images are shown from many sizes, each once
    free -= RESIDENT_SHARE
    assert not lies_on_device(split, 1, gpu)


def test_views_are_shown_in_turn_whatever_the_batches(flowers):
    first, second, third = (shown(flowers, epoch, augment=1, views=2) for epoch in (1, 2, 3))
    assert torch.equal(first, third) and not torch.equal(first, second)
    assert torch.equal(first, shown(flowers, 1, size=7, augment=1, views=2))
    anew = [shown(flowers, epoch, augment=1) for epoch in (1, 3)]
    assert not torch.equal(*anew)
    assert torch.equal(shown(flowers, 1, views=2), shown(flowers, 2))  # not augmented: no views


def test_each_batch_draws_its_own_crops(flowers):
    data = Images(Pack(flowers).split("train"), (0, 0, 0), (1, 1, 1), torch.device("cpu"), augment=1)
    same = [images for images, _ in data.batches(1, torch.zeros(8, dtype=torch.long))]
    assert any(not torch.equal(same[0], other) for other in same[1:])


def test_augmentation_repeats_by_seed_and_differs_between_epochs(flowers):
    split = Pack(flowers).split("train")

    def epochs(seed):
        data = Images(split, (0, 0, 0), (1, 1, 1), torch.device("cpu"), augment=seed)
        return [torch.cat([images for images, _ in data.batches(40, epoch=epoch)]) for epoch in (1, 2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], other[0])
    data = Images(split, (0, 0, 0), (1, 1, 1), torch.device("cpu"), augment=1)
    rest = [images for images, _ in data.batches(8, epoch=2, start=2)]  # a run that goes on draws the same
    assert torch.equal(torch.cat(rest), torch.cat([images for images, _ in data.batches(8, epoch=2)][2:]))
    plain = Images(split, (0, 0, 0), (1, 1, 1), torch.device("cpu"))
    assert torch.equal(next(plain.batches(8))[0], next(plain.batches(8))[0])


@pytest.mark.parametrize("name", ["test.labels", "train.images", "val.labels"])
def test_a_byte_that_changed_on_disk_is_noticed_when_it_is_read(pack, tmp_path, name):
    path = shutil.copy(pack, tmp_path / "pack")
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    start, _ = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    content[8 + length + start] ^= 1
    path.write_bytes(content)
    damaged = Pack(path)
    for split in PARTS:
        if name.startswith(split):
            with pytest.raises(
                UserError, match=f"{name} is damaged .its checksum is another.; delete the pack"
            ):
                damaged.split(split)
        else:
            assert len(damaged.split(split))
    assert damaged.content_digest() != damaged.digest == Pack(pack).digest
