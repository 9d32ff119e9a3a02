"""Try every method on timm's architectures, and write docs/support.md.

    python benchmarks/support_matrix.py [MODULE...]

One architecture stands for all of the same module types in a module of timm, at a size of at most 10 million
parameters. Each pair does what tests/conformance/test_architectures.py asks of it. What was tried is kept in
build/support.jsonl, and not tried again; with names of timm's modules, only they are tried, and no page is written.
"""

import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from architectures import modules, refusal, representatives  # noqa: E402
from models import SMALL  # noqa: E402

from mosa.base.timm import timm  # noqa: E402
from mosa.peft import list_methods  # noqa: E402

TRIED = ROOT / "build" / "support.jsonl"
PAGE = ROOT / "docs" / "support.md"


def try_module(module: str) -> list[dict]:
    """Return a row for each kind of architecture in a module of timm: what came of each method."""
    rows = []
    for name, small in representatives(module).items():
        row = {"module": module, "name": name, "arguments": small and small.arguments, "methods": {}}
        if small is not None:
            backbone = small.build()
            for method in list_methods():
                try:
                    reason = refusal(backbone, method, SMALL.get(method, {}), small.size)
                    reason = reason and reason.replace(type(backbone).__name__, "the model")
                except Exception as error:
                    reason = f"WRONG {type(error).__name__}: {error}"
                row["methods"][method] = reason
        rows.append(row)
    return rows


def page(rows: list[dict]) -> str:
    """Return the page of what was tried, in Markdown."""
    tried = [row for row in rows if row["methods"]]
    left_out = sorted(row["name"] for row in rows if not row["methods"])
    methods = list_methods()
    fits = Counter(method for row in tried for method, reason in row["methods"].items() if reason is None)
    lines = [
        "# Methods on timm's architectures",
        "",
        f"Written by `python benchmarks/support_matrix.py` (timm {timm.__version__}); do not edit.",
        "",
        f"{len(tried)} architectures, each for all of its module of timm that are made of the same types, at its",
        "smallest and with few blocks: random weights, options of tests/models.py. yes: `attach` proves that all",
        "that it tunes has an effect, one training step reaches it, the output at the start is the backbone's",
        "(where the method says so), and merging keeps the output. no: `attach` refuses with a reason, and leaves",
        "the model as it was. Nothing else occurs.",
        "",
        "| architecture | " + " | ".join(f"[`{method}`](methods.md#{method})" for method in methods) + " |",
        "|---|" + ":-:|" * len(methods),
        f"| fits, of {len(tried)} | " + " | ".join(str(fits[method]) for method in methods) + " |",
    ]
    for row in sorted(tried, key=lambda row: (row["module"], row["name"])):
        cells = ["yes" if row["methods"][method] is None else "no" for method in methods]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    lines += ["", "## Reasons", "", "| method | architectures | reason, of one of them |", "|---|--:|---|"]
    for method in methods:
        reasons = Counter(_kind(row["methods"][method]) for row in tried if row["methods"][method])
        examples = {
            _kind(row["methods"][method]): row["methods"][method] for row in tried if row["methods"][method]
        }
        lines += [f"| `{method}` | {count} | {examples[key]} |" for key, count in reasons.most_common()]
    lines += [
        "",
        "## Not tried",
        "",
        f"{len(left_out)} that do not build with at most 10 million parameters, or",
    ]
    lines += ["do not run on images without values: " + ", ".join(left_out) + "."]
    return "\n".join(lines) + "\n"


def _kind(reason: str) -> str:
    """Return what tells reasons apart: the words without names and numbers."""
    return " ".join(word for word in reason.split() if word.isalpha())


def main() -> None:
    torch.set_num_threads(1)
    TRIED.parent.mkdir(exist_ok=True)
    TRIED.touch()
    wanted = sys.argv[1:] or modules()
    known = {json.loads(line)["module"] for line in TRIED.read_text().splitlines()}
    for module in wanted:
        if module not in known:
            rows = try_module(module)
            with TRIED.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            wrong = sum(str(reason).startswith("WRONG") for row in rows for reason in row["methods"].values())
            print(f"{module}: {len(rows)} architectures, {wrong} pairs wrong", flush=True)
    if not sys.argv[1:]:
        PAGE.write_text(page([json.loads(line) for line in TRIED.read_text().splitlines()]))


if __name__ == "__main__":
    main()
