"""The efficiency table: what each variant costs in parameters, compute, time, memory and storage."""

import pandas as pd

from mosa.base.grid import markdown_table
from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Results, Section
from mosa.results.costs import BACKBONE_IS_ONE, COSTS, about_features
from mosa.results.registry import table
from mosa.results.stats import pareto_front, ppt
from mosa.results.tables.columns import heading, mean_label
from mosa.results.tables.render import csv_text, escape_markdown

_COSTS = (
    "adapter_parameters", "storage_mib", "image_passes", "train_seconds", "peak_memory_mib",
    "inference_overhead",
)  # fmt: skip


def efficiency_columns(section: Section) -> dict[str, tuple[str, str]]:
    """Return title and format of each column of a section's efficiency table that is shown, by its name.

    PPT is only shown of an accuracy in percent, which it discounts.
    """
    score = {"mean_over_tasks": (mean_label(section), f"{{:.{section.metric.decimals}f}}")}
    costs = {name: (COSTS[name].label, COSTS[name].form) for name in _COSTS}
    ppt = {"ppt": ("PPT", "{:.3f}")} if _is_accuracy(section) else {}
    return score | costs | ppt | {"pareto": ("on the Pareto front", "{}")}


def _is_accuracy(section: Section) -> bool:
    return section.metric.unit == "%" and section.metric.higher_is_better


def _note(section: Section) -> str:
    about_ppt = "PPT: accuracy discounted by tuned parameters (V-PETL Bench). " * _is_accuracy(section)
    return (
        "Means over the runs of a variant. Stored: what a task adds after merging, classifier included, at 4 "
        "bytes a parameter. Training seconds: of the loop, on the machine that the records name. "
        f"{about_time(section)}{BACKBONE_IS_ONE} "
        f"{about_ppt}On the Pareto front: no other variant has at most as many tuned parameters and a better "
        f"mean. {MISSING}: no record gives it. {section.about_seeds}"
    ).rstrip()


def about_time(section: Section) -> str:
    """Return what the seconds and the peak memory of a section are not, in sentences, or nothing."""
    about = f"{about_features(section.methods.values())} ".lstrip()
    if "device" in section.runs and section.runs["device"].nunique() > 1:
        about += "The records name several machines, whose seconds do not compare. "
    on_cpu = "device_type" in section.runs and (section.runs["device_type"] == "cpu").all()
    memory = "Peak memory: of a GPU; that of a CPU is the whole process's (`mosa memory`). " if on_cpu else ""
    return about + memory


@table(
    "efficiency",
    label="efficiency",
    caption="What each main variant costs: tuned parameters, storage, image-passes, seconds, memory, "
    "inference FLOPs, PPT, Pareto front.",
)
def efficiency_formats(results: Results) -> dict[str, str]:
    """Return the costs within each section of the comparison."""
    sections = results.compared
    return {"csv": csv_text(efficiency_table(sections), "%.6g"), "md": efficiency_text(sections)}


def efficiency_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row per section and variant; numbers are means over the runs, NaN where tasks are missing.

    Columns: benchmark, backbone, metric, variant; mean_over_tasks (in the metric's unit);
    adapter_parameters (tuned, without head);
    storage_mib (of these and the classifier, 4 bytes each); image_passes and train_seconds of a run;
    peak_memory_mib; inference_overhead (FLOPs relative to the backbone's, see
    `backbone_flops`); ppt (see `stats.ppt`; NaN unless the metric is an accuracy); pareto (whether no other
    variant has fewer tuned parameters and a better mean).
    """
    rows = []
    for section in sections:
        found = pd.DataFrame(index=pd.Index(section.variants, name="variant"))
        found["mean_over_tasks"] = section.mean[MEAN_OVER_TASKS]
        for name in _COSTS:
            found[name] = COSTS[name].of(section)
        scored = zip(found["mean_over_tasks"], found["adapter_parameters"], strict=True)
        known = _is_accuracy(section)
        found["ppt"] = [ppt(score, parameters) if known else float("nan") for score, parameters in scored]
        ranked = found["mean_over_tasks"].where(found.index.isin(section.complete(MEAN_OVER_TASKS)))
        found["pareto"] = pareto_front(found["adapter_parameters"], section.sign * ranked)
        found = found.reset_index()
        found.insert(0, "metric", section.metric.name)
        found.insert(0, "backbone", section.backbone)
        found.insert(0, "benchmark", section.benchmark)
        rows.append(found)
    return pd.concat(rows, ignore_index=True)


def efficiency_text(sections: list[Section]) -> str:
    """Return `efficiency_table` in Markdown, a table per section."""
    parts = []
    for section in sections:
        table = efficiency_table([section])
        columns = efficiency_columns(section)
        rows = []
        for row in table.to_dict("records"):
            cells = [_cell(row[name], form) for name, (_, form) in columns.items()]
            rows.append([escape_markdown(section.name(row["variant"])), *cells])
        header = ["variant", *(title for title, _ in columns.values())]
        parts.append(
            f"## {escape_markdown(heading(section))}: efficiency\n\n{markdown_table(header, rows, 'lr')}\n\n"
            f"{_note(section)}\n"
        )
    return "\n".join(parts)


def _cell(value: object, form: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return MISSING if pd.isna(value) else form.format(value)
