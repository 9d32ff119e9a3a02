"""The manifest: which records an experiment means, and of which specification each has to be."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosa.base.errors import UserError, reason_of, shown
from mosa.base.files import written_atomically
from mosa.experiment.expand import Run
from mosa.experiment.specification import Specification, read_specification, write_specification

VERSION = 1
# Names of files in a manifest, which lead to no other folder.
_SPECIFICATION = re.compile(r"[0-9a-f]{16}\.json\Z")
_CHOICE = re.compile(r"(tune/choices/(?!(.*/)?\.\./).+\.json)?\Z")
SHOWN = ("group", "metric")  # of the entry of an own task: how it stands in tables


@dataclass(frozen=True)
class Meant:
    """A record that is meant.

    Attributes:
        path: Where it lies.
        specification: What it has to be a record of; without the chosen hyper-parameters, if any.
        seed: Its seed.
        choice: File of the chosen hyper-parameters; None: nothing is chosen.
    """

    path: Path
    specification: Specification
    seed: int
    choice: Path | None = None


def write_by_content(folder: Path, name: str, suffix: str, text: str) -> Path:
    """Write a file that is named by its content, unless it is there.

    What depends on it is made again if, and only if, its content changes.

    Returns:
        The path: <folder>/<name><digest>.<suffix>.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{name}{digest}.{suffix}"
    if not path.is_file():
        with written_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path


def write_manifest(
    runs: Iterable[Run],
    results: Path,
    variants: Iterable[str],
    name: str,
    left_out: Mapping[str, str] | None = None,
    display_names: Mapping[str, str] | None = None,
    reference: str | None = None,
) -> Path:
    """Write the specifications of runs, and the manifest that names them.

    Args:
        runs: The runs, in the order of the config.
        results: The results folder.
        variants: Variants of the main comparison, in display order.
        name: Name of the experiment.
        left_out: Why variants have no runs on a backbone.
        display_names: Names of variants for readers, where they have one.
        reference: The variant that the others are compared with, if the config names one.

    Returns:
        The manifest: results/manifests/runs-<digest>.json.
    """
    groups: dict[int, dict[str, Any]] = {}
    tasks: dict[str, dict[str, str]] = {}  # of own tasks: what may change without a run being repeated
    for run in runs:
        if own := run.specification.data.own:
            tasks[run.specification.task] = {name: own[name] for name in SHOWN if name in own}
        group = groups.get(id(run.specification))
        if group is None:
            file = write_specification(run.specification, results / "specifications")
            group = groups[id(run.specification)] = {"specification": file.name, "seeds": []}
            if run.choice:
                group["choice"] = f"tune/choices/{run.choice}.json"
        group["seeds"].append(run.seed)
    content = {
        "version": VERSION,
        "name": name,
        "variants": list(variants),
        "left_out": dict(left_out or {}),
        "groups": list(groups.values()),
    }
    content |= {"display_names": dict(display_names)} if display_names else {}
    content |= {"tasks": tasks} if tasks else {}
    content |= {"reference": reference} if reference else {}  # another one makes another table
    return write_by_content(results / "manifests", "runs-", "json", json.dumps(content, indent=1) + "\n")


def read_manifest(path: Path) -> tuple[dict[str, Any], list[Meant]]:
    """Read a manifest.

    Returns:
        Its `name`, `variants` and `left_out`, `display_names` if it has any, and the records that are meant.

    Raises:
        UserError: It cannot be read, or is not one, or a specification is missing or was changed.
    """
    results = path.parent.parent
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        head = {"name": _text(content["name"]), "variants": [_text(name) for name in content["variants"]]}
        for key in ("left_out", "display_names") if "display_names" in content else ("left_out",):
            head[key] = {name: _text(text) for name, text in content[key].items()}
        groups = [
            (
                results / "specifications" / _text(group["specification"], _SPECIFICATION),
                [_seed(seed) for seed in group["seeds"]],
                _text(group.get("choice") or "", _CHOICE),
            )
            for group in content["groups"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not a manifest ({reason_of(error)}); run the workflow again, which writes it"
        ) from None
    meant = []
    for file, seeds, choice in groups:
        specification = read_specification(file)
        chosen = results / choice if choice else None
        meant += [
            Meant(results / specification.record_path(seed), specification, seed, chosen) for seed in seeds
        ]
    return head, meant


def _text(value: Any, pattern: re.Pattern[str] = re.compile("", re.DOTALL)) -> str:
    """Return a text of a manifest; raise unless it is one, and its whole fits the pattern."""
    if not isinstance(value, str) or not pattern.match(value):
        raise ValueError(f"got {shown(value)}")
    return value


def _seed(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"got the seed {shown(value)}")
    return value


def with_choice(specification: Specification, chosen: Mapping[str, Mapping[str, Any]]) -> Specification:
    """Lay chosen hyper-parameters over a specification.

    Args:
        specification: What was searched for.
        chosen: `options` of the method and `training` of the recipe that were chosen.
    """
    changed = specification.model_dump()
    for section in ("options", "training"):
        changed[section] |= chosen[section]
    return Specification.model_validate(changed)


_START = re.compile(rb'"specification_digest":\s*"([0-9a-f]{64})",\s*"digest":\s*"([0-9a-f]{64})"')


def peek(record: Path) -> tuple[str, str] | None:
    """Return the digests of a record's specification and of its content, from its first bytes.

    Returns:
        Both; None: there is no record, or not one of this form.
    """
    try:
        with record.open("rb") as file:
            found = _START.search(file.read(400))
    except OSError:
        return None
    return (found[1].decode(), found[2].decode()) if found else None


def digest_of_collected(manifest: Path, records: Iterable[tuple[Path, str]]) -> str:
    """Return a digest of what a table of records was made from.

    Args:
        manifest: The manifest.
        records: Each record, and the digest of its content.
    """
    lines = [manifest.name, *sorted(f"{path.as_posix()} {digest}" for path, digest in records)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
