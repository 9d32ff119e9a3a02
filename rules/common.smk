# Names and helpers that the rules share. Nothing here imports torch or pandas: every cluster job
# reads this file again.
import hashlib
import inspect
import json
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(workflow.basedir))

from mosa.experiment.config import backbone_image_size, config_tasks, expand, load_config
from mosa.data.task import OWN, pack_name
from mosa.base.errors import UserError
from mosa.base.files import written_atomically
from mosa.experiment.outputs import KINDS, expected_outputs
from mosa.experiment.plan import image_passes
from mosa.experiment.protocol import PRESETS
from mosa.records import COLUMNS
from mosa.experiment.space import count_trainings

# The strongest last: Snakemake lists the files of the command line first, but merges them over the others.
CONFIG_FILES = sorted(map(Path, workflow.configfiles), key=list(workflow.overwrite_configfiles).count)

try:
    CONFIG = load_config(config, CONFIG_FILES)
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = Path(CONFIG["paths"]["results"]).as_posix()
PACKS = Path(CONFIG["paths"]["packs"]).as_posix()
TASKS = {task.full_name: task for task in config_tasks(CONFIG)}
WEIGHTS_FILES = [
    model["weights"] for model in CONFIG["backbones"].values() if Path(model["weights"]).is_file()
]
GPU = {"gpu": 1} if CONFIG["device"] == "cuda" else {}
LARGE = re.compile("large|huge|giant")  # backbones
RUNS = {f"{RESULTS}/{run.path}": run for run in expand(CONFIG)}
TASK_OF_PACK = {
    pack_name(task, backbone_image_size(backbone), PRESETS[CONFIG["protocol"]].interpolation): (
        task,
        backbone_image_size(backbone),
    )
    for task in config_tasks(CONFIG)
    for backbone in CONFIG["backbones"].values()
}
MAIN_VARIANTS = ",".join(CONFIG["variants"])

OUTPUTS = {kind: expected_outputs(kind, CONFIG, RUNS.values()) for kind in KINDS}
TABLES, PLOTS = (
    [f"{RESULTS}/{kind}/{file}" for output in OUTPUTS[kind] for file in output.files] for kind in KINDS
)

REPORT = f"{RESULTS}/report.html"

# What tuned hyper-parameters the runs take, and tables of them.
CHOICES = list(
    dict.fromkeys(f"{RESULTS}/tune/choices/{run.choice}.json" for run in RUNS.values() if run.choice)
)
SEARCHES = [
    f"{RESULTS}/tune/trials/{run.task}/{run.backbone}/{run.variant}.json"
    for run in RUNS.values()
    if run.choice and run.seed == CONFIG["seeds"][0] and run.variant in CONFIG["variants"]
]
CHOSEN = [f"{RESULTS}/tables/chosen.{kind}" for kind in ("csv", "md", "json") if CHOICES]

# `mosa` of the environment that Snakemake runs in, whatever else is on PATH; with conda, the job's own first.
HERE = shlex.quote(str(Path(sys.executable).parent))
PATHS = ('"$PATH"', HERE) if workflow.deployment_settings.deployment_method else (HERE, '"$PATH"')
# How a run is done, on which its result does not depend, is no parameter: a change of it repeats nothing.
MACHINE = {
    "MOSA_DEVICE": CONFIG["device"],
    "MOSA_RUNS_PER_GPU": str(CONFIG["runs_per_gpu"]),
    "MOSA_COMPILE": CONFIG["compile"],
    "MOSA_CHANNELS_LAST": str(CONFIG["channels_last"]),
    "MOSA_GRADIENT_CHECKPOINTING": str(CONFIG["gradient_checkpointing"]),
    "MOSA_RESUME": f"{RESULTS}/resume",
    "MOSA_FEATURES": f"{PACKS}/features",
    # Jobs of this process are many on one machine; one of a cluster is alone there.
    "MOSA_WARM": os.environ.get("MOSA_WARM", "1") if workflow.is_main_process else "",
}
EXPORTS = " ".join(f"{name}={shlex.quote(value)}" for name, value in MACHINE.items())
shell.prefix(f"set -euo pipefail; export {EXPORTS} PATH={':'.join(PATHS)}; ")


wildcard_constraints:
    benchmark="|".join(map(re.escape, CONFIG["benchmarks"])),
    task="|".join(re.escape(task) for tasks in CONFIG["benchmarks"].values() for task in tasks),
    backbone="|".join(map(re.escape, CONFIG["backbones"])),
    config="data-[0-9a-f]+",
    scope="|".join({re.escape(run.task) for run in RUNS.values()} | set(map(re.escape, CONFIG["benchmarks"]))),
    pack="|".join(map(re.escape, TASK_OF_PACK)),
    variant="|".join(sorted({re.escape(run.variant) for run in RUNS.values()})),
    seed="|".join(map(str, CONFIG["seeds"])),


