"""timm's architectures at a size that trains in a second, and what each pair with a method must do."""

import re
import sys
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import nn

import mosa.backbones.micro_vit  # noqa: F401  registers it
from mosa import peft
from mosa.base.errors import UserError
from mosa.base.timm import VisionTransformer, get_deprecated_models, timm
from mosa.peft.blocks import SITES
from mosa.peft.losses import tuning_loss
from mosa.peft.proof import example_images
from mosa.peft.structure import copied

CLASSES = 3
LARGEST = (10e6, 32e6)  # parameters; the second where a module of timm has nothing smaller
SIZES = (32, 64, 128, None)  # pixels; None: what the architecture is for
# Arguments that make an architecture smaller: the first that it takes are used.
SHALLOW = (
    *({"depth": depth} for depth in (2, 1)),
    *({"depths": (1,) * stages} for stages in (4, 3, 2, 5)),
    *({"layers": (1,) * stages} for stages in (4, 5)),
    {},
)


# Architectures that each have a trap: arguments, side of the images, and what cases of tests/models.py give:
# None, or a part of the reason for which they are refused.
_NO_BLOCK = "has no block that this method understands"
SAMPLE = {
    "beit_base_patch16_224": (
        {"depth": 1, "embed_dim": 96, "num_heads": 3},
        32,
        {
            "peft": None,
            "peft, vera": None,
            "bias": None,
            "norm": None,
            "lora": None,
            "vpt": None,
            "mosa": None,
        },
    ),
    "eva02_tiny_patch14_224": (
        {"depth": 1, "img_size": 56},
        56,
        {"peft": None, "full": None, "ssf": None, "mosl": None, "vpt, shallow": None},
    ),
    "swinv2_tiny_window8_256": (
        {"depths": (1, 1), "num_heads": (2, 4), "embed_dim": 32},
        64,
        {"peft": None, "lora": None, "vpt": None, "mosa, pfeiffer": None, "vpt, shallow": "take deep=true"},
    ),
    "vit_small_patch16_dinov3_qkvb": (
        {"depth": 1, "embed_dim": 48, "num_heads": 3},
        32,
        {"lora": None, "vpt": None, "repadapter": None},
    ),
    "eva02_base_patch14_224": (
        {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 28},
        28,
        {"lora": None, "lora, mlp": "no such Linear layer", "repadapter": "no Linear layer 'qkv'"},
    ),
    "vit_srelpos_small_patch16_224": (
        {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32},
        32,
        {"mosa": None, "lora, all targets": None, "vpt": None, "adapter, residuals": None},
    ),
    "vit_relpos_base_patch32_plus_rpn_256": (
        {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 64},
        64,
        {"mosa": None, "vpt, shallow": None, "adapter, residuals": None},
    ),
    "vit_base_patch16_rpn_224": (
        {"depth": 1, "embed_dim": 32, "num_heads": 2},
        32,
        {"mosa": None, "lora": None, "vpt": None, "repadapter": None},
    ),
    "cait_xxs24_224": (
        {"depth": 1, "embed_dim": 32, "num_heads": 2},
        32,
        {
            **{"mosa": None, "lora": None, "adapter, houlsby": None, "vpt": "does not fit CaiT"},
            "adapter, residuals": "no module between its attention and the addition",
        },
    ),
    "xcit_nano_12_p16_224": (
        {"depth": 1, "embed_dim": 32, "num_heads": 2},
        32,
        {
            "mosa": None,
            "lora": None,
            "adapter, residuals": None,
            "partial": "has other blocks, of class attention",
        },
    ),
    "hiera_tiny_224": (
        {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)},
        224,
        {"mosa": None, "lora": None, "adapter, houlsby": None, "repadapter": None},
    ),
    "vit_base_patch16_xp_224": (
        {"depth": 1, "embed_dim": 32, "num_heads": 2},
        32,
        {"mosa": None, "adapter, houlsby": None, "vpt": None, "lora": "no such Linear layer"},
    ),
    "vit_dpwee_patch16_reg1_gap_256": (
        {"depth": 1, "embed_dim": 32, "num_heads": 2},
        32,
        {"mosa, pfeiffer": None, "vpt": None, "adapter, houlsby": "has no attention"},
    ),
    "samvit_base_patch16_224": (
        {"depth": 2, "embed_dim": 16, "num_heads": 2, "img_size": 48, "window_size": 2},
        48,
        {"mosa": None, "lora": None, "adapter, houlsby": None, "vpt": "does not fit SAM"},
    ),
    "sam2_hiera_tiny": (
        {
            **{"embed_dim": 16, "num_heads": 1, "stages": (1, 2), "window_spec": (4, 2), "q_pool": 1},
            "global_att_blocks": (2,),
        },
        64,
        {"mosa": None, "lora": None},
    ),
    "pvt_v2_b0": (
        {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2)},
        32,
        {"mosa": None, "lora": None, "lora, mlp": None, "rlrr": None},
    ),
    "twins_svt_small": (
        {"depths": (1, 2, 1, 1), "embed_dims": (16, 16, 32, 32)},
        64,
        {"adapter, residuals": None, "lora": None, "mosl, mlp": None},
    ),
    "tiny_vit_5m_224": (
        {"embed_dims": (16, 16, 16, 16), "num_heads": (1, 1, 1, 1), "depths": (1, 1, 1, 1)},
        64,
        {"mosa": None, "adapter, houlsby": None, "lora": "no such Linear layer", "lora, mlp": None},
    ),
    "maxvit_tiny_tf_224": (
        {"embed_dim": (32,), "depths": (1,), "img_size": 64},
        64,
        {"mosa": None, "lora": None, "adapter, residuals": None},
    ),
    "maxvit_nano_rw_256": (
        {"embed_dim": (32,), "depths": (1,), "img_size": 64},
        64,
        {"adapter": None, "lora": "no such Linear layer", "lora, mlp": None},
    ),
    "coatnet_nano_rw_224": (
        {"embed_dim": (32, 32, 32, 32), "depths": (1, 1, 1, 1)},
        64,
        {"mosa": None, "adapter, houlsby": None, "lora": "no such Linear layer"},
    ),
    "resnet10t": ({"layers": (1, 1, 1, 1)}, 64, {"norm": None, "bias": None, "mosa": _NO_BLOCK}),
    "mobilenetv3_small_050": ({}, 64, {"norm": None, "bias": None, "full": None, "linear": None}),
    "nf_regnet_b0": ({}, 64, {"norm": "has no normalisation layer", "bias": None}),
    "levit_128s": ({}, 64, {"linear": None, "norm": None}),
    "convnext_atto": (
        {"depths": (1, 1, 1, 1)},
        64,
        {"adapter, pfeiffer": None, "mosa, pfeiffer": None, "ssf": None, "lora, mlp": "no such Linear layer"},
    ),
    "convnext_zepto_rms": ({"depths": (1, 1, 1, 1)}, 64, {"norm": None, "partial": None, "mosa": None}),
    "mobilevit_xxs": ({}, 64, {"mosa": None, "lora": None, "mosl": None, "ssf": None}),
    "pit_ti_distilled_224": ({}, 64, {"mosa": None, "linear": None, "vpt": "expected a plain ViT"}),
    "deit_tiny_distilled_patch16_224": (
        {"depth": 1},
        32,
        {"linear": None, "mosa": None, "vpt": None, "full": None},
    ),
    "vit_tiny_r_s16_p8_224": (
        {"depth": 1},
        64,
        {"ssf": "do not merge into the StdConv2dSame", "mosa": None, "norm": None},
    ),
}


