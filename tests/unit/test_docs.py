"""Documentation agrees with what it describes: generated pages, links, names, commands; snippets run."""

import contextlib
import importlib.util
import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml
from forked import run_mosa
from test_records import make_record
from travelling import write_results

from mosa.cli.commands import cli
from mosa.cli.help import EXAMPLES, commands_page
from mosa.data.sources import with_sources
from mosa.experiment.config import read_config
from mosa.experiment.workflow import Workflow
from mosa.peft import list_methods
from mosa.peft.describe import methods_page
from mosa.results.frame import read_table, to_frame, write_table
from mosa.results.tables.write import terminal_table, write_tables

DOCS = Path(__file__).parents[2] / "docs"


def test_methods_page_is_what_the_registry_says():
    assert (DOCS / "methods.md").read_text() == methods_page(), "run `mosa schema`"


PAGES = [*sorted(DOCS.parent.glob("*.md")), *sorted(DOCS.glob("*.md"))]
NAV = yaml.safe_load(re.sub("!!python/[^ ]*", "", (DOCS.parent / "mkdocs.yml").read_text()))["nav"]


def without_code(page):
    """Return a page without fenced and indented blocks of code, and inline code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(?:\n\n|\A)(?: {4}.*\n+)+", "\n\n", text)
    return re.sub(r"`[^`\n]*`(?!\])", "", text)


@cache
def anchors(page):
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", without_code(page)):
        if "://" in target:
            continue
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), target
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{target}#{anchor}"
    for command in re.findall(r"configs/[\w-]+\.yaml", page.read_text()):
        assert (DOCS.parent / command).is_file(), command


def test_every_page_has_its_place_in_the_site():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [
            page for child in (entry.values() if isinstance(entry, dict) else entry) for page in pages(child)
        ]

    named = pages(NAV)
    assert len(named) == len(set(named))
    top = {page.name for page in DOCS.parent.glob("*.md")} - {"README.md"}
    assert set(named) == {page.name for page in DOCS.glob("*.md")} | top


def test_generated_pages_are_what_their_sources_say():
    assert (DOCS / "cli.md").read_text() == commands_page(cli), "run `mosa schema`"
    assert "\nmosa new method [OPTIONS] NAME\n" in commands_page(cli)
    for name, kind in (("data.md", "data"), ("weights.md", "weights")):
        page = (DOCS / name).read_text()
        assert with_sources(page, kind) == page, "run `mosa schema`"


def test_the_figure_of_the_split_is_what_its_code_draws():
    figure = runpy.run_path(str(DOCS.parent / "benchmarks" / "split_figure.py"))
    assert figure["OUTPUT"].read_text() == figure["draw"](), "run benchmarks/split_figure.py"
    owners = [expert for row in figure["partition"]() for expert in row]
    assert {owners.count(expert) for expert in range(4)} == {len(owners) // 4}


def test_the_github_workflow_does_what_continuous_integration_does():
    jobs = yaml.safe_load((DOCS.parent / ".github/workflows/ci.yml").read_text())["jobs"]
    (job,) = jobs.values()
    assert [step["run"].split()[-1] for step in job["steps"] if "run" in step] == [".ci/run"]
    for form in (DOCS.parent / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"):
        assert {"name", "description", "body"} <= yaml.safe_load(form.read_text()).keys(), form


# --- numbers that two pages cite


SHOWN = {"quick": ("config.yaml",), "demo-full": ("config.yaml", "configs/demo-full.yaml")}


@cache
def shown(name):
    """Return the committed records of an experiment, which are its config's, and the order of variants."""
    config = read_config(*(DOCS.parent / file for file in SHOWN[name]))
    frame = read_table(DOCS / "summaries" / f"{name}.csv")
    expected = {(run.specification.digest, run.seed) for run in Workflow.of(config).runs.values()}
    assert set(zip(frame.specification, frame.seed, strict=True)) == expected
    return frame, list(config["variants"])


def test_readme_shows_the_table_of_its_runs():
    table = terminal_table(*shown("quick"))
    assert f"```\n{table.strip()}\n```" in (DOCS.parent / "README.md").read_text()


