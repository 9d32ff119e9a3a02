"""Loading a config: validated, completed with defaults, as plain data."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mosa.base.errors import LISTED, UserError
from mosa.base.words import lacks
from mosa.data.catalogue import list_benchmarks, list_tasks
from mosa.data.task import OWN, task_from_config
from mosa.experiment.expand import (
    backbone_image_size,
    config_tasks,
    display_names,
    expand,
    is_file_of_weights,
    left_out,
    sweep_variants,
)
from mosa.experiment.models import Experiment
from mosa.experiment.plugins import load_plugins
from mosa.experiment.recipe import Recipe, problem_of
from mosa.experiment.space import check_tune
from mosa.experiment.specification import BUILTIN_CARDS, Specification
from mosa.experiment.taken import check_taken, check_tuned
from mosa.experiment.validation import (
    OTHER_BASE,
    Places,
    check_option,
    merge,
    method_schemas,
    model_of,
    validated,
)


def load_config(
    config: Mapping[str, Any],
    files: Iterable[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Validate a config and fill in every default.

    Args:
        config: The merged config.
        files: The YAML files it came from, the strongest last; errors name file and line.
        overrides: What the command line sets over the files (`--config KEY=VALUE`), merged already. Snakemake
            leaves numbers inside its lists as text; they are read as YAML here.

    Returns:
        A new config in which every key is present, dropped (null) entries are gone, and the tasks
        of each benchmark are a list.

    Raises:
        UserError: Something is wrong with it; the first problem is reported.
    """
    typed = _typed(dict(overrides or {}))
    places = Places(files, typed)
    config = merge(copy.deepcopy(dict(config)), typed)
    _prepare(config, places)
    plugins = _load_plugins(config.get("plugins", []), places)
    config = validated(Experiment, config, (), places).model_dump() | {"plugins": plugins}
    _check_tasks(config, places)
    _check_backbones(config, places)
    _check_keep(config, places)
    if config["runs_per_gpu"] > 1 and config["device"] == "cpu":
        raise places.error(("runs_per_gpu",), "has no effect with `device: cpu`; set cuda, or leave it out")
    _check_recipe(config["training"], ("training",), places)
    _check_training_by_task(config, places)
    check_taken(config, places)
    check_tuned(config, places)
    for name in config["variants"]:
        _complete_variant(config, name, places)
    for sweep, changes in config["sweeps"].items():
        for name, options in changes.items():
            _check_sweep(config["variants"], sweep, name, options, places)
    _check_names(config, places)
    runs = expand(config)
    if not runs:
        reasons = "; ".join(dict.fromkeys(left_out(config).values()))
        raise places.error(("backbones",), f"no method fits any backbone: {reasons}; take others")
    meant = list({id(run.specification): run.specification for run in runs}.values())  # seeds share them
    _check_warmups(meant, places)
    _check_views(config, meant, places)
    check_tune(config, meant, places)
    return config


def _check_warmups(specifications: Iterable[Specification], places: Places) -> None:
    """Refuse a warm-up that only together with what another section says is longer than the training."""
    for what in specifications:
        if problem := problem_of(vars(what.training)):
            raise places.error(("variants",), f"{what.variant} on {what.task}: {problem[1]}")


def _check_keep(config: Mapping[str, Any], places: Places) -> None:
    if config["keep"]["val"] and config["stage"] == "final":
        raise places.error(
            ("keep", "val"), "final runs have no curve on val; add `stage: selection`, or take it out"
        )


def _check_views(config: Mapping[str, Any], specifications: Iterable[Specification], places: Places) -> None:
    """Refuse a number of views where no image that is trained on is augmented."""
    augmented = {task.full_name for task in config_tasks(config) if task.augment != "none"}
    tuned = config["tune"]["variants"] if config["tune"] else {}
    for name, space in tuned.items():
        tasks = {what.task for what in specifications if what.variant == name}
        if "views" in space["training"] and augmented.isdisjoint(tasks):
            raise places.error(
                ("tune", "variants", name, "training", "views"),
                "has no effect, as images are augmented on none of its tasks; take it out",
            )
    with_views = [what for what in specifications if what.training.views]
    if with_views and augmented.isdisjoint(what.task for what in with_views):
        own = [("variants", what.variant, "training", "views") for what in with_views]
        where = places.strongest(*own, ("training", "views"))
        tasks = ", ".join(sorted({what.task for what in with_views})[:LISTED])
        raise places.error(
            where, f"has no effect, as images are augmented on none of its tasks ({tasks}); take it out"
        )


