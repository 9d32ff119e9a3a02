"""Two tasks that suit the micro ViT: linear probing has 82 and 96 % on them. As folders of images.

    python benchmarks/strong_features.py results/strong-features/images
    python benchmarks/side_by_side.py configs/strong-features.yaml

`plain_digits` has scikit-learn's handwritten digits as they are, in black and white; `materials` is the last
eight of the sixteen classes of the demo's task `textures`. Both have 800 images for training, 200 for
choosing, and a test split of 797 and 1,000.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from mosa.data.demo import textures
from mosa.data.demo.digits import enlarge
from mosa.data.demo.textures import MATERIALS

SIZES = {"train": 800, "val": 200, "test": 1000}


def plain_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the 1,797 digits, uint8 (n, 32, 32, 3), in a seeded order, and their labels."""
    small, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = np.round(255 * enlarge(small[order].reshape(-1, 8, 8) / 16)).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=-1), labels[order]


def materials() -> tuple[np.ndarray, np.ndarray]:
    """Return 2,000 images of eight materials, uint8 (n, 32, 32, 3), and their labels."""
    rng = np.random.default_rng(0)
    chosen = np.arange(len(MATERIALS))[-8:]
    labels = rng.permutation(np.resize(chosen, sum(SIZES.values())))
    return np.round(255 * textures.render(labels, rng).clip(0, 1)).astype(np.uint8), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for make in (plain_digits, materials):
        images, labels = make()
        ends = np.cumsum(list(SIZES.values()))[:-1]
        for split, at in zip(SIZES, np.split(np.arange(len(labels)), ends), strict=True):
            for number in at:
                place = folder / make.__name__ / split / f"{labels[number]:02d}"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[number]).save(place / f"{number:04d}.png")


if __name__ == "__main__":
    main()
