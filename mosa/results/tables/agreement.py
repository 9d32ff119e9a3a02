"""Tables of two variants on the same images: shared mistakes, what they gain together, McNemar's test."""

import numpy as np
import pandas as pd

from mosa.results.aggregate import MISSING, Results, Section
from mosa.results.answers import PAIRS, answers, matrix, pairs
from mosa.results.per_image import agreement, mcnemar_p, percent, smallest_mcnemar_p
from mosa.results.registry import table
from mosa.results.stats import CONFIDENCE, holm
from mosa.results.tables.classes import in_sections
from mosa.results.tables.render import csv_text, escape_markdown, escaped_table

_BEST = 5  # ensembles that are listed


@table(
    "agreement",
    label="agreement of mistakes",
    caption="How far any two variants make the same mistakes, and what the two gain together over the better "
    "one: as an oracle, and averaged.",
)
def agreement_formats(results: Results) -> dict[str, str]:
    """Return the agreement of variants within each section of the comparison."""
    sections = results.compared
    return {
        "csv": csv_text(agreement_table(sections)),
        "md": in_sections(sections, "agreement of mistakes", _agreement_text),
    }


def agreement_table(sections: list[Section]) -> pd.DataFrame:
    """Return `mosa.results.answers.pairs` of all sections, with benchmark and backbone."""
    parts = [
        pairs(section).assign(benchmark=section.benchmark, backbone=section.backbone) for section in sections
    ]
    known = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(known, ignore_index=True)[["benchmark", "backbone", *PAIRS]]


def _agreement_text(section: Section) -> list[str]:
    shared = matrix(section, "shared_mistakes")
    names = list(map(section.name, shared.index))
    rows = [[name, *map(_cell, row)] for name, row in zip(names, shared.to_numpy(), strict=True)]
    about = (
        "Shared mistakes (%): of the images that either of two runs gets wrong, those that both do; mean "
        "over the tasks and seeds that both have. On the diagonal: a variant with itself, over pairs "
        "of its seeds, as a measure of what the seed alone does."
    )
    return [escaped_table(["", *names], rows), about, *_together(section)]


def _cell(value: float) -> str:
    return MISSING if np.isnan(value) else percent(value)


def _together(section: Section) -> list[str]:
    """Return the pairs that gain most when their probabilities are averaged."""
    found = pairs(section)
    grouped = found[found["variant"] != found["other"]].drop(columns="task").groupby(["variant", "other"])
    means, counts = grouped.mean(), grouped["seeds"].sum()
    whole = section.full_n * len(answers(section).tasks)
    lacking = {pair: f" (n={int(runs)})" for pair, runs in counts.items() if runs < whole}
    best = means.sort_values("ensemble_gain", ascending=False, kind="stable").head(_BEST)
    if best.empty:
        return []
    rows = [
        [
            f"{section.name(one)} + {section.name(other)}{lacking.get((one, other), '')}",
            percent(row.better), percent(row.ensemble), percent(row.ensemble_gain, signed=True),
            percent(row.oracle), percent(row.oracle_gain, signed=True),
        ]
        for (one, other), row in zip(best.index, best.itertuples(), strict=True)
    ]  # fmt: skip
    which = "The pair" if len(means) == 1 else f"The {len(rows)} pairs that gain most together"
    note = (
        f"{which}, accuracy (%) as a mean over the tasks of both: of the better one, of the average of their "
        "probabilities, and of an oracle that takes the right one. Each is computed per task and seed first; "
        "the better one may be another on another task."
    )
    if len(means) > 1:
        note += (
            f" What stands first among {len(means)} pairs is chosen on these images: smaller gains are to be "
            "expected on others."
        )
    if any(pair in lacking for pair in best.index):
        note += f" n: the runs of a pair, where they are fewer than {whole}, over all tasks and seeds."
    header = ["pair", "better one", "averaged", "gain", "oracle", "gain"]
    return [escaped_table(header, rows), note]


@table(
    "mcnemar",
    label="McNemar's test",
    caption="Every main variant against the reference on the same test images: images that only one of the "
    "two classifies right, and McNemar's exact test, seed by seed.",
)
def mcnemar_formats(results: Results) -> dict[str, str]:
    """Return McNemar's tests within each section of the comparison."""
    sections = results.compared
    return {
        "csv": csv_text(mcnemar_table(sections), "%.6g"),
        "md": in_sections(sections, "McNemar's test", _mcnemar_text),
    }


_COLUMNS = ("variant", "reference", "images", "only_variant", "only_reference", "p", "holm_p", "smallest_p")


def mcnemar_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row per section, task, seed and variant: the images on which it and the reference differ.

    Columns: images; only_variant and only_reference (images that only the one classifies right); p (see
    `mosa.results.per_image.mcnemar_p`); holm_p, adjusted for the variants on this task and seed; smallest_p
    that so many differing images can give.
    """
    rows = []
    for section in sections:
        reference = section.reference
        for of_task in answers(section).tasks:
            theirs = of_task.predicted.get(reference, {})
            for seed in theirs:
                ours = {
                    variant: seeds[seed]
                    for variant, seeds in of_task.predicted.items()
                    if variant != reference and seed in seeds
                }
                found = {name: agreement(of_task.labels, one, theirs[seed]) for name, one in ours.items()}
                counts = [(one.only_ours, one.only_theirs) for one in found.values()]
                tests = [mcnemar_p(*pair) for pair in counts]
                place = [section.benchmark, section.backbone, of_task.task, seed]
                rows += [
                    [
                        *place,
                        name,
                        reference,
                        len(of_task.labels),
                        *pair,
                        p,
                        adjusted,
                        smallest_mcnemar_p(sum(pair)),
                    ]
                    for name, pair, p, adjusted in zip(found, counts, tests, holm(tests), strict=True)
                ]
    return pd.DataFrame(rows, columns=["benchmark", "backbone", "task", "seed", *_COLUMNS])


def _mcnemar_text(section: Section) -> list[str]:
    found, reference = mcnemar_table([section]), section.name(section.reference)
    if found.empty:
        return [f"No run of the reference {escape_markdown(reference)} kept its predictions."]
    tasks = list(dict.fromkeys(found["task"]))
    names = [name for name in section.variants if name in set(found["variant"])]
    by_pair = {key: rows for key, rows in found.groupby(["variant", "task"])}
    rows = [[section.name(name), *(_tested(by_pair.get((name, task))) for task in tasks)] for name in names]
    note = (
        f"Images that only the variant and only {escape_markdown(reference)} classifies right, mean over "
        "seeds, and the number of seeds with a significant difference (McNemar's exact test, Holm's "
        f"adjustment for the variants on a task, below {1 - CONFIDENCE:.2g}). Both saw the same images, and "
        "seeds are paired; the tests of several seeds share these images, so they are no independent "
        "evidence. The CSV has each test."
    )
    return [escaped_table(["variant", *tasks], rows), note]


def _tested(rows: pd.DataFrame | None) -> str:
    if rows is None:
        return MISSING
    significant = int((rows["holm_p"] < 1 - CONFIDENCE).sum())
    means = (rows["only_variant"].mean(), rows["only_reference"].mean())
    return f"{means[0]:.1f} : {means[1]:.1f} ({significant} of {len(rows)})"
