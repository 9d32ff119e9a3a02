"""How long a report takes to write and to open in Chromium, by its number of runs.

    python benchmarks/report_opens.py [--against CHECKOUT]

Opening: from navigation to the first drawn plot and a frame after it, in a new page. The baseline is a report
of 19 runs; with --against, each page beside that of the same records by another checkout of this project.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright
from tables_from_records import METHODS, record

from mosa.data.catalogue import list_tasks
from mosa.results.frame import find_records, load_records
from mosa.results.report import write_report

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, such as a worktree of a release")
    against = parser.parse_args().against
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        baseline = None
        other = f"  {'open, ' + against.name:>20}  ratio" if against else ""
        print(f"{'runs':>6} {'write':>8} {'size':>9} {'open':>8}  {'x 19 runs':>9}{other}")
        for methods, seeds in ((1, 1), (10, 11), (10, 53)):
            folder = Path(name) / f"{methods}-{seeds}"
            write_runs(folder, methods, seeds)
            frame = load_records(find_records(folder))
            start = time.perf_counter()
            write_report(frame, folder / "report.html")
            written = time.perf_counter() - start
            pages = [folder / "report.html", *([written_by(against, folder)] if against else [])]
            opened, *before = fastest(browser, pages)
            baseline = baseline or opened
            size = pages[0].stat().st_size / 2**20
            print(
                f"{len(frame):6,} {written:6.2f} s {size:5.1f} MiB {opened:6.2f} s  {opened / baseline:9.2f}"
                + "".join(f"  {seconds:18.2f} s  {opened / seconds:5.2f}" for seconds in before),
                flush=True,
            )
        browser.close()


def write_runs(folder: Path, methods: int, seeds: int) -> None:
    """Write the records of 19 tasks."""
    rng = np.random.default_rng(0)
    for task in list_tasks("vtab1k"):
        for place, variant in enumerate(METHODS[:methods]):
            for seed in range(seeds):
                path = folder / task / variant / f"seed{seed}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(record(task, variant, seed, 60 + place + rng.normal())))


def written_by(checkout: Path, folder: Path) -> Path:
    """Return the report of a folder of records by another checkout."""
    page = folder / "other.html"
    command = [sys.executable, "-c", "from mosa.cli import main; main()", "report"]
    arguments = ["--records", str(folder), "--output", str(page)]
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    subprocess.run([*command, *arguments], check=True, cwd=checkout, env=environment, capture_output=True)
    return page


def fastest(browser, pages: list[Path]) -> list[float]:
    """Return the least seconds of each page; they are opened by turns."""
    rounds = [[open_once(browser, page) for page in pages] for _ in range(REPEATS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def open_once(browser, path: Path) -> float:
    page = browser.new_page()
    start = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("svg.chart .point, .scaling .main-svg")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    taken = time.perf_counter() - start
    page.close()
    return taken


if __name__ == "__main__":
    main()
