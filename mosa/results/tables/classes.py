"""Tables of what runs say of single images: by class, with intervals over images, and what is confused."""

import numpy as np
import pandas as pd

from mosa.results.aggregate import MISSING, Results, Section
from mosa.results.answers import OfTask, answers
from mosa.results.per_image import (
    bootstrap_interval,
    calibration_error,
    class_accuracy,
    confusion_matrix,
    most_confused,
    percent,
    wilson_interval,
)
from mosa.results.registry import table
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown, escaped_table

_SHOWN = 20  # classes of a task in Markdown; the CSV has all
_PAIRS = 5


def in_sections(sections: list[Section], what: str, show) -> str:
    """Return a part of a page for each section: a heading, what `show` returns of it, and what it lacks.

    Args:
        sections: The sections.
        what: What the headings add to the section's.
        show: Function of a section that returns paragraphs in Markdown.
    """
    parts = []
    for section in sections:
        found = answers(section)
        shown = show(section) if found.tasks else []
        notes = [found.note, section.about_seeds if shown else ""]
        lines = [f"## {escape_markdown(heading(section))}: {what}", *shown, *notes]
        parts.append("\n\n".join(filter(None, lines)) + "\n")
    return "\n".join(parts)


@table(
    "classes",
    label="accuracy by class",
    caption="Accuracy of each class, mean over seeds, from the predictions that the runs kept.",
)
def classes_formats(results: Results) -> dict[str, str]:
    """Return the accuracy by class within each section of the comparison."""
    sections = results.compared
    return {
        "csv": csv_text(classes_table(sections)),
        "md": in_sections(sections, "accuracy by class", _classes_text),
    }


def classes_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row per section, task, class and variant: images, and accuracy in percent over seeds."""
    rows = []
    for section in sections:
        for of_task in answers(section).tasks:
            images = np.bincount(of_task.labels, minlength=len(of_task.classes))
            for variant in of_task.predicted:
                place = [section.benchmark, section.backbone, of_task.task, variant]
                scores = class_accuracies(of_task, variant)
                rows += [
                    [*place, *row]
                    for row in zip(of_task.classes, images.tolist(), scores.tolist(), strict=True)
                ]
    columns = ["benchmark", "backbone", "task", "variant", "class", "images", "accuracy"]
    return pd.DataFrame(rows, columns=columns)


def class_accuracies(of_task: OfTask, variant: str) -> np.ndarray:
    """Return the accuracy of each class in percent, mean over seeds; NaN for one without images."""
    number = len(of_task.classes)
    seeds = [confusion_matrix(of_task.labels, one, number) for one in of_task.predicted[variant].values()]
    return 100 * np.mean([class_accuracy(one) for one in seeds], axis=0)


def _classes_text(section: Section) -> list[str]:
    parts = []
    for of_task in answers(section).tasks:
        variants = list(of_task.predicted)
        scores = np.stack([class_accuracies(of_task, variant) for variant in variants], axis=1)
        images = np.bincount(of_task.labels, minlength=len(of_task.classes))
        present = np.flatnonzero(images)
        hardest = present[np.argsort(scores[present].mean(axis=1), kind="stable")][:_SHOWN]
        rows = [
            [of_task.classes[label], str(images[label]), *map(percent, scores[label])] for label in hardest
        ]
        few = [_few(section, len(of_task.predicted[variant])) for variant in variants]
        names = [f"{section.name(variant)}{n}" for variant, n in zip(variants, few, strict=True)]
        header = ["class", "images", *names]
        shown = f", the {_SHOWN} hardest of {len(present)}" if len(present) > _SHOWN else ", hardest first"
        parts += [f"**{escape_markdown(of_task.task)}**{shown}", escaped_table(header, rows)]
    return [*parts, "Accuracy within the class (%), mean over seeds. The CSV has every class."]


def _few(section: Section, seeds: int) -> str:
    """Return " (n=2)" for a mean that lacks seeds; "" for a complete one."""
    return f" (n={seeds})" if seeds < section.full_n else ""


@table(
    "intervals",
    label="accuracy with intervals over images",
    caption="Accuracy of each task with 95 % intervals over test images (Wilson, bootstrap), and ECE: how "
    "sure an accuracy is on a test set of this size.",
)
def intervals_formats(results: Results) -> dict[str, str]:
    """Return accuracies with intervals over images within each section of the comparison."""
    sections = results.compared
    return {
        "csv": csv_text(intervals_table(sections)),
        "md": in_sections(sections, "accuracy with intervals over test images", _intervals_text),
    }


def intervals_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row per section, task and variant; all in percent.

    Columns: images, seeds; accuracy (mean over seeds); wilson_low, wilson_high (of each seed, then averaged);
    bootstrap_low, bootstrap_high (of the mean over seeds, images drawn with all their seeds); ece (of each
    seed, then averaged).
    """
    rows = []
    for section in sections:
        for of_task in answers(section).tasks:
            for variant in of_task.predicted:
                correct = of_task.correct(variant)
                images = correct.shape[1]
                wilson = np.mean([wilson_interval(int(one.sum()), images) for one in correct], axis=0)
                errors = [calibration_error(one) for one in of_task.binned[variant].values()]
                shares = [correct.mean(), *wilson, *bootstrap_interval(correct), np.mean(errors)]
                place = [section.benchmark, section.backbone, of_task.task, variant]
                rows.append([*place, images, len(correct), *(100 * share for share in shares)])
    columns = ["benchmark", "backbone", "task", "variant", "images", "seeds", "accuracy"]
    columns += ["wilson_low", "wilson_high", "bootstrap_low", "bootstrap_high", "ece"]
    return pd.DataFrame(rows, columns=columns)


