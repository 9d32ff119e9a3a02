# One run: train, evaluate once, write one record. The parameters are what changes the result, with
# every default filled in, so that a run is repeated if and only if one of them changes.


rule train:
    input:
        # ancient: a pack made again holds the same images; a changed one has another version.
        pack=ancient(lambda wildcards: f"{PACKS}/{run_of(wildcards).pack}"),
        weights=weights_file,
        check=ancient(CHECKED),
        choice=choice_of_run,
    output:
        f"{RESULTS}/runs/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}/seed{{seed}}.json",
    log:
        f"{RESULTS}/logs/train/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}/seed{{seed}}.log",
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        mem=lambda wildcards: "1GB" if run_of(wildcards).image_size <= 32 else "8GB",
        runtime=lambda wildcards: 30 if run_of(wildcards).image_size <= 32 else 720,
        gpu=1 if CONFIG["device"] == "cuda" else 0,
    params:
        specification=lambda wildcards: as_json(run_of(wildcards).specification),
        options=options_of_run,
        seed=options_of_seed,
        # Not an output: Snakemake deletes outputs before a job is tried again.
        checkpoints=f"{RESULTS}/checkpoints",
    shell:
        "mosa train {params.options} {params.seed} --pack {input.pack:q} --threads {threads}"
        " --checkpoints {params.checkpoints:q}"
        " --output {output:q} > {log:q} 2>&1"
