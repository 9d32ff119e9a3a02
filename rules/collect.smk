# All records of this config in one table, each verified against the specification that the manifest means.
# Records of runs that the config no longer has stay on disk, and are not in it.


rule collect:
    input:
        records=all_records,
        manifest=MANIFEST,
        plugins=PLUGIN_FILES,
    output:
        runs=f"{RESULTS}/tables/runs.csv",
        # A digest of what the table was made from, by which a stale one is known.
        made_from=f"{RESULTS}/tables/runs.made-from",
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="2GB",
        runtime="10m",
    shell:
        "mosa collect --manifest {input.manifest:q} --output {output.runs:q} > {log:q} 2>&1"
