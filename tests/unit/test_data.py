"""The catalogue, the packs, and what the demo tasks hold."""

import hashlib
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mosa.base.errors import UserError
from mosa.data import make_pack
from mosa.data.catalogue import get_task, list_benchmarks, list_groups, list_tasks
from mosa.data.demo import digits, render_split, render_splits
from mosa.data.packing import write_pack
from mosa.data.packs import Pack
from mosa.data.splits import DataSplit, FixedStore

TASKS = [get_task(f"demo/{name}") for name in list_tasks("demo")]
RENDERED = [task for task in TASKS if task.name != "digits"]


@pytest.fixture(scope="module")
def splits():
    """Splits of every task, each rendered once."""
    made = {}

    def get(task):
        if task.name not in made:
            made[task.name] = render_splits(task)
        return made[task.name]

    return get


@pytest.fixture
def small():
    """Three tiny splits that fit no renderer, to exercise packs alone."""
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8), rng.integers(0, 10, n))
        for split, n in (("train", 5), ("val", 3), ("test", 4))
    }


# The catalogue


def test_demo_has_the_groups_of_vtab_and_a_fine_grained_one():
    assert list_benchmarks()[0] == "demo"
    assert list_groups("demo") == ["natural", "specialized", "structured", "fine_grained"]
    assert [task.name for task in TASKS] == [
        "digits",
        "textures",
        "tissue",
        "location",
        "orientation",
        "count",
        "flowers",
    ]
    assert get_task("demo/flowers").num_classes >= 20


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown task 'demo/digit'.*did you mean 'demo/digits'"):
        get_task("demo/digit")
    with pytest.raises(UserError, match=r"unknown benchmark 'dmo'.*did you mean 'demo'"):
        list_tasks("dmo")


def test_catalogue_imports_neither_numpy_nor_torch():
    code = "import sys, mosa.data.catalogue; print(sorted({'numpy', 'torch', 'pandas'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


# Packs


def read(split):
    return split.read(np.arange(len(split)))


def test_pack_gives_back_what_was_written(tmp_path, small):
    path = tmp_path / "deep" / "pack.safetensors"
    digest = write_pack(path, get_task("demo/digits"), small)
    pack = Pack(path)
    assert (pack.task, pack.digest, pack.size) == (get_task("demo/digits"), digest, 4)
    assert pack.num_classes == 10 and pack.packed
    for name in small:
        split = pack.split(name)
        np.testing.assert_array_equal(read(split), small[name][0])
        np.testing.assert_array_equal(split.labels, small[name][1])
    both = pack.split("trainval")
    np.testing.assert_array_equal(read(both), np.concatenate([small["train"][0], small["val"][0]]))
    np.testing.assert_array_equal(both.labels, np.concatenate([small["train"][1], small["val"][1]]))
    part = both.subset(np.array([6, 0]))
    np.testing.assert_array_equal(read(part), np.stack([small["val"][0][1], small["train"][0][0]]))
    with pytest.raises(UserError, match=r"unknown split 'tests'.*did you mean 'test'"):
        pack.split("tests")


def test_other_tools_read_a_pack(tmp_path, small):
    write_pack(tmp_path / "pack", get_task("demo/digits"), small)
    arrays = load_file(tmp_path / "pack")
    assert arrays.keys() == {f"{split}.{kind}" for split in small for kind in ("images", "labels")}
    np.testing.assert_array_equal(arrays["test.images"], small["test"][0])


def test_digest_follows_the_content(tmp_path, small):
    task = get_task("demo/digits")
    digest = write_pack(tmp_path / "a", task, small)
    assert write_pack(tmp_path / "b", task, dict(reversed(small.items()))) == digest
    small["test"][1][0] += 1
    assert write_pack(tmp_path / "c", task, small) != digest


def test_truncated_foreign_and_missing_packs_are_refused(tmp_path, small):
    path = tmp_path / "pack.safetensors"
    write_pack(path, get_task("demo/digits"), small)
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"not a readable pack.*mosa make-data"):
            Pack(path)
    save_file({"weights": np.zeros(3)}, path)
    with pytest.raises(UserError, match="not a pack of format mosa-pack-2"):
        Pack(path)
    with pytest.raises(UserError, match="no such pack; make it with `mosa make-data`"):
        Pack(tmp_path / "absent")
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "digits.safetensors").write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"not a readable pack .*; delete it and make it"):
        Pack(tmp_path / "packs" / "digits.safetensors")