class Small(NamedTuple):
    """An architecture, the arguments that make it small, and the side of its images; None: its own."""

    name: str
    arguments: dict
    size: int | None

    def build(self, seed: int = 0) -> nn.Module:
        """Build it with random values, of which none is left at a trivial one."""
        torch.manual_seed(seed)
        overlay = self.size and {"input_size": (3, self.size, self.size)}
        model = timm.create_model(
            self.name, num_classes=CLASSES, pretrained_cfg_overlay=overlay, **self.arguments
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        return model.eval()


def modules() -> list[str]:
    """Return the modules of timm that define architectures."""
    return sorted({_module_of(name).rpartition(".")[2] for name in names()})


@cache
def names() -> list[str]:
    """Return all architectures, except for the sizes beyond those that can be made small."""
    deprecated = get_deprecated_models()  # a copy of all
    return [
        name
        for name in timm.list_models()
        if name not in deprecated and not re.search(r"large|huge|giant|gigantic|so\d+m", name)
    ]


def kind(model: nn.Module) -> tuple:
    """Return what tells architectures apart for a method: the types of all modules."""
    return type(model), frozenset(map(type, model.modules()))


@cache
def representatives(module: str) -> list[Small]:
    """Return a small architecture of each kind in a module of timm; one, if methods know no blocks there.

    Of a kind, it is the first name that can be made small.
    """
    found: dict[tuple, Small] = {}
    own = [name for name in names() if _module_of(name).rpartition(".")[2] == module]
    for largest, name in product(LARGEST, own):
        if found and (largest > LARGEST[0] or not _has_known_blocks(name)):
            break
        model, arguments = _shallow(name, largest) or (None, None)
        if model is not None and kind(model) not in found:
            small = _sized(name, arguments)
            if small is not None:
                found[kind(model)] = small
    return list(found.values())


def _module_of(name: str) -> str:
    return timm.models.model_entrypoint(name).__module__


def _has_known_blocks(name: str) -> bool:
    """Return whether the module of an architecture defines or imports a block that methods know."""
    known = {*SITES, VisionTransformer}
    values = vars(sys.modules[_module_of(name)]).values()
    return any(isinstance(value, type) and value in known for value in values)


def _shallow(name: str, largest: float) -> tuple[nn.Module, dict] | None:
    """Return an architecture without values and the arguments that make it small enough, or None."""
    for arguments in SHALLOW:
        try:
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=CLASSES, **arguments)
        except Exception:  # whatever an architecture says to arguments that it does not take
            continue
        if sum(parameter.numel() for parameter in model.parameters()) <= largest:
            return model, arguments
    return None


