"""Pre-training of the micro ViT: several classifiers on one pooled feature, every picture seen once."""

import hashlib
import json
import math
import os
import platform
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import mosa.backbones.micro_vit  # noqa: F401  registers the architecture with timm
from mosa.backbones.pretraining.formula import HEADS, IGNORED, FormulaImages
from mosa.base.files import written_atomically
from mosa.base.seeding import derive_seed, generator
from mosa.base.timm import timm

DEFAULT_IMAGES = 1_500_000
DEFAULT_THREADS = 1
ARCHITECTURE = "mosa_vit_micro"
SETTINGS = {
    "batch_size": 128,
    "lr": 2e-3,
    "weight_decay": 0.05,
    "betas": [0.9, 0.98],
    "warmup": 0.03,  # share of the images with a rising learning rate; then cosine to zero
    "curriculum": 0.5,  # share of the images over which the ceiling of the difficulty rises from 0 to 1
    "label_smoothing": 0.05,
    "clip_norm": 1.0,
    "loss_weights": {
        "shape": 1.0,
        "small_shape": 0.5,
        "fill_texture": 0.5,
        "texture": 1.0,
        "hue": 0.25,
        "background_hue": 0.25,
        "thumbnail": 2.0,
        "figure": 2.0,
        "energy": 1.0,
    },
}
PAINTED = {"thumbnail": 3 * 8 * 8, "figure": 16, "energy": 12}  # values per picture or per token
_REPORTS = 100  # points of the curve, and weights written, over the whole run


class Pretext(nn.Module):
    """The backbone with linear heads: a classifier per label, and three painters.

    The painters (with a mean squared error) give dense supervision. The local energies and the figure,
    read from each token, end the long plateau at the start of training. The thumbnail, read from the pooled
    feature, keeps positions in that feature, which classifiers of categories alone would discard.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model(ARCHITECTURE, num_classes=0)
        width = self.backbone.num_features
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in HEADS.items()})
        self.painters = nn.ModuleDict({name: nn.Linear(width, size) for name, size in PAINTED.items()})

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the logits of every label, and the output of every painter, for normalised images."""
        tokens = self.backbone.forward_features(images)
        feature = self.backbone.forward_head(tokens)
        logits = {name: head(feature) for name, head in self.heads.items()}
        source = {"thumbnail": feature, "figure": tokens, "energy": tokens}
        return logits, {name: head(source[name]) for name, head in self.painters.items()}


