"""Three methods on a folder of images, one backbone, by the Python API alone.

Run `python examples/three_methods.py FOLDER` on a folder with one folder of images for each class; without
an argument, on coloured squares that it draws.
"""

import sys
import tempfile
from pathlib import Path

import mosa.peft  # before timm, if a CPU-only torch is installed with PyPI's torchvision
import numpy as np
import timm
import torch
from PIL import Image

METHODS = {"linear": {}, "lora": {"rank": 4}, "mosa": {"bottleneck": 8, "experts": 2}}
SIZE = 32


def draw(folder: Path) -> None:
    """Draw noisy squares of three colours."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for number in range(16):
            pixels = rng.integers(0, 160, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[8:24, 8:24, channel] += 95
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return images (n, 3, SIZE, SIZE) in [-1, 1], labels (n,), and the names of the classes."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, number) for number, name in enumerate(classes) for path in sorted((folder / name).iterdir())
    ]
    arrays = [np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE))) for path, _ in files]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, torch.tensor([number for _, number in files]), classes


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
if len(sys.argv) == 1:
    draw(folder)
images, labels, classes = read(folder)
train, test = slice(0, None, 2), slice(1, None, 2)  # use a split of your own

torch.manual_seed(0)
model = timm.create_model(  # or a pretrained one, without these sizes
    "vit_tiny_patch16_224", img_size=SIZE, patch_size=8, depth=2, embed_dim=48, num_heads=3
)
for name, options in METHODS.items():
    mosa.peft.attach(model, name, name=name, num_classes=len(classes), **options)  # each on the backbone
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        mosa.peft.tuning_loss(model.train(), images[train], labels[train]).backward()
        optimizer.step()
    mosa.peft.save_pretrained(model, f"{name}.safetensors", label_names=classes)

for name in METHODS:
    mosa.peft.set_active(model, name)
    with torch.inference_mode():
        correct = model.eval()(images[test]).argmax(1) == labels[test]
    tuned = mosa.peft.count_parameters(model)
    print(f"{name:8} top-1 {100 * correct.float().mean():5.1f} %, {tuned.adapter:,} + {tuned.head:,} tuned")
