"""How long a report takes to write and to open in Chromium, by its number of runs.

    python benchmarks/report_opens.py

Opening: from navigation to the first drawn plot and a frame after it, in a new page. The baseline is a report
of 19 runs, most of which is plotly itself.
"""

import json
import shutil
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
    rng = np.random.default_rng(0)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        baseline = None
        print(f"{'runs':>6} {'write':>8} {'size':>9} {'open':>8}  {'x 19 runs':>9}")
        for methods, seeds in ((1, 1), (10, 11), (10, 53)):
            folder = Path(name) / f"{methods}-{seeds}"
            for task in list_tasks("vtab1k"):
                for place, variant in enumerate(METHODS[:methods]):
                    for seed in range(seeds):
                        path = folder / task / variant / f"seed{seed}.json"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(json.dumps(record(task, variant, seed, 60 + place + rng.normal())))
            frame = load_records(find_records(folder))
            start = time.perf_counter()
            write_report(frame, folder / "report.html")
            written = time.perf_counter() - start
            opened = min(open_once(browser, folder / "report.html") for _ in range(REPEATS))
            baseline = baseline or opened
            size = (folder / "report.html").stat().st_size / 2**20
            print(
                f"{len(frame):6,} {written:6.2f} s {size:5.1f} MiB {opened:6.2f} s  {opened / baseline:9.2f}"
            )
        browser.close()


def open_once(browser, path: Path) -> float:
    page = browser.new_page()
    start = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector(".scaling .main-svg")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    taken = time.perf_counter() - start
    page.close()
    return taken


if __name__ == "__main__":
    main()
