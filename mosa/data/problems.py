"""Problems of data on disk, collected so that a user sees all of them at once. Standard library only."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import plain


class Problem(NamedTuple):
    """Something wrong with the data.

    Attributes:
        severity: "error" (the task cannot be used) or "warning".
        place: File, and line where there is one.
        message: What is wrong, and what to do.
    """

    severity: str
    place: str
    message: str


@dataclass
class Report:
    """Collects every problem.

    Attributes:
        problems: Errors and warnings.
        notes: What is in order and still worth a line, such as files that are no images.
        repair: What to do about an image that is missing or broken.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repair: str = "extract the archive again"

    def error(self, place: object, message: str) -> None:
        """Add a problem that makes the task unusable."""
        self.problems.append(Problem("error", plain(str(place)), plain(message)))

    def warning(self, place: object, message: str) -> None:
        """Add a problem that the user should know of."""
        self.problems.append(Problem("warning", plain(str(place)), plain(message)))

    def note(self, place: object, message: str) -> None:
        """Add what is no problem."""
        self.notes.append(plain(f"{place}: {message}"))

    @property
    def errors(self) -> list[Problem]:
        """The problems that are errors."""
        return [problem for problem in self.problems if problem.severity == "error"]


def why_absent(path: Path, kind: str = "folder") -> str:
    """Return why a folder or a file cannot be used, for an error."""
    try:
        os.stat(path)
    except PermissionError:
        return "cannot be read (Permission denied)"
    except (OSError, ValueError):  # ValueError: a name that no disk can hold
        return f"no such {kind}"
    return f"is not a {kind}"
