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
    threads: lambda wildcards: 4 if task_of_pack(wildcards).on_disk else 1
    resources:
        mem=lambda wildcards, attempt: f"{2 * attempt}GB",
        runtime=lambda wildcards, attempt: f"{attempt * (240 if task_of_pack(wildcards).on_disk else 10)}m",
    params:
        task=lambda wildcards: task_of_pack(wildcards).full_name,
        options=lambda wildcards: shlex.join(EXPERIMENT.pack_options(wildcards.pack)),
    shell:
        "mosa make-data {params.task} {params.options} --threads {threads} --output {output:q} > {log:q} 2>&1"