def test_readme_and_faq_state_how_far_other_machines_differ():
    """The default's runs on an Intel Xeon against those on an AMD EPYC and on an NVIDIA H200."""
    xeon, epyc, h200 = (
        pd.read_csv(DOCS / "summaries" / f"{name}.csv").set_index(["variant", "task", "seed"]).top1
        for name in ("quick", "quick-epyc", "demo-full")
    )
    off = pd.DataFrame({"epyc": epyc - xeon, "h200": h200 - xeon}).dropna()
    assert len(off) == len(xeon) == 20
    runs, means = off.abs(), off.groupby("variant").mean().abs()
    spreads = pd.DataFrame([runs.mean(), runs.max(), means.mean(), means.max()]).round(1)
    table = (DOCS / "faq.md").read_text().partition("| AMD EPYC | NVIDIA H200 |")[2].partition("\n\n")[0]
    told = [[float(number) for number in row] for row in re.findall(r"(\d\.\d) \| (\d\.\d) \|", table)]
    assert told == spreads.to_numpy().tolist()
    assert runs.loc["linear"].max().max() < 0.15 and set(runs.idxmax().str[0]) == {"full"}
    orders = {
        tuple(top1.loc[top1.index.isin(off.index)].groupby("variant").mean().sort_values().index)
        for top1 in (xeon, epyc, h200)
    }
    assert len(orders) == 1
    sentence = (DOCS.parent / "README.md").read_text().partition("on an AMD EPYC ")[2].partition("([why]")[0]
    told = [float(number) for number in re.findall(r"\d\.\d", sentence)]
    assert told[:4] == [*spreads.epyc[:2], *spreads.h200[:2]]  # average and maximum
    assert told[4:] == [means.mean().mean().round(1), means.max().max().round(1)]


def test_faq_says_that_an_amd_cpu_can_give_the_results_of_an_intel():
    columns = ["variant", "task", "seed", "top1", "nll", "predictions_sha256"]
    xeon, epyc = (
        pd.read_csv(DOCS / "summaries" / f"{name}.csv")[columns].sort_values(columns[:3], ignore_index=True)
        for name in ("quick", "quick-epyc-preloaded")
    )
    pd.testing.assert_frame_equal(xeon, epyc, check_exact=True)
    page = (DOCS / "faq.md").read_text()
    source = re.search(r"echo '(.*)' \| gcc (.*)", page)
    script = (DOCS.parent / "benchmarks" / "amd_kernels.py").read_text()
    assert source[1] in script
    part = (DOCS / "performance.md").read_text().partition("`python benchmarks/amd_kernels.py`")[2]
    ratios = {
        name: [round(float(ratio), 1) for ratio in re.findall(rf"^{name}.* (\d\.\d\d)$", part, re.MULTILINE)]
        for name in ("mosa_vit_micro", "vit_base")
    }
    told = re.search(r"steps are (\S+) to (\S+) times as fast on the\s+micro ViT and (\S+) times", page)
    assert [float(number) for number in told.groups()] == [
        min(ratios["mosa_vit_micro"]),
        max(ratios["mosa_vit_micro"]),
        ratios["vit_base"][0],
    ]


def test_results_shows_the_tables_of_its_runs_and_of_its_search(tmp_path):
    page, (runs, order) = (DOCS / "results.md").read_text(), shown("demo-full")
    write_tables(runs, tmp_path, order)
    table = (tmp_path / "comparison.md").read_text().strip()
    summary = runpy.run_path(str(DOCS.parent / "benchmarks" / "summary.py"))
    trials = summary["of_choices"](json.loads((DOCS.parent / "configs" / "demo-chosen.json").read_text()))
    search = summary["search_table"](trials)
    assert table in page and search in page
    told = page[page.index("What comes out here") : page.index("## How the learning rates")]
    assert "| 79.9 ± " in (DOCS / "demo.md").read_text()
    told = told.replace("has 79.9", "")
    means = runs.pivot_table(index="seed", columns="variant", values="top1", aggfunc="mean")
    pairs = [
        ("full", "adapter"),
        ("mosa", "adapter"),
        ("lora", "adapter"),
        ("mosa", "lora"),
        ("mosa", "full"),
    ]
    known = table + search + "".join(summary["interval"](means[one] - means[other]) for one, other in pairs)
    cited = {float(number) for number in re.findall(r"\d+\.\d+", told)} - {2.6}  # percent of the parameters
    assert len(cited) > 10 and cited <= {float(number) for number in re.findall(r"\d+\.\d+", known)}


