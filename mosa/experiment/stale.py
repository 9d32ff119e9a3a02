"""Why records are made again: what differs between the specification of each and the one that is meant."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from mosa.base.words import count
from mosa.experiment.declared import STORED
from mosa.experiment.expand import Run
from mosa.experiment.specification import PLUGIN_KEY, Specification, in_words

_SHOWN = 3  # keys that one reason names
_UNREADABLE = "its record cannot be read"


def why_stale(record: Path, run: Run) -> str:
    """Return what of a record is another than what is meant now: "training.lr was 0.1, and is 0.01".

    Args:
        record: The record.
        run: The run that is meant; what is chosen for it is not looked at.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))["specification"]
        found = Specification.model_validate(content, context=STORED)
        differing = found.differences(run.specification)
    except Exception:  # of whatever version, damaged, or of a method that is gone
        return _UNREADABLE
    if run.choice:  # these keys are not the config's
        searched = {key for key in differing if key.startswith(("training.", "options."))}
        differing = {key: values for key, values in differing.items() if key not in searched}
        if not differing:
            return "its hyper-parameters are of another choice, or the recipe is another"
    by_key = in_words(differing, "{key} was {ours!r}, and is {theirs!r}") | _plugins(differing)
    texts = list(by_key.values())
    more = f", and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _plugins(differing: Mapping[str, tuple[object, object]]) -> dict[str, str]:
    """Return what differs in plugins in words, by its keys."""
    told = {}
    for key, (before, now) in differing.items():
        if (name := key.removeprefix(PLUGIN_KEY)) != key:
            what = "was edited" if before and now else "is used now" if now else "is no longer used"
            told[key] = f"plugin {name} {what}"
    return told


def told(reasons: Iterable[tuple[str, str]], runs: int) -> str:
    """Return a line on how many runs are stale, and one for each variant and reason.

    Args:
        reasons: Variant and reason of each stale record.
        runs: Number of all runs.
    """
    counts: dict[tuple[str, str], int] = {}
    for each in reasons:
        counts[each] = counts.get(each, 0) + 1
    stale = count(sum(counts.values()), "record is", "records are")
    lines = [f"stale: {stale} of another specification (runs: {runs:,}), to be made again"]
    lines += [f"  {variant} ({number:,}): {why}" for (variant, why), number in counts.items()]
    return "\n".join(lines)
