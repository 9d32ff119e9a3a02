"""The config: validated, completed with defaults, and expanded into runs.

Standard library, yaml and jsonschema only: the workflow reads the config again in every cluster job.
"""

import copy
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from mosa.base.errors import UserError
from mosa.base.files import PACKAGE
from mosa.data.catalogue import get_task, list_benchmarks, list_tasks
from mosa.data.task import OWN, Task, pack_name, task_from_config
from mosa.experiment.protocol import PRESETS, PROTOCOL_VERSION
from mosa.experiment.space import check_tune
from mosa.experiment.validation import Places, check_value, fill_defaults, merge, read_schema

WEIGHTS_CARDS = {"mosa_vit_micro": PACKAGE / "backbones" / "assets" / "micro_vit.json"}


@dataclass(frozen=True)
class Run:
    """Everything that decides a run's result.

    Attributes:
        task: Full name of the task, such as "demo/digits".
        backbone: Name of the backbone.
        architecture: timm's name of its architecture.
        weights: "builtin", "random", "hub:" and a tag, or the path of a file.
        variant: Name of the variant.
        method: Name of the method.
        options: Options of the method; those left out take their defaults.
        training: Options of the recipe; those left out take their defaults.
        seed: Seed of the run.
        stage: "final" (trains on train + val, or as the task says, and evaluates on test) or "selection"
            (train, val).
        protocol: Name of the protocol.
        pack: Path of the task's pack below the folder of packs.
        kind: Format of the weights, see `mosa.backbones.weights.load_weights`.
        image_size: Side of the square input, in pixels.
        normalization: "weights", "imagenet" or "inception".
        choice: Which choice of hyper-parameters it takes, such as "demo/digits/micro_vit/mosa"; "": none.
    """

    task: str
    backbone: str
    architecture: str
    weights: str
    variant: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    stage: str = "final"
    protocol: str = "demo"
    pack: str = ""
    kind: str = "auto"
    image_size: int | None = None
    normalization: str = "weights"
    choice: str = ""

    @property
    def path(self) -> str:
        """Path of the record below the results folder; it is also the run's identity there."""
        return f"runs/{self.task}/{self.backbone}/{self.variant}/seed{self.seed}.json"

    @property
    def specification(self) -> dict[str, Any]:
        """All that changes the result, as plain data: if it changes, the run is run again."""
        return {
            "data": self.pack,
            "architecture": self.architecture,
            "weights": _weights_identity(self.architecture, self.weights),
            "kind": self.kind,
            "image_size": self.image_size,
            "normalization": self.normalization,
            "method": self.method,
            "options": dict(self.options),
            "training": dict(self.training),
            "stage": self.stage,
            "protocol": f"{self.protocol} {PROTOCOL_VERSION}",
        }


@cache
def _weights_identity(architecture: str, weights: str) -> str:
    card = WEIGHTS_CARDS.get(architecture)
    if weights == "builtin" and card is not None and card.is_file():
        return "builtin " + json.loads(card.read_text())["sha256"]
    return weights


def load_config(config: Mapping[str, Any], files: Iterable[str | Path] = ()) -> dict[str, Any]:
    """Validate a config and fill in every default.

    Args:
        config: The merged config.
        files: The YAML files it came from, the strongest last; errors name file and line.

    Returns:
        A new config in which every key is present, dropped (null) entries are gone, and the tasks
        of each benchmark are a list.

    Raises:
        UserError: Something is wrong with it; the first problem is told.
    """
    places = Places(files)
    config = copy.deepcopy(dict(config))
    for section in ("tasks", "benchmarks", "backbones", "variants", "sweeps"):
        _drop_nulls(config, section)
        _order_as_files(config, section, places)
    if isinstance(config.get("sweeps"), dict):
        for sweep in list(config["sweeps"]):
            _drop_nulls(config["sweeps"], sweep)
    if isinstance(config.get("tune"), dict):
        _drop_nulls(config["tune"], "variants")
    check_value(config, read_schema("config"), (), places)
    fill_defaults(config, read_schema("config"))
    for name, entry in config["tasks"].items():
        try:
            task_from_config(name, entry)
        except UserError as error:
            raise places.error(("tasks", name, "augment"), str(error)) from None
    for benchmark, tasks in config["benchmarks"].items():
        config["benchmarks"][benchmark] = _tasks(benchmark, tasks, list(config["tasks"]), places)
    for name, backbone in config["backbones"].items():
        if backbone["weights"] == "builtin" and backbone["architecture"] not in WEIGHTS_CARDS:
            raise places.error(
                ("backbones", name, "architecture"),
                f"{backbone['architecture']!r} has no builtin weights; "
                "give it `weights` (a file or `random`), or take one that has",
                WEIGHTS_CARDS,
                backbone["architecture"],
            )
        _check_image_size(config, name, places)
    check_training(config["training"], ("training",), places)
    known = [name for task in config_tasks(config) for name in (task.benchmark, task.full_name)]
    for name, variant in config["variants"].items():
        where = ("variants", name)
        _complete_options(
            variant["method"], variant["options"], (*where, "options"), (*where, "method"), places
        )
        check_training(variant["training"], (*where, "training"), places)
        variant["training"] = config["training"] | variant["training"]
        check_training(variant["training"], (*where, "training"), places)
        for task, changes in variant["by_task"].items():
            at = (*where, "by_task", task)
            if task not in known:
                raise places.error(at, f"unknown task {task!r}", dict.fromkeys(known), task)
            check_value(
                changes["options"],
                read_schema("methods")["$defs"][variant["method"]],
                (*at, "options"),
                places,
            )
            check_training(variant["training"] | changes["training"], (*at, "training"), places)
    for sweep, changes in config["sweeps"].items():
        for name, options in changes.items():
            _check_sweep(config["variants"], sweep, name, options, places)
    _check_names(config, places)
    check_tune(config, places)
    return config


