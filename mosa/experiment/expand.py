"""From a loaded config to its runs, each with its specification."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from mosa.data.catalogue import get_task
from mosa.data.content import file_content, task_content
from mosa.data.task import OWN, Task, pack_name, task_from_config
from mosa.experiment.families import unfit
from mosa.experiment.plugins import schemas_of, used_by
from mosa.experiment.protocol import PRESETS
from mosa.experiment.recipe import Recipe
from mosa.experiment.specification import (
    BackboneUsed,
    DataUsed,
    ProtocolUsed,
    Specification,
    weights_identity,
)


@dataclass(frozen=True)
class Run:
    """One run: what it is, and its seed.

    Attributes:
        specification: Everything that decides the result, except the seed. The values that a search
            chooses are laid over it.
        seed: Seed of the run.
        choice: Which choice of hyper-parameters it takes, such as "demo/digits/micro_vit/mosa"; "": none.
    """

    specification: Specification
    seed: int = 0
    choice: str = ""

    @property
    def path(self) -> str:
        """Path of the record below the results folder; it is also the run's identity there."""
        return self.specification.record_path(self.seed)


@dataclass(frozen=True)
class Identities:
    """What lies on disk now, by content.

    Attributes:
        sources: Digest of the files of each task that lies on disk, by its full name.
        weights: SHA-256 of each weights file, by its path as in the config.
    """

    sources: Mapping[str, str | None] = field(default_factory=dict)
    weights: Mapping[str, str | None] = field(default_factory=dict)


def identify(config: Mapping[str, Any]) -> Identities:
    """Identify by content what a loaded config reads from disk; untouched files are not read again."""
    cache = Path(config["paths"]["packs"])
    folders = config["paths"]["data"]
    sources = {
        task.full_name: task_content(task, root_of(task, folders), cache)
        for task in config_tasks(config)
        if task.on_disk
    }
    files = set(filter(is_file_of_weights, (entry["weights"] for entry in config["backbones"].values())))
    return Identities(sources, {file: file_content(Path(file), cache) for file in files})


def is_file_of_weights(weights: str) -> bool:
    """Return whether `weights` names a file; else they are builtin, random, or of the hub."""
    return weights not in ("builtin", "random") and not weights.startswith("hub:")


def expand(config: Mapping[str, Any], identities: Identities | None = None) -> list[Run]:
    """Return every run of a loaded config, in the order of its lists.

    A method that does not fit a backbone has no runs on it, see `left_out`.

    Args:
        config: The config.
        identities: What lies on disk; None: it is not looked at, as for an estimate.
    """
    identities = identities or Identities()
    variants = dict(config["variants"]) | {name: variant for name, variant, _ in sweep_variants(config)}
    swept = {name: made_by[2] for name, _, made_by in sweep_variants(config)}
    bases = {name: base for name, base in swept.items() if name not in config["variants"]}
    tune, schemas = config["tune"], schemas_of(config)
    runs = []
    for task, (backbone, entry) in product(config_tasks(config), config["backbones"].items()):
        model = _backbone_used(config, backbone, entry, identities)
        data = _data_used(config, task, model, identities)
        scope = task.full_name if tune and tune["per"] == "task" else task.benchmark
        for name, variant in variants.items():
            if _unfit(config, schemas, variant["method"], entry["architecture"]):
                continue
            options, training = _overridden(variant, task)
            specification = Specification(
                task=task.full_name,
                backbone=model,
                variant=name,
                method=variant["method"],
                options=options,
                training=Recipe(**training),
                stage=config["stage"],
                protocol=ProtocolUsed(name=config["protocol"], version=PRESETS[config["protocol"]].version),
                data=data,
                **_plugins_used(config, schemas, variant["method"], entry["architecture"], task.layout),
            )
            choice = f"{scope}/{backbone}/{bases.get(name, name)}" if tune else ""
            runs += [Run(specification, seed, choice) for seed in config["seeds"]]
    return runs


