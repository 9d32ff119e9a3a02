"""Names that are unknown: few are listed, and a near miss is near."""

import pytest

from mosa.base.errors import suggest, unknown, unreadable


def test_of_many_names_four_and_their_number_are_listed():
    text = str(unknown("letter", "alphaa", ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]))
    assert text.startswith("unknown letter 'alphaa': expected one of alpha, beta, gamma, delta, ... (6 i")
    assert text.endswith("; did you mean 'alpha'?")
    assert str(unknown("letter", "x", ["alpha", "beta"])) == "unknown letter 'x': expected one of alpha, beta"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Mosa", "mosa"),
        ("full-tuning", "full_tuning"),
        ("vit_base", "vit_base_patch16_224"),
        ("adaptr", "adapter"),
        ("my_adapter", "adapter"),
        ("msoa", "mosa"),
        ("maxvit_base_patch16", None),
        ("rora", None),
        ("", None),
        (3, None),
    ],
)
def test_a_near_miss_is_near(name, near):
    allowed = ["mosa", "full_tuning", "samvit_base_patch16", "vit_base_patch16_224", "adapter", "lora"]
    assert suggest(name, allowed) == (f"; did you mean {near!r}?" if near else "")


def test_a_long_name_is_quoted_shortly():
    assert len(str(unknown("letter", "a" * 3000, ["alpha", "beta"]))) < 300


def test_a_name_comes_before_what_it_is_of():
    assert str(unknown("letter of 'el'", "x", ["a"])) == "unknown letter 'x' of 'el': expected one of a"


def test_why_a_file_is_unreadable_leaves_out_its_name():
    assert unreadable(IsADirectoryError(21, "Is a directory", "x.yaml")) == "Is a directory"
    assert unreadable(ValueError("line 1\nline 2")) == "line 1 line 2"
