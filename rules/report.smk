# One page with everything, which needs no network: summary, tables, interactive plots, every run.


rule report:
    input:
        REPORT,


rule write_report:
    input:
        runs=f"{RESULTS}/tables/runs.csv",
        config=CONFIG_SHOWN,
        manifest=MANIFEST,
        choices=[f"{RESULTS}/tables/chosen.json"] if CHOICES else [],
    output:
        REPORT,
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    params:
        title=CONFIG["name"],
        compared=COMPARED,
        results=folder_of_output,
        choices=lambda wildcards, input: command_line({"choices": input.choices or None}),
    shell:
        "mosa report --records {input.runs:q} {params.compared} --unfinished --title {params.title:q}"
        " --config {input.config:q} --manifest {input.manifest:q} --results {params.results:q} {params.choices}"
        " --output {output:q} > {log:q} 2>&1"
