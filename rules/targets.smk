# What the command line names, looked at before anything is planned: Snakemake knows no near misses, does nothing about
# an unknown name after --until, and finds out in the middle of a job that there is nothing to show.
from contextlib import redirect_stderr
from io import StringIO

from snakemake.cli import parse_args

from mosa.base.errors import suggest, unknown


def check_name(name):
    """Refuse a name of neither a rule nor a file that is there, or that a rule makes."""
    rules_by_name = {one.name: one for one in workflow.rules}
    if name in rules_by_name or Path(name).exists():
        return
    if any(one.is_producer(name) for one in workflow.rules):
        return
    if "/" in name:
        raise UserError(f"no rule makes {name!r}{suggest(name, [*RUNS, *TABLES, *PLOTS, REPORT])}")
    raise unknown("target", name, rules_by_name)


def check_rules(options):
    """Refuse options of rules that there are none of, which Snakemake takes without a word."""
    known = {one.name: one for one in workflow.rules}
    groups = dict.fromkeys((options.groups or {}).values())
    for each in (options.set_resources, options.set_threads, options.groups):
        for name in each or ():
            if name not in known:
                raise unknown("rule", name, known)
    for name in options.group_components or ():
        if name not in groups:
            raise unknown("group", name, groups)


def check_partial():
    """Refuse tables of records that do not exist."""
    found = {record for record in RUNS if Path(record).is_file()}
    if not found - EXPERIMENT.stale_records():
        others = f"; of another specification: {len(found)}" if found else ""
        raise UserError(
            f"partial: none of the records of this config exists yet ({len(RUNS)} meant){others}; run the workflow first"
        )


# Where another workflow includes or uses this one, the command line is that one's.
FOLDER = os.path.dirname(os.path.abspath(workflow.current_basedir.get_path_or_uri(secret_free=True)))
MAIN = os.path.abspath(workflow.main_snakefile)
IS_MAIN = MAIN in (f"{FOLDER}/Snakefile", f"{FOLDER}/workflow/Snakefile")

if workflow.is_main_process and IS_MAIN and "snakemake" in sys.argv[0] and len(sys.argv) > 1:
    with redirect_stderr(StringIO()):  # it says again which profile is read
        _, given = parse_args(sys.argv[1:])
    try:
        for names in (given.targets, given.until, given.omit_from, given.forcerun, given.allowed_rules):
            for name in names or ():
                check_name(name)
        check_rules(given)
        local = given.executor in (None, "local")  # jobs of a cluster ask for what they need by themselves
        if local and "gpu" in given.resources and not GPU:
            raise UserError(
                "resources: gpu is given, and the config says `device: cpu`; set `device: cuda`, or take another profile"
            )
        if "partial" in given.targets:
            check_partial()
    except UserError as error:
        raise WorkflowError(str(error)) from None
