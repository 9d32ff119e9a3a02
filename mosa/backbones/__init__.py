"""A backbone: a timm architecture with its weights, loaded strictly; the micro ViT and its pre-training."""
