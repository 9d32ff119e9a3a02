"""Rows of text as a table."""

import pytest

from mosa.base.grid import aligned, display_width, markdown_table


def test_columns_stand_to_the_side_that_is_asked_for_and_the_last_letter_holds_for_the_rest():
    rows = [("variant", "runs", "hours"), ("mosa", "5", "12.5"), ("adapter", "10", "-")]
    assert aligned(rows) == ["variant  runs  hours", "mosa     5     12.5", "adapter  10    -"]
    assert aligned(rows, "lr") == ["variant  runs  hours", "mosa        5   12.5", "adapter    10      -"]


def test_wide_characters_take_two_columns():
    lines = aligned([("name", "n"), ("适配器", "1"), ("e\u0301", "2")], "lr")
    assert {display_width(line) for line in lines} == {9}


@pytest.mark.parametrize(
    ("sides", "marks"),
    [("l", "| :-- | :-- | :-- |"), ("lr", "| :-- | --: | --: |"), ("lcr", "| :-- | :-: | --: |")],
)
def test_markdown_says_where_columns_stand(sides, marks):
    assert markdown_table("abc", [("1", "", "3")], sides) == f"| a | b | c |\n{marks}\n| 1 |  | 3 |"
