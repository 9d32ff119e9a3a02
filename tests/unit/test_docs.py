"""Documentation agrees with what it describes: generated pages, links, names, commands; snippets run."""

import contextlib
import importlib.util
import inspect
import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from test_records import make_record

from mosa.cli.commands import cli
from mosa.peft.describe import methods_page
from mosa.results.frame import to_frame, write_table

DOCS = Path(__file__).parents[2] / "docs"


def test_methods_page_is_what_the_registry_says():
    assert (DOCS / "methods.md").read_text() == methods_page(), "run `mosa schema`"


PAGES = [*sorted(DOCS.parent.glob("*.md")), *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for command in re.findall(r"configs/[\w-]+\.yaml", text):
        assert (DOCS.parent / command).is_file(), command


# --- numbers that two pages cite


def rows_of(page):
    """Return the cells of each row of a page's tables by their titles, without marks."""
    rows, titles = [], None
    for line in page.read_text().splitlines():
        cells = [re.sub(r"\*\*|</?ins>", "", cell).strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            titles = None
        elif titles is None:
            titles = cells
        elif not set(line) <= set("|:- "):
            rows.append(dict(zip(titles, cells, strict=True)))
    return rows


def by_task(page, *tasks):
    """Return the cells of some tasks by variant, from the tables of a page that have them."""
    found = {}
    for row in rows_of(page):
        cells = [
            next((cell for title, cell in row.items() if title.split(" ")[0] == task), None) for task in tasks
        ]
        if None not in cells:
            assert found.setdefault(row["variant"], cells) == cells, row["variant"]
    return found


def test_findings_and_results_cite_the_same_numbers():
    """Both pages have the same runs of the same variants; in findings a group has one task."""
    results = by_task(DOCS / "results.md", "digits", "tissue", "count", "flowers")
    findings = by_task(DOCS / "findings.md", "natural", "specialized", "structured", "fine_grained")
    shared = findings.keys() & results.keys()
    assert shared == {"adapter", "mosa"}
    assert {name: findings[name] for name in shared} == {name: results[name] for name in shared}
    cited = re.search(r"linear probing has ([\d.]+)", (DOCS / "findings.md").read_text())[1]
    mean = sum(float(cell.split()[0]) for cell in results["linear"]) / 4
    assert float(cited) == pytest.approx(mean, abs=0.051)


@pytest.mark.parametrize(("name", "reference"), [("trial", "adapter_e100")])
def test_findings_states_what_its_summaries_say(name, reference):
    """Its tables are made from them, and every difference that is cited stands in a table."""
    summary = runpy.run_path(str(DOCS.parent / "benchmarks" / "summary.py"))
    runs, trials = (pd.read_csv(DOCS / "summaries" / f"{name}{part}.csv") for part in ("", "-search"))
    tables = summary["table"](runs, reference), summary["search_table"](trials)
    page = (DOCS / "findings.md").read_text()
    assert all(table in page for table in tables)
    section = page[page.index(tables[0]) : page.index("## At 8 epochs")]
    readme = re.search(r"at the paper's 100 .*?\)\.", (DOCS.parent / "README.md").read_text(), re.DOTALL)[0]
    told = section.replace(tables[0], "").replace(tables[1], "") + readme
    known = {abs(float(number)) for table in tables for number in re.findall(r"\d+\.\d+", table)}
    cited = {float(number) for number in re.findall(r"\d+\.\d+", told)} - {9.8}  # which is of 8 epochs
    assert len(cited) > 10 and cited <= known
    assert "- mosa - adapter: -9.8 " in page


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if FENCE.search(page.read_text())], ids=lambda page: page.name
)
def test_snippets_run_as_they_stand(page, tmp_path):
    """In the order of the page, in one process and an empty folder, without a network."""
    snippets = FENCE.findall(page.read_text())
    absent = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    left_out = [name for name in absent if any(f"import {name}\n" in snippet for snippet in snippets)]
    snippets = [each for each in snippets if not any(f"import {name}\n" in each for name in left_out)]
    for table in re.findall(r"results/[\w/-]+/runs\.csv", "".join(snippets)):
        write_standin_table(tmp_path / table)
    code = "\n".join(snippets)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "x"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if left_out:
        pytest.skip(f"needs {', '.join(left_out)}; the other snippets run")


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


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "results/README.md"], ids=lambda page: page.name)
def test_commands_exist_with_their_options(page):
    for line in re.findall(r"(?:^    |`|^\$ )(mosa [a-z][a-z-]*[^`\n#]*)", page.read_text(), re.MULTILINE):
        verb, *words = line.split()[1:]
        assert verb in cli.commands, line
        known = {option for parameter in cli.commands[verb].params for option in parameter.opts}
        if verb == "run":
            known |= options_of_snakemake()
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, line
