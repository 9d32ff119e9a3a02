"""Specialized: tissue-like slides. The classes differ in size, number, shape and order of the nuclei."""

import numpy as np

from mosa.data.demo.canvas import blend, column, cover, finish, noise, turn

# mean number of nuclei, mean radius, elongation, order
_CLASSES = (
    (9, 0.10, 1.2, "scattered"),
    (17, 0.10, 1.2, "scattered"),
    (10, 0.15, 1.3, "scattered"),
    (13, 0.10, 2.2, "aligned"),
    (12, 0.11, 1.3, "ring"),
    (12, 0.11, 1.3, "cluster"),
)
_MOST = 24


def render(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw slides in pink and violet, with stain, focus and number of nuclei varying in every class."""
    n = len(labels)
    number, radius, elongation = (np.array([c[i] for c in _CLASSES])[labels] for i in range(3))
    order = np.array([c[3] for c in _CLASSES])[labels][:, None]
    number = np.round(number * rng.uniform(0.82, 1.2, n))
    radius = radius * np.exp(rng.normal(0, 0.1, n))

    scattered = rng.uniform(-1, 1, (2, n, _MOST))
    around = rng.uniform(0, 2 * np.pi, (n, _MOST))
    ring = rng.uniform(0.4, 0.75, (n, 1)) + rng.normal(0, 0.1, (n, _MOST))
    ring = np.stack([ring * np.cos(around), ring * np.sin(around)]) + rng.uniform(-0.3, 0.3, (2, n, 1))
    cluster = rng.normal(0, 0.33, (2, n, _MOST)) + rng.uniform(-0.4, 0.4, (2, n, 1))
    stray = rng.random((n, _MOST)) < 0.15
    x, y = np.where(
        (order == "ring") & ~stray, ring, np.where((order == "cluster") & ~stray, cluster, scattered)
    )
    angle = rng.uniform(0, np.pi, (n, _MOST))
    aligned = rng.uniform(0, np.pi, (n, 1)) + rng.normal(0, 0.25, (n, _MOST))
    angle = np.where(order == "aligned", aligned, angle)

    eosin = np.array([0.90, 0.68, 0.80]) + rng.normal(0, 0.05, (n, 3))
    stain = np.array([0.42, 0.25, 0.58]) + rng.normal(0, 0.07, (n, 3))
    fibres = column(rng.uniform(0.03, 0.1, n)) * noise(rng, n, 6, 2)
    canvas = eosin[:, None, None] + fibres[..., None] * np.array([0.6, 1.0, 0.7])
    for i in range(_MOST):
        size = radius * np.exp(rng.normal(0, 0.13, n))
        stretch = np.sqrt(elongation * np.exp(rng.normal(0, 0.15, n)))
        u, v = turn(angle[:, i], size, x[:, i], y[:, i])
        distance = np.hypot(u / column(stretch), v * column(stretch)) - 1
        depth = rng.uniform(0.45, 0.95, n) * (i < number)
        canvas = blend(canvas, cover(distance, column(size) * 0.7) * column(depth), stain)
    return finish(canvas, rng, 0.06)
