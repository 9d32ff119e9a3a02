# One run: train, evaluate once, write one record. A job gets its specification as a file and interprets no
# config. That file is named by its content, so a run is repeated if and only if what decides its result changes.


rule train:
    # An input only where there is one to wait for: Snakemake looks at each of thousands of jobs' several times.
    input:
        unpack(files_of_run),
        **({"choice": choice_of_run} if CHOICES else {}),
        **({"check": ancient(check_of_run)} if CHECKED else {}),
    output:
        **LEFT,
    log:
        f"{RESULTS}/logs/train/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}/seed{{seed}}.log",
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **GPU,
        mem_mb=memory_of_run,
        runtime=runtime_of_run,
    params:
        choice="--choice" if CHOICES else "",
    shell:
        "mosa train --spec {input.spec:q} --seed {wildcards.seed} --pack {input.pack:q}"
        f" {'{params.choice} {input.choice:q}' if CHOICES else ''}"
        " --threads {threads} --output {output.record:q} > {log:q} 2>&1"