def _intervals_text(section: Section) -> list[str]:
    found = intervals_table([section])
    cells = {}
    for row in found.itertuples():
        accuracy, low, high = map(percent, (row.accuracy, row.wilson_low, row.wilson_high))
        cells[row.task, row.variant] = f"{accuracy} [{low}, {high}]{_few(section, row.seeds)}"
    images = found.groupby("task")["images"].first()
    tasks = [of_task.task for of_task in answers(section).tasks]
    header = ["variant", *(f"{task} ({images[task]} images)" for task in tasks)]
    rows = [
        [section.name(variant), *(cells.get((task, variant), MISSING) for task in tasks)]
        for variant in section.variants
    ]
    note = (
        "Accuracy (%), mean over seeds, with Wilson's 95 % interval over test images: where the accuracy on "
        "all images of this kind would be, of a run with a typical seed. It says nothing of the spread over "
        "seeds, and two variants whose intervals overlap may still differ, as they saw the same images: "
        "see `mcnemar`. The CSV has the bootstrap's interval and the ECE, too."
    )
    return [escaped_table(header, rows), note]


@table(
    "confused",
    label="most confused classes",
    caption="The pairs of classes that are most often confused, with the images that are.",
)
def confused_formats(results: Results) -> dict[str, str]:
    """Return the most confused pairs of classes within each section of the comparison."""
    sections = results.compared
    return {
        "csv": csv_text(confused_table(sections)),
        "md": in_sections(sections, "most confused classes", _confused_text),
    }


def confused_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row per section, task, variant and pair of classes, the most confused first.

    Columns: class, predicted; images (of the class that are taken for the other, mean over seeds); share (of
    all its images, in percent); which (names of up to five of them, those of most seeds first).
    """
    rows = []
    for section in sections:
        for of_task in answers(section).tasks:
            for variant, seeds in of_task.predicted.items():
                place = [section.benchmark, section.backbone, of_task.task, variant]
                found = most_confused(of_task.labels, list(seeds.values()), len(of_task.classes), _PAIRS)
                rows += [
                    [
                        *place, of_task.classes[one.label], of_task.classes[one.predicted], one.images,
                        100 * one.share, "; ".join(of_task.ids[number] for number in one.which),
                    ]
                    for one in found
                ]  # fmt: skip
    columns = ["benchmark", "backbone", "task", "variant", "class", "predicted", "images", "share", "which"]
    return pd.DataFrame(rows, columns=columns)


def _confused_text(section: Section) -> list[str]:
    parts, found = [], confused_table([section])
    for of_task in answers(section).tasks:
        best = of_task.best
        if best is None:
            parts.append(f"**{escape_markdown(of_task.task)}**: no variant has all seeds.")
            continue
        chosen = found[(found["task"] == of_task.task) & (found["variant"] == best)]
        rows = [
            [row["class"], row["predicted"], f"{row['images']:.1f}", f"{row['share']:.0f} %", row["which"]]
            for row in chosen.to_dict("records")
        ]
        title = f"**{escape_markdown(of_task.task)}**, {escape_markdown(section.name(best))}"
        none = "No image is classified wrong."
        header = ["class", "taken for", "images", "of the class", "such as"]
        parts += [title, escaped_table(header, rows) if rows else none]
    note = (
        "Of the variant with the highest accuracy on the task, among those with all seeds; images are "
        "counted per seed and averaged. The CSV has every variant."
    )
    return [*parts, note]
