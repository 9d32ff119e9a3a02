"""Try every method on timm's architectures, and write docs/support.md.

    python benchmarks/support_matrix.py [MODULE...]

Each pair does what tests/conformance/test_architectures.py asks of it, on the same small architectures. What
was tried is kept in build/support.jsonl, and not tried again; of a new method, all are. With names of timm's
modules, only they are tried now; the page names those that were not.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from architectures import modules, refusal, representatives  # noqa: E402
from models import SMALL  # noqa: E402

from mosa.base.grid import markdown_table  # noqa: E402
from mosa.base.timm import timm  # noqa: E402
from mosa.peft import list_methods  # noqa: E402

TRIED = ROOT / "build" / "support.jsonl"
PAGE = ROOT / "docs" / "support.md"


def try_module(module: str, known: dict[str, dict]) -> list[dict]:
    """Return a row for each small architecture of a module of timm: what came of each method.

    Args:
        module: The module of timm.
        known: What came of methods that were tried, by the name of the architecture.
    """
    rows = []
    for small in representatives(module):
        row = {"module": module, "name": small.name, "methods": dict(known.get(small.name, {}))}
        backbone = small.build()
        for method in set(list_methods()) - row["methods"].keys():
            try:
                reason = refusal(backbone, method, SMALL.get(method, {}))
                reason = reason and re.sub(rf"\b{type(backbone).__name__}\b", "the model", reason)
            except Exception as error:  # neither fits nor is refused
                reason = f"WRONG: {type(error).__name__}: {error}"
            row["methods"][method] = reason
        rows.append(row)
    return rows or [{"module": module, "name": None, "methods": {}}]


def page(rows: list[dict]) -> str:
    """Return the page of what was tried, in Markdown."""
    tried = sorted((row for row in rows if row["name"]), key=lambda row: (row["module"], row["name"]))
    methods = list_methods()
    fits = {method: sum(row["methods"][method] is None for row in tried) for method in methods}
    lines = [
        "# Methods on timm's architectures",
        "",
        f"Written by `python benchmarks/support_matrix.py`, with timm {timm.__version__}; do not edit.",
        "",
        "An architecture stands for all in its module of timm made of the same types; modules without blocks",
        "that methods know have one. Each was built with at most 32 million parameters, few blocks,",
        "random weights and small images, and each method attached with the options of tests/models.py.",
        "",
        "- yes: `attach` proves that all that it tunes acts, one training step reaches it, the output",
        "  at the start is the backbone's (where the method says so), and merging keeps the output;",
        "- no: `attach` refuses in one sentence, and leaves the model as it was.",
        "",
        f"{len(tried) * len(methods):,} pairs were tried: {sum(fits.values()):,} fit, the others do not.",
        "",
    ]
    table = [[f"fits, of {len(tried)}", *(str(fits[method]) for method in methods)]]
    for row in tried:
        outcomes = (row["methods"][method] for method in methods)
        cells = ["yes" if one is None else "WRONG" if one.startswith("WRONG") else "no" for one in outcomes]
        table.append([row["name"], *cells])
    header = ["architecture", *(f"[`{method}`](methods.md#{method})" for method in methods)]
    lines += [markdown_table(header, table, "lc"), "", "## Reasons", ""]
    table = []
    for method in methods:
        reasons = [row["methods"][method] for row in tried if row["methods"][method]]
        examples = {_kind(reason): reason for reason in reversed(reasons)}
        counts = Counter(map(_kind, reasons)).most_common()
        table += [[f"`{method}`", str(count), examples[kind]] for kind, count in counts]
    lines.append(markdown_table(("method", "architectures", "reason, as one of them has it"), table, "lrl"))
    large = sorted(row["module"] for row in rows if not row["name"])
    left = sorted({*modules()} - {row["module"] for row in rows})
    for why, without in (("none of them is small enough", large), ("their turn has not come", left)):
        if without:
            lines += ["", f"Modules of timm that were not tried, as {why}: {', '.join(without)}."]
    return "\n".join(lines) + "\n"


def _kind(reason: str) -> str:
    """Return what tells reasons apart: the words without names and numbers."""
    return " ".join(word for word in reason.split() if word.isalpha())


def main() -> None:
    torch.set_num_threads(1)
    TRIED.parent.mkdir(exist_ok=True)
    TRIED.touch()
    wanted = sys.argv[1:] or modules()
    known: dict[str, list[dict]] = {}
    for line in TRIED.read_text().splitlines():
        known.setdefault(json.loads(line)["module"], []).append(json.loads(line))
    for module in wanted:
        before = known.get(module, [])
        missing = [row for row in before if row["name"] and set(list_methods()) - row["methods"].keys()]
        if before and not missing:
            continue
        known[module] = rows = try_module(module, {row["name"]: row["methods"] for row in before})
        TRIED.write_text("".join(json.dumps(row) + "\n" for each in known.values() for row in each))
        wrong = sum(str(reason).startswith("WRONG") for row in rows for reason in row["methods"].values())
        print(f"{module}: {len(rows)} architectures, {wrong} pairs wrong", flush=True)
    PAGE.write_text(page([row for rows in known.values() for row in rows]))


if __name__ == "__main__":
    main()
