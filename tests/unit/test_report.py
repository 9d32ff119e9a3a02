"""The report: everything is in it, nothing gets out of its string, and it works in a real browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_records import make_record

from mosa.base.files import PACKAGE
from mosa.cli.commands import cli
from mosa.data.predictions import write_predictions
from mosa.data.task import kept_path
from mosa.experiment.validation import methods_on_features
from mosa.records import write_record
from mosa.results.aggregate import Results, compare
from mosa.results.answers import answers, matrix
from mosa.results.frame import COLUMNS, read_table
from mosa.results.learned import marked
from mosa.results.paired import differences
from mosa.results.per_image import confusion_matrix
from mosa.results.plots.compute import compute_figure
from mosa.results.plots.scaling import cost_chart, scaling_figure
from mosa.results.report import Missing, missing_runs, write_report
from mosa.results.report.data import page_data
from mosa.results.report.facts import bibtex, data_facts, sources
from mosa.results.report.predicted import predicted_data
from mosa.results.report.sections import page_section
from mosa.results.stats import pareto_front
from mosa.results.tables.classes import class_accuracies
from mosa.results.tables.columns import in_words
from mosa.results.tables.efficiency import efficiency_columns, efficiency_table, efficiency_text

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = (
    "</script><script>document.title='gone'</script><img src=x onerror=document.title='gone'>\"'&{{7*7}}"
)
SCORES = {
    "linear": ("linear", 0, [60.0, 61.0]), "full": ("full", 900, [88.0, 89.0]),
    "adapter": ("adapter", 40, [80.0, 81.5]), "adapter_bottleneck4": ("adapter", 10, [76.0, 77.5]),
    "mosa": ("mosa", 40, [70.0, 72.0]),
}  # fmt: skip
MAIN = [variant for variant in SCORES if variant != "adapter_bottleneck4"]
CHOICE = {
    "tasks": ["demo/digits", "demo/count"], "backbone": "micro_vit", "variant": "mosa", "method": "mosa",
    "rule": "the best", "search": {}, "chosen": {"options": {}, "training": {"lr": 0.1}}, "top1": 71.0,
    "score": 71.0, "at_edge": ["lr"],
    "trials": [
        {"options": {}, "training": {"lr": lr}, "epochs": 2, "top1": top1, "loss": 1, "notes": []}
        | {"status": status, "score": top1}
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
                if method == "mosa" and task == "digits":
                    curves = {"terms": {"ce": [1.0, 0.9], "kl": [0.5, 0.1]}, "val": {"top1": [60.0, 70.0]}}
                    record["curves"] = curves
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
        '<th scope="row">full</th><td class="number">+7.8</td>', "the loss is nan at epoch 1", "name: mine",
        "lr 0.1", "diverged", "the best", "scaling.svg, scaling.pdf, scaling.png", "20 of 21",
        "arXiv 2312.02923", "eprint        = {2205.13535}",
        "some processor", "torch 2.13.0", "1" * 64, "demo v2",
    ):  # fmt: skip
        assert words in text, words
    assert len(data_of(output, "runs-data")["runs"]) == len(frame) == 20


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


def data_of(path, name="data"):
    """The data that the page's script has."""
    pattern = rf'<script type="application/json" id="{name}">(.*?)</script>'
    return json.loads(re.search(pattern, path.read_text(), re.DOTALL)[1])


def test_a_cost_has_one_label(frame, tmp_path):
    frame = frame.assign(device_type="cuda")
    write_report(frame, tmp_path / "report.html")
    markdown = efficiency_text(compare(frame))
    costs = data_of(tmp_path / "report.html")["costs"]
    for cost in ("adapter_parameters", "image_passes", "train_seconds", "peak_memory_mib"):
        assert f"| {costs[cost]['label']} |" in markdown
        assert f">{costs[cost]['label']}</option>" in visible(tmp_path / "report.html")
    docs = (PACKAGE.parent / "docs" / "tables-and-plots.md").read_text()
    for text in (markdown, visible(tmp_path / "report.html"), docs):
        assert "nference FLOPs (backbone = 1)" in text


def test_what_is_not_measured_of_a_run_is_not_compared(frame, tmp_path):
    write_report(frame, tmp_path / "report.html")  # on a CPU, whose peak memory is the process's
    costs = data_of(tmp_path / "report.html")["sections"][0]["costs"]
    assert "train_seconds" in costs and "peak_memory_mib" not in costs
    table = efficiency_table(compare(frame))
    assert table["peak_memory_mib"].isna().all() and table["train_seconds"].notna().all()
    assert "linear: the frozen backbone's features are computed once" in efficiency_text(compare(frame))
    assert "are computed once" not in efficiency_text(compare(frame[frame["variant"] != "linear"]))


def test_methods_that_train_on_features_are_those_with_a_fixed_trunk():
    from mosa.peft import get_method, list_methods
    from mosa.peft.side import Side

    beside = [name for name in list_methods() if issubclass(get_method(name), Side)]
    assert len(beside) == 3 and methods_on_features() == {"linear", *beside}


