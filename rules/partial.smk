# Tables and plots of the records that exist: snakemake partial
# The records are a parameter, not an input, so that nothing is trained for it.


rule partial:
    input:
        MANIFEST,
    output:
        runs=f"{RESULTS}/partial/runs.csv",
        table=f"{RESULTS}/partial/comparison.txt",
        plot=f"{RESULTS}/partial/comparison.png",
    log:
        f"{RESULTS}/logs/partial.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    params:
        variants=MAIN_VARIANTS,
        folder=folder_of_output,
        existing=lambda wildcards: existing_records(),
    shell:
        "(mosa collect --manifest {input:q} --existing --output {output.runs:q} &&"
        " mosa tables --records {output.runs:q} --variants {params.variants:q} --output {params.folder:q} &&"
        " mosa plots --records {output.runs:q} --variants {params.variants:q} --output {params.folder:q})"
        " > {log:q} 2>&1"
