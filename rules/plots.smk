# All plots of mosa/results/plots, from the records alone.


rule plots:
    input:
        PLOTS,


rule draw_plots:
    input:
        runs=f"{RESULTS}/tables/runs.csv",
        plugins=PLUGIN_FILES,
    output:
        [*marked("plots", SHIPPED["plots"])],
    log:
        f"{RESULTS}/logs/plots.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    params:
        compared=COMPARED,
        folder=folder_of_output,
    shell:
        "mosa plots --records {input.runs:q} {params.compared} --unfinished"
        f" {ONLY['plots']} --output {{params.folder:q}} > {{log:q}} 2>&1"


for own in OWN["plots"]:

    rule:
        name:
            f"draw_plot_{own.name}"
        input:
            runs=f"{RESULTS}/tables/runs.csv",
            plugins=PLUGIN_FILES,
        output:
            [*marked("plots", [own])],
        log:
            f"{RESULTS}/logs/plots-{own.name}.log",
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
            "mosa plots --records {input.runs:q} {params.compared} --unfinished"
            f" {{params.only}} --output {{params.folder:q}} > {{log:q}} 2>&1{EMPTY}"
