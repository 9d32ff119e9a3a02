"""Parameter-efficient fine-tuning of timm's models, and of others whose blocks are described.

Not every method fits every model: an adapter fits about half of the architectures of timm that
docs/support.md lists. `attach` refuses a model that a method does not fit.

>>> import mosa.peft  # before timm: it mends a CPU-only torch that has PyPI's torchvision beside it
>>> import timm
>>> model = timm.create_model("vit_base_patch16_224.orig_in21k", pretrained=True, num_classes=100)
>>> model = mosa.peft.attach(model, "mosa", bottleneck=64, experts=4)
>>> ...  # train as usual; only what the method tunes requires a gradient
>>> model = mosa.peft.merge(model)  # a plain adapter from here on

One file per method in `mosa.peft.methods`; a new file that defines a `Method` registers it.
"""

import mosa.peft.methods  # noqa: F401  every file there registers a method
from mosa.base.errors import UserError
from mosa.peft.attach import attach
from mosa.peft.attached import ParameterCount, attachment, count_parameters, forward_passes, list_adapters
from mosa.peft.choice import example_batches
from mosa.peft.losses import passes_loss, tuning_loss
from mosa.peft.merge import merge
from mosa.peft.method import Chosen, Method, build_method, get_method, list_methods
from mosa.peft.own_blocks import describe_blocks
from mosa.peft.pretrained import from_pretrained, get_label_names, save_pretrained
from mosa.peft.split import SplitLinear
from mosa.peft.splitting import Splitting
from mosa.peft.state import load_tuned, load_tuned_state_dict, save_tuned, tuned_state_dict
from mosa.peft.switch import detach, set_active

__all__ = [
    "Chosen",
    "Method",
    "ParameterCount",
    "SplitLinear",
    "Splitting",
    "UserError",
    "attach",
    "attachment",
    "build_method",
    "count_parameters",
    "describe_blocks",
    "detach",
    "example_batches",
    "forward_passes",
    "from_pretrained",
    "get_label_names",
    "get_method",
    "list_adapters",
    "list_methods",
    "load_tuned",
    "load_tuned_state_dict",
    "merge",
    "passes_loss",
    "save_pretrained",
    "save_tuned",
    "set_active",
    "tuned_state_dict",
    "tuning_loss",
]
