# Hyper-parameters, chosen on val: all trials of a variant on a task in one job, then one choice per task or
# per benchmark, which the final runs take. Only a config with `tune` has these jobs.


rule tune:
    input:
        CHOICES,


TRIALS = f"{RESULTS}/tune/trials/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}.json"


rule search:
    input:
        unpack(files_of_run),
        check=ancient(lambda wildcards: check_before(TRIALS.format(**wildcards))),
    output:
        TRIALS,
    log:
        f"{RESULTS}/logs/tune/{{benchmark}}/{{task}}/{{backbone}}/{{variant}}.log",
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **GPU,
        mem_mb=memory_of_run,
        runtime=runtime_of_search,
    params:
        search=options_of_search,
        # Not an output: Snakemake deletes outputs before a job, and the trials that are done are worth keeping.
        folder=folder_of_records,
    shell:
        "mosa tune --spec {input.spec:q} {params.search} --pack {input.pack:q} --threads {threads}"
        " --folder {params.folder:q} --output {output:q} > {log:q} 2>&1"


rule choose:
    input:
        trials_of_choice,
    output:
        f"{RESULTS}/tune/choices/{{scope}}/{{backbone}}/{{variant}}.json",
    log:
        f"{RESULTS}/logs/choose/{{scope}}/{{backbone}}/{{variant}}.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="1GB",
        runtime="10m",
    shell:
        "mosa choose {input:q} --output {output:q} > {log:q} 2>&1"


rule write_choices:
    input:
        trials=SEARCHES,
        manifest=EXPERIMENT.list_of_searches,
    output:
        f"{RESULTS}/tables/chosen.json",
        f"{RESULTS}/tables/chosen.csv",
        report(
            f"{RESULTS}/tables/chosen.md",
            category="Tables",
            caption="../report/chosen.rst",
            labels={"table": "chosen hyper-parameters", "format": "Markdown"},
        ),
    log:
        f"{RESULTS}/logs/choices.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem="1GB",
        runtime="10m",
    params:
        per=CONFIG["tune"]["per"] if CONFIG["tune"] else "",
        folder=folder_of_output,
    shell:
        "mosa choices {input.manifest:q} --per {params.per} --output {params.folder:q} > {log:q} 2>&1"
