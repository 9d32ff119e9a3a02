"""Formula-driven images: an unlimited supply of labelled pictures, made without photographs.

A picture is a textured background with one large shape and up to three small ones on it. The labels
are the *categories* of the parts: a shape category is a contour drawn once from a formula
(radial Fourier contours, polygons, rosettes, stroke glyphs), a texture category is a point in the
parameter space of a generator (waves, filtered noise, cells). Instances of a category differ in pose,
deformation, colour, contrast, occlusion and noise.

After Kataoka et al., "Pre-training without Natural Images" (FractalDB, 2020) and "Replacing Labeled
Real-image Datasets with Auto-generated Contours" (RCDB, 2022).
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 32
HUES = 12
SHAPES = {"radial": 24, "polygon": 20, "rosette": 20, "glyph": 32}
TEXTURES = {"waves": 20, "noise": 14, "cells": 14}
HEADS = {
    "shape": sum(SHAPES.values()),
    "small_shape": sum(SHAPES.values()),
    "fill_texture": sum(TEXTURES.values()),
    "texture": sum(TEXTURES.values()),
    "hue": HUES,
    "background_hue": HUES,
}
IGNORED = -100  # label of a part that a picture lacks; F.cross_entropy ignores it
_MAP = 64  # side of a shape's distance map ...
_REACH = 1.6  # ... which covers -1.6 ... 1.6 in the shape's coordinates
_CELLS = 25  # points of a cell texture


class FormulaImages:
    """The categories, and a renderer of labelled batches.

    Args:
        seed: Seeds the categories. Instances are drawn from the generator given to `batch`.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        contours = [_CONTOURS[family](rng) for family, count in SHAPES.items() for _ in range(count)]
        self.shapes = torch.from_numpy(np.stack(contours)).float()[:, None]
        self.waves = _wave_categories(rng, TEXTURES["waves"])
        self.noise = _noise_categories(rng, TEXTURES["noise"])
        self.cells = _cell_categories(rng, TEXTURES["cells"])
        self.filters = _gabor_filters()
        steps = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
        self.pixels = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)  # x and y in -1 ... 1

    def batch(
        self, count: int, generator: torch.Generator, difficulty: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Render a batch.

        Args:
            count: Number of pictures.
            generator: Source of every random draw.
            difficulty: 0 (large, upright, clean, of high contrast) to 1.

        Returns:
            Pictures in 0 ... 1, float of shape (count, 3, 32, 32); for every head its labels (count,); and
            the painters' targets: "thumbnail" (count, 192), the picture before noise at 8x8; for each patch
            of 8x8 pixels, "figure" (count, 16, 16), the coverage by the large shape at 4x4, and "energy"
            (count, 16, 12), the log energy of the picture in oriented band-pass filters, standardised.
        """
        draw = _Draw(generator, count)
        labels = {head: draw.integer(classes) for head, classes in HEADS.items()}
        fields = self.textures(torch.cat([labels["texture"], labels["fill_texture"]]), generator)
        field, fill = fields[:count], fields[count:]

        background_hue = labels["background_hue"]
        background, dark = _colours(draw, background_hue, None)
        picture = background + (dark - background) * field * draw.uniform(0.5, 1, 3)

        small = labels["small_shape"]
        number = (draw.uniform(-1.5, 3).ceil().clamp(min=0)).long()
        ink, _ = _colours(draw, draw.integer(HUES), picture.mean((2, 3), keepdim=True))
        for i in range(3):
            alpha = self.shape(small, draw, (0.16, 0.3), 0.75, difficulty)
            alpha = alpha * (number > i).float().view(-1, 1, 1, 1)
            picture = picture + alpha * (ink - picture)

        ink, second = _colours(draw, labels["hue"], picture.mean((2, 3), keepdim=True))
        ink = ink + (second - ink) * fill * draw.uniform(0.4, 0.9, 3)
        low = 0.62 - 0.27 * difficulty
        alpha = self.shape(labels["shape"], draw, (low, 0.8), 0.1 + 0.4 * difficulty, difficulty)
        picture = picture + alpha * (ink - picture)
        labels["small_shape"] = torch.where(number > 0, small, IGNORED)

        painted = {
            "thumbnail": F.avg_pool2d(picture, SIZE // 8).flatten(1),
            "figure": F.pixel_unshuffle(F.avg_pool2d(alpha, 2), 4).flatten(2).transpose(1, 2),
            "energy": self.energy(picture),
        }
        noise = torch.randn(picture.shape, generator=generator) * draw.uniform(0, 0.12 * difficulty, 3)
        contrast, shift = draw.uniform(1 - 0.5 * difficulty, 1, 3), draw.uniform(-0.1, 0.1, 3)
        return ((picture - 0.5) * contrast + 0.5 + shift + noise).clamp(0, 1), labels, painted

    def shape(
        self, category: Tensor, draw: "_Draw", radius: tuple[float, float], reach: float, difficulty: float
    ) -> Tensor:
        """Return the coverage (b, 1, 32, 32) of one shape per picture, posed at random, full or outlined."""
        radius = draw.uniform(*radius)
        angle = draw.uniform(-1, 1) * math.pi * (0.1 + 0.3 * difficulty)
        stretch = torch.exp(draw.uniform(-0.25, 0.25) * difficulty)
        shear = draw.uniform(-0.25, 0.25) * difficulty
        cos, sin = angle.cos() / radius, angle.sin() / radius
        x, y = draw.uniform(-reach, reach), draw.uniform(-reach, reach)
        row_x = torch.stack([cos, sin], -1) * stretch[:, None]
        row_y = torch.stack([-sin + shear * cos, cos + shear * sin], -1) / stretch[:, None]
        matrix = torch.stack([row_x, row_y], 1) / _REACH
        shift = -(matrix @ torch.stack([x, y], -1)[..., None])
        affine = torch.cat([matrix, shift], -1)
        grid = F.affine_grid(affine, (len(category), 1, SIZE, SIZE), align_corners=False)
        distance = F.grid_sample(self.shapes[category], grid, padding_mode="border", align_corners=False)
        pixels = distance * radius.view(-1, 1, 1, 1) * SIZE / 2
        line = draw.uniform(0.6, 1.2, 3)
        outlined = draw.chance(0.3, 3)
        return (0.5 + torch.where(outlined, line - pixels.abs(), -pixels)).clamp(0, 1)

    def energy(self, picture: Tensor) -> Tensor:
        """Return the log energy (b, 16, 12) of each patch in quadrature pairs of Gabor filters."""
        response = F.conv2d(picture.mean(1, keepdim=True), self.filters, padding="same").square()
        energy = F.avg_pool2d(response[:, 0::2] + response[:, 1::2], 8)
        energy = energy.add(1e-4).log().flatten(2).transpose(1, 2)
        return (energy - energy.mean((0, 1))) / energy.std((0, 1))

    def textures(self, category: Tensor, generator: torch.Generator) -> Tensor:
        """Return a field in 0 ... 1 of shape (b, 1, 32, 32) for every texture category asked for."""
        fields = torch.empty(len(category), SIZE, SIZE)
        first = 0
        for family, render in (("waves", self._waves), ("noise", self._noise), ("cells", self._cells)):
            chosen = ((category >= first) & (category < first + TEXTURES[family])).nonzero()[:, 0]
            if len(chosen):
                fields[chosen] = render(category[chosen] - first, _Draw(generator, len(chosen)))
            first += TEXTURES[family]
        return fields[:, None]

    def _waves(self, category: Tensor, draw: "_Draw") -> Tensor:
        """Sum of three plane waves, sharpened by a tanh: gratings, plaids, checks, lattices."""
        vectors, weights, gain = (table[category] for table in self.waves)
        at = self.pixels.reshape(-1, 2) @ _rotation(draw.uniform(-0.4, 0.4), draw.uniform(0.85, 1.2))
        phase = (at @ vectors.transpose(1, 2) + draw.uniform(0, 2 * math.pi, 1, 3)[:, None]).cos()
        total = (phase * weights[:, None]).sum(-1)
        return 0.5 + 0.5 * torch.tanh(gain[:, None] * total).view(-1, SIZE, SIZE)

    def _noise(self, category: Tensor, draw: "_Draw") -> Tensor:
        """White noise through a filter in the frequency domain, then softly thresholded."""
        filters, gain = (table[category] for table in self.noise)
        white = torch.randn(len(category), SIZE, SIZE, generator=draw.generator)
        field = torch.fft.irfft2(torch.fft.rfft2(white) * filters, s=(SIZE, SIZE))
        field = field / field.flatten(1).std(1).view(-1, 1, 1).clamp(min=1e-6)
        return torch.sigmoid(field * gain.view(-1, 1, 1))

    def _cells(self, category: Tensor, draw: "_Draw") -> Tensor:
        """Distances to the nearest points of a jittered lattice: spots, bubbles, cracks, scales."""
        lattice, jitter, scale, mix, level, gain = (table[category] for table in self.cells)
        jittered = torch.randn(len(category), _CELLS, 2, generator=draw.generator) * jitter[:, None, None]
        points = lattice + 0.5 * jittered + draw.uniform(-0.5, 0.5, 1, 2)[:, None]
        at = self.pixels.reshape(-1, 2) @ _rotation(draw.uniform(-0.4, 0.4), scale * draw.uniform(0.85, 1.15))
        # |a - p|^2 = |a|^2 - 2 a.p + |p|^2; the first term does not change which points are near.
        points = torch.cat([-2 * points, points.square().sum(-1, keepdim=True)], -1)
        squared = F.pad(at, (0, 1), value=1.0) @ points.transpose(1, 2)
        near = squared.topk(2, largest=False).values + at.square().sum(-1, keepdim=True)
        near = near.clamp(min=1e-6).sqrt()
        value = near[..., 0] * mix[:, :1] + near[..., 1] * mix[:, 1:]
        return torch.sigmoid((value - level[:, None]) * gain[:, None]).view(-1, SIZE, SIZE)


class _Draw:
    """Draws one value per picture."""

    def __init__(self, generator: torch.Generator, count: int) -> None:
        self.generator, self.count = generator, count

    def uniform(self, low: float, high: float, extra: int = 0, *sizes: int) -> Tensor:
        """Draw (count,) values, with `extra` further axes of the given sizes (1 each by default)."""
        shape = (self.count, *(sizes or (1,) * extra))
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def integer(self, classes: int) -> Tensor:
        return torch.randint(classes, (self.count,), generator=self.generator)

    def chance(self, probability: float, extra: int = 0) -> Tensor:
        return self.uniform(0, 1, extra) < probability


def _colours(draw: _Draw, hue: Tensor, away: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw two colours (b, 3, 1, 1) of a hue category; the first differs in lightness from `away`."""
    hue = (hue + draw.uniform(-0.35, 0.35)) / HUES
    saturation = draw.uniform(0.35, 1.0)
    value = draw.uniform(0.35, 1.0)
    if away is not None:
        grey = away.mean((1, 2, 3))
        other = torch.where(grey < 0.55, grey + 0.4, grey - 0.3)
        value = torch.where((value - grey).abs() < 0.2, other, value)
    first = _hsv(hue, saturation, value)
    factor = torch.where(draw.chance(0.5), draw.uniform(0.3, 0.7), draw.uniform(1.3, 1.8))
    second = _hsv(hue, saturation * draw.uniform(0.4, 1.0), (value * factor).clamp(0.1, 1))
    return first, second


def _hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    sector = (torch.tensor([5.0, 3.0, 1.0]) + hue[:, None] * 6) % 6
    ramp = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return (value[:, None] * (1 - saturation[:, None] * ramp))[..., None, None]


def _rotation(angle: Tensor, scale: Tensor) -> Tensor:
    cos, sin = angle.cos() * scale, angle.sin() * scale
    return torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)


