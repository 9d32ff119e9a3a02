"""Parameter-efficient fine-tuning of any timm vision transformer.

>>> import timm
>>> import mosa.peft
>>> model = timm.create_model("vit_base_patch16_224.orig_in21k", pretrained=True, num_classes=100)
>>> model = mosa.peft.attach(model, "mosa", bottleneck=64, experts=4)
>>> ...  # train as usual; only what the method tunes requires a gradient
>>> model = mosa.peft.merge(model)  # a plain adapter from here on

One file per method; a new file that defines a `Method` is found by its name in the registry.
"""

import importlib
import pkgutil

from mosa.peft.attach import (
    ParameterCount,
    attach,
    attachment,
    count_parameters,
    forward_passes,
    load_tuned,
    load_tuned_state_dict,
    merge,
    save_tuned,
    tuned_state_dict,
)
from mosa.peft.method import Method, build_method, get_method, list_methods
from mosa.peft.split import SplitLinear
from mosa.peft.splitting import Splitting

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Method",
    "ParameterCount",
    "SplitLinear",
    "Splitting",
    "attach",
    "attachment",
    "build_method",
    "count_parameters",
    "forward_passes",
    "get_method",
    "list_methods",
    "load_tuned",
    "load_tuned_state_dict",
    "merge",
    "save_tuned",
    "tuned_state_dict",
]