def display_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the names that a loaded config gives to variants for readers, by variant."""
    return {
        name: variant["display_name"]
        for name, variant in config["variants"].items()
        if variant.get("display_name")
    }


def left_out(config: Mapping[str, Any]) -> dict[str, str]:
    """Return why variants have no runs on a backbone: the reason, by "backbone, variant"."""
    variants = dict(config["variants"]) | {name: variant for name, variant, _ in sweep_variants(config)}
    pairs = product(config["backbones"].items(), variants.items())
    schemas = schemas_of(config)
    return {
        f"{backbone}, {name}": reason
        for (backbone, entry), (name, variant) in pairs
        if (reason := _unfit(config, schemas, variant["method"], entry["architecture"]))
    }


def _unfit(config: Mapping[str, Any], schemas: Mapping, method: str, architecture: str) -> str | None:
    """Return why a method does not fit an architecture; that of a plugin is left to `mosa.peft.attach`."""
    if any(architecture in one["backbones"] for one in config["plugins"]):
        return None
    return unfit(method, architecture, schemas[method]["families"])


def _plugins_used(
    config: Mapping[str, Any], schemas: Mapping, method: str, architecture: str, layout: str
) -> dict[str, Any]:
    """Return what a specification says of plugins; nothing where there are none."""
    plugins = config["plugins"]
    if not plugins:
        return {}
    own = any(method in one["methods"] for one in plugins)
    found = used_by(plugins, method, architecture, layout)
    return found | {"method_schema": schemas[method] if own else None}


def root_of(task: Task, folders: Mapping[str, str]) -> Path:
    """Return the folder in which a task is looked for.

    Args:
        task: A task that lies on disk.
        folders: Folders of the benchmarks, by name.
    """
    benchmark = "fgvc" if task.layout == "union" else task.benchmark
    return Path(task.root if benchmark == OWN and task.root else folders[benchmark])


def _backbone_used(
    config: Mapping[str, Any], name: str, entry: Mapping[str, Any], identities: Identities
) -> BackboneUsed:
    weights = entry["weights"]
    return BackboneUsed(
        name=name,
        architecture=entry["architecture"],
        weights=weights,
        identity=weights_identity(entry["architecture"], weights, identities.weights.get(weights)),
        kind=entry["kind"],
        image_size=backbone_image_size(entry),
        normalization=normalization_of(config, entry),
    )


def _data_used(
    config: Mapping[str, Any], task: Task, model: BackboneUsed, identities: Identities
) -> DataUsed:
    source = identities.sources.get(task.full_name)
    interpolation = PRESETS[config["protocol"]].interpolation_for(task.resize)
    return DataUsed(
        pack=pack_name(task, model.image_size, interpolation, source),
        source=source,
        root=str(root_of(task, config["paths"]["data"])) if task.on_disk else None,
        own=config["tasks"][task.name] if task.benchmark == OWN else None,
    )


def _overridden(variant: Mapping[str, Any], task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a variant's options and recipe for a task: its own, its benchmark's, and the task's."""
    options, training = variant["options"], variant["training"]
    for key in (task.benchmark, task.full_name):
        changes = variant["by_task"].get(key, {"options": {}, "training": {}})
        options, training = options | changes["options"], training | changes["training"]
    return options, training


def config_tasks(config: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of a loaded config, in the order of its lists."""
    return [
        task_from_config(name, config["tasks"][name]) if benchmark == OWN else get_task(f"{benchmark}/{name}")
        for benchmark, names in config["benchmarks"].items()
        for name in names
    ]


def normalization_of(config: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    """Return how a config normalises the input of one of its backbones, by itself or by its protocol."""
    named = backbone["normalization"]
    return PRESETS[config["protocol"]].normalization if named == "protocol" else named


def backbone_image_size(backbone: Mapping[str, Any]) -> int:
    """Return the side of the images that a backbone of a loaded config takes, in pixels."""
    return backbone["image_size"] or (32 if backbone["architecture"] == "mosa_vit_micro" else 224)


def sweep_variants(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], tuple]]:
    """Yield the name and content of each variant that a sweep makes, and the key that makes it."""
    for sweep, changes in config["sweeps"].items():
        for name, options in changes.items():
            base = config["variants"][name]
            for option, values in options.items():
                for index, value in enumerate(values):
                    if not _has_itself(base, option, value):
                        variant = base | {"options": base["options"] | {option: value}}
                        variant["by_task"] = _without(base["by_task"], option)
                        variant["display_name"] = None  # it is the name of the base alone
                        made_by = ("sweeps", sweep, name, option, index)
                        yield f"{name}_{option}{value}".lower(), variant, made_by


def _has_itself(variant: Mapping[str, Any], option: str, value: Any) -> bool:
    """Return whether a variant has a value of an option on every task."""
    own = [variant["options"], *(changes["options"] for changes in variant["by_task"].values())]
    return all(options.get(option, value) == value for options in own)


def _without(by_task: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Return the overrides by task without one option: a variant of a sweep has the value of its name."""
    found = {}
    for task, changes in by_task.items():
        others = {key: value for key, value in changes["options"].items() if key != option}
        found[task] = changes | {"options": others}
    return found
