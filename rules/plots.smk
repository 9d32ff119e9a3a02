# All plots of mosa/results/plots, from the records alone.


rule plots:
    input:
        PLOTS,


rule draw_plots:
    input:
        runs=f"{RESULTS}/tables/runs.csv",
        plugins=PLUGIN_FILES,
    output:
        [*marked("plots")],
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
        " --output {params.folder:q} > {log:q} 2>&1"
