"""A config to start from: the demo's, or one for a user's own images that says what was found.

What it says of the images comes from the readers that the workflow reads them with. No torch, no pandas.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from mosa.base.errors import UserError, plain
from mosa.base.files import SCHEMAS, WORKFLOW, written_atomically
from mosa.base.words import count
from mosa.data.discover import is_image
from mosa.data.layouts import Report, Source, read_source
from mosa.data.listed import find_lists
from mosa.data.metrics import get_metric
from mosa.data.naming import SPLITS, split_named
from mosa.data.problems import why_absent
from mosa.data.task import task_from_config
from mosa.experiment.load import read_config

_PASSES, _EPOCHS = 10_000, (5, 30)  # images that a run sees about, and the fewest and most epochs
_LISTED = 20  # classes, with their counts
_FEW = 100  # images of val, below which a choice is left to chance, and folds of train + val do better
_FOLDS = """\
  # Val has {images}, too few to choose by: every trial is trained three times, on two thirds of train + val.
  folds: 3
"""
_IMBALANCE = 3  # images of the largest class over those of the smallest, from which a metric is suggested

_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# {title}: your own images. Paths are relative to this folder.
#   mosa check     is everything there, and valid? It opens every image.
#   mosa plan      what it takes: runs, disk, hours
#   mosa run       choose learning rates on val, train, and write results/tables, plots and report.html
# docs/configuration.md describes every key, docs/methods.md every method.
#
{found}
name: {name}
protocol: standard

paths:
  results: results
  packs: results/packs

tasks:
  {name}:
    layout: {layout}
    root: {root}
    metric: {metric}
    # Random crops and flips while training, if they do not change the class: crop_flip.
    augment: none

benchmarks:
  own: all

# The backbone that comes with the package sees 32 x 32 pixels: enough to try everything in minutes, on any
# machine. For results that count take a pre-trained one, on a GPU: timm downloads it, or name a file.
backbones:
  micro_vit:
    architecture: mosa_vit_micro
    weights: builtin
  # vit_s16:
  #   architecture: vit_small_patch16_224
  #   weights: hub:augreg_in21k
# device: cuda

# Tables give mean and standard deviation over these.
seeds: [0, 1, 2]

# The recipe of all variants.
training:
  epochs: {epochs}
  batch_size: 32
  weight_decay: 0.01
  warmup_epochs: {warmup}

# The rows of the tables: `mosa methods` lists all methods with their options.
variants:
  linear: {{method: linear}}
  full: {{method: full}}
  adapter: {{method: adapter, options: {{bottleneck: 16}}}}
  lora: {{method: lora, options: {{rank: 8}}}}
  # An expert is trained in one of four steps: give it twice the epochs, `training: {{epochs: ...}}`, before
  # you judge it.
  mosa: {{method: mosa, options: {{bottleneck: 16, experts: 4}}}}

# The learning rate of each, by the best {tuned_by} on val: test stays closed until the final runs, which
# train on train + val. As many trials for every variant; two more where the best is the smallest or largest.
# The rates suit the backbone above. For vit_s16, and larger ones, begin ten times lower.
tune:
  search: grid
  extend: 2
{folds}  variants:
    linear: {{training: {{lr: [0.03, 0.1, 0.3, 1]}}}}
    full: {{training: {{lr: [0.0003, 0.001, 0.003, 0.01]}}}}
    adapter: {{training: {{lr: [0.003, 0.01, 0.03, 0.1]}}}}
    lora: {{training: {{lr: [0.003, 0.01, 0.03, 0.1]}}}}
    mosa: {{training: {{lr: [0.003, 0.01, 0.03, 0.1]}}}}
"""


@dataclass(frozen=True)
class Written:
    """A config that was written.

    Attributes:
        path: The file.
        notes: What was found, and what deserves a look.
    """

    path: Path
    notes: tuple[str, ...] = ()


def write_config(folder: Path, own_data: Path | None = None, force: bool = False) -> Written:
    """Write a config.yaml, which is loaded as the workflow will load it before it appears.

    Args:
        folder: Folder to write to; it is created.
        own_data: The user's images: a folder, or a CSV. None: the demo.
        force: Replace a config.yaml that is there.

    Raises:
        UserError: There is a config.yaml already, or the images cannot be used as they lie there.
    """
    path = folder / "config.yaml"
    if path.exists() and not force:
        raise UserError(f"{path}: is there already; take another folder, or overwrite it with --force")
    text, notes = _demo_config(folder) if own_data is None else _own_config(own_data, folder)
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        read_config(temporary)
    return Written(path, tuple(notes))


def find_layout(data: Path) -> tuple[str, Path]:
    """Return how a user's own images lie on disk, and the root for the config.

    Raises:
        UserError: There is nothing that can be read.
    """
    if data.is_file():
        if data.suffix.lower() != ".csv":
            raise UserError(f"{data}: expected a folder of images, or a CSV with the columns path and label")
        return "csv", data
    if not data.is_dir():
        raise UserError(f"{data}: {why_absent(data)}; expected the folder of your images, or a CSV")
    if "train" in find_lists(data, Report()):
        return "lists", data
    tables = [path for path in data.iterdir() if path.suffix.lower() == ".csv" and path.is_file()]
    holds_folders = any(path.is_dir() and not path.name.startswith(".") for path in data.iterdir())
    if len(tables) == 1 and not holds_folders:
        return "csv", tables[0]
    return "folder", data


