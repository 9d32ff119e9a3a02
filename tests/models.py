"""Small timm models and training steps for the tests."""

from marks import thorough
from torch import nn

from mosa import peft
from mosa.experiment.expand import Run
from mosa.experiment.specification import make_specification
from mosa.peft.subject import ARCHITECTURES, batch, build, train_steps

__all__ = ["ARCHITECTURES", "batch", "build", "train_steps"]

# Families of which a few pairs are enough, as their blocks differ from others' by declarations alone.
DECLARED = ("eva", "beit", "swinv2")

# Options that make a method small enough for these models; every other method runs with its defaults.
SMALL = {
    **{name: {"bottleneck": 8} for name in ("adapter", "mosa", "pruned", "adamix", "gated", "dropconnect")},
    **{name: {"bottleneck": 8} for name in ("arc", "bi_adaptformer")},
    **{name: {"bottleneck": 4} for name in ("adapter_plus", "convpass", "mona", "utuning")},
    **{name: {"rank": 4} for name in ("bi_lora", "dora", "fact", "last", "lora", "mosl")},
    "e2vpt": {"prompts": 3, "key_values": 2},
    "prefix": {"length": 3},
    "sct": {"keep": 4},
    "split": {"of_options": {"bottleneck": 4}},
    "spt": {"budget": 3000, "rank": 2},
    "vpt": {"prompts": 3},
}
# What every method does in the engine: here those that differ in kind (cached features, everything tuned, two
# passes with routing, wrapped layers of another library, more tokens); `make test-thorough` takes all.
_KINDS = ("linear", "full", "mosa", "peft", "vpt")
METHODS = [*_KINDS, *thorough(*(name for name in peft.list_methods() if name not in _KINDS))]
# What the conformance tests run: every method of the registry, and options that change its structure.
CASES = {
    **{name: (name, SMALL.get(name, {})) for name in peft.list_methods()},
    "adapter, pfeiffer": ("adapter", {"bottleneck": 8, "placement": "pfeiffer"}),
    "adapter, houlsby": ("adapter", {"bottleneck": 8, "placement": "houlsby", "norm": False}),
    "adapter, sequential": ("adapter", {"bottleneck": 8, "placement": "sequential", "learn_scale": True}),
    "adapter, residuals": (
        "adapter",
        {"bottleneck": 8, "placement": "residuals", "scale": 1.0, "dropout": 0.0},
    ),
    "mosa, residuals": ("mosa", {"bottleneck": 8, "placement": "residuals", "split": "up"}),
    "mosa, pfeiffer": ("mosa", {"bottleneck": 8, "placement": "pfeiffer", "split": "down"}),
    "mosa, houlsby": ("mosa", {"bottleneck": 8, "placement": "houlsby", "split": "both"}),
    "mosa, sequential": ("mosa", {"bottleneck": 8, "placement": "sequential", "split_bias": True}),
    "mosa, rows": ("mosa", {"bottleneck": 8, "structure": "rows", "split": "both"}),
    "mosa, columns": ("mosa", {"bottleneck": 8, "structure": "columns", "merge": "sum"}),
    "mosa, single": ("mosa", {"bottleneck": 8, "merge": "single"}),
    "mosa, ensemble": ("mosa", {"bottleneck": 8, "merge": "ensemble", "split": "both"}),
    "mosa, features": ("mosa", {"bottleneck": 8, "feature_consistency": 0.01, "second_pass": 1.0}),
    "mosa, every expert": ("mosa", {"bottleneck": 8, "every_expert": True, "consistency": 0.0}),
    "adapter, r-drop": ("adapter", {"bottleneck": 8, "consistency": 1.0}),
    "lora, all targets": ("lora", {"rank": 4, "targets": ["q", "k", "v", "proj", "fc1", "fc2"]}),
    "lora, mlp": ("lora", {"rank": 4, "targets": ["fc1", "fc2"], "dropout": 0.1, "scale": 0.5}),
    "mosl, mlp": ("mosl", {"rank": 4, "targets": ["fc1", "fc2"], "split": "both"}),
    "vpt, shallow": ("vpt", {"prompts": 3, "deep": False}),
    "prefix, mlp": ("prefix", {"length": 3, "hidden": 4}),
    "ssf, identity": ("ssf", {"spread": 0.0}),
    "repadapter, strong": ("repadapter", {"bottleneck": 4, "groups": 4, "scale": 5.0, "dropout": 0.0}),
    "dtl, plus": ("dtl", {"plus": True, "start": 1, "beta": 10.0}),
    "last, gap": ("last", {"rank": 4, "gap": 3, "modules": 2}),
    "bi_adaptformer, 2 bits": ("bi_adaptformer", {"bottleneck": 8, "bits": 2, "dropout": 0.0}),
    "bi_lora, 4 bits": ("bi_lora", {"rank": 4, "bits": 4, "targets": ["fc1", "fc2"]}),
    "e2vpt, apart": (
        "e2vpt",
        {"prompts": 3, "key_values": 2, "shared": False, "deep": False, "dropout": 0.1},
    ),
    "fact, tucker": ("fact", {"rank": 4, "form": "tk", "scale": 2.0}),
    "convpass, attention": ("convpass", {"bottleneck": 4, "mlp": False, "start": "xavier"}),
    "hydra, mlp": ("hydra", {"targets": ["fc1", "fc2"], "scale": 0.5, "dropout": 0.1}),
    "utuning, block": ("utuning", {"bottleneck": 4, "places": ["mlp", "block"], "dropout": 0.1}),
    "dora, mlp": ("dora", {"rank": 4, "targets": ["fc1", "fc2"], "scale": 0.5}),
    **{
        f"split, {of}": ("split", {"of": of, "of_options": {"bottleneck": 4}, "split": side})
        for of, side in (("convpass", "up"), ("mona", "both"), ("utuning", "down"))
    },
    "split, hydra": ("split", {"of": "hydra", "of_options": {"scale": 0.5}}),
    "spt, adapter": ("spt", {"budget": 3000, "rank": 2, "form": "adapter"}),
    "partial, two": ("partial", {"blocks": 2}),
    "pruned, both": ("pruned", {"bottleneck": 8, "prune": "both"}),
    "adamix, up": ("adamix", {"bottleneck": 8, "copies": "up"}),
    "peft, dora": ("peft", {"config": {"r": 4, "use_dora": True}}),
    "peft, vera": ("peft", {"type": "VERA", "config": {"r": 8}}),
    "peft, ia3": (
        "peft",
        {"type": "IA3", "targets": ["fc1"], "config": {"feedforward_modules": []}},
    ),
    "peft, oft": ("peft", {"type": "OFT", "targets": ["attn.proj"], "config": {"oft_block_size": 16}}),
}
# Every method with its defaults, and the forms of MoSA; the tests of other options are thorough ones.
COMMON = [case for case in CASES if case in peft.list_methods() or case.startswith("mosa")]
ALL_CASES = [*COMMON, *thorough(*(case for case in CASES if case not in COMMON))]


def attach(model: nn.Module, method: str, **options) -> nn.Module:
    """Attach a method; one that chooses what it tunes from images gets some.

    That it acts is what the conformance tests verify.
    """
    options = {"verify": False, "data": peft.example_batches(model)} | options
    return peft.attach(model, method, **options)


def spec(method="mosa", **changes) -> Run:
    """Return a short run of a method on the `pack` fixture."""
    seed = changes.pop("seed", 0)
    what = {"task": "demo/digits", "method": method, "weights": "random", "backbone": "random"}
    what |= {"options": SMALL.get(method, {}), "training": {"epochs": 2, "batch_size": 16}}
    return Run(make_specification(**(what | changes)), seed)
