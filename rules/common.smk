# Names and helpers that the rules share. Nothing here imports torch or pandas: every cluster job
# reads this file again.
import hashlib
import json
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(workflow.basedir))

from mosa.config import expand, load_config
from mosa.data.catalogue import get_task
from mosa.errors import UserError
from mosa.files import written_atomically

try:
    CONFIG = load_config(config, workflow.configfiles)
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CONFIG["paths"]["results"]
PACKS = CONFIG["paths"]["packs"]
RUNS = {f"{RESULTS}/{run.path}": run for run in expand(CONFIG)}
MAIN_VARIANTS = ",".join(CONFIG["variants"])

TABLES = [
    f"{RESULTS}/tables/{name}.{kind}"
    for name in ("comparison", "sweep")
    for kind in ("csv", "md", "tex", "txt")
]
PLOTS = [f"{RESULTS}/plots/{name}.{kind}" for name in ("comparison", "scaling") for kind in ("svg", "png")]

# `mosa` of this environment, where the job's own environment (conda) does not bring one.
shell.prefix(f"set -euo pipefail; export PATH=\"$PATH\":'{Path(sys.executable).parent}'; ")


wildcard_constraints:
    benchmark="|".join(map(re.escape, CONFIG["benchmarks"])),
    task="|".join(re.escape(task) for tasks in CONFIG["benchmarks"].values() for task in tasks),
    backbone="|".join(map(re.escape, CONFIG["backbones"])),
    variant="|".join(sorted({re.escape(run.variant) for run in RUNS.values()})),
    seed=r"\d+",


def run_of(wildcards):
    """The run that a record belongs to."""
    task = f"{wildcards.benchmark}/{wildcards.task}"
    return RUNS[f"{RESULTS}/runs/{task}/{wildcards.backbone}/{wildcards.variant}/seed{wildcards.seed}.json"]


def as_json(value):
    """Options as they stand on the command line: the same text for the same options."""
    return json.dumps(value, sort_keys=True)


def folder_of_output(wildcards, output):
    """The folder that a rule writes to."""
    return str(Path(output[0]).parent)


def weights_file(wildcards):
    """The weights of the run, where they are a file of the user's."""
    weights = run_of(wildcards).weights
    return [] if weights in ("builtin", "random") else [weights]


def write_manifest():
    """List the records of this config in a file, one per line, and return its path.

    Thousands of paths do not fit on a command line. The file is named by its content, so that the
    tables are made again if, and only if, the set of runs changes.
    """
    text = "".join(f"{record}\n" for record in RUNS)
    path = Path(RESULTS) / "manifests" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    if not path.is_file():
        with written_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return str(path)


def existing_records():
    """A digest of which records exist, and since when."""
    found = [(record, Path(record).stat().st_mtime_ns) for record in RUNS if Path(record).is_file()]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


try:
    MANIFEST = write_manifest()
except UserError as error:
    raise WorkflowError(str(error)) from None