def _demo_config(folder: Path) -> tuple[str, list[str]]:
    """Return the demo's config, whose schema is where the package is, and whether images lie there unused."""
    text = (WORKFLOW / "config.yaml").read_text(encoding="utf-8")
    text = re.sub(r"(?<=\$schema=)\S+", lambda _: str(SCHEMAS / "config.schema.json"), text, count=1)
    found = (
        path for depth in ("*", "*/*", "train/*/*") for path in folder.glob(depth) if is_image(path.name)
    )
    image = next(found, None)
    if image is None:
        return text, []
    return text, [
        f"warning: {folder}: holds images ({image.relative_to(folder)}), which the demo's config does not "
        f"use; for them, take another folder, and --own-data {folder}"
    ]


def _own_config(data: Path, folder: Path) -> tuple[str, list[str]]:
    layout, root = find_layout(data)
    if layout == "folder" and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"{folder}: is in {root}, where results would be taken for a class; take another folder"
        )
    name = _name_of(root)
    source, warnings = _read(name, layout, root)
    found, sizes = _describe(source), [len(entries) for entries in source.splits.values()]
    counts = _counts(source).values()
    epochs = min(max(_EPOCHS[0], round(_PASSES / sizes[0])), _EPOCHS[1])
    folds = _FOLDS.format(images=count(sizes[1], "image")) if sizes[1] < _FEW else ""
    uneven = max(counts) > _IMBALANCE * min(counts)
    text = _TEMPLATE.format(
        schema=SCHEMAS / "config.schema.json",
        title=_plain(name),
        found="\n".join(f"# {line}".rstrip() for line in found),
        name=_scalar(name),
        layout=layout,
        root=_scalar(_relative(root, folder)),
        tuned_by=get_metric("mean_per_class" if uneven else "top1").title,
        metric="mean_per_class  # since classes differ in size; or top1" if uneven else "top1",
        epochs=epochs,
        warmup=epochs / 10,
        folds=folds,
    )
    if sizes[2] < _FEW:
        warnings.append(
            f"test has {count(sizes[2], 'image')}: one more right is {100 / sizes[2]:.1f} points, and "
            "variants that differ by a few such steps cannot be told apart (results/tables/intervals.md says "
            "how sure an accuracy is)"
        )
    return text, [*found, *(f"warning: {warning}" for warning in warnings)]


def _read(name: str, layout: str, root: Path) -> tuple[Source, list[str]]:
    """Read which images there are; return them, and what deserves a look."""
    report = Report()
    task = task_from_config(name, {"layout": layout, "root": str(root)})
    source = read_source(task, root, report)
    if source is None or report.errors:
        first, *others = report.errors
        more = f" (and {count(len(others), 'more problem')})" if others else ""
        more += "".join(f"; {one.message}" for one in report.problems if "not read (" in one.message)
        raise UserError(f"{first.place}: {first.message}{more}")
    return source, [f"{problem.place}: {problem.message}" for problem in report.problems]


def _describe(source: Source) -> list[str]:
    """Return what was found, line by line."""
    sizes = {split: len(source.splits[split]) for split in SPLITS}
    shown = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
    counts = _counts(source)
    lines = [f"found {count(sum(sizes.values()), 'image')} of {source.num_classes} classes: {shown}"]
    lines += [f"  {_plain(note)}" for note in source.notes]
    lines += ["  images  class"]
    largest = counts.most_common(_LISTED)
    lines += [f"  {number:6,}  {_plain(name)}" for name, number in sorted(largest)]
    others = counts.most_common()[_LISTED:]
    if others:
        low, high = others[-1][1], others[0][1]
        sizes = count(high, "image") if low == high else f"{low:,} to {high:,} images"
        lines += [f"  and {count(len(others), 'smaller class', 'smaller classes')}, of {sizes}"]
    return lines


def _counts(source: Source) -> Counter[str]:
    """Return the number of images of each class, over all splits."""
    labels = (entry.label for entries in source.splits.values() for entry in entries)
    return Counter(source.names[label] if source.names else str(label) for label in labels)


def _name_of(root: Path) -> str:
    """Return a name for the task, from that of its folder."""
    path = Path(os.path.abspath(root))
    stem = path.stem if path.suffix.lower() == ".csv" else path.name
    generic = {"data", "images", "dataset", "labels", "index"}
    while (stem.lower() in generic or split_named(stem)) and path.parent.name:
        path = path.parent
        stem = path.name
    return re.sub(r"[^a-z0-9_.-]+", "_", stem.lower()).strip("_.-")[:100] or "images"


def _relative(root: Path, folder: Path) -> str:
    """Return the path of the images as the config says it: below its folder relative, otherwise absolute."""
    root, folder = Path(os.path.abspath(root)), Path(os.path.abspath(folder))
    return str(root.relative_to(folder) if root.is_relative_to(folder) else root)


def _scalar(text: str) -> str:
    """Return a text as it stands in YAML.

    Raises:
        UserError: It is none that a file can hold.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{plain(text)}: is not a name in UTF-8; rename the folder") from None
    return yaml.safe_dump([text], default_flow_style=True, allow_unicode=True, width=10**6).strip()[1:-1]


def _plain(text: str) -> str:
    """Return a text for a comment: one line, whatever it quotes."""
    return plain(text.encode("utf-8", "backslashreplace").decode())
