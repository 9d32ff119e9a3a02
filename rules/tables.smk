# All tables of mosa/results/tables, from the records alone.


rule tables:
    input:
        TABLES,


rule write_tables:
    input:
        f"{RESULTS}/tables/runs.csv",
    output:
        [*marked("tables")],
    log:
        f"{RESULTS}/logs/tables.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    params:
        compared=COMPARED,
        folder=folder_of_output,
    shell:
        "mosa tables --records {input:q} {params.compared} --unfinished"
        " --output {params.folder:q} > {log:q} 2>&1"
