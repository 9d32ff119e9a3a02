# The comparison (the config's variants) and the sweep (all of them), as CSV, Markdown and LaTeX.


rule tables:
    input:
        TABLES,


rule write_tables:
    input:
        f"{RESULTS}/tables/runs.csv",
    output:
        multiext(f"{RESULTS}/tables/comparison", ".csv", ".html", ".tex", ".txt"),
        multiext(f"{RESULTS}/tables/sweep", ".csv", ".html", ".tex", ".txt"),
        report(
            f"{RESULTS}/tables/comparison.md",
            category="Tables",
            caption="../report/comparison_table.rst",
            labels={"table": "comparison", "format": "Markdown"},
        ),
        report(
            f"{RESULTS}/tables/sweep.md",
            category="Tables",
            caption="../report/sweep_table.rst",
            labels={"table": "sweep", "format": "Markdown"},
        ),
        f"{RESULTS}/tables/differences.csv",
        report(
            f"{RESULTS}/tables/differences.md",
            category="Tables",
            caption="../report/differences.rst",
            labels={"table": "differences", "format": "Markdown"},
        ),
        f"{RESULTS}/tables/combination.csv",
        report(
            f"{RESULTS}/tables/combination.md",
            category="Tables",
            caption="../report/combination.rst",
            labels={"table": "with and without the split", "format": "Markdown"},
        ),
        f"{RESULTS}/tables/efficiency.csv",
        report(
            f"{RESULTS}/tables/efficiency.md",
            category="Tables",
            caption="../report/efficiency.rst",
            labels={"table": "efficiency", "format": "Markdown"},
        ),
        [table for table in TABLES if table.endswith("published.csv")],
        report(
            [table for table in TABLES if table.endswith("published.md")],
            category="Tables",
            caption="../report/published.rst",
            labels={"table": "measured and published", "format": "Markdown"},
        ),
    log:
        f"{RESULTS}/logs/tables.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    params:
        variants=MAIN_VARIANTS,
        folder=folder_of_output,
        published="--published" if PUBLISHED else "",
    shell:
        "mosa tables --records {input:q} --variants {params.variants:q} {params.published}"
        " --output {params.folder:q} > {log:q} 2>&1"
