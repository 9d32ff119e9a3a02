# One run: train, evaluate once, write one record. The parameters are what changes the result, with
# every default filled in, so that a run is repeated if and only if one of them changes.


rule train:
    input:
        # ancient: a pack made again holds the same images; a changed one has another version.
        pack=ancient(f"{PACKS}/{{benchmark}}/{{task}}.safetensors"),
        weights=weights_file,
    output:
        f"{RESULTS}/runs/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}/seed{{seed}}.json",
    log:
        f"{RESULTS}/logs/train/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}/seed{{seed}}.log",
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        mem="1GB",
        runtime="30m",
    params:
        specification=lambda wildcards: as_json(run_of(wildcards).specification),
        architecture=lambda wildcards: run_of(wildcards).architecture,
        weights=lambda wildcards: run_of(wildcards).weights,
        method=lambda wildcards: run_of(wildcards).method,
        options=lambda wildcards: as_json(run_of(wildcards).options),
        training=lambda wildcards: as_json(run_of(wildcards).training),
        stage=CONFIG["stage"],
        protocol=CONFIG["protocol"],
    shell:
        "mosa train --task {wildcards.benchmark}/{wildcards.task} --pack {input.pack:q}"
        " --backbone {wildcards.backbone} --architecture {params.architecture:q} --weights {params.weights:q}"
        " --variant {wildcards.variant} --method {params.method} --options {params.options:q}"
        " --training {params.training:q} --seed {wildcards.seed} --stage {params.stage}"
        " --protocol {params.protocol} --threads {threads} --output {output:q} > {log:q} 2>&1"
