"""Functions that the renderers share, over whole batches: a pixel grid, colours, noise and blending."""

import numpy as np

SIZE = 32
_STEPS = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
X, Y = np.meshgrid(_STEPS, _STEPS)  # pixel centres in -1 ... 1, y downwards
PIXEL = 2 / SIZE


def column(values: np.ndarray) -> np.ndarray:
    """Reshape one value per image, (n,), to (n, 1, 1), which broadcasts over the images."""
    return np.asarray(values)[:, None, None]


def turn(
    angle: np.ndarray, scale: np.ndarray, x: np.ndarray | float = 0.0, y: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates (n, 32, 32) in frames centred on (x, y), turned, and of a given unit length."""
    x, y = np.broadcast_to(x, np.shape(angle)), np.broadcast_to(y, np.shape(angle))
    cos, sin = column(np.cos(angle) / scale), column(np.sin(angle) / scale)
    dx, dy = X - column(x), Y - column(y)
    return dx * cos + dy * sin, dy * cos - dx * sin


def cover(distance: np.ndarray, unit: np.ndarray | float = 1.0) -> np.ndarray:
    """Return the coverage 0 ... 1 of pixels at a signed distance (negative inside), in the given unit."""
    return (0.5 - distance * unit / PIXEL).clip(0, 1)


def blend(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Paint over a canvas (n, 32, 32, 3): alpha (n, 32, 32), colour (n, 3) or (n, 32, 32, 3)."""
    colour = colour[:, None, None] if colour.ndim == 2 else colour
    return canvas + alpha[..., None] * (colour - canvas)


def hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return RGB (..., 3) of hue, saturation and value in 0 ... 1; the hue is cyclic."""
    sector = (np.array([5.0, 3.0, 1.0]) + 6 * np.asarray(hue)[..., None]) % 6
    ramp = np.minimum(sector, 4 - sector).clip(0, 1)
    return np.asarray(value)[..., None] * (1 - np.asarray(saturation)[..., None] * ramp)


def noise(rng: np.random.Generator, count: int, coarse: int, octaves: int = 1) -> np.ndarray:
    """Return smooth noise (n, 32, 32) in about -1 ... 1: random values on a coarse grid, interpolated.

    Args:
        rng: Source of the values.
        count: Number of fields.
        coarse: Cells of the grid across the image, at most 16.
        octaves: Fields that are summed, each with twice the frequency and half the amplitude.
    """
    total = np.zeros((count, SIZE, SIZE))
    for octave in range(octaves):
        cells = min(coarse * 2**octave, SIZE)
        at = (np.arange(SIZE) + 0.5) * cells / SIZE
        weights = (1 - np.abs(at[:, None] - np.arange(cells + 1))).clip(0)
        weights = weights**2 * (3 - 2 * weights)
        total += weights @ rng.uniform(-1, 1, (count, cells + 1, cells + 1)) @ weights.T / 2**octave
    return total


def finish(canvas: np.ndarray, rng: np.random.Generator, grain: float) -> np.ndarray:
    """Add white noise to a canvas (n, 32, 32, 3), with a strength up to `grain` that is drawn per image."""
    strength = rng.uniform(0.2, 1, (len(canvas), 1, 1, 1)) * grain
    return canvas + strength * rng.normal(size=canvas.shape)
