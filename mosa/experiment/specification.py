"""A specification: everything that decides the result of a run, except its seed.

The head process of the workflow makes it from the config, once. It is a file, the job's only input beside the
pack; the record carries it; and whoever reads a record compares it with the one that is meant.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mosa.backbones.kinds import KINDS, NORMALIZATIONS
from mosa.base.errors import UserError, unknown
from mosa.base.files import PACKAGE, written_atomically
from mosa.experiment.declared import STORED, Declared, decisive, differences, digest_of_data, option
from mosa.experiment.protocol import STAGES, get_preset
from mosa.experiment.recipe import Recipe, problem_of
from mosa.experiment.validation import (
    Places,
    explain,
    method_schemas,
    model_of,
    read_schema,
    validated,
)

_DIGESTS = {"data.source": "the images or their labels", "backbone.identity": "the weights"}
_DIGEST = re.compile("[0-9a-f]{64}")
PLUGIN_KEY = "plugins."  # before the name of a plugin, where specifications are compared
BUILTIN_CARDS = {"mosa_vit_micro": PACKAGE / "backbones" / "assets" / "micro_vit.json"}


class ProtocolUsed(Declared):
    """Which protocol a run follows."""

    name: str = option(min_length=1, description="Name of the preset, see docs/protocols.md.")
    version: int = option(
        ge=1, description="Version of the rules; results of different versions are not comparable."
    )


class DataUsed(Declared):
    """Which images a run uses."""

    pack: str = option(
        min_length=1,
        description="Path of the pack below the folder of packs; its name has a digest of how it is made.",
    )
    source: str | None = option(
        None,
        description="Digest of the files on disk that the pack is made of; null where images are rendered.",
    )
    root: str | None = option(
        None, digested=False, description="Folder or file that the images were read from; null: rendered."
    )
    own: dict[str, Any] | None = option(
        None,
        digested=False,
        description="The entry of an own task in the config; null for a benchmark's task.",
    )


class BackboneUsed(Declared):
    """Which pre-trained model a run starts from."""

    name: str = option(min_length=1, description="Name of the backbone in the config.")
    architecture: str = option(min_length=1, description="timm's name of the architecture.")
    weights: str = option(
        digested=False, description="builtin, random, hub: and a tag, or the file of the weights."
    )
    identity: str = option(
        description="What the weights are, wherever they lie: SHA-256 of the file, `random`, or hub: and a "
        "tag."
    )
    kind: Literal[KINDS] = option("auto", description="Format of the file, see docs/weights.md.")
    image_size: int | None = option(None, description="Side of the square input, in pixels; null: timm's.")
    normalization: Literal["weights", *NORMALIZATIONS] = option(
        "weights",
        description="Statistics of the input; `weights`: as the weights were trained, `none`: pixels in 0 "
        "... 1.",
    )


class PluginUsed(Declared):
    """Code of the user's own that a run uses."""

    name: str = option(min_length=1, digested=False, description="Name of the file, or of the module.")
    path: str | None = option(
        None, digested=False, description="The file, as seen from the working directory; null for a module."
    )
    sha256: str = option(
        pattern="^[0-9a-f]{64}$", description="Digest of the file, or of all files of the module's package."
    )


class MeasuredBy(PluginUsed):
    """Code of the user's own that measures a run."""

    metrics: list[str] = option(digested=False, description="The metrics that it defines.")


class Fold(Declared):
    """Which part of train + val a trial is compared on, trained on the others."""

    number: int = option(ge=0, description="Number of the part.")
    of: int = option(ge=2, description="Number of parts, each with its share of every class.")


class Specification(Declared):
    """Everything that decides the result of a run, except its seed."""

    task: str = option(pattern="^[^/]+/.+$", description="Benchmark and task, such as demo/digits.")
    backbone: BackboneUsed = option(description="The pre-trained model.")
    variant: str = option(min_length=1, description="Name of the variant in the config.")
    method: str = option(min_length=1, description="Name in the registry of methods.")
    options: dict[str, Any] = option(description="All options of the method.")
    training: Recipe = option(description="The recipe.")
    stage: Literal[tuple(STAGES)] = option(
        description="final: trained on train + val, evaluated on test; selection: on train, and on val."
    )
    protocol: ProtocolUsed = option(description="The protocol.")
    data: DataUsed = option(description="The images.")
    fold: Fold | None = option(
        None, neutral=None, description="In a cross-validated selection: what takes the place of val."
    )
    plugins: list[PluginUsed] = option(
        [], neutral=[], description="The user's own code that the method, backbone or data layout is from."
    )
    measures: list[MeasuredBy] = option(
        [],
        neutral=[],
        digested=False,
        description="The user's own code that measures the run; it does not change what is trained.",
    )
    method_schema: dict[str, Any] | None = option(
        None,
        neutral=None,
        digested=False,
        description="Schema of the options of a plugin's method, by which records are read without the "
        "plugin; null for a method of the package.",
    )

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of what decides the result; options at their neutral values are left out."""
        return digest_of_data(self.decisive())

    def decisive(self) -> dict[str, Any]:
        """Return what decides the result, as plain data."""
        known = self.method_schema is not None or self.method in list_known()
        options = decisive(complete(self)) if known else self.options
        return decisive(self) | {"options": options}

    @property
    def folder(self) -> str:
        """Folder of the records below the results folder; with the seed it is a run's identity."""
        return f"runs/{self.task}/{self.backbone.name}/{self.variant}"

    def record_path(self, seed: int) -> str:
        """Return the path of a record below the results folder."""
        return f"{self.folder}/seed{seed}.json"

    def differences(self, other: "Specification") -> dict[str, tuple[Any, Any]]:
        """Return the keys that decide the result and differ, with both values; of plugins, their digests."""
        return differences(self._beside(other), other._beside(self))

    def _beside(self, other: "Specification") -> dict[str, Any]:
        """Return what decides the result, each plugin that only this one has under its name."""
        shared = {one.sha256 for one in other.plugins}
        named = {PLUGIN_KEY + one.name: one.sha256[:16] for one in self.plugins if one.sha256 not in shared}
        return {key: value for key, value in self.decisive().items() if key != "plugins"} | named


