"""The record of a run: what one finished run leaves, with its specification and where the result came from.

A record is written once and atomically. It is verified when it is read: its form, the digest of its own
content, and, against a manifest, that its specification is the one that is meant.
"""

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, create_model, model_serializer

from mosa.backbones.kinds import FOUND_KINDS
from mosa.base.errors import UserError, expected, reason_of
from mosa.base.files import written_atomically
from mosa.base.plugins import in_use
from mosa.data.metrics import SHIPPED
from mosa.data.task import AUGMENTATIONS, INTERPOLATIONS, RESIZES
from mosa.experiment.declared import STORED, Declared, digest_of_data, option
from mosa.experiment.recipe import COMPILE, Recipe
from mosa.experiment.specification import Specification, complete, in_words
from mosa.experiment.validation import Places, explain

SCHEMA_VERSION = 4
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Curve = Annotated[list[float | None], Field(min_length=1)]
Statistics = Annotated[list[float], Field(min_length=3, max_length=3)]


def column(name: str = "") -> dict[str, Any]:
    """Mark a field as a column of the table of records; without a name, under the field's own."""
    return {"column": name or True}


class Splits(Declared):
    """Which splits were used for what."""

    train: Literal["train", "trainval"] = option(
        description="Split that was trained on.", json_schema_extra=column("train_split")
    )
    eval: Literal["val", "test"] = option(
        description="Split that the metrics are of, evaluated once, after the last epoch.",
        json_schema_extra=column("eval_split"),
    )


