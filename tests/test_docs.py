"""Documentation that is generated agrees with what it is generated from."""

from pathlib import Path

from mosa.peft.describe import methods_page

DOCS = Path(__file__).parents[1] / "docs"


def test_methods_page_is_what_the_registry_says():
    assert (DOCS / "methods.md").read_text() == methods_page(), "run `mosa schema`"
