"""Structured tasks: where a shape is, how it is turned, how many there are.

Modelled on dSprites (Matthey et al., 2017), but rendered here from the generating factors; none of its
images is used. Only the labelled factor is informative: all others are drawn at random.
"""

import numpy as np

from mosa.data.demo.canvas import X, blend, column, cover, finish, hsv, noise, turn

BINS = 16


def render_location(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one shape whose centre lies in the labelled one of 16 vertical strips, among small specks."""
    n = len(labels)
    canvas = _background(rng, n)
    for _ in range(4):
        canvas = _speck(canvas, rng)
    x = -0.72 + 1.44 * (labels + rng.random(n)) / BINS
    shape = {"kind": rng.integers(3, size=n), "angle": rng.uniform(0, 2 * np.pi, n)}
    alpha = _shape(**shape, scale=rng.uniform(0.22, 0.42, n), x=x, y=rng.uniform(-0.65, 0.65, n))
    return finish(blend(canvas, alpha, _ink(rng, canvas)), rng, 0.08)


def render_orientation(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one shape without rotational symmetry, turned by the labelled one of 16 angles."""
    n = len(labels)
    canvas = _background(rng, n)
    for _ in range(3):
        canvas = _speck(canvas, rng)
    angle = 2 * np.pi * (labels + rng.uniform(0.1, 0.9, n)) / BINS
    x, y = rng.uniform(-0.4, 0.4, (2, n))
    alpha = _shape(rng.integers(3, 6, size=n), angle, rng.uniform(0.4, 0.65, n), x, y)
    return finish(blend(canvas, alpha, _ink(rng, canvas)), rng, 0.08)


def render_count(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw 1 to 8 separate shapes of any kinds, sizes and colours."""
    n = len(labels)
    canvas = _background(rng, n)
    x, y = _apart(rng, n, 8)
    for i in range(8):
        kind, angle, scale = rng.integers(6, size=n), rng.uniform(0, 2 * np.pi, n), rng.uniform(0.16, 0.26, n)
        alpha = _shape(kind, angle, scale, x[:, i], y[:, i])
        canvas = blend(canvas, alpha * column(i <= labels), _ink(rng, canvas))
    return finish(canvas, rng, 0.07)


def _shape(
    kind: np.ndarray, angle: np.ndarray, scale: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return the coverage (n, 32, 32) of one shape per image: its frame is turned, scaled and moved.

    Kinds: 0 square, 1 ellipse, 2 heart, 3 wedge, 4 drop, 5 arrow. The last three have no rotational
    symmetry.
    """
    u, v = turn(angle, scale, x, y)
    square = np.maximum(np.abs(u), np.abs(v)) - 0.8
    ellipse = np.hypot(u, 1.6 * v) - 1
    heart = np.hypot(u * 1.1, v * 1.1 + 0.35 - 0.75 * np.sqrt(np.abs(u) + 1e-9)) - 0.9
    wedge = np.maximum(np.abs(v) - 0.42 * (1 - u), -u - 0.9)
    drop = np.minimum(np.hypot(u + 0.35, v) - 0.55, np.maximum(np.abs(v) - 0.38 * (1 - u), -0.15 - u))
    head = np.maximum(np.abs(v) - 0.75 * (1 - u), 0.1 - u)
    arrow = np.minimum(head, np.maximum(np.abs(v) - 0.22, np.abs(u) - 0.9))
    distances = (square, ellipse, heart, wedge, drop, arrow)
    return cover(np.choose(column(kind), distances), column(scale))


def _background(rng: np.random.Generator, n: int) -> np.ndarray:
    base = hsv(rng.random(n), rng.uniform(0.1, 0.7, n), rng.uniform(0.2, 0.9, n))[:, None, None]
    ramp = column(rng.uniform(-0.12, 0.12, n)) * X
    cloud = column(rng.uniform(0.02, 0.2, n)) * noise(rng, n, 4, 2)
    return base + (ramp + cloud)[..., None] * rng.uniform(0.3, 1, (n, 1, 1, 3))


def _ink(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Draw colours (n, 3) that differ in lightness from the canvas by 0.25 or more."""
    n = len(canvas)
    grey = canvas.mean((1, 2, 3))
    gap = rng.uniform(0.25, 0.5, n) * np.where(grey > rng.uniform(0.35, 0.65, n), -1, 1)
    colour = hsv(rng.random(n), rng.uniform(0.2, 1, n), np.ones(n))
    return (colour * (grey + gap).clip(0.05, 1)[:, None] / colour.mean(1, keepdims=True)).clip(0, 1)


def _speck(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(canvas)
    x, y = rng.uniform(-1, 1, (2, n))
    size = rng.uniform(0.05, 0.13, n)
    alpha = _shape(rng.integers(6, size=n), rng.uniform(0, 2 * np.pi, n), size, x, y)
    return blend(canvas, alpha, _ink(rng, canvas))


def _apart(rng: np.random.Generator, n: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw points (n, points) in a square; each is the farthest of ten candidates from those before."""
    placed = rng.uniform(-0.78, 0.78, (n, 1, 2))
    for _ in range(points - 1):
        candidates = rng.uniform(-0.78, 0.78, (n, 10, 2))
        gaps = np.linalg.norm(candidates[:, :, None] - placed[:, None], axis=-1).min(-1)
        best = candidates[np.arange(n), gaps.argmax(1)]
        placed = np.concatenate([placed, best[:, None]], axis=1)
    return placed[..., 0], placed[..., 1]
