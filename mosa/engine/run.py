"""One run: a specification and a seed in, a record out."""

import datetime
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mosa.backbones.build import Backbone, build_backbone
from mosa.base.errors import UserError
from mosa.base.seeding import derive_seed, generator
from mosa.data.layouts.source import deal, stratified
from mosa.data.metrics import METRICS
from mosa.data.packs import Pack
from mosa.data.splits import DataSplit
from mosa.engine import provenance
from mosa.engine.batches import Images
from mosa.engine.cost.flops import inference_flops, training_flops
from mosa.engine.diverged import Diverged, DivergedNote
from mosa.engine.events import Events, drop_events, folder_of
from mosa.engine.features import (
    Head,
    cached_features,
    classifies_features,
    fits,
    is_beside_a_fixed_trunk,
    is_head_only,
    pre_logits,
)
from mosa.engine.keep import NOTHING, Evaluated, Keep, keep_files, unmerged
from mosa.engine.loop import Progress, Validate, fit, measure, predict, try_metrics, value_of
from mosa.engine.machine import CPU, Machine, uncompile_blocks
from mosa.engine.resume import ResumeFile
from mosa.experiment.alive import signs_of_life
from mosa.experiment.declared import digest_of_data
from mosa.experiment.expand import Run
from mosa.experiment.families import family_of
from mosa.experiment.plugins import use_for
from mosa.experiment.protocol import STAGES
from mosa.experiment.specification import Fold, Specification
from mosa.peft import Chosen, Method, attach, build_method, count_parameters, merge
from mosa.peft.blocks import find_head
from mosa.peft.choice import digest_of_choice
from mosa.peft.routing import is_stochastic
from mosa.peft.side import OnTrunk
from mosa.records import SCHEMA_VERSION, check_metric_names, write_record

PROVED = ("ViT", "Swin", "ConvNeXt")  # families of which the tests prove every method


@dataclass
class Prepared:
    """A run that is ready to train.

    Attributes:
        run: The run.
        machine: How it is done here.
        place: The device.
        pack: The packed task.
        splits: The splits that are trained on and evaluated.
        model: The whole model, with the method attached.
        method: The method.
        backbone: What the model was loaded from.
        train: The training images, or their features.
        tuned: What is trained: the model, or what comes after the features where these are kept.
        train_flops: FLOPs of one training image in one step.
        trained: Parameters that are trained, classifier included.
        choice: Digest of what the method chose from training images; None if it chooses nothing.
        seconds: Wall time until it was ready to compute features, and with them.
    """

    run: Run
    machine: Machine
    place: torch.device
    pack: Pack
    splits: tuple[str, str]
    model: nn.Module
    method: Method
    backbone: Backbone
    train: Images
    tuned: nn.Module
    train_flops: float = 0.0
    trained: int = 0
    choice: str | None = None
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def on_features(self) -> bool:
        """Whether a part of the model is trained, on kept features."""
        return self.tuned is not self.model

    @property
    def label(self) -> str:
        """What messages call it."""
        specification = self.run.specification
        return f"{specification.task} {specification.variant} seed {self.run.seed}"


def execute(
    run: Run, pack_path: Path, output: Path, machine: Machine = CPU, keep: Keep = NOTHING
) -> dict[str, Any]:
    """Train and evaluate one run, and write its record.

    The evaluated split is not read before the last epoch is over, unless it is val and its curve is kept.

    Args:
        run: The run.
        pack_path: The packed task.
        output: Where the record is written, atomically, at the end.
        machine: How it is done here.
        keep: What is written beside the record; the record names its digests.

    Returns:
        The record.

    Raises:
        UserError: An option is wrong, or pack, weights or a plugin are not those of the specification.
        Diverged: The loss became NaN or infinite, now or when the same run was last trained; no record is
            written.
        Interrupted: A signal asked to stop, and the state is saved in `machine.resume_folder`.
    """
    use_for(run.specification)
    check_metric_names()
    note = DivergedNote(run, machine)
    note.refuse()
    try:
        resume = machine.resume_folder
        signs = None if resume is None else resume.with_name("running")
        with signs_of_life(signs, run.specification.digest, run.seed):
            record = _execute(run, pack_path, output, machine, keep)
    except Diverged as error:
        note.write(error)
        raise
    note.remove()
    return record