def many_times(function):
    """Keep the signature of a function, which Snakemake looks up at each of thousands of calls."""
    function.__signature__ = inspect.signature(function)
    return function


def run_of(wildcards):
    """The run that a record belongs to; of a search, which has no seed of its own, the first one."""
    task, seed = f"{wildcards.benchmark}/{wildcards.task}", wildcards.get("seed", CONFIG["seeds"][0])
    return RUNS[f"{RESULTS}/runs/{task}/{wildcards.backbone}/{wildcards.variant}/seed{seed}.json"]


def as_json(value):
    """Options as they stand on the command line: the same text for the same options."""
    return json.dumps(value, sort_keys=True)


@many_times
def pack_of_run(wildcards):
    """The pack of a run's task."""
    return f"{PACKS}/{run_of(wildcards).pack}"


@many_times
def specification_of_run(wildcards):
    """All that changes a run's result, but for its seed."""
    return told_of(wildcards.benchmark, wildcards.task, wildcards.backbone, wildcards.variant)[0]


@many_times
def options_of_run(wildcards):
    """What `mosa train` and `mosa tune` both want to know of a run, as options."""
    return told_of(wildcards.benchmark, wildcards.task, wildcards.backbone, wildcards.variant)[1]


@cache
def told_of(benchmark, task, backbone, variant):
    """What is told of a run, the same for all seeds: its specification, and its options."""
    run = RUNS[f"{RESULTS}/runs/{benchmark}/{task}/{backbone}/{variant}/seed{CONFIG['seeds'][0]}.json"]
    names = ("task", "backbone", "architecture", "weights", "kind", "image_size", "normalization")
    names += ("variant", "method", "options", "training", "protocol")
    return as_json(run.specification), command_line({name: getattr(run, name) for name in names})


@many_times
def options_of_training(wildcards, input):
    """A run, as options of `mosa train`."""
    run = run_of(wildcards)
    choice = {"choice": input.choice} if run.choice else {}
    own = command_line({"seed": run.seed, "stage": run.stage} | choice)
    return f"{options_of_run(wildcards)} {own}"


def command_line(options):
    """Options by name, as they stand on a command line; what is None is left out."""
    texts = (
        (f"--{name.replace('_', '-')}", as_json(value) if isinstance(value, dict) else str(value))
        for name, value in options.items()
        if value is not None
    )
    return shlex.join(text for option in texts for text in option)


@many_times
def choice_of_run(wildcards):
    """The hyper-parameters that were chosen for a run."""
    choice = run_of(wildcards).choice
    return f"{RESULTS}/tune/choices/{choice}.json" if choice else []


def options_of_search(wildcards):
    """How a variant is tuned, as options of `mosa tune`."""
    tune = CONFIG["tune"]
    names = {"search": "search", "trials": "trials", "seed": "search_seed"}
    options = {option: tune[name] for name, option in names.items()} | (tune["halving"] or {})
    options["seeds"] = ",".join(map(str, tune["seeds"]))
    return command_line(options | {"space": tune["variants"][wildcards.variant]})


def folder_of_records(wildcards, output):
    """The folder that keeps the records of a search's trainings."""
    folder = Path(output[0]).relative_to(f"{RESULTS}/tune/trials").with_suffix("")
    return str(Path(RESULTS) / "tune" / "records" / folder)


@many_times
def memory_of_run(wildcards, attempt):
    """Memory of the host: more for large backbones, and with every attempt."""
    run = run_of(wildcards)
    gigabytes = 1 if run.image_size <= 32 else 16 if LARGE.search(run.architecture) else 8
    return f"{gigabytes * attempt}GB"


@many_times
def runtime_of_run(wildcards, attempt):
    """Time of a run: twice what its images take at a slow machine's rate, and more with every attempt."""
    return f"{10 + attempt * 2 * minutes_of(run_of(wildcards)):.0f}m"


def runtime_of_search(wildcards, attempt):
    """Time of all trials of a search."""
    run = run_of(wildcards)
    epochs = run.training["epochs"]
    trainings = count_trainings(CONFIG["tune"], wildcards.variant, epochs)
    share = sum(models * length for models, length in trainings) / epochs
    return f"{10 + attempt * 2 * share * minutes_of(run):.0f}m"


