"""The resume file of a training run: written at epoch ends and when a signal asks the job to stop; exact."""

import contextlib
import signal
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mosa.base.errors import UserError
from mosa.base.files import written_atomically
from mosa.base.tensors import misfit
from mosa.peft.attached import tuned_buffers

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
EVERY = 60.0  # seconds between saves at epoch ends


class Interrupted(Exception):
    """A signal asked the job to stop, and its state is saved."""

    def __init__(self, number: int, path: Path) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; goes on from {path} when it is started again")
        self.stopped_by = number


class ResumeFile:
    """Where the state of one run is kept until its record is written.

    Args:
        path: The file; its name and content say which run it belongs to.
        digest: Of all that decides the run's result; a file with another one is not this run's.
        every: Seconds between two saves at epoch ends; 0: at each.
        device: Name of what computes.

    Attributes:
        earlier: Names of the other devices that computed what was loaded.
        stopped_by: The signal that asked to stop, if one came; the training loop looks after each step.
    """

    def __init__(self, path: Path, digest: str, every: float = EVERY, device: str = "") -> None:
        self.path, self.digest, self.every, self.device = path, digest, every, device
        self.earlier: list[str] = []
        self.stopped_by: int | None = None
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of SIGTERM, SIGUSR1 and SIGINT within the block, instead of dying of them."""

        def note(number: int, frame: object) -> None:
            if self.stopped_by is not None:  # asked twice: now
                raise KeyboardInterrupt
            self.stopped_by = number

        before = {number: signal.signal(number, note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def is_due(self) -> bool:
        """Return whether the state is to be saved at this epoch's end."""
        return time.monotonic() - self._saved >= self.every

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state, atomically.

        Raises:
            UserError: The file cannot be written.
        """
        written = BytesIO()  # as torch's own error for a full disk is none of the system's
        head = {
            "digest": self.digest,
            "torch": str(torch.__version__),
            "devices": [*self.earlier, self.device],
        }
        torch.save(head | dict(state), written)
        with written_atomically(self.path) as temporary:
            temporary.write_bytes(written.getbuffer())
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state; None if there is none, or it cannot be used, which is reported and ignored."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            reason = self._refusal(state)
            if not reason:
                with zipfile.ZipFile(self.path) as archive:
                    reason = "it is damaged" if archive.testzip() else ""  # torch does not look at checksums
        except Exception as error:  # whatever a broken file makes torch raise
            reason = f"it cannot be read ({type(error).__name__})"
        if reason:
            print(f"{self.path}: not used, as {reason}; training starts anew", file=sys.stderr)
            return None
        self.earlier = [name for name in state.get("devices", ()) if name != self.device]
        return state

    def _refusal(self, state: object) -> str:
        if not isinstance(state, dict) or "digest" not in state:
            return "it is no resume file"
        if state["digest"] != self.digest:
            return "it is of another run"
        if state["torch"] != torch.__version__:
            return f"it was written with torch {state['torch']}, and this is {torch.__version__}"
        return ""

    def remove(self) -> None:
        """Delete the file: the run has its record."""
        self.path.unlink(missing_ok=True)


def trained_state(model: nn.Module) -> dict[str, Any]:
    """Return what training changes in a model: tuned parameters, buffers, and generators."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen} | _hidden(model)


def _hidden(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers of the method that the model's state dict leaves out."""
    known = model.state_dict().keys()
    buffers = {name: model.get_buffer(name) for name in tuned_buffers(model) if name not in known}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def load_trained_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put back what `trained_state` returned.

    Raises:
        UserError: It is of another model.
    """
    wanted = trained_state(model)
    if wanted.keys() != state.keys() or any(misfit(state[name], value) for name, value in wanted.items()):
        raise UserError("the resume file belongs to another model; delete it and run again")
    model.load_state_dict(state, strict=False)
    for name, buffer in _hidden(model).items():
        buffer.copy_(state[name])


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators, of the CPU and of every GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` returned; GPUs that are not there are left out."""
    torch.set_rng_state(state["cpu"])
    for index, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value, index)
