"""What a weights file of torch holds, and where in it the tensors of a backbone are."""

import re
import warnings
import zipfile
from argparse import Namespace
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mosa.base.errors import LISTED, UserError
from mosa.base.words import count

_DEPTH = 4  # of dictionaries within dictionaries
_LONGEST = 300  # characters of a name that is looked at
_WRAPPERS = {"model", "state_dict", "module", "net"}  # say nothing of which weights they hold
# Of several complete sets of weights in a file, its authors evaluate the one with such a word in its place.
_EVALUATED = ("base_encoder", "teacher", "state_dict_ema", "model_ema")
# Names of original files that timm converts, by a name of the architecture in timm.
_ORIGINAL = {
    "stem.0.weight": {"downsample_layers.0.0.weight"},  # ConvNeXt
    "norm_pre.weight": {"class_embedding", "conv1.weight", "ln_pre.weight", "ln_post.weight"},  # CLIP
}
_CHUNK = re.compile(r"(^|\.)blocks\.\d+\.(\d+\.)")  # DINOv2's training numbers the chunks of blocks, too


@dataclass
class Part:
    """The tensors of a file that are a backbone's.

    Attributes:
        tensors: By name, without the prefix.
        prefix: What all names of the backbone start with in the file.
        place: Keys that lead to the dictionary.
        others: Names of the same dictionary that do not start with the prefix.
        notes: What was decided, in sentences.
    """

    tensors: dict[str, Tensor]
    prefix: str = ""
    place: tuple[str, ...] = ()
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Where it is in the file: keys and prefix, dotted."""
        return ".".join([*self.place, self.prefix.rstrip(".")]).strip(".") or "the file itself"


def read_checkpoint(path: Path) -> dict[Any, Any]:
    """Read a file of safetensors, or of torch without running what is pickled in it.

    Raises:
        UserError: It cannot be read, is no dictionary, or holds more than weights.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:] == b"{":
        try:
            return load_file(path)
        except Exception:  # a broken or hostile file can raise anything
            raise UserError(f"{path}: cannot be read as safetensors, it is damaged; copy it again") from None
    try:
        # MAE's files, and many others, hold their command line beside the weights.
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles and TorchScript: what matters is said below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_mappable(path))
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a file that holds only weights{_why(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a dictionary of weights")
    return content


def _is_mappable(path: Path) -> bool:
    """Return whether tensors lie in the file as they are: not if somebody has zipped it again."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _why(error: Exception) -> str:
    """Return the reason and what to do, in our words: torch's own advice is to run what is in the file."""
    found = re.search(r"(?:GLOBAL|global) `?([\w.]+)", str(error))
    if found:
        return (
            f": it also holds objects of {found[1][:80]}, and reading them could run code; save its "
            "dictionary of weights alone, best as safetensors"
        )
    if "TorchScript" in str(error):
        return (
            ": it is a TorchScript program, as OpenAI's CLIP is; where you trust it, save its weights alone, "
            "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'weights.pt')"
        )
    return ": it is damaged, or no file of torch.save; copy it again"


def find_backbone(content: dict[Any, Any], names: Collection[str], path: Path) -> Part:
    """Find the tensors of a backbone, in whatever dictionary and under whatever prefix they are.

    Args:
        content: What `read_checkpoint` returned.
        names: Names of the backbone's tensors. Those of ConvNeXt's and CLIP's original files are found, too.
        path: The file, for errors.

    Returns:
        The dictionary and prefix under which most of the names are; without any, the largest dictionary.

    Raises:
        UserError: There are no tensors, or several complete sets of weights, of which none is preferred.
    """
    tables = list(_tables(content))
    if not tables:
        keys = ", ".join(map(repr, list(content)[:LISTED])) or "nothing"
        raise UserError(f"{path}: holds no weights of a backbone, but {keys}; take another file")
    chunked = "blocks.0.norm1.weight" in names
    tables = [(place, _unchunked(table) if chunked else table) for place, table in tables]
    known = set(names).union(*(original for own, original in _ORIGINAL.items() if own in names))
    votes = Counter(
        (number, prefix)
        for number, (_, table) in enumerate(tables)
        for name in table
        for prefix in _prefixes(name, known)
    )
    if not votes:
        place, table = max(tables, key=lambda pair: len(pair[1]))
        return Part(table, place=place)
    most = max(votes.values())
    parts = [_part(*tables[number], prefix) for (number, prefix), count in votes.items() if count > most / 2]
    return _choose(parts, path)


def _tables(content: dict[Any, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple, dict]]:
    """Yield every dictionary that holds tensors, with the keys that lead to it."""
    table = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if table:
        yield place, table
    if len(place) < _DEPTH:
        for key, value in content.items():
            if isinstance(value, dict):
                yield from _tables(value, (*place, str(key)))


def _unchunked(table: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_CHUNK.sub(r"\1blocks.\2", name): value for name, value in table.items()}


def _prefixes(name: str, known: set[str]) -> Iterator[str]:
    """Yield what precedes a known name at the end of a name."""
    start = 0
    while len(name) < _LONGEST:
        if name[start:] in known:
            yield name[:start]
        start = name.find(".", start) + 1
        if start == 0:
            return


def _part(place: tuple[str, ...], table: dict[str, Tensor], prefix: str) -> Part:
    inside = {name[len(prefix) :]: value for name, value in table.items() if name.startswith(prefix)}
    return Part(inside, prefix, place, [name for name in table if not name.startswith(prefix)])


def _choose(parts: list[Part], path: Path) -> Part:
    chosen = parts
    for word in _EVALUATED:
        chosen = [part for part in chosen if word in part.label.split(".")] or chosen
    labels = ", ".join(part.label for part in parts[:LISTED])
    if len(chosen) > 1:
        raise UserError(
            f"{path}: holds {len(parts)} sets of weights that the architecture could take ({labels}); save "
            "the one that you mean alone"
        )
    (part,) = chosen
    if len(parts) > 1:
        part.notes.append(f"of {len(parts)} sets of weights ({labels}), {part.label} was taken")
    elif set(part.place) - _WRAPPERS.union(_EVALUATED):
        part.notes.append(f"the weights are those under {'.'.join(part.place)!r}")
    if part.prefix:
        part.notes.append(f"the prefix {part.prefix!r} was taken off the names")
    if part.others:
        part.notes.append(
            f"left out: {count(len(part.others), 'tensor')} without that prefix, such as {part.others[0]!r}"
        )
    return part
