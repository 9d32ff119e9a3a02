# Packs: the splits of a task as uint8 arrays, made once and shared by all runs and experiments.


rule make_data:
    output:
        f"{PACKS}/{{pack}}",
    log:
        f"{RESULTS}/logs/make_data/{{pack}}.log",
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: 4 if TASK_OF_PACK[wildcards.pack][0].on_disk else 1
    resources:
        mem="2GB",
        runtime=lambda wildcards: 240 if TASK_OF_PACK[wildcards.pack][0].on_disk else 10,
    params:
        task=lambda wildcards: TASK_OF_PACK[wildcards.pack][0].full_name,
        options=options_of_pack,
    shell:
        "mosa make-data {params.task} {params.options} --threads {threads} --output {output:q} > {log:q} 2>&1"