def test_own_data_say_what_they_are_and_only_what_is_shown_is_cited(frame, tmp_path):
    note = "test: 32 images held out of train, 20% of each class, seed 0"
    own = frame[frame["task"] == "digits"].assign(benchmark="own", group="own", task="shapes", classes=3.0)
    own["data_notes"] = [[note]] * len(own)
    (fact,) = data_facts(own)
    assert (fact["classes"], fact["trained"], fact["evaluated"]) == (3, "1,000", "797")
    assert fact["notes"] == [
        "own data; this project held test out of them, as they came without one", note,
    ]  # fmt: skip
    cited = {source.what: source.text for source in sources(own)}
    assert "AdaptFormer" in cited["adapter"] and cited["own/shapes"] == "" and "lora" not in cited
    text = bibtex(sources(own[own["method"] == "adapter"]))
    assert "note          = {Chen et al., AdaptFormer, NeurIPS 2022}" in text and "VTAB" not in text
    assert "1910.04867" in bibtex(sources(own.assign(benchmark="vtab1k", task="cifar")))


def test_columns_of_the_page_do_not_repeat_each_other(frame, tmp_path):
    columns = [column["title"] for column in page_section(compare(frame)[0], "section0")["columns"]]
    assert "natural" not in columns and "mean of groups" not in columns  # a task in each group
    more = pd.concat([frame, frame[frame["task"] == "count"].assign(task="location")])
    columns = [column["title"] for column in page_section(compare(more)[0], "section0")["columns"]]
    assert {"natural", "structured", "mean of groups", "location"} <= set(columns)


def test_the_report_follows_the_metric(frame, tmp_path):
    losses = frame.assign(nll=(100 - frame["top1"]) / 100)
    write_report(losses, tmp_path / "report.html", metric="nll")
    text = visible(tmp_path / "report.html")
    assert "Lowest mean over 2 tasks: full, 0.140 ± 0.007." in text
    assert '<option value="nll" selected>NLL</option>' in text and "NLL</span> against cost" in text
    assert re.search(r'<td class="number best" data-sort="0.140">', text)
    section = data_of(tmp_path / "report.html")["sections"][0]
    assert section["metric"] == "nll" and next(iter(section["scores"])) == "nll"


def test_choices_by_different_rules_are_told_with_all_of_them(tmp_path):
    frame = write_records(tmp_path / "records", {"b": SCORES["full"]})
    by_loss = CHOICE | {
        "variant": "b",
        "rule": "the lowest",
        "search": {"metric": "nll", "folds": 3},
        "score": 0.5,
    }
    for choices, words in (
        ([CHOICE], "Rule: the best."),
        ([CHOICE, by_loss], "Rule: the best or the lowest."),
    ):
        write_report(frame, tmp_path / "report.html", choices=choices)
        shown = visible(tmp_path / "report.html")
        assert words in shown
        assert ("71.00 %" in shown) == (len(choices) > 1) and "0.50000 %" not in shown
    assert "trained on train, compared on val or trained on all but one of 3 parts" in shown


def test_names_stay_names(tmp_path):
    frame = write_records(
        tmp_path / "records", {HOSTILE: SCORES["mosa"], "b": SCORES["full"]}, tasks=[HOSTILE[:60]]
    )
    choice = CHOICE | {"variant": HOSTILE, "rule": HOSTILE}
    output = tmp_path / "report.html"
    write_report(frame, output, None, HOSTILE, HOSTILE, [choice], [Missing(HOSTILE, HOSTILE)])
    tags = Page(output).tags
    assert tags.count("script") == 4 and "img" not in tags
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
    (tmp_path / "chosen.json").write_text(json.dumps([CHOICE | {"search": {"folds": 3}}]))
    (tmp_path / "config.yaml").write_text("name: shown\n")
    frame.loc[:, [*COLUMNS, "path"]]  # every column that the report may use is a column of records
    records = str(tmp_path / "runs")
    write_records(tmp_path / "runs")
    arguments = ["report", "--records", records, "--choices", str(tmp_path / "chosen.json"), "--title", "T"]
    arguments += ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out.html")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "name: shown" in visible(tmp_path / "out.html")
    assert "trained on all but one of 3 parts of train + val" in visible(tmp_path / "out.html")
    (tmp_path / "chosen.json").write_text("[")
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code != 0 and "not JSON" in str(done.exception)


@pytest.mark.parametrize(("verb", "output"), [("tables", "t"), ("plots", "p"), ("report", "r.html")])
def test_every_verb_takes_a_metric(verb, output, tmp_path):
    write_records(tmp_path / "runs")
    arguments = [verb, "--records", str(tmp_path / "runs"), "--output", str(tmp_path / output)]
    done = CliRunner().invoke(cli, [*arguments, "--metric", "top-1"])
    assert "unknown metric 'top-1'" in str(done.exception) and not (tmp_path / output).exists()


# --- in a browser: one of it, and one page that the tests share


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def keep_answers(frame, images=60, classes=4):
    """Write predictions beside records, right as often as their top-1 says; return the frame with digests."""
    labels, digests = np.arange(images) % classes, []
    for number, row in enumerate(frame.itertuples(index=False)):
        rng = np.random.default_rng(number)
        wrong = rng.random(images) > row.top1 / 100
        logits = rng.normal(size=(images, classes)).astype(np.float32)
        logits[np.arange(images), (labels + wrong * rng.integers(1, classes, images)) % classes] += 3
        digests.append(write_predictions(kept_path(Path(row.path), "predictions"), "test", logits, labels))
    return frame.assign(predictions_sha256=digests)


