"""The variant that others are compared with is chosen once, and then the same in every output."""

import pytest
from test_analysis import make_frame
from test_config import tiny

from mosa.base.errors import UserError
from mosa.experiment.config import load_config
from mosa.experiment.expand import expand
from mosa.results.aggregate import Results
from mosa.results.report.sections import page_section
from mosa.results.tables.columns import compute_columns
from mosa.results.tables.differences import differences_formats
from mosa.results.tables.write import write_tables

SCORES = {"linear": {"cats": [50, 51, 55]}, "adapter": {"cats": [60, 62, 61]}, "lora": {"cats": [61, 66, 62]}}


def results(reference, order=None):
    known = {"train_flops_per_image": 2.0, "epochs": 2, "train_examples": 100, "passes": 1}
    return Results(make_frame(SCORES, **known), order, None, reference)


def test_without_a_choice_it_is_the_adapter_and_without_that_the_first():
    (section,) = results(None).compared
    assert section.reference == "adapter"
    (section,) = results(None, ["lora", "linear"]).compared
    assert section.reference == "lora"


def test_tables_and_report_compare_with_the_one_that_is_chosen():
    chosen = results("lora")
    assert "adapter - lora" in differences_formats(chosen)["md"]
    assert {line.split(",")[3] for line in differences_formats(chosen)["csv"].splitlines()[1:]} == {"lora"}
    (section,) = chosen.compared
    assert compute_columns(section)[1].title.endswith("(lora = 1)")
    page = page_section(section, "one")
    assert page["reference"] == "lora" and [one["variant"] for one in page["differences"]] == [
        "linear",
        "adapter",
    ]
    assert chosen.swept[0].reference == "lora"


def test_an_unknown_one_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"unknown reference 'adaptr'.*did you mean 'adapter'"):
        write_tables(make_frame(SCORES), tmp_path, reference="adaptr")
    with pytest.raises(UserError, match="unknown reference 'linear'"):  # not among those that are compared
        write_tables(make_frame(SCORES), tmp_path, ["adapter", "lora"], reference="linear")


def test_the_config_names_it_and_no_specification_knows():
    plain, chosen = (load_config(tiny() | change) for change in ({}, {"reference": "linear"}))
    assert [run.specification.digest for run in expand(plain)] == [
        run.specification.digest for run in expand(chosen)
    ]
    with pytest.raises(UserError, match=r"reference: unknown variant 'linea'.*did you mean 'linear'"):
        load_config(tiny() | {"reference": "linea"})
