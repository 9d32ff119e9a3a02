"""The report: everything is in it, nothing gets out of its string, and it works in a real browser."""

import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
from click.testing import CliRunner
from test_records import make_record

from mosa.base.files import PACKAGE
from mosa.cli.commands import cli
from mosa.records import write_record
from mosa.results.aggregate import Results, compare
from mosa.results.frame import COLUMNS, read_table
from mosa.results.plots.comparison import comparison_figure
from mosa.results.plots.compute import compute_figure
from mosa.results.plots.scaling import scaling_figure
from mosa.results.report import Missing, missing_runs, write_report
from mosa.results.tables.efficiency import efficiency_text

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = (
    "</script><script>document.title='gone'</script><img src=x onerror=document.title='gone'>\"'&{{7*7}}"
)
SCORES = {
    "linear": ("linear", 0, [60.0, 61.0]), "full": ("full", 900, [88.0, 89.0]),
    "adapter": ("adapter", 40, [80.0, 81.5]), "adapter_bottleneck4": ("adapter", 10, [76.0, 77.5]),
    "mosa": ("mosa", 40, [70.0, 72.0]),
}  # fmt: skip
CHOICE = {
    "tasks": ["demo/digits", "demo/count"], "backbone": "micro_vit", "variant": "mosa", "method": "mosa",
    "rule": "the best", "search": {}, "chosen": {"options": {}, "training": {"lr": 0.1}}, "top1": 71.0,
    "at_edge": ["lr"],
    "trials": [
        {"options": {}, "training": {"lr": lr}, "epochs": 2, "top1": top1, "loss": 1, "notes": []}
        | {"status": status}
        for lr, status, top1 in ((0.01, "complete", 60.0), (0.1, "complete", 71.0), (1.0, "diverged", None))
    ],
}  # fmt: skip