def check_training(
    options: Mapping[str, Any], where: tuple = ("training",), places: Places | None = None
) -> None:
    """Refuse options of the recipe that are unknown or have no meaning, alone or together.

    Args:
        options: Options of the recipe; any may be left out.
        where: Where they stand in the config.
        places: Places of the config's keys; None: they do not come from a file.

    Raises:
        UserError: What is wrong, in one sentence.
    """
    places = places or Places([])
    check_value(options, read_schema("config")["properties"]["training"], where, places)
    warmup, epochs = options.get("warmup_epochs", 0), options.get("epochs", math.inf)
    if warmup > epochs:
        raise places.error(
            (*where, "warmup_epochs"),
            f"a warm-up of {warmup} epochs is longer than the {epochs} epochs of training; shorten it",
        )


def read_config(*files: str | Path) -> dict[str, Any]:
    """Read YAML files, later ones over earlier ones as Snakemake merges them, and load the result.

    Raises:
        UserError: A file cannot be read, or something is wrong with the config.
    """
    merged: dict[str, Any] = {}
    for file in files:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{file}: not a readable YAML file ({' '.join(str(error).split())})") from None
        if not isinstance(content, dict):
            raise UserError(f"{file}: expected a mapping of keys, see docs/configuration.md")
        merged = merge(merged, content)
    return load_config(merged, files)


def expand(config: Mapping[str, Any]) -> list[Run]:
    """Return every run of a loaded config, in the order of its lists."""
    variants = dict(config["variants"]) | {name: variant for name, variant, _ in _sweep_variants(config)}
    bases = {name: made_by[2] for name, _, made_by in _sweep_variants(config)}
    tune = config["tune"]
    preset = PRESETS[config["protocol"]]
    runs = []
    for task, (backbone, model) in product(config_tasks(config), config["backbones"].items()):
        image_size = backbone_image_size(model)
        pack = pack_name(task, image_size, preset.interpolation)
        normalization = model["normalization"]
        for (name, variant), seed in product(variants.items(), config["seeds"]):
            options, training = _overridden(variant, task)
            scope = task.full_name if tune and tune["per"] == "task" else task.benchmark
            runs.append(
                Run(
                    task=task.full_name,
                    backbone=backbone,
                    architecture=model["architecture"],
                    weights=model["weights"],
                    variant=name,
                    method=variant["method"],
                    options=options,
                    training=training,
                    seed=seed,
                    stage=config["stage"],
                    protocol=config["protocol"],
                    pack=pack,
                    kind=model["kind"],
                    image_size=image_size,
                    normalization=preset.normalization if normalization == "protocol" else normalization,
                    choice=f"{scope}/{backbone}/{bases.get(name, name)}" if tune else "",
                )
            )
    return runs


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


def backbone_image_size(backbone: Mapping[str, Any]) -> int:
    """Return the side of the images that a backbone of a loaded config takes, in pixels."""
    return backbone["image_size"] or (32 if backbone["architecture"] == "mosa_vit_micro" else 224)


def _check_image_size(config: Mapping[str, Any], name: str, places: Places) -> None:
    size = backbone_image_size(config["backbones"][name])
    for task in config_tasks(config):
        if task.image_size not in (None, size):
            raise places.error(
                ("backbones", name, "image_size"),
                f"{name!r} takes images of {size} pixels and {task.full_name} has {task.image_size}; set "
                f"image_size: {task.image_size}, or take other tasks",
            )


