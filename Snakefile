# The workflow: config -> packs -> one record per run -> tables and plots.
#   snakemake                     all of it, as profiles/default says
#   snakemake -n --quiet rules    what would run
#   snakemake tables plots        only what these need
from snakemake.utils import min_version

min_version("9.0")


# A job that waited in a queue reads what was frozen when it was submitted, not the config.
if workflow.is_main_process:

    configfile: "config.yaml"


include: "rules/common.smk"


rule all:
    default_target: True
    input:
        TABLES,
        CHOSEN,
        PLOTS,
        REPORT,


# Where another workflow uses this one, its own handler counts.
onsuccess:
    if any(job.rule.name == "write_report" for job in workflow.dag.jobs):
        if Path(REPORT).is_file():
            print(f"table: {RESULTS}/tables/comparison.txt", file=sys.stderr)
            print(f"report, for a browser: {REPORT}", file=sys.stderr)
        else:  # such as after a pack that was interrupted: Snakemake makes it, and stops there
            print("not everything is made yet: run the same command again", file=sys.stderr)


# Seconds on few records: not worth a job of a cluster.
localrules:
    choose,
    write_choices,
    collect,
    write_tables,
    draw_plots,
    write_report,
    partial,


include: "rules/data.smk"
include: "rules/backbone.smk"
include: "rules/tune.smk"
include: "rules/train.smk"
include: "rules/collect.smk"
include: "rules/tables.smk"
include: "rules/plots.smk"
include: "rules/report.smk"
include: "rules/partial.smk"
include: "rules/retries.smk"
include: "rules/targets.smk"
