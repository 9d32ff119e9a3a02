# All tables of mosa/results/tables, from the records alone.


rule tables:
    input:
        TABLES,


rule write_tables:
    input:
        runs=f"{RESULTS}/tables/runs.csv",
        plugins=PLUGIN_FILES,
    output:
        [*marked("tables", SHIPPED["tables"])],
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
        "mosa tables --records {input.runs:q} {params.compared} --unfinished"
        f" {ONLY['tables']} --output {{params.folder:q}} > {{log:q}} 2>&1"


for own in OWN["tables"]:

    rule:
        name:
            f"write_table_{own.name}"
        input:
            runs=f"{RESULTS}/tables/runs.csv",
            plugins=PLUGIN_FILES,
        output:
            [*marked("tables", [own])],
        log:
            f"{RESULTS}/logs/tables-{own.name}.log",
        localrule: True
        conda:
            "../envs/analysis.yaml"
        resources:
            mem="2GB",
            runtime="10m",
        params:
            compared=COMPARED,
            only=only([own]),  # not in the command, which is put together when there is no loop any more
            folder=folder_of_output,
        shell:
            "mosa tables --records {input.runs:q} {params.compared} --unfinished"
            f" {{params.only}} --output {{params.folder:q}} > {{log:q}} 2>&1{EMPTY}"