def _sweep_variants(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], tuple]]:
    """Yield the name and content of each variant that a sweep makes, and the key that makes it."""
    for sweep, changes in config["sweeps"].items():
        for name, options in changes.items():
            base = config["variants"][name]
            for option, values in options.items():
                for index, value in enumerate(values):
                    if value != base["options"][option]:
                        variant = base | {"options": base["options"] | {option: value}}
                        made_by = ("sweeps", sweep, name, option, index)
                        yield f"{name}_{option}{value}".lower(), variant, made_by


def _order_as_files(parent: dict[str, Any], key: str, places: Places) -> None:
    """Put what the weakest file has first; Snakemake puts what the command line's files have first."""
    if isinstance(parent.get(key), dict):
        rank = {name: number for number, name in enumerate(places.keys_of(key))}
        parent[key] = dict(sorted(parent[key].items(), key=lambda item: rank.get(str(item[0]), len(rank))))


def _drop_nulls(parent: dict[str, Any], key: str) -> None:
    if isinstance(parent.get(key), dict):
        parent[key] = {name: value for name, value in parent[key].items() if value is not None}


def _tasks(benchmark: str, tasks: str | list[str], own: list[str], places: Places) -> list[str]:
    where = ("benchmarks", benchmark)
    known = [*list_benchmarks(), *([OWN] if own else [])]
    if benchmark not in known:
        raise places.error(where, f"unknown benchmark {benchmark!r}", known, benchmark)
    names = own if benchmark == OWN else list_tasks(benchmark)
    if tasks == "all":
        return names
    for index, task in enumerate(tasks):
        if task not in names:
            raise places.error((*where, index), f"unknown task {task!r}", names, task)
    return tasks


def _complete_options(method: str, options: dict, where: tuple, where_method: tuple, places: Places) -> None:
    methods = read_schema("methods")["$defs"]
    if method not in methods:
        raise places.error(where_method, f"unknown method {method!r}", list(methods), method)
    check_value(options, methods[method], where, places)
    fill_defaults(options, methods[method])


def _check_sweep(variants: Mapping, sweep: str, name: str, options: Mapping, places: Places) -> None:
    where = ("sweeps", sweep, name)
    if name not in variants:
        raise places.error(where, f"unknown variant {name!r}", list(variants), name)
    method = variants[name]["method"]
    properties = read_schema("methods")["$defs"][method]["properties"]
    for option, values in options.items():
        if option not in properties:
            raise places.error(
                (*where, option), f"unknown option of {method!r}: {option!r}", list(properties), option
            )
        for index, value in enumerate(values):
            check_value(value, properties[option], (*where, option, index), places)


def _check_names(config: Mapping[str, Any], places: Places) -> None:
    """Refuse a sweep that makes a variant whose name means something else already."""
    known = dict(config["variants"])
    for name, variant, made_by in _sweep_variants(config):
        if known.setdefault(name, variant) != variant:
            raise places.error(made_by, f"makes a variant {name!r}, which there is already; rename that one")


def configuration_page() -> str:
    """Return the documentation of every key, in Markdown, from the schema."""
    lines = [
        "# Configuration",
        "",
        "Written by `mosa schema` from `mosa/schemas/config.schema.json`; do not edit.",
        "",
        "`snakemake` reads config.yaml. `snakemake --configfile FILE` merges a file over it: mappings are",
        "merged key by key, lists and values are replaced, and `null` drops a variant, a sweep, or one",
        "variant of a sweep. An overlay that wants fewer variants drops the others, there and in `sweeps`.",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
        *(f"| {row} |" for row in _rows(read_schema("config"), "")),
        "",
        "Options of the methods: [methods.md](methods.md).",
    ]
    return "\n".join(lines) + "\n"


def _rows(schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, child in schema.get("properties", {}).items():
        kind = child.get("type", "")
        kind = " or ".join(kind) if isinstance(kind, list) else kind
        default = f"`{json.dumps(child['default'])}`" if "default" in child else ""
        required = "required" if key in schema.get("required", []) else default
        choices = f" One of {', '.join(f'`{c}`' for c in child['enum'])}." if "enum" in child else ""
        yield f"`{prefix}{key}` | {kind} | {required} | {child['description']}{choices}"
        yield from _rows(child, f"{prefix}{key}.")
        entries = child.get("additionalProperties")
        if isinstance(entries, dict) and "properties" in entries:
            yield from _rows(entries, f"{prefix}{key}.<name>.")
