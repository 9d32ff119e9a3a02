"""Where the records of a comparison come from: results folders, record files, and exported bundles."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mosa.base.errors import UserError
from mosa.records import load_record
from mosa.results.bundle.read import unpacked
from mosa.results.frame import find_records


class Source(NamedTuple):
    """Records of one origin.

    Attributes:
        name: What readers call it, such as a lab.
        records: The verified records with their paths, sorted by path.
    """

    name: str
    records: list[tuple[dict[str, Any], Path]]


@contextmanager
def opened(places: Iterable[str]) -> Iterator[list[Source]]:
    """Read and verify the records of sources.

    Args:
        places: For each source a path, or NAME=PATH: a results folder (its runs/), any folder of records, a
            record, or a bundle of `mosa export`. Without a name, it is called by the last part of its path.

    Yields:
        The sources, in their order. Files of bundles exist within the block only.

    Raises:
        UserError: There are fewer than two, two have one name, or something in them is not in order.
    """
    named = [_name_and_path(place) for place in places]
    if len(named) < 2:
        raise UserError(
            "nothing to compare: give two sources at least, such as mosa compare ours=results theirs.zip"
        )
    names = [name for name, _ in named]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise UserError(f"two sources are called {twice!r}; name them: one={named[0][1]} other=...")
    with ExitStack() as stack:
        yield [Source(name, _records(path, stack)) for name, path in named]


def _name_and_path(place: str) -> tuple[str, Path]:
    name, equals, path = place.partition("=")
    if equals and not Path(place).exists():
        if not name.strip() or not path:
            raise UserError(f"{place!r}: expected NAME=PATH, or a path")
        return name.strip(), Path(path)
    found = Path(place)
    return found.resolve().stem if found.suffix == ".zip" else found.resolve().name, found


def _records(path: Path, stack: ExitStack) -> list[tuple[dict[str, Any], Path]]:
    if path.is_dir():
        folder = path
    elif path.suffix == ".zip":
        folder = stack.enter_context(unpacked(path))
    elif path.suffix == ".json":
        return [(load_record(path), path)]
    else:
        absent = "" if path.exists() else "no such file or folder; "
        raise UserError(
            f"{path}: {absent}expected a results folder, a record (.json) or a bundle of `mosa export` (.zip)"
        )
    return [(load_record(found), found) for found in find_records(folder)]
