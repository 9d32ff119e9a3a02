"""What the rest of the package and the workflow need of a config: load it, expand it."""

from mosa.experiment.expand import Identities, Run, backbone_image_size, config_tasks, expand, identify
from mosa.experiment.load import load_config, read_config

__all__ = [
    "Identities",
    "Run",
    "backbone_image_size",
    "config_tasks",
    "expand",
    "identify",
    "load_config",
    "read_config",
]