def test_the_demo_page_states_how_far_the_default_has_converged(monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "benchmarks")
    made = runpy.run_path(str(DOCS.parent / "benchmarks" / "convergence.py"))
    page = (DOCS / "demo.md").read_text()
    assert made["table"](pd.read_csv(made["SUMMARY"])) in page
    summary = runpy.run_path(str(DOCS.parent / "benchmarks" / "summary.py"))
    again, tried = (pd.read_csv(DOCS / "summaries" / f"twice{part}.csv") for part in ("", "-search"))
    assert summary["search_table"](tried) in page
    seeds = again[again.variant == "lora_twice_chosen"].groupby("seed").top1.mean()
    (lora,) = (
        one
        for one in json.loads((DOCS.parent / "configs" / "demo-chosen.json").read_text())
        if one["variant"] == "lora"
    )
    at_once, told = f"{lora['top1']:.1f} ± {lora['standard_error']:.1f}", " ".join(page.split())
    assert f"have {at_once} there" in told and f"on a CPU they have {summary['spread'](seeds)}" in told


TRIAL = {  # a part of the trial, by what its variants' names end in, and what they are compared with
    "_e25": "adapter_e25",
    "_e100": "adapter_e100",
    "_dropout": "adapter_dropout",
    "_fraction10": "adapter_fraction10",
    "_fraction20": "adapter_fraction20",
    "_fraction50": "adapter_fraction50",
}
REGIMES = {
    "wide": "adapter",
    "label-noise": "adapter",
    "strong-features": "adapter",
}  # experiments of their own
BESIDE = {  # in the same table
    "_dropout": ["adapter_e100", "adapter_rdrop_e100", "mosa_n4_e100", "lora", "full_e100"],
}


