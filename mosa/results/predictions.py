"""The predictions that lie beside records, for tables, plots and the report."""

import json
from pathlib import Path

from mosa.base.errors import UserError, unreadable
from mosa.base.files import digest_of_file
from mosa.data.predictions import NotKept, Predictions, read_predictions
from mosa.data.task import kept_path

__all__ = ["NotKept", "Predictions", "read"]


def read(record: Path, digest: str | None = None) -> Predictions:
    """Read the predictions that a run kept, and verify them.

    They lie beside the record: seed0.predictions.safetensors beside seed0.json. Names of images and classes
    come from images-<digest>.json.gz in the task's folder, runs/<benchmark>/<task>/, which all runs on it
    share; where it is missing they are test/0, test/1, ... and #0, #1, ...

    Args:
        record: The record (.json).
        digest: SHA-256 that the record names (`kept.predictions`, column predictions_sha256); None: it is
            read from the record.

    Returns:
        `logits` float32 (images, classes), `labels` int64 (images,), `ids` and `classes` as names, and more;
        `predicted`, `correct` and `probabilities` follow from them.

    Raises:
        NotKept: The run kept none, or the file is not here.
        UserError: The file is damaged, or is not the one that the record names.
    """
    path = kept_path(Path(record), "predictions")
    if digest is None:
        try:
            digest = json.loads(Path(record).read_text(encoding="utf-8")).get("kept", {}).get("predictions")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"{record}: cannot read the record ({unreadable(error)})") from None
    if not digest:
        raise NotKept(f"{record}: the run kept no predictions; repeat it with keep.predictions: true")
    if not path.is_file():
        raise NotKept(f"{path}: the predictions of the record are not here; copy them, or repeat the run")
    if digest_of_file(path) != digest:
        raise UserError(
            f"{path}: not the predictions of the record beside it; copy them again, or repeat the run"
        )
    return read_predictions(path)
