"""How people name splits and image files. Standard library only: the workflow imports it."""

import os
import re
from collections.abc import Sequence

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_FORMATS = (*IMAGE_SUFFIXES, ".gif", ".ppm", ".pgm", ".jpe", ".jfif", ".jp2", ".heic", ".avif", ".tga")

_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "vali", "valid", "validate", "validation", "dev", "devel", "development"),
    "test": ("test", "tests", "testing", "tst", "eval", "evaluation"),
}
_OTHER_WORDS = ("trainval", "trainvalid", "traindev", "trainvaltest", "holdout", "heldout")
_FILLERS = "(?:data|sets?|splits?|images?|imgs?|lists?|files?|samples?|folder)*"
_SPLIT_OF = {
    split: re.compile(f"{_FILLERS}(?:{'|'.join(sorted(words, key=len, reverse=True))}){_FILLERS}")
    for split, words in _WORDS.items()
}
_ANY_WORD = "|".join(
    sorted((*_OTHER_WORDS, *(word for words in _WORDS.values() for word in words)), key=len, reverse=True)
)
_LIKE = re.compile(rf"(?:{_ANY_WORD}){_FILLERS}[^a-z0-9]*(?:[a-z]|\d+)?[^a-z0-9]*\d*")

_ORDINAL = re.compile(r"\d{1,2}[\W_]+")  # as in 1_train, 2_val

_LONGEST = 80  # characters of a name in a sentence
_SYSTEM = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "thumbs.db"}
_SYSTEM |= {"desktop.ini", "__pycache__", "icon\r"}


def split_named(name: str) -> str | None:
    """Return the split that a name stands for, in any case: `Validation_set` is val; None: not a split.

    The synonyms are train, training, trn; val, valid, validation, dev, development; test, testing, eval,
    evaluation; words such as set, data, split, images or list may stand before or after each, and the
    number of an order such as `1_` before all.
    """
    ordinal = _ORDINAL.match(name)
    letters = re.sub(r"[\W_]", "", name[ordinal.end() if ordinal else 0 :].lower())
    return next((split for split, pattern in _SPLIT_OF.items() if pattern.fullmatch(letters)), None)


def like_a_split(name: str) -> bool:
    """Whether a name is that of a split, or close to one, such as train2017, test_a or trainval."""
    text = re.sub(r"[\W_]+", "-", name.lower()).strip("-")
    return split_named(name) is not None or _LIKE.fullmatch(text) is not None


def split_of_set(name: str) -> tuple[str, str] | None:
    """Return the set and the split of a name such as `birds_train` or `val-birds`; None: it has not both."""
    words = re.split(r"[\W_]+", name.lower())
    for word, others in ((words[-1], words[:-1]), (words[0], words[1:])):
        split = split_named(word)
        if split is not None and others:
            return " ".join(others), split
    return None


def in_other_formats(path: str) -> list[str]:
    """Return where else an image that a list names may lie, as copies of a data set differ in their format.

    The suffix of an image is replaced. A name without one, which may have dots, gets one.
    """
    stem, suffix = os.path.splitext(path)
    return [(stem if suffix.lower() in _FORMATS else path) + other for other in IMAGE_SUFFIXES[:3]]


def hidden(name: str) -> bool:
    """Whether a name is that of a file or folder which systems and editors make, such as .DS_Store."""
    return name.startswith(".") or name.lower() in _SYSTEM


def few(names: Sequence[str], limit: int = 5) -> str:
    """Return names for a sentence: at most `limit` of them, and none of them long."""
    plain = [name if name.isprintable() else repr(name)[1:-1] for name in names[:limit]]
    shown = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in plain]
    return ", ".join(shown) + (", ..." if len(names) > limit else "")
