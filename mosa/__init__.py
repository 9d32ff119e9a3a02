"""A reproducible benchmark of parameter-efficient fine-tuning for vision, built around MoSA."""

__version__ = "0.1.0"
