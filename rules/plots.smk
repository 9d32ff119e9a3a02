# The comparison by group, accuracy against tuned parameters and against what is swept, ranks.


rule plots:
    input:
        PLOTS,


rule draw_plots:
    input:
        f"{RESULTS}/tables/runs.csv",
    output:
        [plot for plot in PLOTS if not plot.endswith(".svg")],
        report(
            f"{RESULTS}/plots/comparison.svg",
            category="Plots",
            caption="../report/comparison_plot.rst",
            labels={"plot": "comparison by group"},
        ),
        report(
            f"{RESULTS}/plots/scaling.svg",
            category="Plots",
            caption="../report/scaling_plot.rst",
            labels={"plot": "accuracy against tuned parameters"},
        ),
        report(
            f"{RESULTS}/plots/compute.svg",
            category="Plots",
            caption="../report/compute_plot.rst",
            labels={"plot": "accuracy against compute"},
        ),
        report(
            [plot for plot in PLOTS if plot.endswith("backbones.svg")],
            category="Plots",
            caption="../report/backbones_plot.rst",
            labels={"plot": "accuracy against the backbone's size"},
        ),
        report(
            f"{RESULTS}/plots/ranks.svg",
            category="Plots",
            caption="../report/rank_plot.rst",
            labels={"plot": "average ranks"},
        ),
        report(
            [plot for plot in PLOTS if plot.endswith("options.svg")],
            category="Plots",
            caption="../report/options_plot.rst",
            labels={"plot": "accuracy against options"},
        ),
    log:
        f"{RESULTS}/logs/plots.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    params:
        variants=MAIN_VARIANTS,
        folder=folder_of_output,
    shell:
        "mosa plots --records {input:q} --variants {params.variants:q}"
        " --output {params.folder:q} > {log:q} 2>&1"
