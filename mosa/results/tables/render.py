"""A section's tables as plain text, Markdown, HTML and LaTeX (booktabs)."""

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from html import escape

import jinja2
import pandas as pd
from markupsafe import Markup
from pandas.io.formats.style import Styler

from mosa.base.grid import display_width, markdown_table, pad
from mosa.base.words import count
from mosa.results.aggregate import MISSING, Section
from mosa.results.provenance import short_notes
from mosa.results.tables.columns import (
    Cell,
    Column,
    by_task,
    caption,
    compute_columns,
    heading,
    in_words,
    overview,
)
from mosa.results.tables.tidy import tidy_table
from mosa.results.wrap import wrapped

WIDTH = 120  # characters of a table as plain text


def csv_text(frame: pd.DataFrame, digits: str = "%.4f") -> str:
    """Return a table as CSV, its fractions in a format of the % operator."""
    return frame.to_csv(index=False, float_format=digits, lineterminator="\n")


def section_formats(name: str, sections: list[Section]) -> dict[str, str]:
    """Return the table of means of each section, by format; `name` begins the labels in LaTeX."""
    return {
        "csv": csv_text(tidy_table(sections)),
        "html": html_page(sections),
        "md": "\n".join(markdown_section(section) for section in sections),
        "tex": "\n".join(latex_section(section, name) for section in sections),
        "txt": "\n\n".join(terminal_section(section, WIDTH) for section in sections) + "\n",
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _grid(section: Section, columns: list[Column], name: Callable[[str], str], cell: Callable[[Cell], str]):
    """Return the table's rows of text, headings first, with the variants on the left."""
    header = ["variant", *(_one_line(column.title) for column in columns)]
    cells = zip(*(column.cells for column in columns), strict=True)
    rows = [[name(section.name(v)), *map(cell, row)] for v, row in zip(section.variants, cells, strict=True)]
    return [[name(title) for title in header], *rows]


# --- plain text and Markdown


def _plain(cell: Cell) -> str:
    value = f"{cell.value} ± {cell.sd}" if cell.sd else cell.value
    return " ".join(filter(None, [value + ("*" if cell.best else ""), cell.note]))


def terminal_section(section: Section, width: int) -> str:
    """Return the section as aligned text, in blocks of columns that fit into `width` characters."""
    lines = [f"{_one_line(heading(section))}, {section.metric.label}"]
    for columns in (overview(section), by_task(section)):
        _, *rows = _grid(section, columns, _one_line, lambda cell: _plain(cell) + " " * (not cell.best))
        titles = [("", "variant"), *(c.title.rpartition("\n")[::2] for c in columns)]
        rows = [
            [_one_line(title) + " " * (i > 0) for i, title in enumerate(line)]
            for line in zip(*titles, strict=True)
        ] + rows
        widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
        for block in _blocks(widths, width):
            lines.append("")
            for row in rows:
                others = "".join(" " + pad(row[i], widths[i], "r") for i in block)
                line = pad(row[0], widths[0]) + others
                lines.append(line.rstrip())
    spread = ("± sample sd over " if section.full_n > 1 else "") + count(section.full_n, "seed") + "; "
    lines += ["", f"{spread}* best of the column; {MISSING} missing, or a mean with missing tasks"]
    lines += textwrap.wrap(section.about_seeds, width)
    for note in short_notes(section.runs):
        lines += textwrap.wrap(note, width)
    return "\n".join(lines)


def _blocks(widths: list[int], limit: int) -> list[list[int]]:
    """Split columns 1, 2, ... into blocks that fit beside column 0, each after a space."""
    blocks: list[list[int]] = [[]]
    for index in range(1, len(widths)):
        taken = widths[0] + sum(1 + widths[i] for i in [*blocks[-1], index])
        if blocks[-1] and taken > limit:
            blocks.append([])
        blocks[-1].append(index)
    return blocks


def escape_markdown(text: str) -> str:
    """Escape what GitHub's Markdown would read as markup inside a table; inner underscores are none."""
    return re.sub(r"([\\`*|<>\[\]~&$]|\b_|_\b)", r"\\\1", _one_line(text))


def escaped_table(header: Sequence[str], rows: Iterable[Sequence[str]], sides: str = "lr") -> str:
    """Return `markdown_table` of texts that are not escaped yet."""
    header, *rows = ([*map(escape_markdown, row)] for row in (header, *rows))
    return markdown_table(header, rows, sides)


def _markdown(cell: Cell) -> str:
    value = f"{cell.value} ± {cell.sd}" if cell.sd else cell.value
    value = f"**{value}**" if cell.best else f"<ins>{value}</ins>" if cell.second else value
    return " ".join(filter(None, [value, cell.note]))


def markdown_section(section: Section) -> str:
    """Return the section as two Markdown tables, the means and the tasks, with heading and caption."""
    parts = [f"## {escape_markdown(heading(section))}"]
    for columns in (overview(section) + compute_columns(section), by_task(section)):
        header, *rows = _grid(section, columns, escape_markdown, _markdown)
        if columns[0].group:
            header = [
                header[0],
                *(f"{t} ({escape_markdown(c.group)})" for t, c in zip(header[1:], columns, strict=True)),
            ]
        parts.append(markdown_table(header, rows, "lr"))
    parts.append(escape_markdown(caption(section)))
    return "\n\n".join(parts) + "\n"


# --- HTML

_STYLE = (
    "table{border-collapse:collapse;font:14px system-ui,sans-serif;margin:1em 0}th,td{padding:.2em .6em;"
    "text-align:right}th:first-child{text-align:left}thead th{border-bottom:1px solid}"
    "caption{caption-side:bottom;text-align:left}"
)
_MARKS = [
    {"selector": ".best", "props": "font-weight:bold"},
    {"selector": ".second", "props": "text-decoration:underline"},
]
_PAGE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Comparison</title>
<style>{{ style }}</style>
{% for heading, tables in sections %}
<h2>{{ heading }}</h2>
{% for table in tables %}
{{ table }}
{% endfor %}
{% endfor %}
</html>
"""
)


def html_page(sections: list[Section]) -> str:
    """Return a page with two tables of each section, the means and the tasks."""
    shown = []
    for number, section in enumerate(sections):
        means = _html_table(section, overview(section) + compute_columns(section), f"means{number}")
        tasks = _html_table(section, by_task(section), f"tasks{number}")
        tables = [means.set_caption(escape(caption(section))), tasks]
        shown.append((heading(section), [Markup(table.to_html()) for table in tables]))
    return _PAGE.render(sections=shown, style=_STYLE)


def _html_table(section: Section, columns: list[Column], identity: str) -> Styler:
    """Return a table whose names are escaped; `identity` distinguishes it from the others of the page."""
    titles = [f"{column.title} ({column.group})" if column.group else column.title for column in columns]
    # Two columns may have the same title: their numbers name them.
    by_number = {place: column.cells for place, column in enumerate(columns)}
    cells = pd.DataFrame(by_number, index=section.variants, dtype=object).rename(section.name)
    cells.columns.name = "variant"  # is printed above the index
    return (
        Styler(cells.map(lambda cell: _plain(cell._replace(best=False))), uuid=identity, cell_ids=False)
        .format(escape="html")
        .format_index(escape="html", axis="index")
        .format_index(lambda place: escape(titles[place]), axis="columns")
        .set_td_classes(cells.map(lambda cell: "best" if cell.best else "second" if cell.second else ""))
        .set_table_styles(_MARKS)
    )


# --- LaTeX

_LATEX_NAME = 40  # characters of a name's line
_LATEX_BREAK = r"\\"
_LATEX_COLUMNS = 12  # a page's width holds no more columns with spreads
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{character: f"{{{character}}}" for character in "[]*"},  # after a row's end they would be its options
    "±": r"$\pm$",
    "—": "---",
}


def escape_latex(text: str) -> str:
    """Escape every character that LaTeX would not print as itself."""
    return _one_line(text).translate(str.maketrans(_LATEX))


def _latex_name(text: str) -> str:
    """Return a name in as many lines as it needs, so that the table is not made small for it."""
    lines = [escape_latex(line) for line in wrapped(_one_line(text), _LATEX_NAME)]
    return lines[0] if len(lines) == 1 else rf"\shortstack[l]{{{_LATEX_BREAK.join(lines)}}}"


def _latex(cell: Cell) -> str:
    if cell.value == MISSING:
        return "---"
    command = r"\textbf" if cell.best else r"\underline" if cell.second else ""
    value = f"{command}{{{cell.value}}}" if command else cell.value
    sd = rf"{{\scriptsize$\,\pm\,${cell.sd}}}" if cell.sd else ""
    note = rf" {{\scriptsize {cell.note}}}" if cell.note else ""
    return value + sd + note


def _latex_title(column: Column) -> str:
    if column.steep:
        return rf"\rotatebox{{90}}{{{escape_latex(column.title)}}}"
    lines = r"\\".join(escape_latex(line) for line in column.title.split("\n"))
    return rf"\shortstack[r]{{{lines}}}" if "\n" in column.title else lines


def latex_section(section: Section, name: str) -> str:
    """Return the section as two LaTeX tables, the means and the tasks; `name` begins their labels."""
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{name}-{section.benchmark}-{section.backbone}")
    tasks, what = by_task(section), "as in the table of means"
    if len(tasks) > _LATEX_COLUMNS:
        tasks = [c._replace(cells=[cell._replace(sd="") for cell in c.cells]) for c in tasks]
        what = "means without their spreads"
    about_tasks = f"{in_words(section)} by task ({heading(section)}), {what}."
    return (
        "% Made from the records; needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n"
        + _about_script(section)
        + _latex_table(
            section, overview(section) + compute_columns(section), caption(section), f"tab:{label}"
        )
        + _latex_table(section, tasks, about_tasks, f"tab:{label}-tasks")
    )


def _about_script(section: Section) -> str:
    """Return a comment on what the names need, if pdfLaTeX cannot print their characters."""
    names = [heading(section), *section.groups, *section.task_names, *map(section.name, section.variants)]
    if all(ord(character) < 0x250 for name in names for character in name):  # Latin letters, with any accent
        return ""
    return (
        "% Its names have characters that pdfLaTeX lacks: compile with XeLaTeX or LuaLaTeX, and a font that\n"
        "% has them; for Chinese, Japanese, Korean: \\usepackage{xeCJK} (XeLaTeX), luatexja (LuaLaTeX).\n"
    )


def _latex_table(section: Section, columns: list[Column], text: str, label: str) -> str:
    _, *rows = _grid(section, columns, _latex_name, _latex)
    header = " & ".join(["variant", *map(_latex_title, columns)]) + r" \\"
    lines = [
        r"\begin{table}[t]",
        r"\centering\small",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{escape_latex(text)}}}",
        rf"\label{{{label}}}",
        r"\setlength{\tabcolsep}{4pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        *_latex_groups(columns),
        header,
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_groups(columns: list[Column]) -> list[str]:
    """Return the heading line above the columns, with a rule below each group; nothing without groups."""
    if not columns[0].group:
        return []
    names, rules, start = [""], [], 2
    for group in dict.fromkeys(column.group for column in columns):
        span = sum(column.group == group for column in columns)
        names.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(group)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
        start += span
    return [" & ".join(names) + r" \\", "".join(rules)]