def in_words(differing: Mapping[str, tuple[Any, Any]], form: str) -> dict[str, str]:
    """Return differences in words, by their keys. Digests of files say nothing to a reader.

    Args:
        differing: As `Specification.differences` returns them.
        form: How two values are told, such as "{key} was {ours!r}, and is {theirs!r}".
    """
    texts = {key: form.format(key=key, ours=ours, theirs=theirs) for key, (ours, theirs) in differing.items()}
    for key, files in _DIGESTS.items():
        if all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in differing.get(key, [None])):
            texts[key] = f"{files} on disk are others"
            if key == "data.source":  # the name of the pack has it, too
                texts.pop("data.pack", None)
    return texts


def list_known() -> list[str]:
    """Return the names of the methods of the package, from their generated schema."""
    return list(read_schema("methods")["$defs"])


def complete(specification: Specification) -> Declared:
    """Return a method's options as a model, with the neutral value of an option that did not exist yet.

    Raises:
        UserError: An option is unknown, or a value is not allowed.
    """
    model = model_of(specification.method, specification.method_schema)
    return validated(model, dict(specification.options), ("options",), Places(), STORED)


def make_specification(
    task: str,
    method: str,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    *,
    variant: str | None = None,
    backbone: str = "micro_vit",
    architecture: str = "mosa_vit_micro",
    weights: str = "builtin",
    sha256: str | None = None,
    kind: str = "auto",
    image_size: int | None = None,
    normalization: str = "weights",
    stage: str = "final",
    protocol: str = "demo",
    source: str | None = None,
    plugins: Sequence[PluginUsed] = (),
    measures: Sequence[MeasuredBy] = (),
) -> Specification:
    """Make the specification of a single run, without a config.

    Args:
        task: Benchmark and task, such as "demo/digits".
        method: Name of the method.
        options: Its options; those left out take their defaults.
        training: Options of the recipe; those left out take their defaults.
        variant: Name of the method with these options; None: the method's.
        backbone: Name of the backbone.
        architecture: timm's name.
        weights: builtin, random, hub: and a tag, or a file.
        sha256: Digest of the file.
        kind: Format of the file, see `mosa.backbones.weights.load_weights`.
        image_size: Side of the square input, in pixels; None: timm's.
        normalization: "weights" (as they were trained), or a name of `mosa.backbones.kinds`.
        stage: "final" or "selection".
        protocol: Name of the protocol.
        source: What the pack was made of, see `DataUsed`.
        plugins: The plugins in use that the run uses, see `mosa.experiment.plugins.used_by`.
        measures: Those that measure it.

    Raises:
        UserError: The method or an option is unknown, or a value is not allowed.
    """
    places = Places()
    schemas = method_schemas()
    if method not in schemas:
        raise unknown("method", method, schemas)
    recipe = validated(Recipe, dict(training or {}), ("training",), places)
    problem = problem_of(vars(recipe))
    if problem is not None:
        raise places.error(("training", problem[0]), problem[1])
    plain = {
        "task": task,
        "backbone": {
            "name": backbone,
            "architecture": architecture,
            "weights": weights,
            "identity": weights_identity(architecture, weights, sha256),
            "kind": kind,
            "image_size": image_size,
            "normalization": normalization,
        },
        "variant": variant or method,
        "method": method,
        "options": validated(model_of(method), dict(options or {}), ("options",), places).model_dump(),
        "training": recipe.model_dump(),
        "stage": stage,
        "protocol": {"name": protocol, "version": get_preset(protocol).version},
        "data": {"pack": "given", "source": source},
        "plugins": list(plugins),
        "measures": list(measures),
        "method_schema": None if method in list_known() else schemas[method],
    }
    return validated(Specification, plain, (), places)


def weights_identity(architecture: str, weights: str, sha256: str | None) -> str:
    """Return what weights are, wherever they lie.

    Args:
        architecture: timm's name.
        weights: builtin, random, hub: and a tag, or a file.
        sha256: Digest of the file; None where there is none (yet).
    """
    if weights == "builtin" and architecture in BUILTIN_CARDS:
        return json.loads(BUILTIN_CARDS[architecture].read_text(encoding="utf-8"))["sha256"]
    return sha256 or weights


def write_specification(specification: Specification, folder: Path) -> Path:
    """Write a specification into a file that is named by its content, unless it is there.

    Returns:
        The path: <folder>/<the first 16 digits of its digest>.json.
    """
    path = folder / f"{specification.digest[:16]}.json"
    text = specification.model_dump_json(indent=1) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with written_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path


def read_specification(path: Path) -> Specification:
    """Read a specification.

    Raises:
        UserError: The file cannot be read, or is not one, or was changed since it was named.
    """
    try:
        found = Specification.model_validate_json(path.read_bytes(), context=STORED)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); run the workflow again, which writes it"
        ) from None
    except ValidationError as error:
        problem = explain(error, (), Places())
        raise UserError(
            f"{path}: not a specification, {problem}; run the workflow again, which writes it"
        ) from None
    if len(path.stem) == 16 and found.digest[:16] != path.stem:
        raise UserError(f"{path}: was changed (its digest is {found.digest[:16]}); run the workflow again")
    return found