@pytest.fixture(scope="module")
def shown(frame):
    """The frame of the shared page: a comparison with a sweep, and a backbone on which all is incomplete."""
    other = frame[frame["variant"].isin(["mosa", "full"]) & (frame["task"] == "digits")]
    other = pd.concat([other, frame[(frame["variant"] == "linear") & (frame["task"] == "count")]])
    return pd.concat([keep_answers(frame), other.assign(backbone="other")])


@pytest.fixture(scope="module")
def page(browser, shown, tmp_path_factory):
    """The report, opened; at the end, that it wrote no error and asked for nothing."""
    output = tmp_path_factory.mktemp("page") / "report.html"
    write_report(shown, output, MAIN, "report", "name: x", [CHOICE], [Missing("a/b.json", "failed")])
    page, problems, requests = browser.new_page(viewport={"width": 1200, "height": 900}), [], []
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type in ("error", "warning") else 0,
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(output.as_uri())
    page.wait_for_selector("#section0-costs .point")
    yield page
    page.close()
    assert not problems
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)


def see(page, name):
    """Bring a part of the page into view, so that it is drawn."""
    page.locator(f"#{name}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{name} :is(.point, tbody tr)")


def rows(page, table):
    """The shown rows of a table as text; a hidden column is left out."""
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not([hidden])",
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))",
    )


def column(page, table, number):
    return [row[number] for row in rows(page, table)]


def points(page, plot):
    """What is drawn: (x, y) by series and name."""
    found = page.eval_on_selector_all(
        f"#{plot} .point",
        "all => all.map(({ dataset, parentNode }) =>"
        " [parentNode.dataset.series, dataset.name, Number(dataset.x), Number(dataset.y)])",
    )
    return {(series, name): (x, y) for series, name, x, y in found}


def drawn_by_matplotlib(figure):
    found = {}
    for line in figure.axes[0].get_lines():
        for x, y in line.get_xydata().tolist() if not line.get_label().startswith("_") else []:
            found.setdefault(line.get_label(), []).append((x, y))
    return found


@pytest.mark.browser
def test_page_and_plots_show_the_same_points_with_the_same_labels(page, shown):
    for cost, draw in (("training_flops", compute_figure), ("adapter_parameters", scaling_figure)):
        page.select_option("[data-section='0'] [data-control='cost']", cost)
        figure = draw(Results(shown, MAIN))
        axes, legend = figure.axes[0], figure.subfigs[0].legends[0]
        found = points(page, "section0-costs")
        assert page.text_content("#section0-costs .x-title") == axes.get_xlabel()
        assert page.text_content("#section0-costs .y-title") == axes.get_ylabel()
        labels = page.eval_on_selector_all("#section0-costs .entry", "all => all.map(e => e.dataset.label)")
        wanted = [text.get_text() for text in legend.get_texts()]
        assert labels == wanted and "adapter\nbottleneck 4, 10" not in labels
        for label, places in drawn_by_matplotlib(figure).items():
            ours = sorted(place for (series, _), place in found.items() if series == label)
            # matplotlib draws points of one size side by side
            assert ours == [pytest.approx(place, rel=0.12) for place in sorted(places)]
    joined = page.locator("#section0-costs g[data-series^='adapter'] polyline")
    assert joined.count() == 1 and page.locator("#section0-costs polyline").count() == 1


@pytest.mark.browser
def test_what_is_chosen_changes_every_number(page, shown):
    section, everything = "[data-section='0'] ", "#section0-comparison tbody th"
    before = rows(page, "section0-comparison")
    assert page.locator("#section1-title").count() and "there is no mean" in page.content()
    page.uncheck(section + "[data-control='task'][value='1']")
    part = shown[(shown["task"] == "digits") & (shown["backbone"] == "micro_vit")]
    (alone,) = compare(part, MAIN)
    wanted = [alone.shown(alone.mean.loc[v, ("overall", "mean over tasks")]) for v in alone.variants]
    assert [cell.split()[0] for cell in column(page, "section0-comparison", 2)] == wanted
    assert "Highest mean over 1 task: full, 88.5 ± 0.7 %." in page.inner_text(section + ".summary")
    place, _ = points(page, "section0-costs")["mosa", "mosa"], None
    assert place == (40, 71.0)
    page.select_option(section + "[data-control='reference']", label="mosa")
    assert column(page, "section0-differences", 0) == ["linear", "full", "adapter"]
    assert column(page, "section0-differences", 1) == ["-10.5", "+17.5", "+9.8"]
    page.select_option(section + "[data-control='metric']", "nll")
    assert set(column(page, "section0-comparison", 2)) == {"1.500 ± 0.000"}
    page.select_option(section + "[data-control='metric']", "top1")
    page.click(section + "[data-all]")  # all tasks again
    page.select_option(section + "[data-control='reference']", label="adapter")
    assert rows(page, "section0-comparison") == before and page.locator(everything).count() == 4
    page.click(section + "[data-all]")
    assert "No task is chosen" in page.inner_text(section + ".summary")
    assert "choose a task" in page.text_content("#section0-costs")
    page.click(section + "[data-all]")


@pytest.mark.browser
def test_what_names_the_metric_names_the_chosen_one(page, shown):
    efficiency = "#section0-efficiency th[data-column='mean_over_tasks']"
    names = [page.text_content(efficiency), page.text_content("figcaption")]
    page.select_option("[data-section='0'] [data-control='metric']", "nll")
    (section, *_) = compare(shown[shown["backbone"] == "micro_vit"], metric="nll")
    assert page.text_content(efficiency) == efficiency_columns(section)["mean_over_tasks"][0]
    assert page.text_content("figcaption").startswith(f"{in_words(section)} against cost")
    page.select_option("[data-section='0'] [data-control='metric']", "top1")
    assert [page.text_content(efficiency), page.text_content("figcaption")] == names


