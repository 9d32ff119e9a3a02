# All records of this config in one table. Records of runs that the config no longer has stay on disk
# but are not in it.


rule collect:
    input:
        records=list(RUNS),
        manifest=MANIFEST,
    output:
        f"{RESULTS}/tables/runs.csv",
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    params:
        columns=" ".join(COLUMNS),  # a CSV of other columns is made again
    shell:
        "mosa collect --manifest {input.manifest:q} --output {output:q} > {log:q} 2>&1"
