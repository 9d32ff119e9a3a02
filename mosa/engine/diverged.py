"""Runs that diverged, and the note of it: a run is bit for bit the same again, so it need not be trained."""

import json
from pathlib import Path
from typing import Any

import torch

from mosa.base.errors import UserError
from mosa.base.files import written_atomically
from mosa.engine import provenance
from mosa.engine.machine import Machine
from mosa.experiment.alive import name_of
from mosa.experiment.expand import Run


class Diverged(UserError):
    """The loss is no longer a finite number."""


class DivergedNote:
    """A file beside the resume files which says that a run diverged, and with what.

    Args:
        run: The run.
        machine: How it is done here; its `resume_folder` has the note, which is named by specification and
            seed. Without one, nothing is noted.
    """

    def __init__(self, run: Run, machine: Machine) -> None:
        self.path: Path | None = None
        if machine.resume_folder is not None:
            name = name_of(run.specification.digest, run.seed)
            self.path = machine.resume_folder / f"{name}.diverged.json"
        self._run, self._machine = run, machine

    def refuse(self) -> None:
        """Raise what is noted, unless code, libraries or machine have changed since; then it may be trained.

        Raises:
            Diverged: The run would end as it did.
        """
        if self.path is None or not self.path.is_file():
            return
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            same, reason = found["decides"] == self._decides(), str(found["reason"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return
        if same:
            raise Diverged(
                f"{reason}; not trained again, as code, specification, seed and machine are the same "
                f"(delete {self.path} to train it all the same)"
            )

    def write(self, error: Diverged) -> None:
        """Note why the run diverged."""
        if self.path is not None:
            text = json.dumps({"reason": str(error), "decides": self._decides()}, indent=1)
            with written_atomically(self.path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    def remove(self) -> None:
        """Delete the note: the run has its record."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _decides(self) -> dict[str, Any]:
        """Return everything that decides where a run ends, bit by bit."""
        machine = self._machine
        device = provenance.describe_device(torch.device(machine.device)) | {"threads": machine.threads}
        return {
            "specification": self._run.specification.digest,
            "seed": self._run.seed,
            "code": provenance.code_digest(),
            "versions": provenance.versions(self._run.specification.method),
            "device": device | machine.describe() | {"features": machine.features is not None},
        }