# Categories: each function draws one, or a table of them, from a seeded generator.


def _distance_map(curve: np.ndarray, closed: bool) -> np.ndarray:
    """Signed distance (negative inside) of map points to a curve (n, 2) that is star-shaped if closed."""
    steps = _REACH * ((np.arange(_MAP) + 0.5) * 2 / _MAP - 1)
    x, y = np.meshgrid(steps, steps)
    dx, dy = x[..., None] - curve[:, 0], y[..., None] - curve[:, 1]
    distance = np.sqrt((dx**2 + dy**2).min(-1))
    if not closed:
        return distance - 0.09
    angles, radii = np.arctan2(curve[:, 1], curve[:, 0]), np.hypot(curve[:, 0], curve[:, 1])
    inside = np.hypot(x, y) < np.interp(np.arctan2(y, x), angles, radii, period=2 * np.pi)
    return np.where(inside, -distance, distance)


def _closed(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    curve = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    return _distance_map(0.85 * curve / np.abs(curve).max(), closed=True)


_ANGLES = np.linspace(-np.pi, np.pi, 256, endpoint=False)


def _radial(rng: np.random.Generator) -> np.ndarray:
    orders = np.arange(1, 7)
    weights = rng.normal(size=6) * 0.45 / orders**0.7
    waves = np.cos(orders * _ANGLES[:, None] + rng.uniform(0, 2 * np.pi, 6)) @ weights
    return _closed(np.exp(waves - waves.mean()), _ANGLES)


def _polygon(rng: np.random.Generator) -> np.ndarray:
    corners = int(rng.integers(3, 8))
    angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners + rng.uniform(0, 7)
    radii = rng.uniform(0.45, 1, corners)
    corner = np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1)
    along = np.linspace(0, 1, 48, endpoint=False)[:, None]
    curve = np.concatenate([a + along * (b - a) for a, b in zip(corner, np.roll(corner, -1, 0), strict=True)])
    return _distance_map(0.85 * curve / np.abs(curve).max(), closed=True)


