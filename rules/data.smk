# The check of what lies on disk, before anything else; and packs: the splits of a task as uint8 arrays,
# made once and shared by all runs and experiments.


rule check:
    input:
        CHECKED,


rule check_data:
    input:
        f"{RESULTS}/manifests/{{config}}.yaml",
    output:
        f"{RESULTS}/check-{{config}}.txt",
    log:
        f"{RESULTS}/logs/check-{{config}}.log",
    conda:
        "../envs/train.yaml"
    threads: 4
    resources:
        mem="4GB",
        runtime="4h",
    shell:
        "mosa check --alone --configfile {input:q} --threads {threads} --output {output:q} > {log:q} 2>&1"


rule make_data:
    input:
        check=ancient(CHECKED),
    output:
        f"{PACKS}/{{pack}}",
    log:
        f"{RESULTS}/logs/make_data/{{pack}}.log",
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: 4 if TASK_OF_PACK[wildcards.pack][0].on_disk else 1
    resources:
        mem=lambda wildcards, attempt: f"{2 * attempt}GB",
        runtime=lambda wildcards, attempt: f"{attempt * (240 if TASK_OF_PACK[wildcards.pack][0].on_disk else 10)}m",
    params:
        task=lambda wildcards: TASK_OF_PACK[wildcards.pack][0].full_name,
        options=options_of_pack,
    shell:
        "mosa make-data {params.task} {params.options} --threads {threads} --output {output:q} > {log:q} 2>&1"
