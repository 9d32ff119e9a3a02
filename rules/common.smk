# Names and helpers that the rules share. Nothing here imports torch or pandas: every cluster job
# reads this file again. The head process reads the config, and freezes what it means; a job reads what was
# frozen, whatever happened to the config while it waited.
import gc
import hashlib
import inspect
import os
import shlex
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile

from mosa.base.files import PACKAGE
from mosa.experiment import resources
from mosa.experiment.outputs import KINDS, expected_outputs, own_outputs, read_outputs
from mosa.experiment.workflow import FROZEN, UserError, Workflow

# All of a plan is kept: to look through thousands of jobs for garbage, again and again, takes a tenth of the time.
if workflow.is_main_process:
    gc.set_threshold(100_000, 100, 100)

# The strongest last: Snakemake lists the files of the command line first, but merges them over the others.
CONFIG_FILES = sorted(map(Path, workflow.configfiles), key=list(workflow.overwrite_configfiles).count)
OVERRIDES = workflow.config_settings.config

# Another workflow may use this one as a module, with a part of its config: then files are that one's, and of --config
# what is set in that part.
OUTER = workflow.modifier_stack[0]
IS_MODULE = workflow.modifier is not OUTER
if IS_MODULE and workflow.modifier.skip_configfile and config is not OUTER.globals["config"]:
    part = next((key for key, value in OUTER.globals["config"].items() if value == config), None)
    CONFIG_FILES, OVERRIDES = [], OVERRIDES.get(part) or {}

try:
    if workflow.is_main_process:
        EXPERIMENT = Workflow.from_config(config, CONFIG_FILES, OVERRIDES)
        if IS_MODULE and workflow.modifier.modify_path(EXPERIMENT.results) != EXPERIMENT.results:
            raise UserError(
                "a module of this workflow takes no prefix; set paths.results in its config instead"
            )
        if vars(workflow).setdefault("mosa", config) != config:
            raise UserError("this workflow is used twice in one; run one experiment after the other")
        os.environ[FROZEN] = str(EXPERIMENT.freeze().resolve())
    else:
        EXPERIMENT = Workflow.from_frozen(os.environ.get(FROZEN))
    MANIFEST, CONFIG_SHOWN = EXPERIMENT.manifest, EXPERIMENT.shown_config
    # Only what lies on disk, or is the user's own code or model, is checked: a run of the demo waits for nothing.
    CHECKED = [
        f"{EXPERIMENT.results}/check-{Path(path).stem}.txt" for path in [EXPERIMENT.checked_config] if path
    ]
except UserError as error:
    raise WorkflowError(str(error)) from None


envvars:
    FROZEN,


CONFIG = EXPERIMENT.config
RESULTS = EXPERIMENT.results
PACKS = EXPERIMENT.packs
RUNS = EXPERIMENT.runs
# What a run leaves. Nothing asks for what lies beside the record, so that a file that is missing repeats no run.
RECORD = f"{RESULTS}/runs/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}/seed{{seed}}"
LEFT = {"record": f"{RECORD}.json"}
LEFT |= {kind: f"{RECORD}.{kind}.safetensors" for kind in ("predictions", "model") if CONFIG["keep"][kind]}
GPU = {"gpu": 1} if CONFIG["device"] == "cuda" else {}

# The user's own code that shows records (MOSA_PLUGINS): an edited file makes tables again, and no record.
PLUGIN_FILES = EXPERIMENT.showing_files

OUTPUTS = {kind: expected_outputs(kind, CONFIG, RUNS.values()) for kind in KINDS}
TABLES, PLOTS = (
    [f"{RESULTS}/{kind}/{file}" for output in OUTPUTS[kind] for file in output.files] for kind in KINDS
)

# What plugins add has jobs of its own: one that fails takes its own files alone with it.
OWN = {kind: [one for one in OUTPUTS[kind] if one in own_outputs(kind, CONFIG)] for kind in KINDS}
SHIPPED = {kind: [one for one in OUTPUTS[kind] if one not in OWN[kind]] for kind in KINDS}

REPORT = f"{RESULTS}/report.html"

