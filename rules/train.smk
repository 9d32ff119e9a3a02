# One run: train, evaluate once, write one record. The parameters are what changes the result, with
# every default filled in, so that a run is repeated if and only if one of them changes.


rule train:
    input:
        # ancient: a pack made again holds the same images; a changed one has another version.
        pack=ancient(pack_of_run),
        # A function only where it is needed: Snakemake calls it several times for each of thousands of jobs.
        weights=weights_file if WEIGHTS_FILES else [],
        check=ancient(CHECKED),
        choice=choice_of_run if CHOICES else [],
    output:
        f"{RESULTS}/runs/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}/seed{{seed}}.json",
    log:
        f"{RESULTS}/logs/train/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}/seed{{seed}}.log",
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **GPU,
        mem=memory_of_run,
        runtime=runtime_of_run,
    params:
        specification=specification_of_run,
        options=options_of_training,
    shell:
        "mosa train {params.options} --pack {input.pack:q} --threads {threads}"
        " --output {output:q} > {log:q} 2>&1"