def _typed(value: Any) -> Any:
    """Read the texts that Snakemake leaves inside values of the command line."""
    if isinstance(value, dict):
        return {key: _typed(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_typed(child) for child in value]
    try:
        read = yaml.safe_load(value) if isinstance(value, str) else value
        if isinstance(read, str) and value[:1] not in ("'", '"'):
            return value  # it has been read before: a second time, "#" would begin a comment
    except (yaml.YAMLError, ValueError, RecursionError):
        return value
    if isinstance(value, str) and isinstance(read, int | float) and OTHER_BASE.fullmatch(value):
        raise UserError(f"--config: YAML reads {value} as {read}; write that number, or put it in quotes")
    return read


def _prepare(config: dict[str, Any], places: Places) -> None:
    """Drop the entries that are null, and put the others in the order of the files."""
    for path in _droppable(config):
        _check_nulls(config, path, places)
    for section in ("tasks", "benchmarks", "backbones", "training_by_task", "variants", "sweeps"):
        _drop_nulls(config, section)
        _order_as_files(config, section, places)
    if isinstance(config.get("sweeps"), dict):
        for sweep in list(config["sweeps"]):
            _drop_nulls(config["sweeps"], sweep)
    if isinstance(config.get("variants"), dict):
        for variant in config["variants"].values():
            if isinstance(variant, dict):
                _drop_nulls(variant, "by_task")
    if isinstance(config.get("tune"), dict):
        _drop_nulls(config["tune"], "variants")


def _droppable(config: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the keys that lead to mappings in which null drops an entry of another file."""
    yield from (
        (key,) for key in ("tasks", "benchmarks", "backbones", "training_by_task", "variants", "sweeps")
    )
    for key in ("sweeps", "variants"):
        entries = config.get(key)
        for name in entries if isinstance(entries, dict) else ():
            yield (key, name) if key == "sweeps" else (key, name, "by_task")
    yield "tune", "variants"


def _load_plugins(names: Any, places: Places) -> list[dict[str, Any]]:
    """Use the plugins that a config names; whatever else stands there is refused with the other keys."""
    fits = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    given = names if fits else []
    try:
        return load_plugins(given, places.folder_of("plugins"))
    except UserError as error:
        told = re.match(r"plugin (.+?)(, line \d+)?: ", str(error))
        blamed = told[1] if told else ""
        at = next((number for number, name in enumerate(given) if blamed in (name, Path(name).name)), 0)
        raise places.error(("plugins", at), str(error)) from None


def _check_tasks(config: dict[str, Any], places: Places) -> None:
    readers = {layout: one["sha256"] for one in config["plugins"] for layout in one["layouts"]}
    for name, entry in config["tasks"].items():
        if entry["layout"] in readers:
            entry["reader"] = readers[entry["layout"]]
        try:
            task_from_config(name, entry)
        except UserError as error:
            raise places.error(("tasks", name, "augment"), str(error)) from None
    for benchmark, tasks in config["benchmarks"].items():
        config["benchmarks"][benchmark] = _tasks(benchmark, tasks, list(config["tasks"]), places)


def _check_backbones(config: Mapping[str, Any], places: Places) -> None:
    own = {name: size for one in config["plugins"] for name, size in one["backbones"].items()}
    for name, backbone in config["backbones"].items():
        if backbone["architecture"] in own:
            backbone["image_size"] = backbone["image_size"] or own[backbone["architecture"]]
        if backbone["weights"] == "builtin" and backbone["architecture"] not in BUILTIN_CARDS:
            raise places.error(
                ("backbones", name, "architecture"),
                f"{backbone['architecture']!r} has no builtin weights; give it `weights` (a file or "
                "`random`), or take one that has",
                BUILTIN_CARDS,
                backbone["architecture"],
            )
        if backbone["kind"] != "auto" and not is_file_of_weights(backbone["weights"]):
            raise places.error(
                ("backbones", name, "kind"),
                f"is the format of a file, and `weights` is {backbone['weights']!r}; leave it out",
            )
        _check_image_size(config, name, places)


def _check_training_by_task(config: dict[str, Any], places: Places) -> None:
    """Check the recipes of benchmarks and tasks, also of those that the config has no runs on."""
    known = _tasks_there_are(config)
    for task, training in config["training_by_task"].items():
        where = ("training_by_task", task)
        if task not in known:
            raise places.error(where, f"unknown task {task!r}", known, task)
        config["training_by_task"][task] = given = _check_recipe(training, where, places)
        _check_recipe(config["training"] | given, where, places)


def _tasks_there_are(config: Mapping[str, Any]) -> list[str]:
    """Return the names of all benchmarks and tasks, also of those that the config has no runs on."""
    tasks = {name: list_tasks(name) for name in list_benchmarks()} | {OWN: list(config["tasks"])}
    return [*tasks, *(f"{benchmark}/{name}" for benchmark, names in tasks.items() for name in names)]


def _complete_variant(config: Mapping[str, Any], name: str, places: Places) -> None:
    """Check a variant, and fill in the options and the recipe that it leaves out.

    Its overrides for tasks that the config has no runs on are checked, and dropped.
    """
    variant, where = config["variants"][name], ("variants", name)
    methods = method_schemas()
    if variant["method"] not in methods:
        raise places.error(
            (*where, "method"), f"unknown method {variant['method']!r}", list(methods), variant["method"]
        )
    model = model_of(variant["method"])
    variant["options"] = validated(model, variant["options"], (*where, "options"), places).model_dump()
    _check_together(config, variant["method"], variant["options"], (*where, "options"), places)
    own = _check_recipe(variant["training"], (*where, "training"), places)
    variant["training"] = config["training"] | own
    _check_recipe(variant["training"], (*where, "training"), places)
    variant["by_task"] = _with_shared(config, variant["by_task"], own)
    known = [known for task in config_tasks(config) for known in (task.benchmark, task.full_name)]
    for task, changes in variant["by_task"].items():
        at = (*where, "by_task", task)
        if task not in known and task not in _tasks_there_are(config):
            raise places.error(at, f"unknown task {task!r}", dict.fromkeys(known), task)
        given = validated(model, changes["options"], (*at, "options"), places)
        changes["options"] = {key: getattr(given, key) for key in changes["options"]}
        together = variant["options"] | changes["options"]
        _check_together(config, variant["method"], together, (*at, "options"), places)
        own = _check_recipe(changes["training"], (*at, "training"), places)
        _check_recipe(variant["training"] | own, (*at, "training"), places)
        changes["training"] = own
    variant["by_task"] = {task: changes for task, changes in variant["by_task"].items() if task in known}


def _with_shared(
    config: Mapping[str, Any], by_task: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a variant's overrides by task, with what all variants share beneath what it says itself."""
    found = dict(by_task)
    for task in config_tasks(config):
        for key in (task.benchmark, task.full_name):
            said = own
            for mine in dict.fromkeys((task.benchmark, key)):
                said = said | by_task.get(mine, {}).get("training", {})
            shared = {
                name: value
                for name, value in config["training_by_task"].get(key, {}).items()
                if name not in said
            }
            if shared:
                given = by_task.get(key, {"options": {}, "training": {}})
                found[key] = given | {"training": shared | given["training"]}
    return found


def _check_together(
    config: Mapping[str, Any], method: str, options: Mapping[str, Any], where: tuple, places: Places
) -> None:
    """Refuse options that lack what they need; a plugin's class, imported already, validates its own."""
    for name, schema in method_schemas()[method]["properties"].items():
        needed = schema.get("needs", {})
        lacking = {key: value for key, value in needed.items() if options[key] != value}
        if lacking and options[name] != schema["default"]:
            raise places.error((*where, name), lacks(name, lacking))
    if any(method in one["methods"] for one in config["plugins"]):
        from mosa.peft.method import build_method

        try:
            build_method(method, **options)
        except UserError as error:
            raise places.error(where, str(error)) from None


def _check_recipe(options: Mapping[str, Any], where: tuple, places: Places) -> dict[str, Any]:
    """Refuse options of the recipe that are wrong alone or together; return those that were given."""
    recipe = validated(Recipe, options, where, places)
    problem = problem_of(options)
    if problem is not None:  # of two keys: the one of the stronger file is the newer one
        raise places.error(places.strongest((*where, "epochs"), (*where, problem[0])), problem[1])
    return {key: getattr(recipe, key) for key in options}


def read_config(*files: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read YAML files, later ones over earlier ones as Snakemake merges them, and load the result.

    Args:
        files: The files.
        overrides: What the command line sets over them, as for `load_config`.

    Raises:
        UserError: A file cannot be read, or something is wrong with the config.
    """
    merged: dict[str, Any] = {}
    for file in files:
        content = _read_yaml(file)
        if not isinstance(content, dict):
            raise UserError(f"{file}: expected a mapping of keys, see docs/configuration.md")
        merged = merge(merged, content)
    return load_config(merged, files, overrides)


def _read_yaml(file: str | Path) -> Any:
    """Read a YAML file, or say where it is not one."""
    try:
        return yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{file}{place}: not a readable YAML file ({error.problem})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not text in UTF-8 (its byte {error.start} is none)") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not a readable YAML file ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise UserError(f"{file}: not a readable YAML file (nested too deeply)") from None
    except ValueError:  # of Python, while YAML's number or date is made
        raise UserError(
            f"{file}: not a readable YAML file (a number has too many digits, or a date is none)"
        ) from None


def _check_image_size(config: Mapping[str, Any], name: str, places: Places) -> None:
    size = backbone_image_size(config["backbones"][name])
    for task in config_tasks(config):
        if task.image_size not in (None, size):
            raise places.error(
                ("backbones", name, "image_size"),
                f"{name!r} takes images of {size} pixels and {task.full_name} has {task.image_size}; set "
                f"image_size: {task.image_size}, or take other tasks",
            )


def _order_as_files(parent: dict[str, Any], key: str, places: Places) -> None:
    """Put what the weakest file has first; Snakemake puts what the command line's files have first."""
    if isinstance(parent.get(key), dict):
        rank = {name: number for number, name in enumerate(places.keys_of(key))}
        parent[key] = dict(sorted(parent[key].items(), key=lambda item: rank.get(str(item[0]), len(rank))))


def _check_nulls(config: Mapping[str, Any], path: tuple[str, ...], places: Places) -> None:
    """Refuse a null that drops nothing: a misspelt name, or an entry that was left empty."""
    given, entries = places.keys_of(*path, null=False), config
    for key in path:
        entries = entries.get(key) if isinstance(entries, dict) else None
    for name, value in entries.items() if isinstance(entries, dict) and places.trees else ():
        if value is None and name not in given:
            raise places.error(
                (*path, name),
                "is empty, and null drops what another file has of this name",
                given or None,
                name,
            )


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


def _check_sweep(variants: Mapping, sweep: str, name: str, options: Mapping, places: Places) -> None:
    where = ("sweeps", sweep, name)
    if name not in variants:
        raise places.error(where, f"unknown variant {name!r}", list(variants), name)
    method = variants[name]["method"]
    model = model_of(method)
    for option, values in options.items():
        if option not in model.model_fields:
            raise places.error(
                (*where, option),
                f"unknown option of {method!r}: {option!r}",
                list(model.model_fields),
                option,
            )
        for index, value in enumerate(values):
            values[index] = check_option(model, option, value, (*where, option, index), places)
            if isinstance(value, dict):
                raise places.error(
                    (*where, option, index), "a mapping makes no name; give each value a variant of its own"
                )


def _check_names(config: Mapping[str, Any], places: Places) -> None:
    """Refuse a sweep that makes a variant whose name is taken, names shown twice, an unknown reference."""
    reference, variants = config["reference"], list(config["variants"])
    if reference is not None and reference not in variants:
        raise places.error(("reference",), f"unknown variant {reference!r}", variants, reference)
    known = {name: variant | {"display_name": None} for name, variant in config["variants"].items()}
    for name, variant, made_by in sweep_variants(config):
        if known.setdefault(name, variant) != variant:
            raise places.error(made_by, f"makes a variant {name!r}, which there is already; rename that one")
    shown = {name: name for name in known}
    for name, text in display_names(config).items():
        if shown.setdefault(text, name) != name:
            where = ("variants", name, "display_name")
            raise places.error(where, f"{text!r} is the name of {shown[text]!r} already; take another")
