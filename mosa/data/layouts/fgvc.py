"""The five FGVC data sets: the original archives beside VPT's splits in JSON."""

import json
import re
from pathlib import Path

from mosa.data.layouts.source import Entry, Report, Source, find_folder, find_image
from mosa.data.task import Task

_IMAGES = {"cub": "images", "nabirds": "images", "dogs": "Images", "flowers": "", "cars": ""}
_SPLITS = ("train", "val", "test")


def read_fgvc(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/<folder>/{train,val,test}.json`, each an object {"path of the image": class id}.

    Class ids are any integers, the same in all three files; a label is the rank of a class id. The files
    `train_<fraction>.json` are subsets of train.
    """
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    files = {split: _read_object(folder / f"{split}.json", report) for split in _SPLITS}
    if any(file is None for file in files.values()):
        return None
    known = {split: set(ids.values()) for split, (ids, _) in files.items()}
    ids = sorted(known["train"] | known["val"] | known["test"])
    for split in ("val", "test"):
        strange = sorted(known[split] - known["train"])
        if strange:
            shown = ", ".join(map(str, strange[:5]))
            report.error(
                folder / f"{split}.json",
                f"has {len(strange)} class ids that train.json lacks ({shown}); take all files from one copy",
            )
    if len(ids) != task.num_classes:
        report.error(folder, f"{len(ids)} class ids in its splits, expected {task.num_classes}")
    label_of = {class_id: label for label, class_id in enumerate(ids)}
    images = folder / _IMAGES[task.name]
    splits: dict[str, list[Entry]] = {}
    for split, (entries, line_of) in files.items():
        splits[split] = []
        for relative, class_id in entries.items():
            place = f"{folder / f'{split}.json'}, line {line_of(relative)}"
            image = find_image(images, relative, place, report)
            if image is not None:
                splits[split].append(Entry(image, label_of[class_id], place))
    subsets = _read_subsets(folder, list(files["train"][0]), report)
    return Source(folder, len(ids), splits, subsets=subsets)


def _read_object(file: Path, report: Report):
    """Return the entries of a split and a function from an image to its line, or None if unreadable."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        report.error(file, f"cannot be read ({error}); the splits come with VPT, put them beside the images")
        return None

    def line_of(key: str) -> int:
        return text.count("\n", 0, max(0, text.find(json.dumps(key, ensure_ascii=False)))) + 1

    repeated: list[str] = []

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(items)
        if len(made) < len(items):
            seen: set[str] = set()
            repeated.extend(key for key, _ in items if key in seen or seen.add(key))
        return made

    try:
        content = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        report.error(f"{file}, line {getattr(error, 'lineno', 1)}", f"is not JSON ({error}); copy it again")
        return None
    if not isinstance(content, dict):
        report.error(f"{file}, line 1", 'is not a JSON object; expected {"path of an image": class id, ...}')
        return None
    for key in repeated:
        report.error(f"{file}, line {line_of(key)}", f"{key!r} is listed twice; keep one")
    wrong = [key for key, value in content.items() if not isinstance(value, int) or isinstance(value, bool)]
    for key in wrong:
        report.error(
            f"{file}, line {line_of(key)}", f"class id {content[key]!r} of {key!r}: expected an integer"
        )
    return None if wrong else (content, line_of)


def _read_subsets(folder: Path, train: list[str], report: Report) -> dict[str, list[int]]:
    place_of = {relative: index for index, relative in enumerate(train)}
    subsets = {}
    for file in sorted(folder.glob("train_*.json")):
        fraction = re.fullmatch(r"train_(0?\.\d+)\.json", file.name)
        read = _read_object(file, report) if fraction else None
        if read is None:
            continue
        entries, line_of = read
        for relative in entries.keys() - place_of.keys():
            report.error(f"{file}, line {line_of(relative)}", f"{relative!r} is not in train.json")
        subsets[str(float(fraction[1]))] = sorted(place_of[e] for e in entries if e in place_of)
    return subsets