# What hyper-parameters were chosen for the runs, and tables of them.
CHOICES = list(EXPERIMENT.choices)
SEARCHES = list(EXPERIMENT.searches)
CHOSEN = [f"{RESULTS}/tables/chosen.{kind}" for kind in ("csv", "md", "json") if CHOICES]

# `mosa` of the environment that Snakemake runs in, whatever else is on PATH; conda puts the job's own before it.
BIN = str(Path(sys.executable).parent)
# Jobs of this process are many on one machine; one of a cluster is alone there, unless the user says otherwise.
WARM = os.environ.get("MOSA_WARM", "auto")
if WARM == "auto" and not workflow.is_main_process:
    WARM = ""
# How a run is done, on which its result does not depend, is no parameter: a change of it repeats nothing. Commands
# have it from the environment. (A shell.prefix would be that of all rules, also of a workflow that uses this one.)
os.environ |= {
    "MOSA_DEVICE": CONFIG["device"],
    "MOSA_RUNS_PER_GPU": str(CONFIG["runs_per_gpu"]),
    "MOSA_COMPILE": CONFIG["compile"],
    "MOSA_CHANNELS_LAST": str(CONFIG["channels_last"]),
    "MOSA_GRADIENT_CHECKPOINTING": str(CONFIG["gradient_checkpointing"]),
    "MOSA_KEEP_PREDICTIONS": str(CONFIG["keep"]["predictions"]).lower(),
    "MOSA_KEEP_MODEL": str(CONFIG["keep"]["model"]),
    "MOSA_KEEP_EVENTS": str(CONFIG["keep"]["events"]),
    "MOSA_KEEP_VAL": str(CONFIG["keep"]["val"]),
    "MOSA_RESUME": f"{RESULTS}/resume",
    "MOSA_FEATURES": f"{PACKS}/features",
    "MOSA_PLUGINS": os.pathsep.join(EXPERIMENT.showing),
    "MOSA_PACKAGE": str(PACKAGE),  # for envs/*.post-deploy.sh
    "MOSA_WARM": WARM,
    "PATH": os.pathsep.join([BIN, os.environ.get("PATH", "").removeprefix(f"{BIN}{os.pathsep}")]),
}


wildcard_constraints:
    **EXPERIMENT.wildcard_constraints,


def many_times(function):
    """Keep the parameters of a function, which Snakemake looks up at each of thousands of calls.

    The attribute is Snakemake's own (9.27, get_function_params); a version without it looks them up.
    """
    function._overwrite_params = inspect.signature(function).parameters
    return function


@many_times
def run_of(wildcards):
    """The first run of a variant; its specification is that of all seeds, and of the search."""
    return EXPERIMENT.at(wildcards.benchmark, wildcards.task, wildcards.backbone, wildcards.variant)


@cache
def force_stale_files():
    """Have stale files made again: what lies on disk decides, also without .snakemake, and under any trigger.

    Input functions are called once there is a DAG, and before it is decided which of its jobs run.

    Returns:
        The stale files.
    """
    stale = EXPERIMENT.stale_files() if workflow.is_main_process else set()
    workflow.dag.forcefiles.update(stale)
    if told := EXPERIMENT.told_stale(stale):  # Snakemake's reason is "Forced execution"
        print(told, file=sys.stderr, flush=True)
    return stale


def check_before(path):
    """The check that a file waits for; of one that is made already, the check that it waited for.

    The check's name changes with the config, but another variant or task must not repeat what is done. `ancient` does
    not help: Snakemake looks at no file that depends on a job to be run.
    """
    if not CHECKED or not Path(path).exists() or path in force_stale_files():
        return CHECKED
    made = IOFile(path)
    recorded = [one for one in workflow.persistence.input(made) or () if Path(one).match("check-*.txt")]
    if all(Path(one).exists() for one in recorded):
        return recorded
    workflow.persistence.cleanup_metadata(made)  # the check was deleted, which repeats nothing either
    return []


@many_times
def files_of_run(wildcards):
    """The specification of a run and the pack of its task, in one call: Snakemake makes some for each job.

    They are ancient as they are named by their content, and another content is another file.
    """
    force_stale_files()
    run = run_of(wildcards)
    return {
        "spec": ancient(EXPERIMENT.specification_file(run)),
        "pack": ancient(f"{PACKS}/{run.specification.data.pack}"),
    }


