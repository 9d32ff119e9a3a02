"""A bridge to Hugging Face PEFT: its injectable methods on a timm model."""

from collections import Counter
from types import ModuleType
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from mosa.base.errors import UserError, unknown
from mosa.base.methods import ANY_MODEL
from mosa.base.seeding import derive_seed
from mosa.peft.blocks import find_head
from mosa.peft.layers import has_hooks, shared_parameters
from mosa.peft.method import Method
from mosa.peft.proof import blank_copy

# Exactly these: a layer that derives from one may use its weight in another way than the library knows.
WRAPPED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.MultiheadAttention)
# Types that change the output at the start, whatever their config says, and those that do by default.
RANDOM, RANDOM_BY_DEFAULT = ("UNILORA", "VBLORA"), ("C3A", "FOURIERFT")
# The starts of LoRA that need neither the weights of the backbone nor data.
STARTS = (True, False, "gaussian", "orthogonal")


class HuggingFacePeft(Method):
    """A method of the library Hugging Face PEFT, which wraps Linear layers of the backbone.

    `type` is the library's name of the method (LORA, IA3, OFT, VERA, LOHA, LOKR, ...) and `config` holds
    the arguments of its config class, such as {"r": 8, "use_dora": true}. The library
    treats timm's fused qkv as one layer: a change of `qkv` covers q, k and v together. It fits any model
    that has the named layers. After merging, only the backbone's modules are left, if the library can merge
    the type. ADALORA is refused, and so is a start of LoRA that is computed from the backbone's weights or
    from data (PiSSA, OLoRA, EVA, ...). Tuned parameters: as counted by the library.
    """

    name: ClassVar[str] = "peft"
    reference: ClassVar[str] = "Mangrulkar et al., PEFT, 2022, https://github.com/huggingface/peft"
    families: ClassVar[tuple[str, ...]] = (ANY_MODEL,)

    type: str = Field(default="LORA", description="Name of the library's method.")
    targets: list[str] = Field(
        default=["qkv"],
        min_length=1,
        description="Names of the wrapped layers, or their ends; `proj` matches the patch embedding, too.",
    )
    config: dict[str, Any] = Field(default={}, description="Arguments of the library's config class.")

    @property
    def starts_as_backbone(self) -> bool:
        if self.type in RANDOM:
            return False
        start = self.config.get("init_weights", self.config.get("init_lora_weights"))
        if self.type in RANDOM_BY_DEFAULT:
            return start is True
        return start is not False

    @property
    def wraps_qkv(self) -> bool:
        return True

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        try:
            with torch.random.fork_rng(devices=[]):
                self._inject(blank_copy(model, torch.device("meta")))
        except UserError as error:
            return str(error)
        return None

    def apply(self, model: nn.Module, seed: int) -> None:
        torch.default_generator.manual_seed(derive_seed(seed, "peft"))  # which `attach` puts back
        self._inject(model)

    def fold(self, model: nn.Module) -> Method | None:
        layers = _tuner_layers(model)
        try:
            for layer in layers.values():
                layer.merge()
        except NotImplementedError:  # the library cannot merge this type, so it stays in its training form
            return self
        for name, layer in layers.items():
            owner, _, child = name.rpartition(".")
            setattr(model.get_submodule(owner), child, layer.get_base_layer())
        return None

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        if not _tuner_layers(model):
            model = blank_copy(model, torch.device("meta")).requires_grad_(False)
            with torch.random.fork_rng(devices=[]):
                self._inject(model)
        head = set(find_head(model).parameters())
        return sum(p.numel() for p in model.parameters() if p.requires_grad and p not in head)

    def _inject(self, model: nn.Module) -> None:
        library = _library()
        configs = library.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
        tuners = library.mapping.PEFT_TYPE_TO_TUNER_MAPPING
        names = sorted(kind.value for kind in configs if kind in tuners)
        if self.type not in names:
            raise unknown("type of method 'peft'", self.type, names)
        kind = library.PeftType(self.type)
        try:
            self._refuse_what_needs_more()
            config = configs[kind](target_modules=list(self.targets), **self.config)
            # The tuner itself, as inject_adapter_in_model refuses types whose layers share state (VeRA).
            tuners[kind](model, config, "default")
            del model.peft_config
            _refuse_other_layers(model)
            if any(isinstance(module, library.utils.ModulesToSaveWrapper) for module in model.modules()):
                raise ValueError(
                    "modules_to_save trains whole modules beside it; use `attach` and unfreeze them"
                )
            if not _tuned(model):
                raise ValueError("it tunes nothing (is there `inference_mode`?)")
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            if "allocate" in str(error):  # no memory
                raise
            message = " ".join(str(error).split())
            raise UserError(
                f"type {self.type} of Hugging Face PEFT does not fit {type(model).__name__} with targets "
                f"{', '.join(self.targets)} and config {self.config}: {message}; take other targets (timm's "
                "attention has qkv, one layer, and proj; its MLP fc1 and fc2) or another type"
            ) from None

    def _refuse_what_needs_more(self) -> None:
        if self.type == "ADALORA":
            raise ValueError("it has a term of the loss and a call after every step, which nothing does here")
        start = self.config.get("init_lora_weights", True)
        if start not in STARTS:
            raise ValueError(
                f"init_lora_weights={start!r} is computed from the backbone's weights or from data, which is "
                f"not done here; expected one of {', '.join(map(repr, STARTS))}"
            )


def _library() -> ModuleType:
    try:
        import peft
    except ImportError:
        raise UserError(
            "method 'peft' needs the library Hugging Face PEFT: install it with `pip install "
            "'mosa-benchmark[peft]'`, or take another method"
        ) from None
    return peft


def _tuned(model: nn.Module) -> bool:
    """Return whether the library's layers have a parameter that is trained."""
    return any(
        parameter.requires_grad for layer in _tuner_layers(model).values() for parameter in layer.parameters()
    )


def _refuse_other_layers(model: nn.Module) -> None:
    places = Counter(child for module in model.modules() for child in module._modules.values())
    shared = shared_parameters(model)
    for name, layer in _tuner_layers(model).items():
        base = layer.get_base_layer()
        if type(base) not in WRAPPED:
            raise ValueError(f"{name!r} is a {type(base).__name__}, not one of torch's own layers")
        if has_hooks(base):
            raise ValueError(f"{name!r} has a hook, which would not see its change: remove it")
        if "forward" in vars(base):
            raise ValueError(f"{name!r} is a {type(base).__name__} with a forward of its own")
        if places[base] > 1 or shared.intersection(base.parameters()):
            raise ValueError(f"{name!r} is shared by two places, which would both change: give each a copy")


def _tuner_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost layers that the library has wrapped, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    outermost = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    return {name: found[name] for name in outermost}
