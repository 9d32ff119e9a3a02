"""Fine-grained: flowers of 24 close species, which share colours and differ in petals and centre."""

import numpy as np

from mosa.data.demo.canvas import blend, column, cover, finish, hsv, noise, turn

_PETALS = (4, 5, 6, 8)
_FORMS = ("round", "pointed", "notched")
_HUES = ((0.92, 0.16), (0.75, 0.10))  # two palettes: petals, centre


def render(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one flower per image: a species is a number of petals (4), their form (3), and a palette (2)."""
    n = len(labels)
    petals = np.array(_PETALS)[labels % 4]
    form = labels // 4 % 3
    palette = np.array(_HUES)[labels // 12]

    leaf = hsv(rng.uniform(0.22, 0.42, n), rng.uniform(0.3, 0.8, n), rng.uniform(0.2, 0.6, n))
    canvas = leaf[:, None, None] + (column(rng.uniform(0.08, 0.25, n)) * noise(rng, n, 5, 2))[..., None]
    size = rng.uniform(0.65, 0.95, n)
    x, y = rng.uniform(-0.15, 0.15, (2, n))
    tilt = rng.uniform(0.75, 1.0, n)
    u, v = turn(rng.uniform(0, 2 * np.pi, n), size, x, y)
    v = v / column(tilt)
    radius, angle = np.hypot(u, v), np.arctan2(v, u) + column(rng.uniform(0, 2 * np.pi, n))
    across = np.abs(np.mod(angle * column(petals) / (2 * np.pi), 1) - 0.5) * 2  # 0 on a petal, 1 between
    depth = column(rng.uniform(0.45, 0.6, n))
    edge = np.choose(
        column(form),
        (
            1 - depth * across**3,
            1 - depth * across,
            1 - depth * across**3 - 0.3 * np.exp(-((across / 0.3) ** 2)),
        ),
    )
    hue = palette[:, 0] + rng.normal(0, 0.035, n)
    petal = hsv(hue, rng.uniform(0.25, 0.7, n), rng.uniform(0.65, 1.0, n))
    shade = (0.75 + 0.25 * radius) * (1 - 0.25 * across**4)
    canvas = blend(canvas, cover(radius - edge, column(size)), petal[:, None, None] * shade[..., None])
    middle = hsv(palette[:, 1] + rng.normal(0, 0.02, n), rng.uniform(0.5, 0.9, n), rng.uniform(0.5, 0.95, n))
    canvas = blend(canvas, cover(radius - column(rng.uniform(0.16, 0.28, n)), column(size)), middle)
    light = rng.uniform(0.6, 1.1, (n, 1, 1, 1))
    return finish(canvas * light, rng, 0.06)
