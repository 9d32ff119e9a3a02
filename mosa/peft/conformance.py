"""Run what every method must do on one: `mosa conformance`."""

import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mosa.base.errors import UserError, plain
from mosa.base.timm import timm
from mosa.peft.checks import CHECKS
from mosa.peft.subject import ARCHITECTURES, Subject


class Finding(NamedTuple):
    """What was found of a method on an architecture.

    Attributes:
        architecture: The architecture.
        unfit: Why the method does not fit it; None if it does.
        problems: What is wrong, in words, by the check that found it.
    """

    architecture: str
    unfit: str | None
    problems: dict[str, str]


def check(
    method: str, options: Mapping[str, Any], architectures: Iterable[str] = ARCHITECTURES
) -> list[Finding]:
    """Run all checks of a method.

    Args:
        method: Name of a registered method.
        options: Its options.
        architectures: As for `build`; by default a small one of each family.

    Returns:
        A finding for each architecture. The global generator is put back.

    Raises:
        UserError: The method, an option, or an architecture is unknown.
    """
    findings = []
    with torch.random.fork_rng(devices=[]):
        for architecture in architectures:
            subject = Subject(method, options, architecture)
            try:
                unfit = subject.unfit
            except UserError:
                raise
            except Exception as error:  # of the method's __init__, or of its unfit
                findings.append(Finding(architecture, None, {"options": _raised(error)}))
                continue
            findings.append(Finding(architecture, unfit, {} if unfit else _problems(subject)))
    return findings


def _problems(subject: Subject) -> dict[str, str]:
    """Return what is wrong, by check; if the method cannot even be attached, that alone."""
    try:
        _ = subject.start
    except UserError as error:
        return {"attach": str(error)}
    except Exception as error:
        return {"attach": _raised(error)}
    found: dict[str, str] = {}
    for name, each in CHECKS.items():
        try:
            problem = each(subject)
        except Exception as error:
            problem = _raised(error)
        if problem:
            found[name] = problem
    return found


def _raised(error: Exception) -> str:
    """Say what a method raised, and where in its file."""
    ours = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), str(Path(timm.__file__).parent))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)
    ]
    said = plain(f"raises {type(error).__name__}: {error}")
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else said