class BackboneFound(Declared):
    """The pre-trained model as it was loaded."""

    kind: Literal[FOUND_KINDS] | None = option(
        description="Format of the weights; null for random weights.",
        json_schema_extra=column("weights_kind"),
    )
    sha256: Digest | None = option(
        description="Digest of the weights file; null for random weights.",
        json_schema_extra=column("weights_sha256"),
    )
    image_size: int = option(
        ge=1, description="Side of the square input, in pixels.", json_schema_extra=column()
    )
    mean: Statistics = option(
        description="Mean per channel of the normalisation, for pixels in 0 ... 1.",
        json_schema_extra=column("input_mean"),
    )
    std: Statistics = option(
        description="Standard deviation per channel of the normalisation.",
        json_schema_extra=column("input_std"),
    )
    guessed: bool = option(
        False,
        optional=True,
        description="Whether mean and std are a guess, because neither the config nor the file says them.",
    )
    notes: list[str] = option(
        [], optional=True, description="What was decided for the user, such as a prefix taken off the names."
    )

    @model_serializer(mode="wrap")
    def _where_it_applies(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not decided."""
        return {key: value for key, value in dump(self).items() if value or key not in ("guessed", "notes")}


class DataFound(Declared):
    """The images that were used."""

    digest: Digest = option(description="Digest of the packed task.", json_schema_extra=column("data_digest"))
    classes: int | None = option(
        None,
        ge=1,
        optional=True,
        description="Number of classes; null in records that are older than this key.",
        json_schema_extra=column(),
    )
    train_examples: int = option(ge=1, description="Number of training images.", json_schema_extra=column())
    eval_examples: int = option(ge=1, description="Number of evaluated images.", json_schema_extra=column())
    resize: Literal[RESIZES] = option(
        description="Straight to the square, or the shorter side and then a crop."
    )
    interpolation: Literal[INTERPOLATIONS] | None = option(
        description="Interpolation used for resizing; null where images are rendered."
    )
    augment: Literal[AUGMENTATIONS] = option(description="Augmentation while training.")
    notes: list[str] = option(
        description="What was decided for the user, such as a hold-out of val.",
        json_schema_extra=column("data_notes"),
    )


class Steps(Declared):
    """How a training step was done."""

    passes: int = option(ge=1, description="Forward passes per step.", json_schema_extra=column())
    accumulation: int = option(
        1,
        ge=1,
        optional=True,
        description="Number of parts that a step was split into, where it did not fit into the GPU's memory.",
    )
    choice: Digest | None = option(
        None,
        optional=True,
        description="Digest of what the method chose from training images, where it chooses something.",
    )

    @model_serializer(mode="wrap")
    def _where_it_applies(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not chosen."""
        return {key: value for key, value in dump(self).items() if value is not None}


class _Measured(Declared):
    """Measured once on the evaluated split after the last epoch, and the training loss on the way."""

    examples: int = option(ge=1, description="Number of evaluated images.")
    per_set: dict[str, float] = option(
        description="The reported metric of each data set of a union, by its name; else empty.",
        json_schema_extra=column(),
    )
    train_loss: Annotated[list[float], Field(min_length=1)] = option(
        description="Mean training loss of each epoch.", json_schema_extra=column()
    )


def _measured() -> type[_Measured]:
    """Return `_Measured` with a field for each metric; records may be older than a metric."""
    fields: dict[str, Any] = {}
    for name, metric in SHIPPED.items():
        bounds: dict[str, Any] = {"ge": 0, "le": 100} if metric.unit == "%" else {}
        declared = option(
            None, optional=True, description=metric.description, json_schema_extra=column(), **bounds
        )
        fields[name] = (float | None, declared)
    return create_model("Measured", __base__=_Measured, __doc__=_Measured.__doc__, **fields)


class Curves(Declared):
    """What was followed from epoch to epoch; nothing of it is a result. Older records have none."""

    terms: dict[str, Curve] = option(
        {},
        optional=True,
        description="Where the training loss is a sum: the mean of each weighted term in each epoch: `ce`, "
        "`ce_second` (of the second pass), `kl` and `features` (between two passes).",
        json_schema_extra=column("loss_terms"),
    )
    val: dict[str, Curve] = option(
        {},
        optional=True,
        description="With keep.val, where val is not trained on: the task's metric and the NLL of val after "
        "each epoch; null: not finite.",
        json_schema_extra=column("val_curves"),
    )


class Parameters(Declared):
    """Numbers of parameters."""

    adapter: Count = option(
        description="Tuned parameters without the classifier, as stored after merging (LoRA: of the change).",
        json_schema_extra=column("adapter_parameters"),
    )
    head: Count = option(
        description="Parameters of the classifier.", json_schema_extra=column("head_parameters")
    )
    total: Count = option(description="adapter + head.", json_schema_extra=column("total_parameters"))
    trained: Count = option(
        description="Parameters tuned while training, classifier included; more than total where experts "
        "hold biases of their own.",
        json_schema_extra=column("trained_parameters"),
    )
    model: Count = option(
        description="All parameters of the merged model.", json_schema_extra=column("model_parameters")
    )


class Flops(Declared):
    """Floating-point operations of matrix products, convolutions, attention; a multiply-add counts as two."""

    train_per_image: Amount = option(
        description="Of one training image in one step: all passes, forward and backward.",
        json_schema_extra=column("train_flops_per_image"),
    )
    inference_per_image: Amount = option(
        description="Of one image in evaluation, after merging.",
        json_schema_extra=column("inference_flops_per_image"),
    )


class Seconds(Declared):
    """Wall time."""

    prepare: Amount = option(
        description="Loading data and weights, attaching the method.",
        json_schema_extra=column("prepare_seconds"),
    )
    train: Amount = option(
        description="The training loop, and the features that it trains on.",
        json_schema_extra=column("train_seconds"),
    )
    eval: Amount = option(description="The evaluation.", json_schema_extra=column("eval_seconds"))
    total: Amount = option(
        description="All of it, without the start of Python.", json_schema_extra=column("total_seconds")
    )


class Device(Declared):
    """What computed the run."""

    type: str = option(description="cpu or cuda.", json_schema_extra=column("device_type"))
    name: str = option(description="Name of the processor or device.", json_schema_extra=column("device"))
    threads: int = option(ge=1, description="CPU threads of torch.")
    compile: Literal[COMPILE] = option(
        "none", optional=True, description="What was compiled, or replayed as a graph."
    )
    channels_last: bool = option(
        False, optional=True, description="Whether images were kept with channels last."
    )
    gradient_checkpointing: bool = option(
        False, optional=True, description="Whether activations were computed again in the backward."
    )
    earlier: list[str] = option(
        [],
        optional=True,
        description="Other devices that the run was on before it stopped, and went on here; absent: none.",
    )


class Git(Declared):
    """The code that ran, where it lies in a git checkout."""

    commit: str | None = option(description="Commit that was checked out.", json_schema_extra=column())
    dirty: bool | None = option(
        description="Whether the files of the package differed from it.", json_schema_extra=column()
    )


class Kept(Declared):
    """Files that the run left beside its record."""

    predictions: Digest | None = option(
        None,
        optional=True,
        description="SHA-256 of seed<n>.predictions.safetensors; null: the run kept none.",
        json_schema_extra=column("predictions_sha256"),
    )
    model: Digest | None = option(
        None,
        optional=True,
        description="SHA-256 of seed<n>.model.safetensors; null: the run kept none.",
        json_schema_extra=column("model_sha256"),
    )
    images: str | None = option(
        None,
        optional=True,
        description="File with the names of images and classes, relative to the record; null: there is none.",
    )


class Record(Declared):
    """What one finished run leaves: its specification, its result, and where the result came from."""

    schema_version: Literal[4] = option(description="Version of this form.")
    status: Literal["complete"] = option(
        description="Only complete runs leave a record; a failed run leaves its log."
    )
    specification_digest: Digest = option(
        description="Digest of the specification.", json_schema_extra=column("specification")
    )
    digest: Digest = option(description="SHA-256 of the record without this key.")
    seed: Count = option(description="Seed of the run.", json_schema_extra=column())
    specification: Specification = option(description="Everything that decides the result, except the seed.")
    group: str = option(
        min_length=1, description="Group of tasks within the benchmark.", json_schema_extra=column()
    )
    metric: str = option(description="The metric that the task reports.", json_schema_extra=column())
    splits: Splits = option(description="Which splits were used for what.")
    backbone: BackboneFound = option(description="The pre-trained model as it was loaded.")
    data: DataFound = option(description="The images that were used.")
    steps: Steps = option(description="How a training step was done.")
    metrics: _measured() = option(description=_Measured.__doc__)
    curves: Curves = option(Curves(), optional=True, description=Curves.__doc__)
    parameters: Parameters = option(description="Numbers of parameters.")
    flops: Flops = option(description=Flops.__doc__)
    seconds: Seconds = option(description="Wall time.")
    images_per_second: Amount = option(
        description="Training images per second, each counted once per step.", json_schema_extra=column()
    )
    peak_memory_mib: Amount = option(
        description="Peak memory of the process (CPU) or of the device (GPU), in MiB.",
        json_schema_extra=column(),
    )
    device: Device = option(description="What computed the run.")
    versions: dict[str, str] = option(
        description="Versions of Python and of the libraries that compute.", json_schema_extra=column()
    )
    git: Git = option(description="The code that ran, where it lies in a git checkout.")
    kept: Kept = option(Kept(), optional=True, description=Kept.__doc__)
    created: str = option(description="When the run ended, UTC.", json_schema_extra=column())


def _own_metrics(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Return a record without the values of plugins' metrics, and these values.

    The specification says which plugins measured it, so that a record can be read without them.

    Raises:
        UserError: A value is no number; or the task reports a metric that neither this package nor one of the
            plugins has.
    """
    try:
        measures = record["specification"].get("measures", [])
        names = [name for one in measures for name in one["metrics"]]
        found = {name: record["metrics"][name] for name in names if name in record["metrics"]}
    except (KeyError, TypeError):
        return dict(record), {}  # the models say what is wrong
    known = [*SHIPPED, *names]
    for name, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise UserError(f"metrics.{name}: got {value!r}, expected a number")
    metric = record.get("metric")
    if isinstance(metric, str) and metric not in known:
        raise UserError(f"metric: {metric!r} is not allowed: {expected(metric, known)}")
    metrics = {name: value for name, value in record["metrics"].items() if name not in found}
    return dict(record) | {"metrics": metrics}, found


def columns_of(model: type[Declared], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each column that a model declares, and where in the record it stands."""
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "column" in extra:
            yield (name if extra["column"] is True else str(extra["column"])), f"{prefix}{name}"
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Declared):
            yield from columns_of(field.annotation, f"{prefix}{name}.")


def check_metric_names() -> None:
    """Refuse plugins' metrics whose names are taken by something else that records or tables hold.

    Raises:
        UserError: One is.
    """
    taken = {*_Measured.model_fields, *Recipe.model_fields, *dict(columns_of(Record))}
    for plugin in in_use():
        for name in plugin.names("metric"):
            if name in taken:
                raise UserError(
                    f"plugin {plugin.name}: metric {name!r}: the table of records has a column of this name; "
                    "take another"
                )


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the digest of its content."""
    content = {key: value for key, value in record.items() if key != "digest"}
    return content | {"digest": digest_of_data(content)}


def write_record(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Seal a record, validate it and write it atomically: the file appears whole or not at all.

    Returns:
        What was written.

    Raises:
        UserError: The record does not conform, or the file cannot be written.
    """
    found = _validated(dict(record) | {"digest": "0" * 64}, str(path))
    sealed = seal(found)
    ordered = {name: sealed[name] for name in Record.model_fields}
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(ordered, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return ordered


def load_record(path: Path) -> dict[str, Any]:
    """Read and verify a record.

    Returns:
        The record as plain data; options that it is older than have their neutral values.

    Raises:
        UserError: The file cannot be read, is not JSON, does not conform, or was changed by hand.
    """
    named = Path(path).match("seed*.json")  # otherwise it may be a file of the user's own
    again = "delete it and run again" if named else "name one, such as results/runs/.../seed0.json"
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the record ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({reason_of(error)}), and no record of a run; {again}") from None
    if isinstance(record, dict) and record.get("schema_version") in (1, 2, 3):
        raise UserError(
            f"{path}: was written by an earlier version of this project and carries no specification; "
            f"{again}, or take another results folder"
        )
    found = _validated(record, str(path))
    if seal(record)["digest"] != found["digest"]:
        raise UserError(f"{path}: was changed after it was written; delete it and run again")
    return found


def _validated(record: Any, source: str) -> dict[str, Any]:
    try:
        own: dict[str, float | None] = {}
        if isinstance(record, dict) and isinstance(record.get("specification"), dict):
            record, own = _own_metrics(record)
            record = record | {"specification": _specification(json.dumps(record["specification"]))}
        found = Record.model_validate(record, context=STORED)
    except ValidationError as error:
        raise UserError(f"{source}: not a valid record, {explain(error, (), Places())}") from None
    except KeyError as error:
        raise UserError(f"{source}: not a valid record, specification: {error}") from None
    except UserError as error:
        raise UserError(f"{source}: not a valid record, {error}") from None
    digest = found.specification.digest
    if digest != found.specification_digest:
        raise UserError(
            f"{source}: not a valid record, its specification has the digest {digest[:16]}, not "
            f"{found.specification_digest[:16]}; delete it and run again"
        )
    content = found.model_dump()
    content["metrics"] |= own
    if not found.device.earlier:  # as in records that are older than this key
        del content["device"]["earlier"]
    return content


@lru_cache(maxsize=4096)
def _specification(text: str) -> Specification | dict[str, Any]:
    """Return a specification, which the seeds of a variant share; plain data, for its errors, if it is none.

    Raises:
        KeyError, UserError: The method is unknown, or its options are not allowed.
    """
    plain = json.loads(text)
    try:
        found = Specification.model_validate(plain, context=STORED)
    except ValidationError:
        return plain
    try:
        complete(found)
    except UserError as error:
        raise UserError(f"specification: {error}") from None
    return found


def check_specification(record: Mapping[str, Any], meant: Specification, path: Path) -> None:
    """Refuse a record of another specification than the one that is meant.

    Raises:
        UserError: What differs, with both values, and what to do.
    """
    if record["specification_digest"] == meant.digest:
        return
    found = Specification.model_validate(record["specification"])
    differing = in_words(found.differences(meant), "{key} is {ours!r}, expected {theirs!r}")
    raise UserError(
        f"{path}: the record of another specification: {', '.join(differing.values())}; run "
        "the workflow again, which repeats the run, or take another results folder (paths.results)"
    )