def check_of_pack(wildcards):
    """The check that a pack waits for. Earlier versions had parameters here, which are to repeat nothing."""
    pack = IOFile(f"{PACKS}/{wildcards.pack}")
    if workflow.persistence.params(pack):
        workflow.persistence.cleanup_metadata(pack)
    return check_before(pack)


@many_times
def check_of_run(wildcards):
    """The check that a run waits for."""
    return check_before(RECORD.format(**wildcards) + ".json")


@many_times
def choice_of_run(wildcards):
    """The hyper-parameters that were chosen for a run."""
    choice = run_of(wildcards).choice
    return f"{RESULTS}/tune/choices/{choice}.json" if choice else []


def command_line(options):
    """Options by name, as they stand on a command line; what is None is left out."""
    texts = (
        (f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None
    )
    return shlex.join(text for option in texts for text in option)


# Which variants are compared, and with which.
COMPARED = command_line({"variants": ",".join(CONFIG["variants"]), "reference": CONFIG["reference"]})


def options_of_search(wildcards):
    """How a variant is searched on a task, as options of `mosa tune`."""
    return command_line(EXPERIMENT.search_options(run_of(wildcards)))


def folder_of_records(wildcards, output):
    """The folder that keeps the records of a search's trainings."""
    folder = Path(output[0]).relative_to(f"{RESULTS}/tune/trials").with_suffix("")
    return str(Path(RESULTS) / "tune" / "records" / folder)


@many_times
def memory_of_run(wildcards, attempt):
    """Memory of the host, in MB; a number, which Snakemake need not read from a text for each job."""
    return 1000 * resources.memory_gigabytes(run_of(wildcards).specification, attempt)


@many_times
def runtime_of_run(wildcards, attempt):
    """Minutes that a run may take; a number, too."""
    what = run_of(wildcards).specification
    return round(resources.run_minutes(what, EXPERIMENT.tasks[what.task], bool(GPU), attempt, CONFIG["tune"]))


def runtime_of_search(wildcards, attempt):
    """Time of all trials of a search."""
    what, tune = run_of(wildcards).specification, CONFIG["tune"]
    task = EXPERIMENT.tasks[what.task]
    return f"{resources.search_minutes(what, task, bool(GPU), tune, attempt):.0f}m"


def trials_of_choice(wildcards):
    """The searches that a choice is made from: of one task, or of all tasks of a benchmark."""
    return EXPERIMENT.choices[
        f"{RESULTS}/tune/choices/{wildcards.scope}/{wildcards.backbone}/{wildcards.variant}.json"
    ]


def all_records(wildcards):
    """The records of all runs."""
    force_stale_files()
    return list(RUNS)


def marked(kind, outputs):
    """The files of tables, or plots; of each, one format is marked for Snakemake's report."""
    formats = {"tables": {"format": "Markdown"}, "plots": {}}[kind]
    for output in outputs:
        path = f"{RESULTS}/{kind}/{output.name}"
        yield from (f"{path}.{suffix}" for suffix in output.formats if suffix != output.embedded)
        yield report(
            f"{path}.{output.embedded}",
            category=kind.capitalize(),
            caption=EXPERIMENT.caption(kind, output) or f"../report/{kind}/{output.name}.rst",
            labels={kind.removesuffix("s"): output.label} | formats,
        )


def only(outputs):
    """The names of tables, or plots, as an option of the command that writes them."""
    return command_line({"only": ",".join(one.name for one in outputs)})


ONLY = {kind: only(read_outputs(kind)) if OWN[kind] else "" for kind in KINDS}
# The command says nothing of what has nothing to show, and Snakemake asks for a file.
EMPTY = ' && for file in {output:q}; do [ -e "$file" ] || : > "$file"; done'


def folder_of_output(wildcards, output):
    """The folder that a rule writes to."""
    return str(Path(output[0]).parent)


def task_of_pack(wildcards):
    """The task that a pack is of."""
    return EXPERIMENT.tasks[EXPERIMENT.packed[wildcards.pack].task]


def existing_records():
    """A digest of which records exist, and since when."""
    found = [(record, Path(record).stat().st_mtime_ns) for record in RUNS if Path(record).is_file()]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]