def test_findings_states_what_its_summaries_say(monkeypatch):
    """Its tables are made from them, and every number that is cited stands in one or follows from them."""
    monkeypatch.syspath_prepend(DOCS.parent / "benchmarks")
    summary, lengths = (
        runpy.run_path(str(DOCS.parent / "benchmarks" / name)) for name in ("summary.py", "lengths.py")
    )
    runs, trials = (pd.read_csv(DOCS / "summaries" / f"trial{part}.csv") for part in ("", "-search"))
    page = (DOCS / "findings.md").read_text()
    tables = [*lengths["tables"](lengths["read"]())]
    for ending, reference in TRIAL.items():
        names = {name for name in runs.variant if name.endswith(ending)}
        shown = runs[runs.variant.isin(names | set(BESIDE.get(ending, [])))]
        tables.append(summary["table"](shown, reference))
    for endings in ("_e25", "_e100", "(?:_dropout|^lora)", "_fraction[125]0"):
        tables.append(summary["search_table"](trials[trials.variant.str.contains(f"{endings}$")]))
    for name, reference in REGIMES.items():
        own, tried = (pd.read_csv(DOCS / "summaries" / f"{name}{part}.csv") for part in ("", "-search"))
        tables += [summary["table"](own, reference), summary["search_table"](tried)]
    told = page[: page.index("## In a short recipe")]
    for table in tables:
        assert table in page
        told = told.replace(table, "")
    mean = runs.groupby("variant").top1.mean()
    pairs = [
        ("mosa_n4_e200", "mosa_n4_e100"),
        ("mosa_dropout", "mosa_n4_e100"),
        ("mosa_dropout", "adapter_e100"),
    ]
    follows = {round(mean[one] - mean[other], 1) for one, other in pairs}
    seeds = runs.groupby(["variant", "seed"]).top1.mean()
    for one, other in (
        ("adapter_e25", "mosa_n4_e100"),
        ("mosa_fraction20", "adapter_rdrop_fraction20"),
        ("mosa_fraction50", "adapter_rdrop_fraction50"),
        ("mosa_every_e25", "mosa_n4_alone_e25"),
        ("mosa_scale4_e25", "mosa_n4_e25"),
        ("mosa_scale4_e25", "adapter_scale4_e25"),
        ("mosa_scale8_e25", "mosa_n4_e25"),
        ("mosa_scale8_e25", "adapter_scale8_e25"),
        ("mosa_scale4_e25", "adapter_scale8_e25"),  # the best on val of all rates and scales
        ("mosa_split_lr8_e25", "mosa_n4_e25"),
        ("dropconnect_e25", "mosa_n4_alone_e25"),
        ("dropconnect_e8", "mosa_n4_alone_e8"),
        ("dropconnect_e100", "mosa_n4_alone_e100"),
        ("adamix_e25", "mosa_n4_e25"),
        ("adamix_e100", "mosa_n4_e100"),
        ("lora_dropout", "lora"),
        ("full_dropout", "full_e100"),
        ("mosa_n4_e100", "full_e100"),
        ("mosa_n4_e100", "lora"),
        ("mosa_dropout", "lora_dropout"),
        ("mosa_dropout", "full_dropout"),
    ):
        interval = summary["interval"](seeds[one] - seeds[other])
        follows |= {abs(float(number)) for number in re.findall(r"\d+\.\d+", interval)}
    cost = runs.groupby("variant").train_flops.mean()
    follows.add(round(cost["mosa_every_e25"] / cost["adapter_e25"], 1))
    readme = re.search(r"at the paper's 100 .*?\)\.", (DOCS.parent / "README.md").read_text(), re.DOTALL)[0]
    known = {abs(float(number)) for table in tables for number in re.findall(r"\d+\.\d+", table)}
    known |= follows
    cited = [float(number) for number in re.findall(r"\d+\.\d+", told + readme)]
    recipe = {0.1, 2.11, 2.13, 0.05}  # dropout, torch, p
    assert len(cited) > 20 and set(cited) - recipe <= known
    assert "- mosa - adapter: -9.8 " in (DOCS / "short-recipe.md").read_text()


def test_short_recipe_states_the_pairs_of_its_summary():
    summary = runpy.run_path(str(DOCS.parent / "benchmarks" / "summary.py"))
    runs, trials = (pd.read_csv(DOCS / "summaries" / f"dense-split{part}.csv") for part in ("", "-search"))
    page = (DOCS / "short-recipe.md").read_text()
    command = re.search(r"summary.py results/dense-split .*?\n\n", page, re.DOTALL)[0]
    pairs = [tuple(pair.split(":")) for pair in re.findall(r"\w+:\w+", command)]
    assert {name for pair in pairs for name in pair} == set(runs.variant) == set(trials.variant)
    table = summary["pair_table"](runs, pairs)
    assert table in page and summary["search_table"](trials) in page
    told = page[page.index(table) + len(table) :].partition("The search")[0]
    cited = {float(number) for number in re.findall(r"\d+\.\d+", told)}
    assert len(cited) >= 2 and cited <= {abs(float(number)) for number in re.findall(r"\d+\.\d+", table)}


def test_the_method_of_the_tutorial_conforms(tmp_path):
    page = (DOCS / "tutorial-own-method.md").read_text()
    (tmp_path / "my_method.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    done = run_mosa(tmp_path, "conformance", "my_method.py:Gains", "--architecture", "vit")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", [DOCS / "index.md", DOCS.parent / "README.md"], ids=lambda page: page.name)
def test_pages_state_the_number_of_methods(page):
    assert int(re.search(r"(\d+) methods", page.read_text())[1]) == len(list_methods())


