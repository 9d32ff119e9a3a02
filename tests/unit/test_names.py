"""Names on the command line that nothing has, and input that is missing, empty or foreign: one sentence."""

import re

import pytest
from click.testing import CliRunner
from test_records import make_record

from mosa.cli.commands import cli
from mosa.records import write_record
from mosa.results.frame import to_frame, write_table


def record(method="linear"):
    return make_record(variant=method, method=method)


def shown(tmp_path, *arguments):
    for method in ("linear", "lora"):
        write_record(record(method), tmp_path / "runs" / method / "seed0.json")
    verb, *rest = arguments
    output = tmp_path / ("out.html" if verb == "report" else "out")
    given = [verb, "--records", str(tmp_path / "runs"), "--output", str(output), *rest]
    return CliRunner().invoke(cli, given), output


@pytest.mark.parametrize("verb", ["tables", "plots", "report"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants", "linear,lorra"], "unknown variant 'lorra'.*did you mean 'lora'"),
        (["--variants", "linear,,lora"], "expected names, such as linear,adapter"),
        (["--variants", "linear,lora,linear"], "'linear' is listed twice"),
        (["--variants", ""], "expected names, such as linear,adapter"),
        (
            ["--metric", "top-1"],
            r"unknown metric 'top-1'.*did you mean 'top1'\? \(one of a plugin needs --plugin",
        ),
    ],
)
def test_names_that_no_record_has_are_refused(verb, arguments, words, tmp_path):
    done, output = shown(tmp_path, verb, *arguments)
    text = f"{done.exception} {done.output}"
    assert done.exit_code != 0 and not output.exists()
    assert re.search(words, text), text


def test_the_workflow_shows_variants_that_have_no_record_yet(tmp_path):
    done, _ = shown(tmp_path, "tables", "--variants", "linear, lora,mosa", "--unfinished")
    assert done.exit_code == 0 and "mosa" in done.output


def test_a_metric_that_no_record_has_is_refused(tmp_path):
    for method in ("linear", "lora"):
        one = record(method)
        one["metrics"]["ece"] = None
        write_record(one, tmp_path / "runs" / method / "seed0.json")
    given = [
        "tables",
        "--records",
        str(tmp_path / "runs"),
        "--metric",
        "ece",
        "--output",
        str(tmp_path / "t"),
    ]
    assert "no record has the metric 'ece'" in str(CliRunner().invoke(cli, given).exception)


HEAD = '{"version": 1, "name": "x", "variants": [], "left_out": {}, "groups": '
FOREIGN = {
    "empty": "", "foreign.csv": "a,b\n1,2\n", "list.json": "[]", "object.json": "{}", "number.json": "3",
    "deep.json": "[" * 100_000, "objects.json": '[{"a": 1}]', "bytes": "\x00\x01",
    "groups.json": HEAD + '{"a": 1}}', "seeds.json": HEAD + '[{"specification": 5, "seeds": null}]}',
    "none": None, "folder": ...,
}  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize(
    "command",
    [
        "tables --records {} --output out",
        "plots --records {} --output out",
        "report --records {} --output out",
        "report --records runs --manifest {} --output out",
        "report --records runs --choices {} --output out",
        "collect --manifest {} --output out",
        "collect --existing --manifest {} --output out",
        "choices {} --output out",
        "choose {} --output out",
        "verify {}",
        "verify --alone --configfile {}",
        "plan --alone --configfile {}",
        "reproduce {}",
    ],
)
def test_empty_missing_and_foreign_input_ends_with_one_sentence(command, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if FOREIGN[content] is ...:
        (tmp_path / content).mkdir()
    elif FOREIGN[content] is not None:
        (tmp_path / content).write_text(FOREIGN[content])
    if "--records runs" in command:
        rows = [(record(), tmp_path / "a"), (record("lora"), tmp_path / "b")]
        write_table(to_frame(rows), tmp_path / "runs")
    if (command, content) == ("report --records runs --choices {} --output out", "list.json"):
        return  # nothing was chosen
    done = CliRunner().invoke(cli, command.format(content).split())
    refused = type(done.exception).__name__ in ("UserError", "Shortage")
    assert refused or (isinstance(done.exception, SystemExit) and done.exit_code in (1, 2)), done.exception
    assert not (tmp_path / "out").exists()


def test_verifying_a_config_without_records_is_no_success(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(
        "name: none\nseeds: [0]\nbenchmarks: {demo: [digits]}\n"
        "backbones: {m: {architecture: mosa_vit_micro}}\nvariants: {linear: {method: linear}}\n"
    )
    done = CliRunner().invoke(cli, ["verify"])
    assert done.exit_code != 0 and "has none of the records of this config (1 meant)" in str(done.exception)
