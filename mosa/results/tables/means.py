"""The tables of means: of the variants of the comparison, and of every variant."""

from mosa.results.aggregate import Results
from mosa.results.registry import table
from mosa.results.tables.render import section_formats

_FORMATS = ("csv", "html", "md", "tex", "txt")


@table(
    "comparison",
    formats=_FORMATS,
    label="comparison",
    caption="The main variants: group means, overall means, tuned parameters, every task.",
)
def comparison(results: Results) -> dict[str, str]:
    """Return the sections of the comparison in every format."""
    return section_formats("comparison", results.compared)


@table(
    "sweep",
    formats=_FORMATS,
    label="sweep",
    caption="Every variant, by method and size, on the tasks and seeds of the sweep.",
)
def sweep(results: Results) -> dict[str, str]:
    """Return the sections of the sweep in every format."""
    return section_formats("sweep", results.swept)