def test_methods_compared_states_what_its_summaries_say():
    summary = runpy.run_path(str(DOCS.parent / "benchmarks" / "summary.py"))
    names = ("methods", "methods-steps", "methods-search")
    runs, steps, trials = (pd.read_csv(DOCS / "summaries" / f"{name}.csv") for name in names)
    page = (DOCS / "methods-compared.md").read_text()
    table, search = summary["cost_table"](runs, steps, trials), summary["search_table"](trials)
    assert table in page and search in page
    config = read_config(DOCS.parent / "config.yaml", DOCS.parent / "configs" / "methods.yaml")
    assert set(runs.variant) == set(config["variants"]) and set(list_methods()) == {
        variant["method"] for variant in config["variants"].values()
    }
    told = page[page.index(table) + len(table) :].replace(search, "")
    cited = {float(number) for number in re.findall(r"\d+\.\d+", told)}
    known = {float(number) for number in re.findall(r"\d+\.\d+", table + search)}
    assert len(cited) >= 3 and cited <= known


def test_findings_cites_the_short_recipe():
    page, short = ((DOCS / f"{name}.md").read_text() for name in ("findings", "short-recipe"))
    told = page[page.index("## In a short recipe") : page.index("## What this cannot tell")]
    told = " ".join(told.split())
    cited = {float(number) for number in re.findall(r"\d+\.\d+", told)}
    assert len(cited) >= 4 and cited <= {float(number) for number in re.findall(r"\d+\.\d+", short)}
    runs = [int(number) for number in re.findall(r"(\d+) (?:runs )?of ", told) if int(number) > 100]
    assert len(runs) == 4 and all(f"{number} runs" in short for number in runs)


def test_tuning_states_what_its_summary_says():
    made = runpy.run_path(str(DOCS.parent / "benchmarks" / "choice.py"))
    assert made["table"](pd.read_csv(made["SUMMARY"])) in (DOCS / "tuning.md").read_text()


def test_times_of_tables_and_plots_are_those_of_the_benchmark():
    text = " ".join((DOCS / "tables-and-plots.md").read_text().split())
    cited = re.search(r"loaded in ([\d.]+) s, tables in ([\d.]+) s, plots in ([\d.]+) s", text).groups()
    measured = (DOCS / "performance.md").read_text()
    names = ("load and verify", "all tables", "all plots")
    found = [float(re.search(rf"^{name} +([\d.]+) s", measured, re.MULTILINE)[1]) for name in names]
    assert [float(number) for number in cited] == [round(number, 1) for number in found]


# --- what a reader types

OPTIONAL = ("transformers", "lightning")  # of snippets that are left out where they are not installed
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")  # begins a snippet that is a file of its own


WITH_SNIPPETS = [page for page in PAGES if FENCE.search(page.read_text())]
# Runs the snippets of each page in a folder, in a process that is forked from one that has the imports.
RUNNER = """
import os, sys
import mosa.peft, timm, torch._dynamo
for name, (code, folder) in pages.items():
    if not os.fork():
        os.chdir(folder)
        os.dup2(os.open(folder + ".log", os.O_CREAT | os.O_WRONLY), 1), os.dup2(1, 2)
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
        sys.exit()
    if os.wait()[1]:
        print(name)
"""


def snippets_of(page, folder):
    """Return the code of a page's snippets, and the libraries that those which are left out need."""
    snippets = FENCE.findall(page.read_text())
    for snippet in [each for each in snippets if FILE.match(each)]:  # a file, which others import
        (folder / FILE.match(snippet)[1]).write_text(snippet)
        snippets.remove(snippet)
    absent = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    left_out = [name for name in absent if any(f"import {name}\n" in snippet for snippet in snippets)]
    snippets = [each for each in snippets if not any(f"import {name}\n" in each for name in left_out)]
    for table in re.findall(r"results/[\w/-]+/runs\.csv", "".join(snippets)):
        write_standin_table(folder / table)
    if "/seed0.json" in "".join(snippets):
        write_results(folder, predictions=True)
    return "\n".join(snippets), left_out


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """What the pages say whose snippets fail, of all but README.md."""
    folders = {page: tmp_path_factory.mktemp(page.stem) for page in WITH_SNIPPETS if page.name != "README.md"}
    pages = {page.name: (snippets_of(page, place)[0], str(place)) for page, place in folders.items()}
    done = run_alone(f"pages = {pages!r}{RUNNER}", tmp_path_factory.mktemp("alone"))
    return {name: Path(f"{pages[name][1]}.log").read_text() for name in done.stdout.split()}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=lambda page: page.name)
