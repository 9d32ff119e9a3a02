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
