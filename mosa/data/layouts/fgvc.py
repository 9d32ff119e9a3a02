"""The five FGVC data sets: the original archives beside VPT's splits in JSON."""

import re
from pathlib import Path

from mosa.base.errors import shown
from mosa.base.words import count
from mosa.data.formats import FGVC_IMAGES
from mosa.data.layouts.source import Entry, Report, Source, find_folder, find_image
from mosa.data.naming import SPLITS
from mosa.data.task import Task
from mosa.data.texts import Listed, read_object


def read_fgvc(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/<folder>/{train,val,test}.json`, each an object {"path of the image": class id}.

    Class ids are any integers, the same in all three files; a label is the rank of a class id. The files
    `train_<fraction>.json` are subsets of train.
    """
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    files = {split: _read_ids(folder / f"{split}.json", report) for split in SPLITS}
    if any(file is None for file in files.values()):
        return None
    known = {split: set(file.content.values()) for split, file in files.items()}
    ids = sorted(known["train"] | known["val"] | known["test"])
    for split in ("val", "test"):
        strange = sorted(known[split] - known["train"])
        if strange:
            some = ", ".join(map(str, strange[:5]))
            report.error(
                folder / f"{split}.json",
                f"has {count(len(strange), 'class id')} that train.json lacks ({some}); take all files from "
                "one copy",
            )
    if len(ids) != task.num_classes:
        report.error(folder, f"{count(len(ids), 'class id')} in its splits, expected {task.num_classes}")
    label_of = {class_id: label for label, class_id in enumerate(ids)}
    images = folder / FGVC_IMAGES[task.name]
    splits: dict[str, list[Entry]] = {}
    for split, file in files.items():
        splits[split] = []
        first: dict[Path, int] = {}
        for relative, class_id in file.content.items():
            line = file.lines[relative]
            place = f"{folder / f'{split}.json'}, line {line}"
            image = find_image(images, relative, place, report)
            if image is None:
                continue
            if image in first:
                report.error(
                    place,
                    f"{shown(relative)} is the image of line {first[image]}; keep one of the lines",
                )
            first.setdefault(image, line)
            splits[split].append(Entry(image, label_of[class_id], place))
    return Source(folder, len(ids), splits, subsets=_read_subsets(folder, files["train"].content, report))


def _read_ids(file: Path, report: Report) -> Listed | None:
    """Return the entries of a split, or None if it cannot be read or a class id is no integer."""
    expected = '{"path of an image": class id, ...}'
    advice = "copy it again: the splits come with VPT, and lie beside the images"
    listed = read_object(file, expected, report, advice)
    if listed is None:
        return None
    content, lines = listed
    wrong = [key for key, value in content.items() if not isinstance(value, int) or isinstance(value, bool)]
    for key in wrong:
        report.error(
            f"{file}, line {lines[key]}",
            f"class id {shown(content[key])} of {shown(key)}: expected an integer",
        )
    return None if wrong else listed


def _read_subsets(folder: Path, train: dict[str, object], report: Report) -> dict[str, list[int]]:
    place_of = {relative: index for index, relative in enumerate(train)}
    subsets = {}
    for file in sorted(folder.glob("train_*.json")):
        fraction = re.fullmatch(r"train_(0?\.\d+)\.json", file.name)
        read = _read_ids(file, report) if fraction else None
        if read is None:
            continue
        for relative in sorted(read.content.keys() - train.keys(), key=read.lines.get):
            report.error(f"{file}, line {read.lines[relative]}", f"{shown(relative)} is not in train.json")
        others = sum(train.get(relative, class_id) != class_id for relative, class_id in read.content.items())
        if others:
            differ = count(others, "class id differs", "class ids differ")
            report.warning(file, f"{differ} from those of train.json, which are taken")
        if not read.content:
            report.error(file, "lists no image; take it out, or list a part of train.json")
        subsets[str(float(fraction[1]))] = sorted(place_of[e] for e in read.content if e in place_of)
    return subsets
