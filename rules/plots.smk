# All plots of mosa/results/plots, from the records alone.


rule plots:
    input:
        PLOTS,


rule draw_plots:
    input:
        f"{RESULTS}/tables/runs.csv",
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
        "mosa plots --records {input:q} {params.compared} --unfinished"
        " --output {params.folder:q} > {log:q} 2>&1"