def test_snippets_run_as_they_stand(page, tmp_path, request):
    """In the order of the page, in one process and an empty folder, without a network."""
    code, left_out = snippets_of(page, tmp_path)
    if page.name == "README.md":  # where nothing was imported before
        run_alone(code, tmp_path)
    else:
        failed = request.getfixturevalue("failed")
        assert page.name not in failed, failed[page.name][-3000:]
    if left_out:
        pytest.skip(f"needs {', '.join(left_out)}; the other snippets run")


def run_alone(code, folder):
    """Run code in a process of its own, without a network."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "x"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def write_standin_table(path):
    """Write a table of records: two variants with three seeds."""
    records = [
        (
            make_record(variant=variant, method=variant, options={"bottleneck": 8}, seed=seed),
            Path(f"{seed}.json"),
        )
        for variant in ("adapter", "mosa")
        for seed in range(3)
    ]
    for number, (record, _) in enumerate(records):
        record["metrics"]["top1"] = 60 + number
    write_table(to_frame(records), path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_package_exist(page):
    """`mosa.module.name` in the text, as it would be imported."""
    for name in set(re.findall(r"`(mosa(?:\.\w+)+)", page.read_text())):
        found = importlib.import_module("mosa")
        for part in name.split(".")[1:]:
            if inspect.ismodule(found):
                with contextlib.suppress(ModuleNotFoundError):
                    importlib.import_module(f"{found.__name__}.{part}")
            assert hasattr(found, part), name
            found = getattr(found, part)


@cache
def options_of_snakemake():
    """Return the options that `mosa run` hands on."""
    from snakemake.cli import get_argument_parser

    return {name for action in get_argument_parser()._actions for name in action.option_strings}


def commands_of(page):
    """Return the commands of mosa in blocks of code, joined where a line goes on, and those in the text."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^(?: {4}|\$ )?(mosa [a-z][a-z-]*(?: .*)?)$", text, re.MULTILINE)
    return blocks, re.findall(r"`(mosa [a-z][a-z-]* [^`\n]*)`", text)


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "results/README.md"], ids=lambda page: page.name)
def test_commands_exist_with_their_options(page):
    blocks, inline = commands_of(page)
    for line in blocks:
        words = shlex.split(line, comments=True)
        # A part that is left out, and N or FILE for a value, say nothing of the values.
        check_command(
            line, complete=not any(word in ("...", "[OPTIONS]") or word.isupper() for word in words)
        )
    for line in inline:
        check_command(line, complete=False)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_of_the_help_are_complete(line):
    check_command(line, complete=True)


def check_command(line, complete):
    """See that a verb has the options that a line gives it; of a complete one, also their values."""
    verb, *words = shlex.split(line, comments=True)[1:]
    assert verb in cli.commands, line
    command = cli.commands[verb]
    known = {option for parameter in command.params for option in parameter.opts}
    if verb == "run":
        known |= options_of_snakemake()
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, line
    if complete:
        command.make_context(verb, words)


YAML = re.compile(r"^```yaml\n(# [\w.-]+\.yaml\n.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if YAML.search(page.read_text())], ids=lambda page: page.name
)
def test_configs_that_a_page_shows_are_valid(page, tmp_path, monkeypatch):
    """A block that begins with the name of a file is merged over config.yaml, and over those before it."""
    monkeypatch.chdir(tmp_path)
    files = [DOCS.parent / "config.yaml"]
    if page.name == "tutorial-vtab.md":
        files.append(DOCS.parent / "configs" / "vtab1k.yaml")
    for name, code in re.findall(r"^```py\n# (\w+\.py)\n(.*?)^```", page.read_text(), re.M | re.S):
        (tmp_path / name).write_text(code)  # a plugin that the page shows
    for number, block in enumerate(YAML.findall(page.read_text())):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(block)
        assert read_config(*files)["variants"]
