"""Natural: sixteen materials and patterns, from other formulas than the pre-training images."""

import numpy as np

from mosa.data.demo.canvas import SIZE, column, finish, hsv, noise, turn


def render(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one texture per image, in two random colours, at a random angle and scale."""
    n = len(labels)
    fields = np.empty((n, SIZE, SIZE))
    for label, material in enumerate(MATERIALS):
        chosen = np.flatnonzero(labels == label)
        frame = turn(rng.uniform(0, 2 * np.pi, len(chosen)), rng.uniform(0.8, 1.35, len(chosen)))
        fields[chosen] = material(*frame, rng)
    first = hsv(rng.random(n), rng.uniform(0.1, 0.8, n), rng.uniform(0.15, 0.95, n))
    second = hsv(rng.random(n), rng.uniform(0.1, 0.8, n), rng.uniform(0.15, 0.95, n))
    gap = second.mean(1) - first.mean(1)
    push = np.where(np.abs(gap) < 0.25, np.where(gap < 0, -0.25, 0.25) - gap, 0)
    second = second + push[:, None]
    canvas = first[:, None, None] + fields[..., None] * (second - first)[:, None, None]
    light = column(rng.uniform(0, 0.2, n)) * noise(rng, n, 2)
    return finish(canvas + light[..., None], rng, 0.14)


def _step(value: np.ndarray, width: float = 0.15) -> np.ndarray:
    """Return a soft threshold at 0."""
    return 1 / (1 + np.exp(-(value / width).clip(-30, 30)))


def _wave(value: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(value)


def _some(rng: np.random.Generator, u: np.ndarray, low: float, high: float) -> np.ndarray:
    return column(rng.uniform(low, high, len(u)))


def _wood(u, v, rng):  # rings, cut beside their middle
    ring = np.hypot(u - _some(rng, u, 0.8, 2.0), 0.35 * v) + 0.08 * noise(rng, len(u), 3, 2)
    return _wave(_some(rng, u, 14, 22) * ring)


def _marble(u, v, rng):  # veins: a wave whose phase is turbulent
    return np.abs(np.sin(3 * u + 2.2 * noise(rng, len(u), 3, 3))) ** 0.5


def _brick(u, v, rng):
    v = v * 3.2 + _some(rng, u, 0, 1)
    u = u * 1.7 + 0.5 * (np.floor(v) % 2)
    return _step(np.minimum(np.abs(u % 1 - 0.5) * -1 + 0.42, np.abs(v % 1 - 0.5) * -1 + 0.38), 0.05)


def _weave(u, v, rng):  # over and under
    u, v = 3.2 * u + _some(rng, u, 0, 1), 3.2 * v
    over = (np.floor(u) + np.floor(v)) % 2
    return np.where(over > 0, np.sin(np.pi * (u % 1)), np.sin(np.pi * (v % 1))) * (0.55 + 0.45 * over)


def _zigzag(u, v, rng):
    return _step(np.sin(9 * v + 4 * np.abs((1.6 * u + _some(rng, u, 0, 1)) % 1 - 0.5) * np.pi), 0.3)


def _scales(u, v, rng):  # overlapping arcs, row after row
    v = 3 * v + _some(rng, u, 0, 1)
    u = 2.2 * u + 0.5 * (np.floor(v) % 2)
    return np.hypot((u % 1 - 0.5) * 1.6, v % 1).clip(0, 1) ** 2


def _rings(u, v, rng):  # concentric, about a point in the picture
    return _wave(_some(rng, u, 12, 18) * np.hypot(u - _some(rng, u, -0.5, 0.5), v - _some(rng, u, -0.5, 0.5)))


def _spiral(u, v, rng):
    u, v = u - _some(rng, u, -0.4, 0.4), v - _some(rng, u, -0.4, 0.4)
    return _wave(_some(rng, u, 10, 15) * np.hypot(u, v) + 2 * np.arctan2(v, u))


def _truchet(u, v, rng):  # quarter circles in tiles, turned at random
    u, v = 2.4 * u + 8, 2.4 * v + 8
    tiles = rng.integers(2, size=(len(u), 16, 16))
    row, tile_u, tile_v = np.arange(len(u))[:, None, None], np.floor(u).astype(int), np.floor(v).astype(int)
    turned = tiles[row, tile_u % 16, tile_v % 16]
    a = np.where(turned > 0, u % 1, 1 - u % 1)
    b = v % 1
    arcs = np.minimum(np.abs(np.hypot(a, b) - 0.5), np.abs(np.hypot(1 - a, 1 - b) - 0.5))
    return _step(0.16 - arcs, 0.05)


def _hatch(u, v, rng):  # two sets of thin lines that cross
    lines = np.maximum(np.cos(13 * u), np.cos(13 * (0.5 * u + 0.87 * v)))
    return _step(lines - 0.8 + 0.15 * noise(rng, len(u), 4), 0.1)


def _terrain(u, v, rng):  # fractal noise
    return 0.5 + 0.35 * noise(rng, len(u), 2, 5)


def _ridges(u, v, rng):  # fractal noise folded at zero
    return 1 - 1.3 * np.abs(noise(rng, len(u), 4, 3))


def _maze(u, v, rng):  # noise of one scale, thresholded, as reaction and diffusion leave it
    field = noise(rng, len(u), 8) - noise(rng, len(u), 3) * 0.3
    return _step(field - field.mean((1, 2), keepdims=True), 0.08)


def _confetti(u, v, rng):  # short bars in random directions
    field = np.zeros_like(u)
    for _ in range(14):
        angle, x, y = _some(rng, u, 0, np.pi), u - _some(rng, u, -1, 1), v - _some(rng, u, -1, 1)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        field = np.maximum(field, _step(np.minimum(0.2 - np.abs(along), 0.07 - np.abs(across)), 0.02))
    return field


def _grass(u, v, rng):  # streaks that bend
    bend = u + 0.35 * v**2 + 0.25 * noise(rng, len(u), 2)
    return _wave(16 * bend + 3 * noise(rng, len(u), 6))


def _tartan(u, v, rng):  # bands of unequal width, both ways
    bands = [np.sin(6 * a + _some(rng, u, 0, 6)) + 0.6 * np.sin(15 * a + _some(rng, u, 0, 6)) for a in (u, v)]
    return 0.5 + 0.28 * (_step(bands[0], 0.2) + _step(bands[1], 0.2) - 1) * 1.7


MATERIALS = (
    _wood,
    _marble,
    _brick,
    _weave,
    _zigzag,
    _scales,
    _rings,
    _spiral,
    _truchet,
    _hatch,
    _terrain,
    _ridges,
    _maze,
    _confetti,
    _grass,
    _tartan,
)