@pytest.mark.browser
def test_curves_show_the_loss_its_terms_and_val(page):
    see(page, "curves")
    page.select_option("#curves-what", "terms")
    names = {name for name, _ in points(page, "curves")}
    assert {"mosa, digits, seed 0: CE", "mosa, digits, seed 0: KL", "full, digits, seed 0: CE"} <= names
    assert page.text_content("#curves .y-title") == "terms of the training loss"
    page.select_option("#curves-what", "top1")
    assert points(page, "curves") == {("mosa, digits, seed 0",) * 2: (2, 70.0)}
    assert page.text_content("#curves .y-title") == "top-1 (%) on val"
    page.select_option("#curves-what", "loss")


@pytest.mark.browser
def test_what_collapsed_is_marked_at_the_edge(page):
    chart = {
        "x": {"label": "", "scale": "names", "names": list("abcde")},
        "y": {"label": "", "scale": "linear", "marksFar": True, "unit": "%"},
        "series": [{"label": "s", "color": "red", "marker": "o", "level": None, "points": [
            {"name": name, "x": place, "y": y, "nothing": y < 20}
            for place, (name, y) in enumerate(zip("abcde", (60, 62, 61, 10, 63), strict=True))
        ]}],
    }  # fmt: skip
    page.evaluate("chart => drawChart(byId('curves'), chart)", chart)
    assert page.locator("#curves .far").all_text_contents() == ["10 †"]
    assert points(page, "curves")["s", "d"] == (3, 10)  # it speaks, and keeps its score
    ticks = page.eval_on_selector_all(
        "#curves .axes text[text-anchor=end]", "all => all.map(t => +t.textContent)"
    )
    assert min(ticks) > 50  # the others have the axis
    page.evaluate("curves.draw()")


@pytest.mark.browser
def test_the_pareto_front_moves(page, shown):
    names = "all => all.map(text => text.textContent).sort()"
    front = page.eval_on_selector_all("#section0-costs .point-name", names)
    assert front == ["adapter_bottleneck4", "full"] or front == ["adapter", "adapter_bottleneck4", "full"]
    page.click("#section0-costs .entry[data-label^='full']")
    assert "full" not in page.eval_on_selector_all("#section0-costs .point-name", names)
    page.locator("#section0-costs .entry[data-label^='full']").press("Enter")  # and by key
    assert page.eval_on_selector_all("#section0-costs .point-name", names) == front
    page.uncheck("[data-section='0'] [data-control='sweep']")
    assert "adapter_bottleneck4" not in str(points(page, "section0-costs"))
    page.check("[data-section='0'] [data-control='sweep']")


DRAWN = """([s, cost, sweep, tasks]) => {
  const chart = costChart(s, { metric: s.metric, tasks: tasks ?? s.compared.tasks, sweep, cost });
  return { note: chart.note, front: chart.front.map(({ name }) => name), series: chart.series };
}"""


def drawn_by_page(page, results, cost="adapter_parameters", sweep=True, tasks=None):
    """The cost chart of the page's script for the first section."""
    return page.evaluate(DRAWN, [page_data(results, [])["sections"][0], cost, sweep, tasks])


def swept_less(frame):
    """A sweep on one of two tasks and one of two seeds."""
    swept = (frame["task"] == "digits") & (frame["seed"] == 0)
    return frame[(frame["variant"] != "adapter_bottleneck4") | swept]


@pytest.fixture
def opened(browser, tmp_path):
    """Open the report of a frame in a page of its own."""
    pages = []

    def open_page(frame, order=None, **others):
        write_report(frame, tmp_path / "report.html", order, **others)
        pages.append(browser.new_page(viewport={"width": 1200, "height": 900}))
        pages[-1].goto((tmp_path / "report.html").as_uri())
        return pages[-1]

    yield open_page
    for one in pages:
        one.close()


@pytest.mark.browser
def test_the_cost_chart_says_what_it_is_over(page, frame, opened):
    results = Results(swept_less(frame), MAIN)
    note = "Over 1 of 2 tasks: digits; seed 0, hence no bars; as the sweep's variants were run on these."
    assert drawn_by_page(page, results)["note"] == note
    assert drawn_by_page(page, results, sweep=False)["note"] == ""
    assert drawn_by_page(page, results, tasks=[0])["note"].startswith(
        "Over 1 task; seed 0, hence no bars; as"
    )
    assert drawn_by_page(page, results, tasks=[])["note"] == ""
    assert drawn_by_page(page, Results(frame, MAIN))["note"] == ""
    other = results.frame["variant"].isin(["adapter_bottleneck4", "full"]) | (results.frame["seed"] == 1)
    without = drawn_by_page(page, Results(results.frame[other], MAIN))["note"]
    assert without == f"{note} Without linear, adapter, mosa."
    alone = opened(swept_less(frame), MAIN)
    alone.wait_for_selector("#section0-costs .point")
    caption = alone.locator("#section0-costs + .caption")
    assert note in caption.text_content()
    alone.uncheck("[data-control='sweep']")
    assert "Over 1" not in caption.text_content()