def write_records(folder, scores=SCORES, tasks=("digits", "count"), seeds=2):
    for task in tasks:
        for variant, (method, size, values) in scores.items():
            for seed in range(seeds):
                group = "natural" if task == "digits" else "structured"
                options = {"bottleneck": size // 4} if method in ("adapter", "mosa") else {}
                record = make_record(
                    task=task, group=group, variant=variant, seed=seed, method=method, options=options,
                    metrics={"top1": values[seed % 2] - 5 * (task == "count")},
                )  # fmt: skip
                record["parameters"] |= {"adapter": size, "total": size + 10}
                record["data"]["digest"] = ("1" if task == "digits" else "2") * 64
                write_record(
                    record, folder / f"{re.sub('[^a-z0-9_]', '_', variant)}-{task}" / f"seed{seed}.json"
                )
    return read_table(folder)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"))


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.ids = [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]


def visible(path):
    """The page without its scripts and styles."""
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", path.read_text(), flags=re.DOTALL)


def test_everything_is_in_it_and_nothing_is_loaded(frame, tmp_path):
    output = tmp_path / "report.html"
    missing = [Missing("runs/demo/digits/micro_vit/lora/seed0.json", "the loss is nan at epoch 1")]
    write_report(frame, output, list(SCORES)[:3], "my experiment", "name: mine\n", [CHOICE], missing)
    page, text = Page(output), visible(output)
    assert all(link.startswith("#") for link in page.links)  # no network
    assert "default-src 'none'" in text
    assert len(page.ids) == len(set(page.ids)) and {link[1:] for link in page.links} <= set(page.ids)
    for words in (
        "my experiment", "Highest mean over 2 tasks: full, 86.0 ± 0.7 %", 
        "less than 25% of the parameters: adapter",
        "full - adapter: +7.8", "the loss is nan at epoch 1", "name: mine", "lr 0.1", "diverged", "the best",
        "scaling.svg, scaling.pdf, scaling.png", "20 of 21", "zhang2023mosa",
        "some processor", "torch 2.13.0", "1" * 64, "demo v2",
    ):  # fmt: skip
        assert words in text, words
    assert text.count("data-run=") == len(frame) == 20


def test_the_same_records_give_the_same_bytes(frame, tmp_path):
    write_report(frame, tmp_path / "one.html")
    write_report(frame.sample(frac=1, random_state=0), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_the_report_says_when_records_come_from_different_code(frame, tmp_path):
    write_report(frame, tmp_path / "one.html")
    assert "The records come from" not in visible(tmp_path / "one.html")
    mixed = frame.assign(commit=["a" * 40, *["b" * 40] * (len(frame) - 1)])
    write_report(mixed, tmp_path / "two.html")
    assert "<p>The records come from 2 states of the code.</p>" in visible(tmp_path / "two.html")


def test_a_page_without_a_mean_has_no_axis_to_choose(frame, tmp_path):
    incomplete = frame.drop_duplicates("variant")  # each variant on one task
    incomplete = pd.concat([incomplete[incomplete["variant"] != "full"], frame[frame["variant"] == "full"]])
    incomplete = incomplete[(incomplete["variant"] != "full") | (incomplete["task"] == "digits")]
    write_report(incomplete, tmp_path / "report.html")
    assert "there is no mean to compare" in visible(tmp_path / "report.html")
    assert data_of(tmp_path / "report.html")["sections"]["section0"]["costs"] == {}


def data_of(path):
    """The data that the page's script draws."""
    pattern = r'<script type="application/json" id="data">(.*?)</script>'
    return json.loads(re.search(pattern, path.read_text(), re.DOTALL)[1])


def test_page_and_plots_show_the_same_curves_with_the_same_labels(frame, tmp_path):
    other = frame[frame["variant"] == "mosa"].assign(variant="mosa_dense")
    other["options"] = [options | {"experts": 1} for options in other["options"]]
    frame = pd.concat([frame, other])
    write_report(frame, tmp_path / "report.html")
    (section,) = data_of(tmp_path / "report.html")["sections"].values()
    for cost, draw in (("adapter_parameters", scaling_figure), ("training_flops", compute_figure)):
        figure, chart = draw(Results(frame)), section["costs"][cost]
        axes, legend = figure.axes[0], figure.subfigs[0].legends[0]
        assert [series["label"] for series in chart["series"]] == [t.get_text() for t in legend.get_texts()]
        assert (chart["x"]["label"], chart["y"]["label"]) == (axes.get_xlabel(), axes.get_ylabel())
        drawn = {line.get_label(): line for line in axes.get_lines()}
        for series in chart["series"]:
            points = [(point["x"], point["y"]) for point in series["points"]]
            assert points == [
                pytest.approx(pair, rel=1e-5) for pair in drawn[series["label"]].get_xydata().tolist()
            ]
    joined = {series["label"].partition("\n")[0]: series["joined"] for series in chart["series"]}
    assert joined == {
        "linear: 58.0": False, "full: 86.0": False, "adapter": True, "mosa": False, "mosa_dense": False
    }  # fmt: skip
    panels = comparison_figure(Results(frame)).axes
    assert list(section["bars"]["x"]["names"]) == [axes.get_title(loc="left") for axes in panels]


def test_a_cost_has_one_label(frame, tmp_path):
    write_report(frame, tmp_path / "report.html")
    markdown = efficiency_text(compare(frame))
    costs = data_of(tmp_path / "report.html")["sections"]["section0"]["costs"]
    for cost in ("adapter_parameters", "image_passes", "train_seconds", "peak_memory_mib"):
        assert f"| {costs[cost]['x']['label']} |" in markdown
        assert f">{costs[cost]['x']['label']}</option>" in visible(tmp_path / "report.html")
    docs = (PACKAGE.parent / "docs" / "tables-and-plots.md").read_text()
    for text in (markdown, visible(tmp_path / "report.html"), docs):
        assert "nference FLOPs (backbone = 1)" in text


def test_the_report_follows_the_metric(frame, tmp_path):
    losses = frame.assign(nll=(100 - frame["top1"]) / 100)
    write_report(losses, tmp_path / "report.html", metric="nll")
    text = visible(tmp_path / "report.html")
    assert "Lowest mean over 2 tasks: full, 0.140 ± 0.007." in text
    assert "op-1" not in text and "NLL on the test split" in text
    assert re.search(r'<td class="number best" data-sort="0.140">', text)
    section = data_of(tmp_path / "report.html")["sections"]["section0"]
    assert section["costs"]["adapter_parameters"]["y"] == {
        "label": "mean over tasks of NLL", "scale": "linear", "names": [], "unit": "", "least": 0
    }  # fmt: skip
    assert section["bars"]["series"][0]["points"][0]["text"] == "0.420"


def test_names_stay_names(tmp_path):
    frame = write_records(
        tmp_path / "records", {HOSTILE: SCORES["mosa"], "b": SCORES["full"]}, tasks=[HOSTILE[:60]]
    )
    choice = CHOICE | {"variant": HOSTILE, "rule": HOSTILE}
    output = tmp_path / "report.html"
    write_report(frame, output, None, HOSTILE, HOSTILE, [choice], [Missing(HOSTILE, HOSTILE)])
    tags = Page(output).tags
    assert tags.count("script") == 3 and "img" not in tags
    assert "{{7*7}}" in visible(output)  # a name is no template either


def test_missing_runs_are_told_with_the_last_words_of_their_logs(tmp_path):
    paths = [tmp_path / "runs" / "demo" / name / "seed0.json" for name in ("done", "failed", "new", "killed")]
    for name, text in (("failed", "epoch 1\nerror: the loss is nan\n"), ("killed", "epoch 1\nepoch 2\n")):
        log = tmp_path / "logs" / "train" / "demo" / name / "seed0.log"
        log.parent.mkdir(parents=True)
        log.write_text(text)
    paths[0].parent.mkdir(parents=True)
    paths[0].write_text("{}")
    assert [run.reason for run in missing_runs(paths, tmp_path)] == [
        "the loss is nan",
        "not run yet",
        "epoch 2",
    ]


def test_the_command_reads_what_the_workflow_has(frame, tmp_path):
    (tmp_path / "chosen.json").write_text(json.dumps([CHOICE]))
    (tmp_path / "config.yaml").write_text("name: shown\n")
    frame.loc[:, [*COLUMNS, "path"]]  # every column that the report may use is a column of records
    records = str(tmp_path / "runs")
    write_records(tmp_path / "runs")
    arguments = ["report", "--records", records, "--choices", str(tmp_path / "chosen.json"), "--title", "T"]
    arguments += ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out.html")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "name: shown" in visible(tmp_path / "out.html")
    (tmp_path / "chosen.json").write_text("[")
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code != 0 and "not JSON" in str(done.exception)


@pytest.mark.parametrize(("verb", "output"), [("tables", "t"), ("plots", "p"), ("report", "r.html")])
def test_every_verb_takes_a_metric(verb, output, tmp_path):
    write_records(tmp_path / "runs")
    arguments = [verb, "--records", str(tmp_path / "runs"), "--output", str(tmp_path / output)]
    done = CliRunner().invoke(cli, [*arguments, "--metric", "top-1"])
    assert "unknown metric 'top-1'" in str(done.exception) and not (tmp_path / output).exists()


# --- in a browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, frame, tmp_path):
    """The report, opened; at the end, that it wrote no error and asked for nothing."""
    output = tmp_path / "report.html"
    write_report(frame, output, None, "report", "name: x", [CHOICE], [Missing("a/b.json", "failed")])
    page, problems, requests = browser.new_page(viewport={"width": 1200, "height": 900}), [], []
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type in ("error", "warning") else 0,
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(output.as_uri())
    page.wait_for_selector(".scaling .main-svg")
    yield page
    page.close()
    assert not problems
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)


def wait_until(page, expression):
    """Wait for an expression to be true; playwright's own way evaluates text, which the page forbids."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def column(page, table, number):
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{number}].textContent.trim())"
    )


@pytest.mark.browser
def test_tables_sort_by_click_and_by_key(opened):
    variants = column(opened, "section0-table", 0)
    mean = opened.locator("#section0-table thead th", has_text="mean over tasks")
    mean.locator("button").click()
    assert mean.get_attribute("aria-sort") == "descending"
    assert column(opened, "section0-table", 0) == ["full", "adapter", "adapter_bottleneck4", "mosa", "linear"]
    mean.locator("button").press("Enter")
    assert mean.get_attribute("aria-sort") == "ascending"
    assert column(opened, "section0-table", 0)[0] == "linear"
    opened.locator("#section0-table thead th button").first.click()
    assert column(opened, "section0-table", 0) == sorted(variants)
    assert opened.locator("#section0-table thead th[aria-sort]").count() == 1
    top1 = opened.locator("#runs-table thead th", has_text="top-1")
    top1.locator("button").click()
    scores = [float(score) for score in column(opened, "runs-table", 4)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 20


@pytest.mark.browser
def test_tables_are_filtered_by_words(opened):
    box = opened.locator('input[data-filters="runs-table"]')
    box.fill("mosa digits")
    assert set(column(opened, "runs-table", 2)) == {"mosa"} and set(column(opened, "runs-table", 0)) == {
        "demo/digits"
    }
    assert opened.locator('output[for="runs-table"]').text_content() == "2 of 20"
    box.fill("no such run")
    assert column(opened, "runs-table", 2) == []
    box.fill("")
    assert len(column(opened, "runs-table", 2)) == 20


@pytest.mark.browser
def test_plots_tell_their_points_and_change_their_axis(opened):
    box = opened.locator(".scaling .points path").first.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.wait_for_selector(".scaling .hovertext")
    assert re.search(r"(adapter|mosa|full)", opened.locator(".scaling .hovertext").first.text_content())
    opened.select_option("select.axis", "train_seconds")
    wait_until(opened, "document.querySelector('.scaling .xtitle').textContent == 'training seconds'")
    assert opened.locator(".bars .points path").count() == 5 * 3  # two groups, and their mean
    assert opened.locator(".trials .points path").count() == 2  # the one that diverged has no score


@pytest.mark.browser
def test_details_open_and_close_by_keyboard(opened):
    button = opened.locator('button[data-run="demo/digits/micro_vit/mosa/seed1"]')
    button.focus()
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#details-plot .main-svg")
    dialog = opened.locator("#details")
    assert dialog.is_visible() and "runs/demo/digits/micro_vit/mosa/seed1.json" in dialog.text_content()
    assert "batch_size 32" in dialog.text_content() and "1" * 64 in dialog.text_content()
    assert opened.locator("#details-plot .points path").count() == 2  # epochs
    opened.keyboard.press("Escape")
    assert not dialog.is_visible()


@pytest.mark.browser
def test_light_dark_phone_and_paper(opened):
    background = "getComputedStyle(document.body).backgroundColor"
    plot = "document.querySelector('.scaling .bg').style.fill"
    light, light_plot = opened.evaluate(background), opened.evaluate(plot)
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate(background) != light
    wait_until(opened, f"{plot} != '{light_plot}'")
    opened.click("#theme")
    assert opened.evaluate(background) == light and opened.evaluate(plot) == light_plot
    opened.set_viewport_size({"width": 360, "height": 740})
    opened.wait_for_timeout(300)
    assert opened.evaluate(
        "document.documentElement.scrollWidth <= innerWidth"
    )  # tables scroll, the page does not
    assert opened.pdf().startswith(b"%PDF")


@pytest.mark.browser
def test_hostile_names_do_nothing_in_a_browser(browser, tmp_path):
    frame = write_records(
        tmp_path / "records", {HOSTILE: SCORES["mosa"], "b": SCORES["full"]}, tasks=[HOSTILE[:60]]
    )
    output = tmp_path / "report.html"
    write_report(
        frame, output, None, "safe", HOSTILE, [CHOICE | {"variant": HOSTILE}], [Missing(HOSTILE, HOSTILE)]
    )
    page = browser.new_page()
    page.goto(output.as_uri())
    page.wait_for_selector(".scaling .main-svg")
    page.locator("button[data-run]").first.click()
    page.wait_for_selector("#details-plot .main-svg")
    assert page.title() == "safe: benchmark report" and page.locator("img").count() == 0
    assert page.locator("#section0-table tbody th").first.text_content() in (HOSTILE, "b")
    page.close()
