# Packs: the splits of a task as uint8 arrays, made once and shared by all runs and experiments.


rule make_data:
    output:
        f"{PACKS}/{{benchmark}}/{{task}}.safetensors",
    log:
        f"{RESULTS}/logs/make_data/{{benchmark}}/{{task}}.log",
    conda:
        "../envs/train.yaml"
    resources:
        mem="1GB",
        runtime="10m",
    params:
        version=lambda wildcards: get_task(f"{wildcards.benchmark}/{wildcards.task}").version,
    shell:
        "mosa make-data {wildcards.benchmark}/{wildcards.task} --output {output:q} > {log:q} 2>&1"
