"""Methods with and without the split into sparse experts, side by side: what the split adds to each."""

import pandas as pd

from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Results, Section
from mosa.results.paired import Difference, difference, paired_scores
from mosa.results.registry import table
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown

# The method that each splits. Their options have the same names; those of the split, and of the second pass
# that comes with it, are not compared.
DENSE = {"mosa": "adapter", "mosl": "lora"}
_OF_THE_PASSES = ("consistency", "second_pass", "feature_consistency")

_NOTE = (
    "Pairs of variants whose other options are the same: the mean over tasks of both over their common "
    "seeds, and the paired difference with its 95 % interval over seeds (Student's t, from three seeds on)."
)


@table(
    "combination",
    label="with and without the split",
    caption="Methods with and without the split (MoSA and adapter, MoSL and LoRA), where all other "
    "options are the same.",
)
def combination_formats(results: Results) -> dict[str, str]:
    """Return the pairs within each section of the comparison."""
    sections = results.compared
    return {"csv": csv_text(combination_table(sections)), "md": combination_text(sections)}


def pairs(section: Section) -> list[tuple[str, str]]:
    """Return (dense, split) variants that differ in the split alone, in display order of the split ones."""
    first = section.runs.drop_duplicates("variant").set_index("variant")
    dense = {}
    for variant in section.variants:
        if variant in first.index and first.loc[variant, "method"] in DENSE.values():
            options = first.loc[variant, "options"]
            if not any(options.get(name) for name in _OF_THE_PASSES):
                dense.setdefault(_key(first.loc[variant, "method"], options, options), variant)
    found = []
    for variant in section.variants:
        method = first.loc[variant, "method"] if variant in first.index else None
        if method in DENSE:
            for key, other in dense.items():
                names = dict(key[1])
                if key == _key(DENSE[method], first.loc[variant, "options"], names):
                    found.append((other, variant))
    return found


def _key(method: str, options: dict, names: dict) -> tuple:
    kept = sorted(name for name in names if name not in _OF_THE_PASSES)
    return method, tuple((name, str(options.get(name))) for name in kept)


def combination_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row per pair: benchmark, backbone, both means over tasks, and the difference."""
    rows = []
    for section in sections:
        for dense, split in pairs(section):
            without, with_it = _means(section, dense, split)
            place = {name: getattr(section, name) for name in ("benchmark", "backbone")}
            place["metric"] = section.metric.name
            found = difference(section, split, dense)
            rows.append(place | {"without": without, "with": with_it} | found._asdict())
    columns = ["benchmark", "backbone", "metric", "without", "with", *Difference._fields]
    return pd.DataFrame(rows, columns=columns)


def _means(section: Section, dense: str, split: str) -> list[float]:
    """Return the means over tasks of both over their common seeds; NaN if there are none."""
    return [scores[MEAN_OVER_TASKS].mean() for scores in paired_scores(section, dense, split)]


def combination_text(sections: list[Section]) -> str:
    """Return `combination_table` in Markdown, a table per section that has a pair."""
    parts = []
    for section in sections:
        label = section.metric.label
        lines = [["without the split", label, "with it", label, "difference", "better on"]]
        lines.append([":--", "--:", ":--", "--:", "--:", "--:"])
        for dense, split in pairs(section):
            means = _means(section, dense, split)
            scores = [MISSING if pd.isna(mean) else section.shown(mean) for mean in means]
            found = difference(section, split, dense)
            on = f"{found.better} of {found.tasks}" if found.seeds else MISSING
            names = [escape_markdown(v) for v in (dense, split)]
            shown = escape_markdown(found.shown_with_caveat)
            lines.append([names[0], scores[0], names[1], scores[1], shown, on])
        if len(lines) > 2:
            table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            parts.append(f"## {escape_markdown(heading(section))}: with the split\n\n{table}\n\n{_NOTE}\n")
    return "\n".join(parts) or "No variant has a counterpart that differs in the split alone.\n"
