"""Documentation that is generated agrees with what it is generated from."""

import re
from pathlib import Path

import pytest

from mosa.peft.describe import methods_page

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


def test_times_of_tables_and_plots_are_those_of_the_benchmark():
    text = " ".join((DOCS / "tables-and-plots.md").read_text().split())
    cited = re.search(r"loaded in ([\d.]+) s, tables in ([\d.]+) s, plots in ([\d.]+) s", text).groups()
    measured = (DOCS / "performance.md").read_text()
    names = ("load and validate", "all tables", "all plots")
    found = [float(re.search(rf"^{name} +([\d.]+) s", measured, re.MULTILINE)[1]) for name in names]
    assert [float(number) for number in cited] == [round(number, 1) for number in found]