def drawn_by_python(section, results, cost):
    """Level and points by label of the cost chart of a section."""
    return {
        one.label: (one.level, one.joined, [(point.name, point.x, point.y) for point in one.points])
        for one in cost_chart(section, cost, results.styles, results.order).series
        if one.points or one.level is not None
    }


@pytest.mark.browser
def test_the_cost_chart_is_that_of_python_with_and_without_the_sweep(page, tmp_path):
    sizes = {f"adapter_bottleneck{size}": ("adapter", 4 * size, [70.0, 71.0]) for size in (5, 6, 16)}
    frame = write_records(tmp_path, SCORES | sizes)
    frame = frame.assign(train_seconds=10.0 + 90 * frame["seed"])
    nothing = frame["variant"].isin(["mosa", "adapter_bottleneck16"]) & (frame["seed"] == 1)
    frame = frame.assign(learned_nothing=["top-1 10 %" if one else "" for one in nothing])
    # One size lacks a task, and one a seed; then all of the sweep does, and a variant of the comparison.
    lacks = (frame["variant"] == "adapter_bottleneck5") & (frame["task"] == "count")
    lacks |= (frame["variant"] == "adapter_bottleneck6") & (frame["seed"] == 1)
    swept = frame["variant"].str.startswith("adapter_")
    few = frame[~swept | (frame["seed"] == 0)]
    cases = [
        Results(frame[~lacks], MAIN),
        Results(few, MAIN),
        Results(few[(few["variant"] != "mosa") | (few["seed"] == 1)], MAIN),
        Results(few[(few["variant"] != "adapter") | (few["seed"] == 1)], [*MAIN, "adapter_bottleneck16"]),
        Results(frame[~swept], MAIN),
    ]
    for results in cases:
        for cost, sweep in product(("adapter_parameters", "train_seconds"), (True, False)):
            (section,) = results.swept if sweep else results.compared
            series = drawn_by_page(page, results, cost, sweep)["series"]
            wanted = drawn_by_python(section, results, cost)
            assert {one["label"] for one in series} == set(wanted)
            for one in series:
                level, joined, points = wanted[one["label"]]
                assert (one["level"], one["joined"]) == (level, joined)
                assert [(p["name"], p["x"], p["y"]) for p in one["points"]] == points
            counts = section.n["overall", "mean over tasks"]
            few_seeds = {p["name"]: "(n=" in p["text"] for one in series for p in one["points"]}
            assert few_seeds == {name: counts[name] < section.full_n for name in few_seeds}
            marks = {p["name"] for one in series for p in one["points"] if p["nothing"]}
            assert marks == marked(section.runs, section.task_names) & set(few_seeds)


@pytest.mark.browser
def test_a_sweep_of_as_many_variants_can_be_left_out(frame, opened):
    few = swept_less(frame)
    few = few[(few["variant"] != "mosa") | (few["seed"] == 1)]  # so that it is not in the sweep
    alone = opened(few, MAIN)
    alone.wait_for_selector("#section0-costs .point")
    assert "mosa" not in str(points(alone, "section0-costs"))
    alone.uncheck("[data-control='sweep']")
    assert "mosa" in str(points(alone, "section0-costs"))
    assert opened(few[few["variant"].isin(MAIN)], MAIN).is_hidden("[data-control='sweep']")


@pytest.mark.browser
def test_what_a_free_variant_beats_is_not_on_the_front(page, tmp_path):
    results = Results(write_records(tmp_path, SCORES | {"mosa": ("mosa", 5, [50.0, 51.0])}))
    table = efficiency_table(results.compared)
    wanted = table[table["pareto"] & (table["adapter_parameters"] > 0)]
    assert set(drawn_by_page(page, results)["front"]) == set(wanted["variant"]) and len(wanted) == 3


