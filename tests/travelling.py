"""Results folders of small experiments, made of records that nobody trained."""

import os
from pathlib import Path

import numpy as np
import torch
import yaml
from test_config import tiny
from test_records import make_record

from mosa.data.predictions import write_images, write_predictions
from mosa.data.task import kept_path
from mosa.engine.loop import measure
from mosa.experiment.load import load_config
from mosa.experiment.workflow import Workflow
from mosa.records import write_record

TASKS = ("digits", "count")


def write_results(folder, name="lab", config=None, score=None, predictions=False, **changes):
    """Write a config and all its records below a folder; return the path of the config.

    Args:
        folder: Where; the results folder is folder/results.
        name: Name of the experiment.
        config: Changes of the config of two tasks, two seeds, linear and mosa.
        score: Top-1 from task, variant and seed; with predictions, theirs.
        predictions: Whether runs keep predictions; "wrong": of which fewer are right.
        changes: Keys of the records.
    """
    score = score or (lambda task, variant, seed: 60 + 5 * (variant == "mosa") + seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    whole = tiny() | {"name": name, "sweeps": {}} | (config or {})
    path.write_text(yaml.safe_dump(whole))
    here = os.getcwd()
    os.chdir(folder)
    try:
        workflow = Workflow.of(load_config(whole))
        Path(workflow.manifest), Path(workflow.shown_config)
        for one in workflow.meant():
            what = one.specification
            task = what.task.partition("/")[2]
            metrics, kept = {"top1": score(task, what.variant, one.seed)}, {}
            if predictions:
                metrics, kept = _keep(one.path, predictions != "wrong")
            record = make_record(
                specification=what.model_dump(), specification_digest=what.digest, seed=one.seed,
                metrics=metrics, kept=kept, **changes,
            )  # fmt: skip
            record["backbone"]["sha256"] = what.backbone.identity
            write_record(record, one.path)
    finally:
        os.chdir(here)
    return path


def _keep(record, right):
    """Write predictions of three images, two or one right; return the record's metrics and `kept`."""
    folder = record.parents[2]
    name = write_images(folder, ["a", "b", "c"], ["x", "y"])
    logits = np.array([[1, 0], [0, 1], [1, 0]], np.float32)[:, :: 1 if right else -1]
    digest = write_predictions(
        kept_path(record, "predictions"), "test", logits, np.array([0, 1, 1], np.int32), images=folder / name
    )
    found = measure(torch.from_numpy(logits.copy()), torch.tensor([0, 1, 1]))
    return found, {"predictions": digest, "model": None, "images": f"../../{name}"}