def _rosette(rng: np.random.Generator) -> np.ndarray:
    petals, depth, sharp = int(rng.integers(2, 9)), rng.uniform(0.25, 0.75), rng.uniform(0.5, 2.5)
    wave = (0.5 + 0.5 * np.cos(petals * _ANGLES + rng.uniform(0, 2 * np.pi))) ** sharp
    lobe = 1 + rng.uniform(0, 0.3) * np.cos(_ANGLES + rng.uniform(0, 2 * np.pi))
    return _closed((1 - depth + depth * wave) * lobe, _ANGLES)


def _glyph(rng: np.random.Generator) -> np.ndarray:
    t = np.linspace(0, 1, 64)[:, None]
    strokes, start = [], rng.uniform(-1, 1, 2)
    for _ in range(int(rng.integers(2, 5))):
        middle, end = rng.uniform(-1.3, 1.3, 2), rng.uniform(-1, 1, 2)
        strokes.append((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end)
        start = end if rng.random() < 0.7 else rng.uniform(-1, 1, 2)
    curve = np.concatenate(strokes)
    curve = curve - (curve.max(0) + curve.min(0)) / 2
    return _distance_map(0.8 * curve / np.abs(curve).max(), closed=False)


_CONTOURS = {"radial": _radial, "polygon": _polygon, "rosette": _rosette, "glyph": _glyph}


def _gabor_filters() -> Tensor:
    """Even and odd filters (24, 1, 9, 9): 3 wavelengths, 4 orientations, no response to a constant."""
    steps = torch.arange(-4, 5.0)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    filters = []
    for wavelength, sigma in ((2.7, 1.2), (4.5, 1.8), (8.0, 2.6)):
        window = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
        window = window / window.sum()
        for angle in torch.arange(4) * math.pi / 4:
            phase = 2 * math.pi * (x * angle.cos() + y * angle.sin()) / wavelength
            even, odd = window * phase.cos(), window * phase.sin()
            filters += [even - window * even.sum(), odd]
    return torch.stack(filters)[:, None]


def _wave_categories(rng: np.random.Generator, count: int) -> tuple[Tensor, ...]:
    frequency = np.pi * np.exp(rng.uniform(np.log(1.5), np.log(7), (count, 3)))
    angle = rng.uniform(0, np.pi, (count, 3))
    vectors = np.stack([frequency * np.cos(angle), frequency * np.sin(angle)], -1)
    weights = rng.uniform(0.3, 1, (count, 3)) * (np.arange(3) < rng.integers(1, 4, (count, 1)))
    weights /= np.sqrt((weights**2).sum(1, keepdims=True))
    return tuple(torch.from_numpy(a).float() for a in (vectors, weights, rng.uniform(0.8, 5, count)))


def _noise_categories(rng: np.random.Generator, count: int) -> tuple[Tensor, ...]:
    fy, fx = np.meshgrid(np.fft.fftfreq(SIZE) * SIZE, np.fft.rfftfreq(SIZE) * SIZE, indexing="ij")
    filters = []
    for _ in range(count):
        angle, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(-1.2, 1.2))
        u, v = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
        radius = np.sqrt((u * stretch) ** 2 + (v / stretch) ** 2) + 0.5
        peak, width = np.exp(rng.uniform(np.log(1), np.log(10))), rng.uniform(0.25, 0.8)
        filters.append(np.exp(-0.5 * (np.log(radius / peak) / width) ** 2))
    gain = rng.uniform(0.8, 6, count)
    return torch.from_numpy(np.stack(filters)).float(), torch.from_numpy(gain).float()


def _cell_categories(rng: np.random.Generator, count: int) -> tuple[Tensor, ...]:
    lattice = np.stack(np.meshgrid(np.arange(-2.0, 3), np.arange(-2.0, 3)), -1).reshape(_CELLS, 2)
    shifted = lattice + np.stack([0.5 * (lattice[:, 1] % 2), 0 * lattice[:, 1]], -1)  # brick-like
    lattices = np.where(rng.random((count, 1, 1)) < 0.5, lattice, shifted)
    kind = rng.integers(0, 3, count)  # F1 (spots), F2 - F1 (cracks), their mean (lumps)
    mix = np.array([[1.0, 0.0], [-1.0, 1.0], [0.5, 0.5]])[kind]
    low, high = np.array([[0.25, 0.5], [0.1, 0.3], [0.45, 0.7]])[kind].T
    jitter, scale = rng.uniform(0, 0.7, count), rng.uniform(0.9, 1.7, count)
    tables = (lattices, jitter, scale, mix, rng.uniform(low, high), rng.uniform(5, 20, count))
    return tuple(torch.from_numpy(a).float() for a in tables)
