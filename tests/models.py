"""Small timm models and training steps for the tests."""

import torch
from torch import nn

from mosa._timm import timm
from mosa.config import Run
from mosa.peft import attachment, forward_passes

VIT = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)
SWIN = dict(img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4))

# Each architecture that the methods claim, in a size that builds and trains in milliseconds.
ARCHITECTURES = {
    "vit": lambda classes: timm.create_model("vit_tiny_patch16_224", num_classes=classes, **VIT),
    "vit_avgpool": lambda classes: timm.create_model(
        "vit_tiny_patch16_224", num_classes=classes, global_pool="avg", class_token=False, **VIT
    ),
    "vit_layerscale_droppath": lambda classes: timm.create_model(
        "vit_tiny_patch16_224", num_classes=classes, init_values=0.5, drop_path_rate=0.2, **VIT
    ),
    "swin": lambda classes: timm.create_model("swin_tiny_patch4_window7_224", num_classes=classes, **SWIN),
}

# Options that make a method small enough for these models; every other method runs as it is.
SMALL = {"adapter": {"bottleneck": 8}, "mosa": {"bottleneck": 8}, "lora": {"rank": 4}}


def build(architecture: str = "vit", classes: int = 5, seed: int = 0, dtype=torch.float32) -> nn.Module:
    """Build a model with random but realistic weights: no bias and no scale is left at its trivial value."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[architecture](classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model.to(dtype)


def batch(size: int = 6, classes: int = 5, seed: int = 1, dtype=torch.float32):
    """Return images (size, 3, 32, 32) and labels (size,)."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 32, 32, generator=rng, dtype=torch.float64).to(dtype)
    return images, torch.randint(classes, (size,), generator=rng)


def train_steps(model: nn.Module, steps: int = 3, classes: int = 5, seed: int = 7, lr: float = 1e-2) -> None:
    """Train a few AdamW steps with as many passes as the method asks for, and stop in evaluation mode."""
    torch.manual_seed(seed)
    model.train()
    passes = attachment(model).method.passes
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        images, labels = batch(classes=classes, seed=step, dtype=next(model.parameters()).dtype)
        logits = forward_passes(model, images, passes)
        loss = nn.functional.cross_entropy(logits, labels.repeat(passes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def spec(method="mosa", **changes) -> Run:
    """Return a short run of a method on the `pack` fixture."""
    options = {"task": "demo/digits", "variant": method}
    options |= {"architecture": "mosa_vit_micro", "weights": "random", "backbone": "random"}
    options |= {"options": SMALL.get(method, {}), "training": {"epochs": 2, "batch_size": 16}}
    return Run(**(options | {"method": method} | changes))
