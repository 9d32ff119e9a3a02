"""What all figures share: size, fonts, and parts with a title above and a note below."""

import textwrap
from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple

from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import fontManager

from mosa.base.words import count
from mosa.results.aggregate import Section
from mosa.results.wrap import NAME, wrapped

# Fonts of characters that matplotlib's own lacks: the first that is installed of each writing system.
_CJK = ("Noto Sans CJK", "Source Han Sans", "WenQuanYi", "Hiragino", "Microsoft YaHei", "Arial Unicode")


def font_families() -> list[str]:
    """Return matplotlib's own font, and those installed that have Chinese, Japanese and Korean characters."""
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for start in _CJK for name in sorted(installed) if name.startswith(start))]


# Changes to matplotlib's own defaults. Sizes in points, for a figure printed at its size. A fixed salt makes
# the names inside an SVG, and so its bytes, repeatable.
STYLE = {
    "font.size": 8,
    "font.family": font_families(),
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 5.5,
    "text.parse_math": False,  # a name with dollar signs is a name
    "svg.hashsalt": "mosa",
    "savefig.dpi": 200,
}
QUIET = "#595959"  # of explanatory text; dark enough to read on white
_LINE = 0.145  # inches, one line of a note
_PER_INCH = 19.2  # characters of a note


class Look(NamedTuple):
    """How figures are made.

    Attributes:
        width: Inches: that of one column, or of the text of a two-column page.
        titles: Whether title and note are drawn; else they are the figure's caption alone.
    """

    width: float = 6.9
    titles: bool = True

    @property
    def narrow(self) -> bool:
        """Whether a legend beside a plot would leave it no place."""
        return self.width < 5


WIDTHS = {1: 3.3, 2: 6.9}  # inches, by columns
_PAGE = Look()
LOOK: ContextVar[Look] = ContextVar("LOOK", default=_PAGE)


def stack(
    titles: Sequence[str], heights: Sequence[float], notes: Sequence[str], width: float | None = None
) -> tuple[Figure, list[SubFigure]]:
    """Make a figure of several parts, one below the other.

    Args:
        titles: Heading of each part.
        heights: Inches for the panels of each part.
        notes: Text below each part, wrapped here.
        width: Inches; None: that of `LOOK`.

    Returns:
        The figure, and its parts to draw into. Its label is its caption: titles and notes as plain text.
    """
    look = LOOK.get()
    width = min(width or look.width, look.width)
    caption = "\n\n".join(f"{title}. {note}" for title, note in zip(titles, notes, strict=True))
    if not look.titles:
        # What tells several parts apart stays.
        titles = titles if len(titles) > 1 else [""]
        notes = [""] * len(titles)
    notes = [textwrap.fill(note, int(_PER_INCH * width)) for note in notes]
    titles = ["\n".join(wrapped(title, int(14.6 * width))) for title in titles]
    heights = [
        height
        + (_LINE * (2 + note.count("\n")) if note else 0)
        + (0.2 + 0.16 * title.count("\n") if title else 0)
        for title, height, note in zip(titles, heights, notes, strict=True)
    ]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    figure.set_label(caption)
    parts = list(figure.subfigures(len(titles), 1, height_ratios=heights, squeeze=False)[:, 0])
    for part, title, note in zip(parts, titles, notes, strict=True):
        if title:
            part.suptitle(title, fontsize=9 if look.titles else 8, x=0.01, ha="left")
        if note:
            part.supxlabel(note, fontsize=7, x=0.01, ha="left", color=QUIET, linespacing=1.35)
    return figure, parts


def broken(name: str, width: int = NAME) -> str:
    """Return a name in as many lines as its place needs."""
    return "\n".join(wrapped(name, width))


def seeds_of(section: Section) -> str:
    """Return over how many seeds a mean is taken, in words, and which means lack some."""
    seeds = count(section.full_n, "seed")
    return f"{seeds}. {section.about_seeds.rstrip('.')}" if section.about_seeds else seeds