def random_frame(tasks=7, seeds=4):
    """Scores of four variants, in quarters so that halves and ties occur; some runs are missing."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "benchmark": "b", "backbone": "v", "task": f"t{task}", "group": f"g{task % 3}", "seed": seed,
            "variant": variant, "method": variant, "options": {}, "eval_split": "test", "protocol": "p",
            "protocol_version": 1, "adapter_parameters": 10 * place + 1, "total_parameters": 20 + task,
            "top1": 50 + 5 * place + round(4 * rng.normal()) / 4, "nll": rng.random(),
        }
        for place, variant in enumerate(("linear", "adapter", "lora", "mosa"))
        for task in range(tasks)
        for seed in range(seeds)
        if (variant, task, seed) != ("lora", 2, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


COMPUTED = """([{ sections: [s], metrics, quantiles }, reference]) => {
  const m = metrics[s.metric];
  const known = (values) => values.map((value) => (isKnown(value) ? value : null));
  const all = summarise(s, m, s.compared.tasks, s.compared.seeds, s.compared.variants);
  const at = s.variants.findIndex(({ id }) => id === reference);
  return {
    table: all.table.map((row) => row.map(({ mean, sd, n }) => known([mean, sd, n]))),
    shown: all.table.map((row) => row.map(({ mean }) => shown(m, mean))),
    best: all.keys.map((_, key) => bestOf(all, key, m)),
    differences: differencesTo(s, m, all, at, quantiles).map((one) =>
      known([one.mean, one.low, one.high, one.seeds, one.better, one.worse, one.p, one.holm])),
    texts: differencesOf(s, { metric: s.metric, tasks: s.compared.tasks, reference: at }, all)[1]
      .map(({ cells }) => [0, 1, 4, 5].map((place) => cells[place].textContent)),
  };
}"""


@pytest.mark.browser
def test_the_page_computes_what_python_computes(page):
    tied = random_frame(tasks=6).query("variant != 'lora'")  # an adjusted p of 0.0625
    for frame in (random_frame(), random_frame(tasks=3), random_frame(seeds=2), random_frame(tasks=6), tied):
        for metric, reference in (("top1", "adapter"), ("nll", "mosa")):
            results = Results(frame, None, metric, reference)
            (section,), numbers = results.compared, page_data(results, [])
            found = page.evaluate(COMPUTED, [numbers, reference])
            table = np.array(found["table"], float)
            for index, wanted in enumerate((section.mean, section.sd, section.n)):
                np.testing.assert_allclose(table[:, :, index], wanted.to_numpy(float), rtol=1e-9)
            names = [[section.shown(value) for value in row] for row in section.mean.to_numpy()]
            assert found["shown"] == names
            places = {variant: place for place, variant in enumerate(section.variants)}
            assert found["best"] == [[places[v] for v in section.best(key)] for key in section.keys]
            wanted = [
                [one.mean, one.low, one.high, one.seeds, one.better, one.worse, one.wilcoxon_p, one.holm_p]
                for one in differences(section, reference)
            ]
            np.testing.assert_allclose(np.array(found["differences"], float), wanted, rtol=1e-9)
            texts = page_section(section, "section0")["differences"]
            shown_of = ("variant", "mean", "better", "holm")
            assert found["texts"] == [[one[name] for name in shown_of] for one in texts]
    rng = np.random.default_rng(1)
    cost, score = rng.integers(0, 9, (2, 40)).astype(float).tolist()
    front = page.evaluate(
        "([c, s]) => paretoFront(c.map((cost, i) => ({ cost, score: s[i] })))", [cost, score]
    )
    assert front == pareto_front(cost, score).tolist()
    ends = page.evaluate("[[1, 5], [99, 5]].map(([mean, sd]) => barOf(data.metrics.top1, { mean, sd }))")
    assert ends == [{"low": 0, "high": 6}, {"low": 94, "high": 100}]  # no bar beyond what a score can be
    halves = [0.5, 1.5, 2.5, 0.25, 0.35, 61.25, 61.35, 0.125, 1e-12, 99.95, 1234.5]
    for digits in (0, 1, 2):
        texts = page.evaluate("([v, d]) => v.map(x => fixed(x, d))", [halves, digits])
        assert texts == [f"{value:.{digits}f}" for value in halves]
    dyadic = [number * 2.0**-power for power in range(24) for number in (1, 3, 5, 7, 9, 11, 13, 15, 99, 199)]
    dyadic += [0.0, 1.0, 0.05, 0.0996, 1.125e9, 3.375e12, 9.995e8, *np.random.default_rng(2).random(50)]
    for digits in (2, 3):
        texts = page.evaluate("([v, d]) => v.map(x => general(x, d))", [dyadic, digits])
        assert texts == [f"{value:.{digits}g}" for value in dyadic]


@pytest.mark.browser
def test_tables_sort_by_click_and_by_key(page):
    variants = column(page, "section0-comparison", 0)
    mean = page.locator("#section0-comparison thead th", has_text="mean over tasks")
    mean.locator("button").click()
    assert mean.get_attribute("aria-sort") == "descending"
    assert column(page, "section0-comparison", 0) == ["full", "adapter", "mosa", "linear"]
    mean.locator("button").press("Enter")
    assert mean.get_attribute("aria-sort") == "ascending"
    assert column(page, "section0-comparison", 0)[0] == "linear"
    page.locator("#section0-comparison thead th button").first.click()
    assert column(page, "section0-comparison", 0) == sorted(variants)
    assert page.locator("#section0-comparison thead th[aria-sort]").count() == 1
    see(page, "runs-table")
    page.locator("#runs-table thead th", has_text="top-1").locator("button").click()
    scores = [float(score) for score in column(page, "runs-table", 3)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 26


@pytest.mark.browser
def test_runs_are_filtered_by_words_and_come_as_they_are_needed(page):
    see(page, "runs-table")
    page.fill("#runs-filter", "mosa digits micro_vit")
    assert set(column(page, "runs-table", 0)) == {"mosa"} and set(column(page, "runs-table", 1)) == {"digits"}
    assert page.text_content('output[for="runs-table"]') == "2 of 26"
    page.fill("#runs-filter", "no such run")
    assert column(page, "runs-table", 1) == []
    page.fill("#runs-filter", "")
    assert len(column(page, "runs-table", 1)) == 26
    page.evaluate("runList.show(Array.from({ length: 250 }, (_, place) => runList.runs[place % 26]))")
    assert len(column(page, "runs-table", 1)) in (100, 200)  # 200: the end of the list was near
    page.evaluate("runList.more(), runList.more()")
    assert len(column(page, "runs-table", 1)) == 250 and page.locator("#runs-more").is_hidden()
    page.evaluate("runList.filter()")


@pytest.mark.browser
def test_points_speak_to_mouse_and_keyboard(page):
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#section0-costs .point").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = page.locator("#section0-costs .tip")
    assert re.search(r"(adapter|mosa|full).* %, [\d,]+ tuned parameters", tip.text_content())
    page.mouse.move(0, 0)
    assert tip.is_hidden()
    page.locator("#section0-costs svg").focus()
    page.keyboard.press("ArrowLeft")
    last = tip.text_content()
    page.keyboard.press("ArrowRight")
    assert tip.is_visible() and tip.text_content() != last and page.locator(".point.current").count() == 1
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    see(page, "section0-groups")
    assert page.locator("#section0-groups .point").count() == 4 * 3  # two tasks, and their mean
    see(page, "trials")
    assert page.locator("#trials .point").count() == 2  # the one that diverged has no score


@pytest.mark.browser
def test_curves_of_several_runs_lie_over_one_another(page):
    see(page, "runs-table")
    see(page, "curves")
    assert page.locator("#curves polyline").count() == 4  # the variants that are compared, their first seed
    legend = page.text_content("#curves .legend")
    assert "(CE + 1 KL between passes)" in legend and legend.count("(CE)") == 3
    page.fill("#runs-filter", "bottleneck4 count")
    page.locator("#runs-table input").first.check()
    assert page.locator("#curves polyline").count() == 5
    assert page.input_value("#curves-task") == ""
    page.fill("#runs-filter", "")


@pytest.mark.browser
def test_curves_of_two_backbones_have_two_names(page):
    see(page, "runs-table")
    see(page, "curves")
    page.evaluate("curves.chosen.clear(), curves.draw()")
    page.fill("#runs-filter", "full digits")  # of both backbones
    for box in page.locator("#runs-table input").all():
        box.check()
    labels = page.eval_on_selector_all("#curves .entry", "all => all.map(e => e.dataset.label)")
    wanted = [f"full, digits, {name}, seed {seed}" for name in ("micro_vit", "other") for seed in (0, 1)]
    assert sorted(labels) == wanted
    page.fill("#runs-filter", "")
    two = "['demo', 'own'].map((benchmark) => ({ ...runList.at(0), benchmark }))"
    labels = page.evaluate(f"curveChart({two}).series.map(({{ label }}) => label.split(', ')[1])")
    assert [label.split("/")[0] for label in labels] == ["demo", "own"]
    page.evaluate("curves.pick('0 0')")


@pytest.mark.browser
def test_answers_are_shown_by_class_confusion_confidence_and_pair(page, shown):
    page.locator("[data-answers-of='0']").scroll_into_view_if_needed()
    page.wait_for_selector("#section0-reliability .point")
    section = next(one for one in compare(shown, MAIN) if one.backbone == "micro_vit")
    of_task = answers(section).tasks[1]
    page.select_option("[data-answers='task']", label=of_task.task)
    page.select_option("[data-answers='variant']", label="adapter")
    for name, scores in ((v, class_accuracies(of_task, v)) for v in MAIN):
        ours = {key[1]: y for key, (_, y) in points(page, "section0-classes").items() if key[0] == name}
        assert ours == {f"{name}, {label}": pytest.approx(score) for label, score in enumerate(scores)}
    counts = sum(confusion_matrix(of_task.labels, one, 4) for one in of_task.predicted["adapter"].values())
    cells = [[float(cell or 0) for cell in row[1:]] for row in rows(page, "section0-confusion")]
    np.testing.assert_allclose(cells, counts / 2)
    binned = sum(of_task.binned["adapter"].values())
    drawn = page.locator("#section0-reliability g[data-series='adapter'] .point")
    assert drawn.count() == (binned[0] > 0).sum()
    shared = matrix(section, "shared_mistakes").loc[MAIN, MAIN]
    cells = [[float(cell) for cell in row[1:]] for row in rows(page, "section0-agreement")]
    np.testing.assert_allclose(cells, shared, atol=0.0501)
    page.select_option("[data-answers='measure']", label="gain of averaging")
    assert rows(page, "section0-agreement")[0][1] == "—"  # of a variant with itself there is none
    assert "of 60 images are right" in page.text_content(".sure")
    assert len(rows(page, "section0-confused")) == 8
    size = len(json.dumps(predicted_data(section)))
    assert size < 20_000  # counts, no logits


@pytest.mark.browser
def test_answers_say_which_variants_have_fewer_seeds(page, shown):
    few = shown[shown["backbone"] == "micro_vit"].reset_index(drop=True)
    lacks = (few["variant"] == "adapter") & (few["seed"] == 1) & (few["task"] == "digits")
    few.loc[lacks, "predictions_sha256"] = None
    results = Results(few, MAIN)
    (section,), numbers = results.compared, page_data(results, [])["sections"][0]
    tasks = json.loads(json.dumps(predicted_data(section)["tasks"]))
    names = """([s, task]) => [...classChart(s, task).series, ...reliabilityChart(s, task).series.slice(1)]
      .map(({ label }) => label).concat(Object.keys(task.variants).map((v) => sureness(s, task, v)))"""
    for of_task, task in zip(answers(section).tasks, tasks, strict=True):
        wanted = [
            section.name(variant) + ("" if len(seeds) == section.full_n else f" (n={len(seeds)})")
            for variant, seeds in of_task.predicted.items()
        ]
        found = page.evaluate(names, [numbers, task])
        assert found[:8] == [*wanted, *wanted] and ("adapter (n=1)" in wanted) == (task["name"] == "digits")
        assert [text.split(" on ")[0] for text in found[8:]] == wanted


@pytest.mark.browser
def test_no_confusion_matrix_is_left_of_another_task(page):
    page.locator("[data-answers-of='0']").scroll_into_view_if_needed()
    page.wait_for_selector("#section0-confusion td")
    fill = "task => fillConfusion(byId('section0-confusion'), task, { cells: [], seeds: 1 })"
    page.evaluate(fill, {"classes": [f"class {label}" for label in range(41)], "images": []})
    assert page.locator("#section0-confusion tr").count() == 0
    assert page.locator("[data-csv='section0-confusion']").is_hidden()
    page.select_option("[data-answers='variant']", label="mosa")
    assert page.locator("[data-csv='section0-confusion']").is_visible()
    assert page.locator("#section0-confusion td").count() == 16


@pytest.mark.browser
def test_details_open_and_close_by_keyboard(page):
    see(page, "runs-table")
    page.get_by_label("Details of demo/digits/micro_vit/mosa/seed1").focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#details")
    assert dialog.is_visible() and "runs/demo/digits/micro_vit/mosa/seed1.json" in dialog.text_content()
    assert "batch_size 32" in dialog.text_content() and "1" * 64 in dialog.text_content()
    assert "of the whole process" in dialog.text_content()
    assert page.locator("#details-plot .point").count() == 4  # two terms in two epochs
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


@pytest.mark.browser
def test_a_run_that_learned_nothing_says_why(frame, opened):
    reason = "top-1 10.0 %, a guess up to 12.0 %"
    nothing = (frame["variant"] == "mosa") & (frame["task"] == "digits") & (frame["seed"] == 1)
    alone = opened(frame.assign(learned_nothing=[reason if one else "" for one in nothing]))
    see(alone, "runs-table")
    daggers = [row[:3] for row in rows(alone, "runs-table") if "†" in " ".join(row)]
    assert daggers == [["mosa †", "digits", "1"]]
    assert reason in alone.get_attribute("#runs-table th small", "title")
    alone.fill("#runs-filter", "†")
    assert len(rows(alone, "runs-table")) == 1
    alone.locator("#runs-table button[data-run]").click()
    assert f"† learned nothing{reason}" in alone.text_content("#details-list")


@pytest.mark.browser
def test_tables_and_figures_are_taken_away(page, tmp_path):
    page.evaluate("scrollTo(0, 0)")
    saved = {}
    for kind, name in (("csv", "section0-differences"), ("svg", "section0-costs"), ("png", "section0-costs")):
        with page.expect_download() as download:
            page.click(f"[data-{kind}='{name}']")
        assert download.value.suggested_filename == f"{name}.{kind}"
        saved[kind] = Path(download.value.path()).read_bytes()
    lines = saved["csv"].decode().splitlines()
    assert lines[0].startswith("variant,minus adapter,95 % interval") and lines[2].startswith("full,+7.8")
    assert b"var(--" not in saved["svg"] and b"#ffffff" not in saved["svg"].lower()[:0]
    assert ElementTree.fromstring(saved["svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert saved["png"].startswith(b"\x89PNG")


@pytest.mark.browser
def test_light_dark_phone_and_paper(page):
    background = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#section0-costs .x-tick')).fill"
    light = page.evaluate(background), page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background), page.evaluate(ink)
    assert light[0] != dark[0] and light[1] != dark[1]
    page.click("#theme")
    assert (page.evaluate(background), page.evaluate(ink)) == light
    page.set_viewport_size({"width": 390, "height": 844})
    # Tables scroll, the page does not; a run's score is in view, and no legend is cut off.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    see(page, "runs-table")
    score = page.locator("#runs-table thead th", has_text="top-1").bounding_box()
    assert score["x"] + score["width"] <= 390
    page.wait_for_timeout(100)  # plots follow the width
    inside = (
        "[...document.querySelectorAll('#section0-costs .entry')].every(e =>"
        " e.getBoundingClientRect().right <= e.closest('svg').getBoundingClientRect().right + 1)"
    )
    assert page.evaluate(inside)
    page.set_viewport_size({"width": 1200, "height": 900})
    page.emulate_media(media="print", color_scheme="light")
    fits = (
        "[...document.querySelectorAll('main svg.chart')].every(svg => svg.getBoundingClientRect().right <="
        " svg.closest('figure, section').getBoundingClientRect().right + 1)"
    )
    assert page.evaluate(fits)
    page.emulate_media(media="screen")
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.browser
def test_hostile_names_do_nothing_in_a_browser(browser, tmp_path):
    frame = write_records(
        tmp_path / "records", {HOSTILE: SCORES["mosa"], "b": SCORES["full"]}, tasks=[HOSTILE[:60]], seeds=1
    )
    output = tmp_path / "report.html"
    write_report(
        frame, output, None, "safe", HOSTILE, [CHOICE | {"variant": HOSTILE}], [Missing(HOSTILE, HOSTILE)]
    )
    page = browser.new_page()
    page.goto(output.as_uri())
    page.wait_for_selector("#section0-costs .point")
    see(page, "runs-table")
    page.locator("button[data-run]").first.click()
    page.wait_for_selector("#details-plot .point")
    assert page.title() == "safe: benchmark report" and page.locator("img").count() == 0
    assert page.locator("#section0-comparison tbody th").first.text_content() in (HOSTILE, "b")
    page.close()
