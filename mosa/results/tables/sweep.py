"""The sweep: every variant, those outside the comparison too."""

from mosa.results.aggregate import Results
from mosa.results.registry import table
from mosa.results.tables.render import section_formats


@table(
    "sweep",
    formats=("csv", "html", "md", "tex", "txt"),
    label="sweep",
    caption="Every variant, by method and size, on the tasks and seeds of the sweep.",
)
def sweep(results: Results) -> dict[str, str]:
    """Return the sections of the sweep in every format."""
    return section_formats("sweep", results.swept)
