"""Tables of the chosen hyper-parameters."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mosa.base.errors import UserError, reason_of
from mosa.base.files import written_atomically
from mosa.base.grid import markdown_table
from mosa.experiment.declared import option
from mosa.experiment.validation import Places, explain
from mosa.results.tables.render import escape_markdown
from mosa.search.choose import Chosen, Scored, choose, describe, metric_of, read_trials

_NOTE = (
    "In brackets the {metric} on val of the choice, ± "
    "its standard error: of the images of val (binomial) and between seeds, or between folds. "
    "* at the edge of what was tried: a wider search may find better. + beyond the grid, which grew there."
)

_RESULT = ("status", "epochs", "score", "standard_error", "top1", "loss")  # of a trial, in the CSV


class _ShownTrial(Scored):
    """A trial, over all tasks of its choice."""

    options: dict[str, Any] = option(description="Options of the method that were tried.")
    training: dict[str, Any] = option(description="Keys of the recipe that were tried.")
    status: Literal["complete", "pruned", "diverged"] = option(description="How it ended.")
    epochs: int = option(description="Epochs of its last round.")
    top1: float | None = option(description="Mean top-1 on val in percent; null if it diverged.")
    standard_error: float | None = option(None, description="Its standard error; null if it is not known.")
    extended: bool = option(False, description="Whether it lies beyond the grid, which grew by it.")
    loss: float | None = option(description="Mean cross-entropy on val; null if it diverged.")
    notes: list[str] = option(description="Why it diverged.")


class _ShownChoice(Scored):
    """An entry of chosen.json."""

    tasks: Annotated[list[str], Field(min_length=1)] = option(description="Tasks that it was chosen on.")
    backbone: str = option(description="Name of the backbone.")
    variant: str = option(description="Name of the variant.")
    method: str = option(description="Name of the method.")
    rule: str = option(description="How it was chosen.")
    search: dict[str, Any] = option(description="How the trials were made.")
    chosen: Chosen = option(description="What was chosen.")
    top1: float = option(description="Its mean top-1 on val in percent.")
    standard_error: float | None = option(None, description="Its standard error; null if it is not known.")
    at_edge: list[str] = option(description="Chosen values at the edge of what was tried.")
    trials: Annotated[list[_ShownTrial], Field(min_length=1)] = option(description="All trials.")


def read_choices(path: Path) -> list[dict[str, Any]]:
    """Read the chosen.json of `write_choices`.

    Raises:
        UserError: It cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise ValueError("a list is expected")
        return [_ShownChoice.model_validate(entry).model_dump() for entry in content]
    except ValidationError as error:
        problem = explain(error, (), Places())
    except (OSError, ValueError, RecursionError) as error:
        problem = f"not JSON ({reason_of(error)})"
    raise UserError(f"{path}: not what `mosa choices` wrote, {problem}")


def write_choices(paths: Iterable[Path], directory: Path, per: str = "task") -> list[Path]:
    """Write what was chosen, as Markdown, every trial as CSV (a row each), and both as JSON.

    Args:
        paths: Results of `mosa.search.trials.run_search`, in the order in which to show them.
        directory: Where chosen.{csv,md,json} are written.
        per: What was chosen for: "task" or "benchmark".

    Returns:
        The paths written.

    Raises:
        UserError: A file is not what was expected, or cannot be written.
    """
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        found = read_trials(path)
        scope = found["task"] if per == "task" else found["task"].partition("/")[0]
        groups.setdefault((scope, found["backbone"], found["variant"]), []).append(path)
    if not groups:
        raise UserError(f"{directory}: there are no results of `mosa tune` to show")
    choices = [choose(group) for group in groups.values()]
    texts = {
        "chosen.csv": _csv(choices),
        "chosen.md": _markdown(choices),
        "chosen.json": json.dumps(choices, indent=1, allow_nan=False) + "\n",
    }
    written = []
    for name, text in texts.items():
        written.append(Path(directory) / name)
        with written_atomically(written[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return written


def scope_of(choice: dict[str, Any]) -> str:
    """Return what a choice was made for: a task's full name, or a benchmark and its number of tasks."""
    tasks = choice["tasks"]
    return tasks[0] if len(tasks) == 1 else f"{tasks[0].partition('/')[0]} ({len(tasks)} tasks)"


def how_compared(choice: dict[str, Any]) -> str:
    """Return what trials were trained and compared on."""
    folds = choice["search"].get("folds")
    if not folds:
        return "trained on train, compared on val"
    return f"trained on all but one of {folds} parts of train + val and compared on that one as val, in turn"


def _score(choice: dict[str, Any]) -> str:
    """Return the score of a choice with its standard error: "74.1 ± 0.8"."""
    error, shown = choice["standard_error"], metric_of(choice["search"]).shown
    return shown(choice["score"]) + ("" if error is None else f" ± {shown(error)}")


def _is_beyond(choice: dict[str, Any]) -> bool:
    """Return whether what was chosen lies beyond the grid of the config."""
    chosen = choice["chosen"]
    return any(
        trial["extended"] and all(trial[key] == value for key, value in chosen.items())
        for trial in choice["trials"]
    )


def _csv(choices: list[dict[str, Any]]) -> str:
    rows, keys = [], {}
    for choice in choices:
        for number, trial in enumerate(choice["trials"], start=1):
            values = trial["training"] | trial["options"]
            chosen = all(trial[key] == value for key, value in choice["chosen"].items())
            keys |= dict.fromkeys(values)
            place = {"backbone": choice["backbone"], "scope": scope_of(choice), "variant": choice["variant"]}
            result = {"metric": metric_of(choice["search"]).name} | {key: trial[key] for key in _RESULT}
            rows.append(place | {"trial": number, "chosen": chosen} | result | values)
    text = io.StringIO()
    fixed = ["backbone", "scope", "variant", "trial", "chosen", "metric", *_RESULT]
    writer = csv.DictWriter(text, [*fixed, *keys], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(choices: list[dict[str, Any]]) -> str:
    parts = []
    for backbone in dict.fromkeys(choice["backbone"] for choice in choices):
        mine = [choice for choice in choices if choice["backbone"] == backbone]
        scopes = list(dict.fromkeys(map(scope_of, mine)))
        variants = list(dict.fromkeys(choice["variant"] for choice in mine))
        cells = {
            (choice["variant"], scope_of(choice)): f"{escape_markdown(describe(choice['chosen']))}"
            f"{'*' if choice['at_edge'] else ''}{'+' if _is_beyond(choice) else ''} "
            f"({_score(choice)})".replace("*", "\\*")
            for choice in mine
        }
        rows = []
        for variant in variants:
            count = {len(choice["trials"]) for choice in mine if choice["variant"] == variant}
            shown = [cells.get((variant, scope), "") for scope in scopes]
            rows.append([escape_markdown(variant), *shown, "-".join(map(str, sorted(count)))])
        header = ["variant", *map(escape_markdown, scopes), "trials"]
        table = markdown_table(header, rows, "l" * (len(scopes) + 1) + "r")
        title = f"## Chosen hyper-parameters, {escape_markdown(backbone)}"
        how = " or ".join(dict.fromkeys(map(how_compared, mine)))
        metrics = " or ".join(dict.fromkeys(metric_of(choice["search"]).title for choice in mine))
        note = f"{how[0].upper()}{how[1:]}; test was not opened. {_NOTE.format(metric=metrics)}"
        parts.append(f"{title}\n\n{table}\n\n{escape_markdown(note)}\n")
    return "\n".join(parts)
