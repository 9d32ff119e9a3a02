# The check of what lies on disk, before anything else; and packs: the splits of a task as uint8 arrays,
# made once and shared by all runs and experiments.


rule check:
    input:
        CHECKED,


rule check_data:
    input:
        EXPERIMENT.checked_config or [],
    output:
        # No wildcard: a check of another config is a file like any other.
        CHECKED or f"{RESULTS}/check-nothing.txt",
    log:
        f"{RESULTS}/logs/{Path(CHECKED[0]).stem if CHECKED else 'check-nothing'}.log",
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
        check=ancient(check_of_pack),
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
    # No parameters: a pack that is there is what its name says, wherever its images are by now.
    shell:
        f'mosa make-data --frozen "${FROZEN}" --threads {{threads}} --output {{output:q}} > {{log:q}} 2>&1'