def pretrain(
    output: Path,
    images: int = DEFAULT_IMAGES,
    seed: int = 0,
    threads: int = DEFAULT_THREADS,
    progress: bool = True,
) -> dict:
    """Pre-train the micro ViT and write its weights, with a description beside them.

    The weights are also written about a hundred times on the way, each time as a complete file.

    Args:
        output: Where the weights go (.safetensors); the description goes beside it as .json.
        images: Pictures to train on; the schedules stretch to it.
        seed: Seeds categories, pictures and initial weights.
        threads: CPU threads of torch; another number changes rounding errors.
        progress: Show a progress bar.

    Returns:
        The description: digest, architecture, settings, curve, versions and time.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(derive_seed(seed, "pretraining"))
    source, draws = FormulaImages(seed), generator(seed, "formula")
    model = Pretext()
    config = model.backbone.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))

    batch = SETTINGS["batch_size"]
    steps = math.ceil(images / batch)
    optimizer = torch.optim.AdamW(_decay_groups(model), lr=SETTINGS["lr"], betas=SETTINGS["betas"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate((step + 1) / steps))
    curve, sums, since, start = [], {}, 0, time.perf_counter()
    bar = tqdm(range(1, steps + 1), desc="pretrain", unit="step", disable=not progress, mininterval=1)
    for step in bar:
        ceiling = min(1.0, step / (SETTINGS["curriculum"] * steps))
        difficulty = ceiling * torch.rand((), generator=draws).sqrt().item()
        pictures, labels, painted = source.batch(batch, draws, difficulty)
        losses, accuracies = _losses(*model((pictures - mean) / std), labels, painted)
        loss = sum(SETTINGS["loss_weights"][name] * value for name, value in losses.items())
        if not loss.isfinite():
            raise FloatingPointError(f"pre-training: the loss is {loss.item()} at step {step} of {steps}")
        _descend(model, loss, optimizer, schedule)
        for name, value in ({"loss": loss} | losses | accuracies).items():
            sums[name] = sums.get(name, 0.0) + value.detach()
        since += 1
        if step == steps or step % math.ceil(steps / _REPORTS) == 0:
            point = {name: round((value / since).item(), 4) for name, value in sums.items()}
            curve.append({"images": step * batch, "difficulty": round(ceiling, 3)} | point)
            sums, since = {}, 0
            description = _write(
                output, model.backbone, _describe(images, seed, curve, time.perf_counter() - start)
            )
            bar.set_postfix({name: point[name] for name in ("loss", "shape_top1", "texture_top1")})
    return description


def _descend(
    model: Pretext,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Take one step of the optimiser along the clipped gradient of the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["clip_norm"])
    optimizer.step()
    schedule.step()


def _losses(
    logits: dict[str, Tensor],
    output: dict[str, Tensor],
    labels: dict[str, Tensor],
    painted: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    losses = {name: F.mse_loss(output[name], target) for name, target in painted.items()}
    accuracies = {}
    for name, logit in logits.items():
        target = labels[name]
        losses[name] = F.cross_entropy(
            logit, target, ignore_index=IGNORED, label_smoothing=SETTINGS["label_smoothing"]
        )
        known = target != IGNORED
        accuracies[f"{name}_top1"] = 100 * (logit.argmax(-1) == target).sum() / known.sum().clamp(min=1)
    return losses, accuracies


def _decay_groups(model: Pretext) -> list[dict]:
    """Decay matrices and kernels, but neither vectors nor the position embedding."""
    kept = {id(model.backbone.pos_embed)}
    decayed = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in kept]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in kept]
    decay = SETTINGS["weight_decay"]
    return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _rate(done: float) -> float:
    """Return the share of the peak learning rate after a share of the run."""
    if done < SETTINGS["warmup"]:
        return done / SETTINGS["warmup"]
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - SETTINGS["warmup"]) / (1 - SETTINGS["warmup"]))))


def _describe(images: int, seed: int, curve: list[dict], seconds: float) -> dict:
    return {
        "architecture": ARCHITECTURE,
        "command": f"mosa pretrain --output micro_vit.safetensors --images {images} --seed {seed}"
        f" --threads {torch.get_num_threads()}",
        "images": images,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "settings": SETTINGS,
        "heads": HEADS,
        "seconds": round(seconds, 1),
        "machine": f"{os.cpu_count()}-core {_processor()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
        },
        "curve": curve,
    }


def _processor() -> str:
    """Return the CPU's name as Linux reports it, otherwise the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")) + " CPU"
    except (OSError, StopIteration):
        return platform.machine() + " CPU"


def _write(output: Path, backbone: nn.Module, description: dict) -> dict:
    """Write the weights, and their description with the digest of the weights."""
    blob = safetensors.torch.save({name: value.contiguous() for name, value in backbone.state_dict().items()})
    config = {key: backbone.pretrained_cfg[key] for key in ("input_size", "mean", "std")}
    parameters = sum(p.numel() for p in backbone.parameters())
    header = {"sha256": hashlib.sha256(blob).hexdigest(), "parameters": parameters, "config": config}
    description = header | description
    text = json.dumps(description, indent=1) + "\n"
    for path, content in ((output, blob), (output.with_suffix(".json"), text.encode())):
        with written_atomically(path) as temporary:
            temporary.write_bytes(content)
    return description
