# Tables, plots and report of the records that exist, with those that are missing and why: snakemake partial
# The records are a parameter, not an input, so that nothing is trained for it.


# What a plugin cannot make is told, and takes nothing with it.
OWN_TOO = "".join(
    f" && (mosa {kind} --records {{output.runs:q}} {{params.compared}} {only(OWN[kind])} --unfinished"
    " --output {params.folder:q} >> {log:q} 2>&1 || tail -n 1 {log:q} >&2)"
    for kind in KINDS
    if OWN[kind]
)


rule partial:
    input:
        manifest=MANIFEST,
        config=CONFIG_SHOWN,
        plugins=PLUGIN_FILES,
    output:
        runs=f"{RESULTS}/partial/runs.csv",
        table=f"{RESULTS}/partial/comparison.txt",
        plot=f"{RESULTS}/partial/comparison.png",
        report=f"{RESULTS}/partial/report.html",
    log:
        f"{RESULTS}/logs/partial.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    params:
        compared=COMPARED,
        title=CONFIG["name"],
        results=lambda wildcards, output: str(Path(output.runs).parents[1]),
        folder=folder_of_output,
        existing=lambda wildcards: existing_records(),
    shell:
        "(mosa collect --manifest {input.manifest:q} --existing --output {output.runs:q} &&"
        " mosa tables --records {output.runs:q} {params.compared} --unfinished --output {params.folder:q}"
        f" {ONLY['tables']} &&"
        " mosa plots --records {output.runs:q} {params.compared} --unfinished --output {params.folder:q}"
        f" {ONLY['plots']} &&"
        " mosa report --records {output.runs:q} {params.compared} --unfinished --title {params.title:q}"
        " --config {input.config:q} --manifest {input.manifest:q} --results {params.results:q}"
        " --output {output.report:q})"
        f" > {{log:q}} 2>&1{OWN_TOO}"
