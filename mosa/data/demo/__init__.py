"""The benchmark `demo`: seven tasks that are rendered here or come with scikit-learn, made in seconds."""

import hashlib

import numpy as np

from mosa.data.catalogue import Task
from mosa.data.demo import digits, flowers, sprites, textures, tissue

_RENDERERS = {
    "textures": textures.render,
    "tissue": tissue.render,
    "location": sprites.render_location,
    "orientation": sprites.render_orientation,
    "count": sprites.render_count,
    "flowers": flowers.render,
}


def render_splits(task: Task) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Make every split of a demo task, as a pure function of the task.

    Returns:
        For each split its images, uint8 (n, 32, 32, 3), and labels, int64 (n,), shuffled.
    """
    if task.name == "digits":
        return digits.load_splits(task.sizes, _generator(task, "all"))
    return {split: render_split(task, split) for split in task.sizes}


def render_split(task: Task, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Render one split, with balanced classes, of a task other than digits."""
    rng = _generator(task, split)
    labels = rng.permutation(np.arange(task.sizes[split]) % task.num_classes)
    images = _RENDERERS[task.name](labels, rng)
    return np.round(255 * images.clip(0, 1)).astype(np.uint8), labels


def _generator(task: Task, split: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{task.full_name}/{split}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
