"""Make ``import torchvision`` work with a torch build for which its extension was not compiled.

PyPI's torchvision is compiled against the CUDA build of torch. With a CPU-only torch, its C++
extension cannot be loaded, and importing torchvision (and therefore timm) fails with "operator
torchvision::nms does not exist". Declaring the two schemas that it registers fake kernels for is
enough, because the operators themselves are never called here.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def declare_missing_operators() -> None:
    """Declare ``torchvision::nms`` and ``qnms`` if torchvision's own extension cannot be loaded."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _extension_loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _keep_alive.append(library)


_keep_alive: list[torch.library.Library] = []  # a Library drops its schemas when collected


def _extension_loads(package: Path) -> bool:
    libraries = sorted(package.glob("_C*.so")) + sorted(package.glob("_C*.pyd"))
    if not libraries:
        return False
    try:
        torch.ops.load_library(libraries[0])
    except OSError:
        return False
    return True