def minutes_of(run):
    """Minutes of a run's training and evaluation at a rate that most machines exceed."""
    task = TASKS[run.task]
    if not task.sizes:  # of your own: not known before it is read
        return 60
    slow = {True: (120, 30), False: (2, 0.5)}[CONFIG["device"] == "cuda"]  # images/s: ViT-B, and larger
    rate = 100 if run.image_size <= 32 else slow[LARGE.search(run.architecture) is not None]
    return (image_passes(run, task) + task.sizes["test"] / 3) / rate / 60


def trials_of_choice(wildcards):
    """The searches that a choice is made from: of one task, or of all tasks of a benchmark."""
    runs = (
        run
        for run in RUNS.values()
        if run.choice == f"{wildcards.scope}/{wildcards.backbone}/{wildcards.variant}"
    )
    tasks = dict.fromkeys(run.task for run in runs)
    return [f"{RESULTS}/tune/trials/{task}/{wildcards.backbone}/{wildcards.variant}.json" for task in tasks]


def marked(kind):
    """The files of all tables, or plots; of each, one format is marked for Snakemake's report."""
    formats = {"tables": {"format": "Markdown"}, "plots": {}}[kind]
    for output in OUTPUTS[kind]:
        path = f"{RESULTS}/{kind}/{output.name}"
        yield from (f"{path}.{suffix}" for suffix in output.formats if suffix != output.embedded)
        yield report(
            f"{path}.{output.embedded}",
            category=kind.capitalize(),
            caption=f"../report/{kind}/{output.name}.rst",
            labels={kind.removesuffix("s"): output.label} | formats,
        )


def folder_of_output(wildcards, output):
    """The folder that a rule writes to."""
    return str(Path(output[0]).parent)


@many_times
def weights_file(wildcards):
    """The weights of the run, where they are a file; one that is missing is reported by check_data."""
    weights = run_of(wildcards).weights
    return [weights] if Path(weights).is_file() else []


def options_of_pack(wildcards):
    """How a task is read from disk, as options of `mosa make-data`."""
    task, image_size = TASK_OF_PACK[wildcards.pack]
    if not task.on_disk:
        return ""
    benchmark = "fgvc" if task.layout == "union" else task.benchmark
    own = CONFIG["tasks"].get(task.name) if task.benchmark == OWN else None
    source = ["--own", json.dumps(own)] if own else ["--root", CONFIG["paths"]["data"][benchmark]]
    how = ["--interpolation", PRESETS[CONFIG["protocol"]].interpolation]
    limit = ["--limit-gib", str(CONFIG["packing"]["limit_gib"])]
    return shlex.join([*source, "--image-size", str(image_size), *how, *limit])


def write_by_content(name, suffix, text):
    """Write a file that is named by its content, if it is not there, and return its path.

    What depends on it is made again if, and only if, its content changes.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(RESULTS) / "manifests" / f"{name}{digest}.{suffix}"
    if not path.is_file():
        with written_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return str(path)


def write_checked():
    """Write what of the config is to be checked: all but the recipe."""
    names = ("name", "protocol", "paths", "tasks", "benchmarks", "backbones", "packing", "variants", "sweeps")
    checked = {name: CONFIG[name] for name in names} | {"seeds": CONFIG["seeds"][:1]}
    return write_by_content("data-", "yaml", yaml.safe_dump(checked, sort_keys=False))


def write_manifest(paths):
    """List files in a file, one per line: thousands do not fit on a command line."""
    return write_by_content("", "txt", "".join(f"{path}\n" for path in paths))


def write_config():
    """Write the config with every default filled in, for the report to show."""
    return write_by_content("config-", "yaml", yaml.safe_dump(CONFIG, sort_keys=False))


def existing_records():
    """A digest of which records exist, and since when."""
    found = [(record, Path(record).stat().st_mtime_ns) for record in RUNS if Path(record).is_file()]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


try:
    MANIFEST = write_manifest(RUNS)
    CONFIG_SHOWN = write_config()
    SEARCHES_MANIFEST = [write_manifest(SEARCHES)] if SEARCHES else []
    # Only what lies on disk, or is another model, is checked: a run of the demo waits for nothing.
    ON_DISK = any(task.on_disk for task, _ in TASK_OF_PACK.values()) or any(
        entry["architecture"] != "mosa_vit_micro" or entry["weights"] not in ("builtin", "random")
        for entry in CONFIG["backbones"].values()
    )
    CHECKED = [f"{RESULTS}/check-{Path(write_checked()).stem}.txt"] if ON_DISK else []
except UserError as error:
    raise WorkflowError(str(error)) from None