def test_two_processes_may_write_the_same_pack(tmp_path):
    path = tmp_path / "flowers.safetensors"
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(make_pack, ["demo/flowers"] * 2, [path] * 2))
    pack = Pack(path)
    assert len(pack.split("test")) == 1000
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == [path.name]


# Tasks


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_have_the_sizes_and_classes_of_the_catalogue(task, splits):
    assert (task.sizes["train"], task.sizes["val"]) == (800, 200)
    for split, (images, labels) in splits(task).items():
        assert images.shape == (task.sizes[split], 32, 32, 3) and images.dtype == np.uint8
        assert labels.dtype == np.int64
        counts = np.bincount(labels, minlength=task.num_classes)
        assert len(counts) == task.num_classes
        assert counts.max() - counts.min() <= (1 if task in RENDERED else 9)
        assert images.std((1, 2, 3)).min() > 2, "an image is empty"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_image_occurs_twice(task, splits):
    images = np.concatenate([images for images, _ in splits(task).values()])
    assert len({hashlib.sha256(image.tobytes()).digest() for image in images}) == len(images)


@pytest.mark.parametrize("task", RENDERED, ids=lambda task: task.name)
def test_a_split_renders_to_the_same_bytes_whatever_was_rendered_before(task, splits):
    np.random.default_rng().random()
    for first, second in zip(splits(task)["val"], render_split(task, "val"), strict=True):
        np.testing.assert_array_equal(first, second)


def test_digits_are_scikit_learns_each_in_one_split(splits):
    from sklearn.datasets import load_digits

    task = get_task("demo/digits")
    labels = np.concatenate([labels for _, labels in splits(task).values()])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(load_digits().target))
    for name, (images, _) in render_splits(task).items():
        np.testing.assert_array_equal(images, splits(task)[name][0])


def test_enlarging_keeps_constants_and_corners():
    small = np.random.default_rng(0).random((2, 8, 8))
    large = digits.enlarge(small)
    np.testing.assert_allclose(digits.enlarge(np.ones((1, 8, 8))), 1)
    np.testing.assert_allclose(
        large[:, [0, 0, -1, -1], [0, -1, 0, -1]], small[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    )
    np.testing.assert_allclose(large.mean((1, 2)), small.mean((1, 2)), atol=0.05)


# What a label means, measured on the images


def _figure(images):
    """Return the distance of pixels from their image's median colour."""
    images = images.astype(float)
    return np.abs(images - np.median(images, axis=(1, 2), keepdims=True)).sum(-1)


def test_location_orders_the_shapes_from_left_to_right(splits):
    images, labels = splits(get_task("demo/location"))["train"]
    figure = _figure(images) ** 4
    centre = (figure.sum(1) * np.arange(32)).sum(1) / figure.sum((1, 2))
    assert np.corrcoef(labels, centre)[0, 1] > 0.8


def test_count_fills_more_of_the_image(splits):
    images, labels = splits(get_task("demo/count"))["train"]
    bright = (_figure(images) > 150).mean((1, 2))
    means = [bright[labels == label].mean() for label in range(8)]
    assert means[7] > 2 * means[0] and np.corrcoef(np.arange(8), means)[0, 1] > 0.9


def test_tissue_classes_differ_in_stained_area(splits):
    images, labels = splits(get_task("demo/tissue"))["train"]
    stained = (images[..., 1] < 130).mean((1, 2))
    means = [stained[labels == label].mean() for label in range(3)]
    assert means[1] > 1.3 * means[0] and means[2] > 1.3 * means[0]


def test_label_noise_gives_a_share_of_the_images_another_class():
    labels = np.repeat(np.arange(10), 10)
    split = DataSplit.of(FixedStore(np.zeros((100, 4, 4, 3), np.uint8)), labels, 4)
    noisy, again, other = (split.with_label_noise(0.3, 10, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (noisy.labels != labels).sum() == 30 and noisy.labels.min() >= 0 and noisy.labels.max() <= 9
    assert np.array_equal(noisy.labels, again.labels) and not np.array_equal(noisy.labels, other.labels)
    assert len(set((noisy.labels - labels)[noisy.labels != labels] % 10)) > 5  # no class is preferred
    assert np.array_equal(split.labels, labels)
