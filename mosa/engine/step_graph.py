"""A whole training step as one CUDA graph: for small models, whose kernels are shorter than their launch."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from mosa.peft.routing import Router

WARM_UP = 3  # steps of a size before it is captured: what they set up once may not be part of the graph

Compute: TypeAlias = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


def use_device_lr(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep the learning rates in the device's memory, from where a graph reads what the schedule writes."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        group["capturable"] = True


class Captured(NamedTuple):
    """A graph, and the memory that is its own: what it reads, and its loss with its terms."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    choices: list[Tensor]
    terms: dict[str, Tensor]
    loss: Tensor


class StepGraph:
    """Does training steps, and replays them from the fourth of each batch size on.

    The steps are those without it: the first are done as usual, experts are drawn by the same generator, and
    dropout draws the same numbers, as a graph advances CUDA's generator by what its kernels use.

    Args:
        model: The model in training mode; its routers draw between replays.
        optimizer: The optimiser, after `use_device_lr`.
        compute: Computes the loss of a batch of images and labels, and writes its terms to a dictionary.

    Attributes:
        terms: Terms of the loss of the last step, which the next one overwrites.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        compute: Compute,
    ) -> None:
        self.optimizer, self.compute = optimizer, compute
        self.routers = [module for module in model.modules() if isinstance(module, Router)]
        self.stream = torch.cuda.Stream()
        self.done: Counter[int] = Counter()
        self.captured: dict[int, Captured] = {}
        self.terms: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Do one step, and return its loss, which the next one overwrites.

        Args:
            images: Images of shape (batch, channels, height, width), on the GPU.
            labels: Classes of shape (batch,).
        """
        size = len(labels)
        self.done[size] += 1
        if self.done[size] <= WARM_UP:
            return self._aside(images, labels)
        if size not in self.captured:
            self.captured[size] = self._capture(images, labels)
        own = self.captured[size]
        own.images.copy_(images)
        own.labels.copy_(labels)
        for router, choice in zip(self.routers, own.choices, strict=True):
            router.draw_into(choice)
        own.graph.replay()
        self.terms = own.terms
        return own.loss

    def _aside(self, images: Tensor, labels: Tensor) -> Tensor:
        """Do a step as usual, on a stream of its own, as capturing asks for."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            loss = self._step(images, labels)
        torch.cuda.current_stream().wait_stream(self.stream)
        return loss

    def _capture(self, images: Tensor, labels: Tensor) -> Captured:
        """Record a step, without doing it."""
        graph, images, labels = torch.cuda.CUDAGraph(), images.clone(), labels.clone()
        choices = [router.choice.clone() for router in self.routers]
        for router, choice in zip(self.routers, choices, strict=True):
            router.use(choice)
            router.holds = True
        try:
            # thread_local: other threads may read images meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                loss = self._step(images, labels)
        finally:
            for router in self.routers:
                router.holds = False
        return Captured(graph, images, labels, choices, self.terms, loss)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.terms = {}
        loss = self.compute(images, labels, self.terms)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # so that the next backward writes, and adds nothing
        return loss.detach()
