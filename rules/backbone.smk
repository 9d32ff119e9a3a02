# The micro backbone is shipped; this makes it again, from nothing: snakemake pretrain


rule pretrain:
    input:
        f"{RESULTS}/backbones/micro_vit.safetensors",


rule pretrain_backbone:
    output:
        weights=f"{RESULTS}/backbones/micro_vit.safetensors",
        card=f"{RESULTS}/backbones/micro_vit.json",
    log:
        f"{RESULTS}/logs/pretrain_backbone.log",
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        mem="2GB",
        runtime="3h",
    shell:
        "mosa pretrain --output {output.weights:q} --threads {threads} > {log:q} 2>&1"
