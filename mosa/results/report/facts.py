"""What the page says of its data, and what to cite: only what records, methods and tasks state."""

import re
from typing import Any, NamedTuple

import pandas as pd

from mosa.base.errors import UserError
from mosa.data.catalogue import get_task
from mosa.data.task import OWN
from mosa.experiment.validation import read_schema
from mosa.results.learned import classes_of

_ARXIV = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
_OURS = re.compile(r"\btest: .* held out of train")


class Source(NamedTuple):
    """Something that the page shows, and where it comes from.

    Attributes:
        what: A method, a data set, a backbone, or the software.
        text: Its source as the project states it; empty where it does not know one.
    """

    what: str
    text: str


def data_facts(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row for each task: images, classes, and how its splits came about.

    Args:
        frame: One row per run.
    """
    rows = []
    for (benchmark, task), runs in frame.groupby(["benchmark", "task"], sort=False):
        notes = list(dict.fromkeys(note for notes in runs["data_notes"] for note in notes))
        classes = runs["classes"].dropna()
        rows.append(
            {
                "task": f"{benchmark}/{task}",
                "group": runs["group"].iloc[0],
                "classes": int(classes.iloc[0]) if len(classes) else classes_of(f"{benchmark}/{task}"),
                "trained": _span(runs["train_examples"]),
                "train_split": ", ".join(sorted(set(runs["train_split"]))),
                "evaluated": _span(runs["eval_examples"]),
                "eval_split": ", ".join(sorted(set(runs["eval_split"]))),
                "notes": [*_about_test(benchmark, notes), *notes],
            }
        )
    return rows


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _about_test(benchmark: str, notes: list[str]) -> list[str]:
    if benchmark != OWN:
        return []
    if any(map(_OURS.search, notes)):
        return ["own data; this project held test out of them, as they came without one"]
    return ["own data"]


# --- what to cite


def sources(frame: pd.DataFrame) -> list[Source]:
    """Return the methods, data sets and backbones of the records with their sources.

    Args:
        frame: One row per run.
    """
    known = read_schema("methods")["$defs"]
    methods = [
        Source(name, known[name]["reference"] if name in known else "")
        for name in sorted(set(frame["method"]))
    ]
    tasks = frame[["benchmark", "task"]].drop_duplicates().itertuples(index=False)
    of_data: dict[str, list[str]] = {}
    for row in tasks:
        of_data.setdefault(_source_of(row.benchmark, row.task), []).append(f"{row.benchmark}/{row.task}")
    backbones = frame[["backbone", "architecture", "weights"]].drop_duplicates().itertuples(index=False)
    return [
        *methods,
        *(Source(", ".join(names), text) for text, names in of_data.items()),
        *(Source(row.backbone, f"{row.architecture}, weights {row.weights}") for row in backbones),
    ]


def _source_of(benchmark: str, task: str) -> str:
    if benchmark == OWN:
        return ""
    try:
        return get_task(f"{benchmark}/{task}").source
    except UserError:
        return ""


def bibtex(found: list[Source]) -> str:
    """Return an entry for each paper on arXiv that sources name, with nothing but what they say of it."""
    texts: dict[str, list[str]] = {}
    for source in found:
        for match in _ARXIV.finditer(source.text):
            texts.setdefault(match[1], []).append(_clause(source.text[: match.start()]))
    entries = []
    for number, clauses in texts.items():
        note = min((clause for clause in clauses if clause), key=len, default="")
        lines = [f"@misc{{arxiv{number.replace('.', '_')},", f"  eprint        = {{{number}}},"]
        lines += ["  archivePrefix = {arXiv},", f"  url           = {{https://arxiv.org/abs/{number}}},"]
        lines += [f"  note          = {{{_escaped(note)}}},"] if note else []
        entries.append("\n".join([*lines, "}"]))
    return "\n\n".join(entries)


def _clause(text: str) -> str:
    """Return the last clause of a text: that on the paper whose number follows it."""
    clause = re.split(r"; |\. (?=[A-Z])|\(| as in | in (?=[A-Z])|^the .*? of ", text)[-1]
    return clause.strip(" ,:;(")


def _escaped(text: str) -> str:
    return re.sub(r"([%&#_$])", r"\\\1", text)
