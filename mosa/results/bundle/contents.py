"""Which files a bundle has: a manifest's records that exist, and what belongs to them."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mosa.base.errors import UserError
from mosa.base.files import digest_of_file
from mosa.data.predictions import contradiction, read_images
from mosa.data.task import kept_path
from mosa.experiment.manifest import Meant, read_manifest
from mosa.results.collect import load_meant

METADATA = "ro-crate-metadata.json"
WORKFLOW = "workflow/"  # the rules that made the records; nothing of it is imported
MANIFEST = re.compile(r"manifests/runs-([0-9a-f]{16})\.json")
CONFIG = re.compile(r"manifests/config-([0-9a-f]{16})\.yaml")
IMAGES = re.compile(r"images-[0-9a-f]{16}\.json\.gz")


@dataclass(frozen=True)
class Contents:
    """The files of an experiment, by their paths below its results folder.

    Attributes:
        results: The results folder.
        name: Name of the experiment.
        manifest: The manifest.
        specifications, choices: What records were made from.
        records: The verified records.
        kept: Predictions, names of images and tuned models.
        missing: Records that are meant and do not exist.
    """

    results: Path
    name: str
    manifest: str
    specifications: list[str]
    choices: list[str]
    records: dict[str, dict[str, Any]]
    kept: list[str]
    missing: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """All of them, each once."""
        return [self.manifest, *self.specifications, *self.choices, *self.records, *self.kept]


def contents_of(
    manifest: Path, existing: bool = False, predictions: bool = True, models: bool = False
) -> Contents:
    """Gather and verify the files of a manifest's records.

    Args:
        manifest: The manifest, in the folder manifests/ of a results folder.
        existing: Leave out records that do not exist, instead of refusing.
        predictions: Whether kept predictions are taken.
        models: Whether kept models are taken.

    Raises:
        UserError: A record is missing, or something is not what a digest says.
    """
    results = manifest.parent.parent
    head, meant = read_manifest(manifest)
    records: dict[str, dict[str, Any]] = {}
    used, missing, kept = [], [], {}
    for one in meant:
        path = _below(results, one.path)
        if existing and not one.path.exists():
            missing.append(path)
            continue
        records[path] = load_meant(one)
        used.append(one)
        kept |= dict.fromkeys(_kept(results, one, records[path], predictions, models))
    if not records:
        raise UserError(
            f"{manifest}: none of its records exists yet ({len(meant)} meant); run the workflow first"
        )
    # All that the manifest names: it is read as a whole.
    specifications = dict.fromkeys(f"specifications/{one.specification.digest[:16]}.json" for one in meant)
    choices = dict.fromkeys(_below(results, one.choice) for one in used if one.choice)
    return Contents(
        results,
        head["name"],
        _below(results, manifest),
        [*specifications],
        [*choices],
        records,
        [*kept],
        missing,
    )


def _kept(results: Path, meant: Meant, record: dict[str, Any], predictions: bool, models: bool) -> list[str]:
    """Return the files beside a record that are wanted and exist; refuse one that its digest does not fit."""
    named, found = record.get("kept") or {}, []
    wanted = ["predictions"] if predictions else []
    wanted += ["model"] if models else []
    for what in wanted:
        path = kept_path(meant.path, what)
        if not named.get(what) or not path.is_file():
            continue
        if digest_of_file(path) != named[what]:
            raise UserError(f"{path}: was changed (the record beside it names another digest)")
        if what == "predictions" and (reason := contradiction(path, record["metrics"])):
            raise UserError(f"{meant.path}: {reason}")
        found.append(_below(results, path))
    images = named.get("images")
    if found and images:
        path = Path(os.path.normpath(meant.path.parent / images))
        if not path.is_file():
            return found
        if not IMAGES.fullmatch(path.name):
            raise UserError(f"{path}: is not how names of images are called")
        read_images(path, (None, None))  # which verifies its name
        found.append(_below(results, path))
    return found


def _below(results: Path, path: Path) -> str:
    """Return a path below the results folder, in POSIX form, without going up."""
    relative = PurePosixPath(os.path.relpath(path, results).replace(os.sep, "/"))
    if ".." in relative.parts:
        raise UserError(f"{path}: is not below {results}")
    return relative.as_posix()
