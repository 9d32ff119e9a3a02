"""Every variant minus the reference, with intervals and tests."""

import pandas as pd

from mosa.results.aggregate import Results, Section
from mosa.results.paired import Difference, differences, named
from mosa.results.registry import table
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown

_NOTE = (
    "Differences of {label}, of which {direction} is better: mean over tasks, paired by seed. In brackets: "
    "the 95 % interval over seeds (Student's t). The tasks are fixed, so the interval does not cover other "
    "tasks. The table shows the interval by a studentised bootstrap of the seeds within each task (from "
    "three seeds on); on how many tasks the printed mean is better, equal and worse; the probability that a "
    "run of the variant beats a run of the reference; and the p-value of the signed-rank test over tasks, "
    "raw and adjusted for the number of comparisons (it cannot be small with few tasks)."
)


@table(
    "differences",
    label="differences",
    caption="Every main variant minus the adapter (without one, the first variant), paired by seed: "
    "intervals, tasks on which it is better, equal and worse, probability of improvement, signed-rank test.",
)
def differences_formats(results: Results) -> dict[str, str]:
    """Return the differences within each section of the comparison."""
    sections = results.compared
    return {"csv": csv_text(differences_table(sections)), "md": differences_text(sections)}


def differences_table(sections: list[Section]) -> pd.DataFrame:
    """Return the differences of all sections as plain numbers, one row per section and variant."""
    rows = [
        {"benchmark": section.benchmark, "backbone": section.backbone} | found._asdict()
        for section in sections
        for found in differences(section)
    ]
    return pd.DataFrame(rows, columns=["benchmark", "backbone", *Difference._fields])


def differences_text(sections: list[Section]) -> str:
    """Return the differences of all sections as a Markdown list."""
    lines = []
    for section in sections:
        lines += [f"## {escape_markdown(heading(section))}", ""]
        found = [named(one, section) for one in differences(section)]
        lines += [f"- {escape_markdown(one.sentence)}" for one in found]
        direction = "the higher" if section.metric.higher_is_better else "the lower"
        note = _NOTE.format(label=section.metric.label, direction=direction)
        lines += ["", *_statistics(found), "", note, ""]
    return "\n".join(lines)


def _statistics(found: list[Difference]) -> list[str]:
    """Return a Markdown table of the statistics that the sentences leave out."""
    lines = [
        "| variant | bootstrap interval | better / equal / worse | P(improvement) | Wilcoxon p | Holm p |",
        "| :-- | --: | --: | --: | --: | --: |",
    ]
    for difference in found:
        if not difference.seeds:
            continue
        bootstrap = escape_markdown(difference.shown_bootstrap)
        lines.append(
            f"| {escape_markdown(difference.variant)} | {bootstrap} | {difference.better} / "
            f"{difference.equal} / {difference.worse} | {difference.improvement:.2f} | "
            f"{difference.wilcoxon_p:.3f} | {difference.holm_p:.3f} |"
        )
    return lines if len(lines) > 2 else []