def _execute(run: Run, pack_path: Path, output: Path, machine: Machine, keep: Keep) -> dict[str, Any]:
    """Train, evaluate and write the record; see `execute`."""
    start = time.perf_counter()
    libraries = provenance.versions(run.specification.method)
    code = {"versions": libraries, "git": provenance.git_state()}  # before files change
    ready = _prepare(run, pack_path, machine)
    before, with_features = ready.seconds
    resume = _resume_file(ready)
    training, graph = run.specification.training, machine.compile == "step_graph"
    events = Events(output) if keep.events else drop_events(folder_of(output))
    validate = _validation(ready) if keep.val or keep.events else None
    began = time.perf_counter()
    progress = fit(ready.tuned, ready.train, training, run.seed, ready.label, resume, graph, events, validate)
    earlier = max(0.0, progress.seconds - (time.perf_counter() - began))  # of the run that this one goes on
    progress.seconds += with_features - before
    adapter = ready.method.parameters(ready.model)
    uncompile_blocks(ready.model)
    before_merging = unmerged(ready.model, keep)
    merge(ready.model)
    opened = time.perf_counter()
    found = _predict(ready)
    metrics = _measure(ready, found, progress)
    ended = time.perf_counter()
    seconds = {
        "prepare": before - start,
        "train": progress.seconds,
        "eval": ended - opened,
        "total": earlier + ended - start,
    }
    record = _describe(ready, progress, metrics, adapter) | {"seconds": seconds} | _origin(ready) | code
    if resume is not None and resume.earlier:
        record["device"]["earlier"] = resume.earlier
    folder = _shared_folder(run, output)
    record["kept"] = keep_files(output, keep, found, ready.model, before_merging, folder)
    record = write_record(record, output)
    if resume is not None:
        resume.remove()
    return record


def _prepare(run: Run, pack_path: Path, machine: Machine) -> Prepared:
    """Open the pack, build the model, attach the method, and bring all of it to the device."""
    specification = run.specification
    training, stage = specification.training, specification.stage
    place = machine.begin()
    method = build_method(specification.method, **specification.options)
    pack = _open(pack_path, specification)
    try_metrics(pack.num_classes)
    splits = (STAGES[stage][0] or pack.task.final_train, STAGES[stage][1])
    model, backbone = _build(run, pack, pack_path)
    split = _training_split(pack, splits[0], specification, run.seed)
    augment = derive_seed(run.seed, "augment") if pack.task.augment == "crop_flip" else None
    if training.views and augment is None:
        raise UserError(
            f"{specification.task}: its images are not augmented, so `views` has no effect; take it out"
        )
    train = Images(
        split, backbone.mean, backbone.std, place, augment, training.views,
        channels_last=machine.channels_last, workers=machine.threads,
    )  # fmt: skip
    ready = Prepared(run, machine, place, pack, splits, model, method, backbone, train, model)
    _attach(ready)
    before = time.perf_counter()
    fixed = augment is None or training.views > 0
    if machine.features is not None and fixed:
        _train_on_features(ready, augment)
    ready.seconds = before, time.perf_counter()
    return ready


def _attach(ready: Prepared) -> None:
    """Attach the method, count what a step costs, and bring the model to the device.

    What a method chooses from training images is not chosen again when a run goes on: the resume file has it.
    """
    model, method, seed, data = ready.model, ready.method, ready.run.seed, None
    if isinstance(method, Chosen):
        model.to(ready.place)
        resume = _resume_file(ready)
        state = resume.load() if resume else None
        data = state["model"] if state else _batches_in_any_order(ready)
    own = bool(ready.run.specification.plugins)  # of which no test proves anything
    verify = own or family_of(ready.backbone.architecture) not in PROVED
    attach(model, method, seed=seed, verify=verify, restorable=False, data=data)
    if method.passes > 1 and not own and not _draws(model):
        raise UserError(
            f"{ready.run.specification.variant}: nothing is drawn in training, so its passes are equal and a "
            "second one changes nothing; give it dropout, or set consistency, second_pass and "
            "feature_consistency to 0"
        )
    ready.train_flops = training_flops(model, ready.backbone.image_size)
    ready.machine.place(model)
    ready.trained = count_parameters(model).total
    ready.choice = digest_of_choice(model, method)


def _draws(model: nn.Module) -> bool:
    """Return whether two passes of a model differ in training: by dropout, or by their experts."""
    router = getattr(model, "router", None)
    several = router is not None and any(layer.experts > 1 for layer in router.projections)
    return several or any(is_stochastic(module) for module in model.modules())


