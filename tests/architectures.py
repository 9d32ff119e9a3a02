"""timm's architectures at a size that trains in a second, and what each pair with a method must do."""

import copy
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

import mosa.backbones.micro_vit  # noqa: F401  registers it
from mosa import peft
from mosa.base.errors import UserError
from mosa.base.timm import get_deprecated_models, timm
from mosa.peft.losses import tuning_loss
from mosa.peft.proof import example_images

CLASSES = 3
LARGEST = 10e6  # parameters
SIZES = (64, 96, 128, 160)  # pixels, before the architecture's own
# Arguments that make an architecture smaller: the first that it takes are used.
SHALLOW = (
    *({"depth": depth} for depth in (2, 1)),
    *({"depths": (1,) * stages} for stages in (4, 3, 2, 5)),
    *({"layers": (1,) * stages} for stages in (4, 5)),
    {},
)


class Small(NamedTuple):
    """An architecture, the arguments that make it small, and the side of its images."""

    name: str
    arguments: dict
    size: int

    def build(self, seed: int = 0) -> nn.Module:
        """Build it with random values, of which none is left at a trivial one."""
        torch.manual_seed(seed)
        model = timm.create_model(self.name, num_classes=CLASSES, **self.arguments)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        return model.eval()


def modules() -> list[str]:
    """Return the modules of timm that define architectures."""
    return sorted({timm.models.model_entrypoint(name).__module__.rpartition(".")[2] for name in names()})


@cache
def names() -> list[str]:
    return [name for name in timm.list_models() if name not in get_deprecated_models()]


def kind(model: nn.Module) -> tuple:
    """Return what tells architectures apart for a method: the types of all modules."""
    return type(model), frozenset(map(type, model.modules()))


@cache
def representatives(module: str) -> dict[str, Small | None]:
    """Return the smallest architecture of each kind in a module of timm; None: it cannot be made small."""
    found: dict[tuple, tuple[int, str, dict]] = {}
    large = {}
    for name in timm.list_models(module=module):
        if name in names():
            built = _shallow(name)
            if built is None:
                large[name] = None
            else:
                model, arguments = built
                one = sum(parameter.numel() for parameter in model.parameters()), name, arguments
                found[kind(model)] = min(found.get(kind(model), one), one, key=lambda one: one[:2])
    return {name: _sized(name, arguments) for _, name, arguments in sorted(found.values(), key=str)} | large


def _shallow(name: str) -> tuple[nn.Module, dict] | None:
    """Return an architecture without values and the arguments that make it small enough, or None."""
    for arguments in SHALLOW:
        try:
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=CLASSES, **arguments)
        except Exception:  # whatever an architecture says to arguments that it does not take
            continue
        if sum(parameter.numel() for parameter in model.parameters()) <= LARGEST:
            return model, arguments
    return None


def _sized(name: str, arguments: dict) -> Small | None:
    """Return an architecture for the smallest images that it takes, or None if it cannot be traced at all."""
    own = _taken(name, arguments)
    if own is None:
        return None
    for size in SIZES:
        for tried in ({**arguments, "img_size": size}, arguments):
            if small := _taken(name, tried, size):
                return small
    return own


def _taken(name: str, arguments: dict, size: int | None = None) -> Small | None:
    """Return an architecture if it takes these arguments, and images of a size (None: its own)."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=CLASSES, **arguments)
        usual = example_images(model).to("meta")
        model.train()(usual)
        size = size or usual.shape[-1]
        images = torch.empty(*usual.shape[:2], size, size, device="meta")
        return Small(name, arguments, size) if model.eval()(images).shape == (2, CLASSES) else None
    except Exception:  # whatever an architecture says to arguments or a size that it does not take
        return None


def refusal(backbone: nn.Module, method: str, options: dict, size: int) -> str | None:
    """Return why a method is refused, leaving the model as it was; None: it does all that it must.

    Raises:
        AssertionError: It is attached, and does something else.
    """
    model, before = copy.deepcopy(backbone), structure(backbone)
    state = torch.get_rng_state()
    try:
        peft.attach(model, method, **options)
    except UserError as error:
        assert structure(model) == before, "a refused method leaves traces"
        return str(error)
    finally:
        assert torch.equal(torch.get_rng_state(), state), "attaching draws from the global generator"
    rng = torch.Generator().manual_seed(1)
    channels = example_images(backbone).shape[1]
    images = torch.randn(4, channels, size, size, generator=rng)
    with torch.no_grad():
        if model.peft.method.starts_as_backbone:
            assert_close(model(images), backbone(images), "the output at the start")
    train_step(model.train(), images)
    with torch.no_grad():
        expected = model.eval()(images)
        assert_close(peft.merge(model)(images), expected, "the output after merging")
    return None


def train_step(model: nn.Module, images: torch.Tensor) -> None:
    """Train one step, which must reach all that is tuned, and nothing else."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tuning_loss(model, images, torch.arange(len(images)) % CLASSES).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"gradient of {name}"
    optimizer.step()


def structure(model: nn.Module) -> list:
    """Return what a model is made of, in a form that can be compared; values by their sums."""
    modules = [
        (
            name,
            type(module),
            module.training,
            *(len(value) for value in vars(module).values() if isinstance(value, dict)),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ]
    parameters = [(name, value.requires_grad) for name, value in model.named_parameters()]
    return [
        *modules,
        *parameters,
        *(str(value.double().sum().item()) for value in model.state_dict().values()),
    ]


def assert_close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Raise unless two outputs agree up to the rounding of their size."""
    difference, scale = (found - expected).abs().max().item(), 1 + expected.abs().max().item()
    assert difference < 1e-4 * scale, f"{what} differs by {difference:.2g} of {scale:.2g}"