def _sized(name: str, arguments: dict) -> Small | None:
    """Return an architecture for the smallest images that it takes, or None if it takes none."""
    for size in SIZES:
        small = Small(name, arguments, size)
        try:
            model = small.build()
            with torch.no_grad():
                model(torch.zeros_like(example_images(model), device="cpu"))
        except Exception:  # whatever an architecture says to a size that it does not take
            continue
        return small
    return None


def refusal(backbone: nn.Module, method: str, options: dict) -> str | None:
    """Return why a method is refused, leaving the model as it was; None: it does all that it must.

    Raises:
        AssertionError: It is attached, and does something else.
    """
    model = copied(backbone)
    state = torch.get_rng_state()
    try:
        peft.attach(model, method, data=peft.example_batches(model), **options)
    except UserError as error:
        assert structure(model) == structure(backbone), "a refused method leaves traces"
        return str(error)
    finally:
        assert torch.equal(torch.get_rng_state(), state), "attaching draws from the global generator"
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(2, *example_images(backbone).shape[1:], generator=rng)
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
    return [*modules, *parameters, *(str(value.sum().item()) for value in model.state_dict().values())]


def assert_close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Raise unless two outputs agree up to the rounding of their size."""
    difference, scale = (found - expected).abs().max().item(), 1 + expected.abs().max().item()
    assert difference < 1e-4 * scale, f"{what} differs by {difference:.2g} of {scale:.2g}"