def _batches_in_any_order(ready: Prepared) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the training images once, in a drawn order, as tasks may list them by class."""
    order = torch.randperm(len(ready.train), generator=generator(ready.run.seed, "choice"))
    return ready.train.batches(ready.run.specification.training.batch_size, order)


def _open(path: Path, specification: Specification) -> Pack:
    """Open the pack of a run; what is compared to choose from may not see what is reported in the end."""
    pack = Pack(path, closed=("test",) if specification.stage == "selection" else ())
    if pack.task.full_name != specification.task:
        raise UserError(f"{path}: the pack of {pack.task.full_name}, expected {specification.task}")
    if pack.source != specification.data.source:
        raise UserError(
            f"{path}: was made of other files than the specification means (digest {pack.source}, expected "
            f"{specification.data.source}); run the workflow again, which packs the files as they are"
        )
    return pack


def _build(run: Run, pack: Pack, pack_path: Path) -> tuple[nn.Module, Backbone]:
    """Build the model, and refuse weights and packs that do not fit the specification."""
    wanted, training = run.specification.backbone, run.specification.training
    model, backbone = build_backbone(
        wanted.architecture,
        wanted.weights,
        pack.num_classes,
        run.seed,
        kind=wanted.kind,
        image_size=wanted.image_size,
        normalization=wanted.normalization,
        drop_path=training.drop_path,
        drop_rate=training.drop_rate,
        attention_drop_rate=training.attention_drop_rate,
    )
    known = len(wanted.identity) == 64
    if known and backbone.sha256 != wanted.identity:
        raise UserError(
            f"{wanted.weights}: not the weights of the specification (SHA-256 {backbone.sha256}, expected "
            f"{wanted.identity}); put that file back, or run the workflow again, which takes this one"
        )
    if pack.size != backbone.image_size:
        raise UserError(
            f"{pack_path}: has images of {pack.size} pixels, {wanted.architecture} takes "
            f"{backbone.image_size}; make the pack with --image-size {backbone.image_size}, or set the "
            "backbone's image_size"
        )
    return model, backbone


def _training_split(pack: Pack, name: str, specification: Specification, seed: int) -> DataSplit:
    split, training = _split(pack, name, specification.fold), specification.training
    if training.fraction < 1:
        given = name == "train" and specification.fold is None  # a subset may have come with the data
        index = (
            pack.fraction(training.fraction, seed)
            if given
            else stratified(split.labels, training.fraction, seed)
        )
        split = split.subset(index)
    if training.label_noise:
        rng = np.random.default_rng(derive_seed(seed, "label noise"))
        split = split.with_label_noise(training.label_noise, pack.num_classes, rng)
    return split


def _split(pack: Pack, name: str, fold: Fold | None) -> DataSplit:
    """Return a split, or what a fold has in its place."""
    if fold is None:
        return pack.split(name)
    whole = pack.split("trainval")
    held_out = deal(whole.labels, fold.of) == fold.number
    return whole.subset(np.flatnonzero(held_out if name == "val" else ~held_out))


def _train_on_features(ready: Prepared, augment: int | None) -> None:
    """Replace the images by their features, and the model by what comes after them, where they stay."""
    model, training, seed = ready.model, ready.run.specification.training, ready.run.seed
    if is_head_only(model) and classifies_features(model, ready.train, ready.label):
        read, tuned, what = pre_logits, Head(model), []
    elif is_beside_a_fixed_trunk(model) and fits(model, ready.train, model.side.read, ready.label):
        read, tuned, what = model.side.read, OnTrunk(model), [{"reads": model.side.reads}]
    else:
        return
    share = [ready.splits[0], training.fraction, seed if training.fraction < 1 else None]
    share += [augment, training.views] if augment is not None else []
    decides = [*_decides_features(ready), *share, *what]
    ready.train = cached_features(
        model, ready.train, ready.machine.features, decides, training.precision, read
    )
    ready.tuned = tuned


def _decides_features(ready: Prepared) -> list[Any]:
    """Return what the features of any split depend on; random weights are the seed's own."""
    own_seed = ready.run.seed if ready.backbone.sha256 is None else None
    what = ready.run.specification
    decides = [ready.pack.digest, asdict(ready.backbone), own_seed, what.training.precision]
    decides.append(ready.machine.describe())
    if what.plugins:  # the user's own code may change what is before the classifier, and train nothing of it
        decides += [[one.sha256 for one in what.plugins], what.method, what.options]
    return decides if what.fold is None else [*decides, what.fold.model_dump()]


def _resume_file(ready: Prepared) -> ResumeFile | None:
    """Return where the state of the run is kept, named by everything that decides its result."""
    machine = ready.machine
    if machine.resume_folder is None:
        return None
    decides = [ready.run.specification.digest, ready.run.seed, ready.pack.digest]
    libraries = provenance.versions(ready.run.specification.method)
    how = [provenance.code_digest(), libraries, ready.on_features]
    digest = digest_of_data([*decides, asdict(ready.backbone), *how])
    device = str(provenance.describe_device(ready.place)["name"])
    return ResumeFile(machine.resume_folder / f"{digest[:16]}.pt", digest, machine.save_every, device)


