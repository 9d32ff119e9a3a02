"""Published hyper-parameters for each task, and what of a config they make.

settings.csv has one method and task a row: `name` in its paper, `method` and `options` with this project's
names (empty: it has no such method), `training`, `normalization` of the images (empty: not read), and the
repository, file and commit where the values stand. A name may lack tasks: only what was read is there.
"""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from mosa.base.errors import UserError, unknown

SETTINGS = Path(__file__).parent / "settings.csv"
COLUMNS = ("name", "method", "task", "options", "training", "normalization", "repository", "file", "commit")
# The configs that `mosa schema` writes: normalisation, and the published name of each variant, for all tasks.
CONFIGS = {
    "published-fact": ("imagenet", {"fact_tt": "FacT-TT", "fact_tk": "FacT-TK"}),
    "published-binary": ("none", {"bi_adaptformer": "Bi-AdaptFormer", "bi_lora": "Bi-LoRA"}),
}


class Setting(NamedTuple):
    """What a source states for one method on one task: a row of settings.csv."""

    name: str
    method: str
    task: str
    options: dict[str, Any]
    training: dict[str, Any]
    normalization: str
    repository: str
    file: str
    commit: str


def read_settings() -> list[Setting]:
    """Return all published settings.

    Raises:
        UserError: The file is damaged.
    """
    with SETTINGS.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    if tuple(head) != COLUMNS or any(len(row) != len(head) for row in rows):
        raise UserError(f"{SETTINGS}: is damaged; check the package out again")
    return [Setting(*row[:3], json.loads(row[3]), json.loads(row[4]), *row[5:]) for row in rows]


def published_variant(name: str) -> dict[str, Any]:
    """Return the variant of a config that trains a method as published.

    Args:
        name: Published name, such as "FacT-TT".

    Returns:
        `method`, `options` and `training` that all tasks share, and the rest `by_task`.

    Raises:
        UserError: There is no such name, or this project has no such method.
    """
    found = [row for row in read_settings() if row.name == name]
    if not found:
        raise unknown("published setting", name, dict.fromkeys(row.name for row in read_settings()))
    if not found[0].method:
        raise UserError(f"{name}: this project has no such method; its settings are in {SETTINGS.name} only")
    options = _shared([row.options for row in found])
    training = _shared([row.training for row in found])
    by_task = {}
    for row in found:
        own = {"options": _without(row.options, options), "training": _without(row.training, training)}
        by_task[row.task] = {key: value for key, value in own.items() if value}
    return {"method": found[0].method, "options": options, "training": training, "by_task": by_task}


def _shared(values: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in values[0].items() if all(one.get(key) == value for one in values)}


def _without(values: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in shared}


def config_text(name: str) -> str:
    """Return one of `CONFIGS` as YAML: VTAB-1k with the variants as published, five seeds."""
    normalization, variants = CONFIGS[name]
    found = {key: published_variant(published) for key, published in variants.items()}
    sources = dict.fromkeys(
        (row.repository, row.commit) for row in read_settings() if row.name in variants.values()
    )
    shown = ", ".join(f"{repository} at {commit[:7]}" for repository, commit in sources)
    tasks = len(next(iter(found.values()))["by_task"])
    lines = [
        "# yaml-language-server: $schema=../mosa/schemas/config.schema.json",
        f"# {' and '.join(variants.values())} on VTAB-1k, with the published scale of each task.",
        f"#   snakemake --configfile configs/{name}.yaml        {5 * tasks * len(found)} runs",
        "# Written by `mosa schema` from mosa/results/published/settings.csv; do not edit.",
        "# docs/settings.md says what the released code does otherwise.",
        "# On disk: data/vtab-1k (docs/data.md), weights/ViT-B_16.npz (docs/weights.md);",
        f"# `mosa check --configfile configs/{name}.yaml` says what is missing.",
        f"# Source: {shown}.",
        f"name: {name}",
        "protocol: noah",
        "device: cuda",
        "paths: {results: results/" + name + "}",
        "benchmarks: {demo: null, vtab1k: all}",
        "seeds: [0, 1, 2, 3, 4]",
        "backbones:",
        "  micro_vit: null",
        "  vit_b16_in21k:",
        "    architecture: vit_base_patch16_224",
        "    weights: weights/ViT-B_16.npz",
        "    kind: npz",
        f"    normalization: {normalization}",
        "variants:",
        *(f"  {dropped}: null" for dropped in ("linear", "full", "adapter", "lora", "mosa")),
    ]
    for key, variant in found.items():
        lines += [f"  {key}:", f"    method: {variant['method']}"]
        lines += [f"    {part}: {_flow(variant[part])}" for part in ("options", "training")]
        lines += [
            "    by_task:",
            *(f"      {task}: {_flow(own)}" for task, own in variant["by_task"].items()),
        ]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    return json.dumps(value) if not isinstance(value, str) else value
