"""The comparison: the variants of the config on every task."""

from mosa.results.aggregate import Results
from mosa.results.registry import table
from mosa.results.tables.render import section_formats


@table(
    "comparison",
    formats=("csv", "html", "md", "tex", "txt"),
    label="comparison",
    caption="The main variants: group means, overall means, tuned parameters, every task.",
)
def comparison(results: Results) -> dict[str, str]:
    """Return the sections of the comparison in every format."""
    return section_formats("comparison", results.compared)
