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
        mem=memory_of_run,
        runtime=runtime_of_run,
        gpu=1 if CONFIG["device"] == "cuda" else 0,
    params:
        specification=lambda wildcards: as_json(run_of(wildcards).specification),
        options=options_of_run,
        seed=options_of_seed,
    shell:
        "mosa train {params.options} {params.seed} --pack {input.pack:q} --threads {threads}"
        " --output {output:q} > {log:q} 2>&1"
