"""One run: a task, a backbone, a variant and a seed in; a record out."""

import datetime
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mosa import provenance
from mosa.backbones import build_backbone
from mosa.data.packs import Pack
from mosa.errors import UserError
from mosa.peft import attach, build_method, count_parameters, merge
from mosa.protocol import PROTOCOL_VERSION, STAGES
from mosa.records import SCHEMA_VERSION, write_record
from mosa.training import Images, TrainingOptions, evaluate, fit


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run's result.

    Attributes:
        task: Full name of the task, such as "demo/digits".
        backbone: Name of the backbone.
        architecture: timm's name of its architecture.
        weights: "builtin", "random", or the path of a safetensors file.
        variant: Name of the variant.
        method: Name of the method.
        options: Options of the method; those left out take their defaults.
        training: Options of the recipe; those left out take their defaults.
        seed: Seed of the run.
        stage: "final" (trains on train + val, evaluates on test) or "selection" (train, val).
        protocol: Name of the protocol.
    """

    task: str
    backbone: str
    architecture: str
    weights: str
    variant: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    stage: str = "final"
    protocol: str = "demo"


def execute(
    spec: RunSpec, pack_path: Path, output: Path, device: str = "cpu", threads: int = 1
) -> dict[str, Any]:
    """Train and evaluate one run, and write its record.

    The evaluated split is not read before the last epoch is over.

    Args:
        spec: The run.
        pack_path: The packed task.
        output: Where the record is written, atomically, at the end.
        device: "cpu", or a CUDA device.
        threads: CPU threads; results repeat bit by bit for the same number.

    Returns:
        The record.

    Raises:
        UserError: An option, the pack or the weights are wrong.
        Diverged: The loss became NaN or infinite; no record is written.
    """
    start = time.perf_counter()
    if spec.stage not in STAGES:
        raise UserError(f"stage {spec.stage!r}: expected one of {', '.join(STAGES)}")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    place = torch.device(device)
    train_split, eval_split = STAGES[spec.stage]
    training = TrainingOptions.from_dict(spec.training)
    method = build_method(spec.method, **spec.options)

    pack = Pack(pack_path)
    if pack.task.full_name != spec.task:
        raise UserError(f"{pack_path}: the pack of {pack.task.full_name}, expected {spec.task}")
    model, backbone = build_backbone(spec.architecture, spec.weights, pack.task.num_classes, spec.seed)
    attach(model, method, seed=spec.seed)
    model.to(place)
    trained = count_parameters(model).total
    train = Images(*pack.split(train_split), backbone.mean, backbone.std, place)
    prepared = time.perf_counter()

    label = f"{spec.task} {spec.variant} seed {spec.seed}"
    progress = fit(model, train, training, spec.seed, label)

    adapter = method.parameters(model)
    merge(model)
    opened = time.perf_counter()
    data = Images(*pack.split(eval_split), backbone.mean, backbone.std, place)
    metrics = evaluate(model, data)
    ended = time.perf_counter()

    head = sum(parameter.numel() for parameter in model.get_classifier().parameters())
    record = {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        "run": {
            "benchmark": pack.task.benchmark,
            "group": pack.task.group,
            "task": pack.task.name,
            "backbone": spec.backbone,
            "variant": spec.variant,
            "seed": spec.seed,
        },
        "protocol": {
            "name": spec.protocol,
            "version": PROTOCOL_VERSION,
            "train_split": train_split,
            "eval_split": eval_split,
        },
        "method": {"name": method.name, "options": method.model_dump()},
        "backbone": asdict(backbone) | {"mean": list(backbone.mean), "std": list(backbone.std)},
        "training": asdict(training) | {"passes": method.passes},
        "metrics": metrics | {"train_loss": progress.train_loss},
        "parameters": {
            "adapter": adapter,
            "head": head,
            "total": adapter + head,
            "trained": trained,
            "model": sum(parameter.numel() for parameter in model.parameters()),
        },
        "seconds": {
            "prepare": prepared - start,
            "train": progress.seconds,
            "eval": ended - opened,
            "total": ended - start,
        },
        "images_per_second": progress.images / progress.seconds,
        "peak_memory_mib": provenance.peak_memory_mib(place),
        "device": provenance.describe_device(place),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "data": {"digest": pack.digest, "train_examples": len(train), "eval_examples": len(data)},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_record(record, output)
    return record
