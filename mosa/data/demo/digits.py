"""Real images: the handwritten digits that come with scikit-learn (UCI, 1,797 images of 8x8 pixels)."""

from collections.abc import Mapping

import numpy as np
from sklearn.datasets import load_digits

from mosa.data.demo.canvas import SIZE, blend, column, finish, hsv, noise


def load_splits(
    sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split the digits at random, stratified by class, and scale them up.

    Args:
        sizes: Images per split; together all 1,797.
        rng: Source of the split.

    Returns:
        For each split its images, uint8 (n, 32, 32, 3), and labels, int64 (n,).
    """
    small, labels = load_digits(return_X_y=True)
    images = enlarge(small.reshape(-1, 8, 8) / 16)
    images = np.round(255 * _colour(images, rng)).astype(np.uint8)
    order = rng.permutation(len(labels))
    # Spread each class evenly over the order, so that every part of it is stratified.
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.argsort(rank, kind="stable")
    splits, start = {}, 0
    for split, count in sizes.items():
        chosen = rng.permutation(order[start : start + count])
        splits[split] = images[chosen], labels[chosen].astype(np.int64)
        start += count
    return splits


def _colour(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Print (n, 32, 32) in a random ink on clouded paper, so that only shape distinguishes the digits."""
    n = len(images)
    dark = rng.random(n) < 0.5
    low, high = rng.uniform(0.1, 0.4, n), rng.uniform(0.6, 0.95, n)
    paper = hsv(rng.random(n), rng.uniform(0.1, 0.7, n), np.where(dark, low, high))
    ink = hsv(rng.random(n), rng.uniform(0.1, 0.7, n), np.where(dark, high, low))
    canvas = paper[:, None, None] + (column(rng.uniform(0.05, 0.2, n)) * noise(rng, n, 5, 2))[..., None]
    return finish(blend(canvas, images * column(rng.uniform(0.7, 1.0, n)), ink), rng, 0.1).clip(0, 1)


def enlarge(images: np.ndarray) -> np.ndarray:
    """Scale (n, 8, 8) up to (n, 32, 32), bilinearly, with pixel centres aligned and edges held."""
    at = ((np.arange(SIZE) + 0.5) * 8 / SIZE - 0.5).clip(0, 7)
    weights = (1 - np.abs(at[:, None] - np.arange(8))).clip(0)
    return weights @ images @ weights.T
