"""Pre-training of the micro ViT on procedural images: `mosa pretrain`."""

from mosa.backbones.pretraining.train import DEFAULT_IMAGES, DEFAULT_THREADS, pretrain

__all__ = ["DEFAULT_IMAGES", "DEFAULT_THREADS", "pretrain"]