def _predict(ready: Prepared) -> Evaluated:
    """Open the evaluated split, and run the merged model on it, once."""
    pack, split = ready.pack, ready.splits[1]
    model, data = _open_evaluated(ready)
    logits, labels = predict(model, data, ready.run.specification.training.precision)
    names = pack.names(split) if ready.run.specification.fold is None else None  # a trial keeps nothing
    return Evaluated(split, logits, labels, names, pack.class_names, data.split.sets, tuple(pack.sets))


def _open_evaluated(ready: Prepared) -> tuple[nn.Module, Images]:
    """Return the evaluated split, and what computes logits of it: the model, or a classifier of features."""
    machine, training, split = ready.machine, ready.run.specification.training, ready.splits[1]
    data = Images(
        _split(ready.pack, split, ready.run.specification.fold), ready.backbone.mean, ready.backbone.std,
        ready.place, channels_last=machine.channels_last, workers=machine.threads,
    )  # fmt: skip
    if not isinstance(ready.tuned, Head):  # beside a trunk, images that are seen once are not worth keeping
        return ready.model, data
    decides = [*_decides_features(ready), split]
    return ready.tuned, cached_features(ready.model, data, machine.features, decides, training.precision)


def _validation(ready: Prepared) -> Validate | None:
    """Return what measures the unmerged model on val; None where val is trained on.

    Random numbers that a method draws on the way are given back: training goes on as without it.
    """
    if ready.splits != ("train", "val"):
        return None
    (model, data), place = _open_evaluated(ready), ready.place
    metrics = [METRICS[name] for name in (ready.pack.task.metric, "nll")]

    def validate() -> dict[str, float | None]:
        with torch.random.fork_rng([place] if place.type == "cuda" else []):
            logits, labels = predict(model, data, ready.run.specification.training.precision)
        return {metric.name: value_of(metric, logits, labels) for metric in metrics}

    return validate


def _measure(ready: Prepared, found: Evaluated, progress: Progress) -> dict[str, Any]:
    """Measure what was predicted."""
    metric = ready.pack.task.metric
    metrics = measure(found.logits, found.labels, found.sets, found.set_names, metric)
    if not math.isfinite(metrics["nll"]):
        raise Diverged(
            f"{ready.label}: the loss on {found.split} is {metrics['nll']} after the last epoch (peak lr "
            f"{ready.run.specification.training.lr:.3g}, last epoch's loss {progress.train_loss[-1]:.4g}); "
            "try a smaller lr"
        )
    return metrics | {"train_loss": progress.train_loss}


def _shared_folder(run: Run, output: Path) -> Path:
    """Return the folder of what runs on a task share: the task's in a results folder, else the record's."""
    return output.parents[2] if output.as_posix().endswith(run.path) else output.parent


def _describe(ready: Prepared, progress: Progress, metrics: dict[str, Any], adapter: int) -> dict[str, Any]:
    """Return the part of the record that says what was run and measured."""
    specification, backbone, task = ready.run.specification, ready.backbone, ready.pack.task
    head = sum(parameter.numel() for parameter in find_head(ready.model).parameters())
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        "specification_digest": specification.digest,
        "seed": ready.run.seed,
        "specification": specification.model_dump(),
        "group": task.group,
        "metric": task.metric,
        "splits": {"train": ready.splits[0], "eval": ready.splits[1]},
        "backbone": {
            "kind": backbone.kind,
            "sha256": backbone.sha256,
            "image_size": backbone.image_size,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "guessed": backbone.guess is not None,
            "notes": [*backbone.notes, *([backbone.guess] if backbone.guess else [])],
        },
        "data": {
            "digest": ready.pack.digest,
            "classes": ready.pack.num_classes,
            "train_examples": len(ready.train),
            "eval_examples": metrics["examples"],
            "resize": task.resize,
            "interpolation": ready.pack.interpolation,
            "augment": task.augment,
            "notes": ready.pack.notes,
        },
        "steps": {
            "passes": ready.method.passes,
            "accumulation": progress.accumulation,
            **({} if ready.choice is None else {"choice": ready.choice}),
        },
        "metrics": metrics,
        "curves": progress.curves(),
        "parameters": {
            "adapter": adapter,
            "head": head,
            "total": adapter + head,
            "trained": ready.trained,
            "model": sum(parameter.numel() for parameter in ready.model.parameters()),
        },
        "flops": {
            "train_per_image": ready.train_flops,
            "inference_per_image": inference_flops(ready.model, backbone.image_size),
        },
        "images_per_second": progress.images / progress.seconds,
    }


def _origin(ready: Prepared) -> dict[str, Any]:
    """Return the part of the record that says when it was made, and on what."""
    return {
        "peak_memory_mib": provenance.peak_memory_mib(ready.place),
        "device": provenance.describe_device(ready.place) | ready.machine.describe(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
