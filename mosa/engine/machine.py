"""How runs are done on a machine: settings that change results by float error at most."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mosa.base.errors import UserError
from mosa.engine.resume import EVERY
from mosa.experiment.recipe import COMPILE
from mosa.peft.blocks import is_block

_VARIANTS_OF_A_BLOCK = 64  # a Swin's blocks differ in width, heads and shift; each is compiled once


@dataclass(frozen=True)
class Machine:
    """How runs are done here; by default one CPU thread, and nothing is kept but the record.

    Attributes:
        device: "cpu", or a CUDA device.
        threads: CPU threads, for what is computed and for what is read; results repeat bit by bit for the
            same number.
        resume_folder: Folder for the state of a run that is stopped, to go on from; None: it is not kept.
        save_every: Seconds between two saves at epoch ends.
        features: Folder in which features of the frozen backbone are kept, for runs that tune the classifier
            alone (see `mosa.engine.features`); None: every epoch computes them again.
        compile: "none"; "blocks": torch.compile of every block, in training; "step_graph": nothing is
            compiled, and a whole training step is replayed as one CUDA graph, see `mosa.engine.step_graph`.
        channels_last: Keep images, and the weights of convolutions, with channels last.
        gradient_checkpointing: Keep no activations within a block, and compute them again in the backward.
    """

    device: str = "cpu"
    threads: int = 1
    resume_folder: Path | None = None
    save_every: float = EVERY
    features: Path | None = None
    compile: str = "none"
    channels_last: bool = False
    gradient_checkpointing: bool = False

    def begin(self) -> torch.device:
        """Set this process up for a run that repeats bit by bit, and return its device."""
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to
        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(True)
        # No memory is read before it is written; filling it costs about 1 % (benchmarks/options.py).
        torch.utils.deterministic.fill_uninitialized_memory = False
        device = torch.device(self.device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            keep_memory()
        return device

    def place(self, model: nn.Module) -> None:
        """Bring a model with a method attached to the device, in the form in which it is trained there.

        Raises:
            UserError: The model cannot do what is asked for.
        """
        if self.compile not in COMPILE:
            raise UserError(f"compile {self.compile!r}: expected one of {', '.join(COMPILE)}")
        if self.compile == "step_graph" and not self.device.startswith("cuda"):
            raise UserError("compile step_graph: needs a GPU; set device: cuda, or compile: none")
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.gradient_checkpointing:
            try:
                model.set_grad_checkpointing(True)
            except (AssertionError, AttributeError):
                raise UserError(
                    f"{type(model).__name__}: timm has no gradient checkpointing for it; leave it out"
                ) from None
        if self.compile == "blocks":
            compile_blocks(model)

    def describe(self) -> dict[str, Any]:
        """Return the settings for the record that are not at their defaults and affect time or memory."""
        own = {name: getattr(self, name) for name in ("compile", "channels_last", "gradient_checkpointing")}
        return {name: value for name, value in own.items() if value != getattr(Machine, name)}


CPU = Machine()


def compile_blocks(model: nn.Module) -> None:
    """Compile every block of a model, in place; alike blocks share what is compiled.

    What is random stays as it is without compiling: the same dropout, the same experts.

    Raises:
        UserError: The model has no blocks that are known.
    """
    blocks = [module for module in model.modules() if is_block(module)]
    if not blocks:
        raise UserError(f"{type(model).__name__}: has no blocks that are known; set compile: none")
    torch._dynamo.config.recompile_limit = _VARIANTS_OF_A_BLOCK
    for block in blocks:
        block.compile(options={"fallback_random": True})


def uncompile_blocks(model: nn.Module) -> None:
    """Take back `compile_blocks`: a test split is evaluated once, in less time than compiling takes."""
    for module in model.modules():
        module._compiled_call_impl = None


def keep_memory() -> None:
    """Have glibc keep freed memory for the next step, which needs as much, rather than ask the system again.

    Every page that is new costs a fault: up to 3 % of a training step's time (benchmarks/options.py).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another system, another allocator
        return
    mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
    mallopt(-4, 0)  # M_MMAP_MAX: no block has a mapping of its own
