"""One run: a task, a backbone, a variant and a seed in; a record out."""

import datetime
import hashlib
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from mosa.backbones.build import build_backbone
from mosa.base.errors import UserError
from mosa.base.seeding import derive_seed
from mosa.data.layouts.source import stratified
from mosa.data.packs import Pack
from mosa.data.splits import DataSplit
from mosa.engine import provenance
from mosa.engine.batches import Images
from mosa.engine.cost.flops import inference_flops, training_flops
from mosa.engine.features import Head, cached_features, is_head_only
from mosa.engine.loop import Diverged, TrainingOptions, evaluate, fit
from mosa.engine.machine import CPU, Machine
from mosa.engine.resume import ResumeFile
from mosa.experiment.config import Run
from mosa.experiment.protocol import PROTOCOL_VERSION, STAGES
from mosa.peft import attach, build_method, count_parameters, merge
from mosa.records import SCHEMA_VERSION, write_record


def execute(run: Run, pack_path: Path, output: Path, machine: Machine = CPU) -> dict[str, Any]:
    """Train and evaluate one run, and write its record.

    The evaluated split is not read before the last epoch is over.

    Args:
        run: The run.
        pack_path: The packed task.
        output: Where the record is written, atomically, at the end.
        machine: How it is done here.

    Returns:
        The record.

    Raises:
        UserError: An option, the pack or the weights are wrong.
        Diverged: The loss became NaN or infinite; no record is written.
        Interrupted: A signal asked to stop, and the state is saved in `machine.resume_folder`.
    """
    start = time.perf_counter()
    if run.stage not in STAGES:
        raise UserError(f"stage {run.stage!r}: expected one of {', '.join(STAGES)}")
    place = machine.begin()
    training = TrainingOptions.from_dict(run.training)
    method = build_method(run.method, **run.options)

    # What is compared to choose from may not see what is reported in the end.
    pack = Pack(pack_path, closed=("test",) if run.stage == "selection" else ())
    if pack.task.full_name != run.task:
        raise UserError(f"{pack_path}: the pack of {pack.task.full_name}, expected {run.task}")
    train_split, eval_split = STAGES[run.stage]
    train_split = train_split or pack.task.final_train
    model, backbone = build_backbone(
        run.architecture,
        run.weights,
        pack.num_classes,
        run.seed,
        kind=run.kind,
        image_size=run.image_size,
        normalization=run.normalization,
        drop_path=training.drop_path,
        drop_rate=training.drop_rate,
    )
    if pack.size != backbone.image_size:
        raise UserError(
            f"{pack_path}: has images of {pack.size} pixels, {run.architecture} takes {backbone.image_size}; "
            f"make the pack with --image-size {backbone.image_size}, or set the backbone's image_size"
        )
    attach(model, method, seed=run.seed)
    train_flops = training_flops(model, backbone.image_size)
    machine.place(model)
    trained = count_parameters(model).total
    split = _training_split(pack, train_split, training.fraction, run.seed)
    augment = derive_seed(run.seed, "augment") if pack.task.augment == "crop_flip" else None
    statistics = (backbone.mean, backbone.std)
    how = {"channels_last": machine.channels_last, "workers": machine.threads}
    train = Images(split, *statistics, place, augment, training.views, **how)
    prepared = time.perf_counter()
    fixed = augment is None or training.views > 0
    on_features = machine.features is not None and fixed and is_head_only(model)
    tuned: nn.Module = model
    if on_features:
        # Random weights are the seed's own.
        own_seed = run.seed if backbone.sha256 is None else None
        of_backbone = [pack.digest, asdict(backbone), own_seed, training.precision]
        share = [train_split, training.fraction, run.seed if training.fraction < 1 else None]
        share += [augment, training.views] if augment is not None else []
        decides = [*of_backbone, *share]
        train = cached_features(model, train, machine.features, decides, training.precision)
        tuned = Head(model)
    computed = time.perf_counter()

    label = f"{run.task} {run.variant} seed {run.seed}"
    resume = None
    if machine.resume_folder is not None:
        decides = [run.task, run.stage, run.seed, PROTOCOL_VERSION, pack.digest, asdict(backbone)]
        decides += [method.name, method.model_dump(), asdict(training), on_features]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        path = machine.resume_folder / f"{digest[:16]}.pt"
        resume = ResumeFile(path, digest, machine.save_every)
    progress = fit(tuned, train, training, run.seed, label, resume)
    progress.seconds += computed - prepared

    adapter = method.parameters(model)
    merge(model)
    opened = time.perf_counter()
    data = Images(pack.split(eval_split), *statistics, place, **how)
    if on_features:
        decides = [*of_backbone, eval_split]
        data = cached_features(model, data, machine.features, decides, training.precision)
    metrics = evaluate(tuned, data, pack.sets, training.precision)
    ended = time.perf_counter()
    if not math.isfinite(metrics["loss"]):
        raise Diverged(
            f"{label}: the loss on {eval_split} is {metrics['loss']} after the last epoch "
            f"(peak lr {training.lr:.3g}, last epoch's loss {progress.train_loss[-1]:.4g}); try a smaller lr"
        )

    head = sum(parameter.numel() for parameter in model.get_classifier().parameters())
    record = {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        "run": {
            "benchmark": pack.task.benchmark,
            "group": pack.task.group,
            "task": pack.task.name,
            "backbone": run.backbone,
            "variant": run.variant,
            "seed": run.seed,
        },
        "protocol": {
            "name": run.protocol,
            "version": PROTOCOL_VERSION,
            "train_split": train_split,
            "eval_split": eval_split,
        },
        "method": {"name": method.name, "options": method.model_dump()},
        "backbone": asdict(backbone) | {"mean": list(backbone.mean), "std": list(backbone.std)},
        "training": asdict(training)
        | {"passes": method.passes}
        | ({"accumulation": progress.accumulation} if progress.accumulation > 1 else {}),
        "metrics": metrics | {"train_loss": progress.train_loss},
        "parameters": {
            "adapter": adapter,
            "head": head,
            "total": adapter + head,
            "trained": trained,
            "model": sum(parameter.numel() for parameter in model.parameters()),
        },
        "flops": {
            "train_per_image": train_flops,
            "inference_per_image": inference_flops(model, backbone.image_size),
        },
        "seconds": {
            "prepare": prepared - start,
            "train": progress.seconds,
            "eval": ended - opened,
            "total": ended - start,
        },
        "images_per_second": progress.images / progress.seconds,
        "peak_memory_mib": provenance.peak_memory_mib(place),
        "device": provenance.describe_device(place) | machine.describe(),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "data": {
            "digest": pack.digest,
            "train_examples": len(train),
            "eval_examples": len(data),
            "resize": pack.task.resize,
            "interpolation": pack.interpolation,
            "augment": pack.task.augment,
            "notes": pack.notes,
        },
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_record(record, output)
    if resume is not None:
        resume.remove()
    return record


def _training_split(pack: Pack, name: str, fraction: float, seed: int) -> DataSplit:
    split = pack.split(name)
    if fraction == 1:
        return split
    return split.subset(
        pack.fraction(fraction, seed) if name == "train" else stratified(split.labels, fraction, seed)
    )
