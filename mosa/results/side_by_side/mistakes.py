"""Whether the runs of two sources are right on the same images, where both kept their predictions."""

from collections.abc import Iterable
from typing import NamedTuple

from mosa.results.aggregate import Section
from mosa.results.answers import answers
from mosa.results.per_image import agreement, mcnemar_p
from mosa.results.stats import holm


class Tested(NamedTuple):
    """McNemar's exact test of two runs of a variant with one seed, of a source and of the first source.

    Attributes:
        images: Number of images, the same for both.
        only_there, only_first: Images that only the source's run, and only the first's, classifies right.
        p: See `mosa.results.per_image.mcnemar_p`.
        holm_p: Adjusted for the variants on this task and seed.
    """

    benchmark: str
    backbone: str
    variant: str
    task: str
    source: str
    seed: int
    images: int
    only_there: int
    only_first: int
    p: float
    holm_p: float


def mistakes(both: Section, source: str, names: Iterable[tuple[str, str, str]]) -> list[Tested]:
    """Compare predictions image by image.

    Args:
        both: A section with the runs of the source and of the first one.
        source: Name of the source.
        names: Each variant, as it is called, and as the section calls it of the source and of the first.

    Returns:
        A row for each task, seed and variant of which both kept predictions.
    """
    rows = []
    for of_task in answers(both).tasks:
        found: dict[int, list[Tested]] = {}
        for variant, there, first in names:
            theirs, ours = (of_task.predicted.get(name, {}) for name in (there, first))
            for seed in sorted(theirs.keys() & ours.keys()):
                pair = agreement(of_task.labels, theirs[seed], ours[seed])
                counts = pair.only_ours, pair.only_theirs
                row = Tested(
                    both.benchmark, both.backbone, variant, of_task.task, source, seed, len(of_task.labels),
                    *counts, mcnemar_p(*counts), 1.0,
                )  # fmt: skip
                found.setdefault(seed, []).append(row)
        for tests in found.values():
            adjusted = holm([one.p for one in tests])
            rows += [one._replace(holm_p=float(p)) for one, p in zip(tests, adjusted, strict=True)]
    return rows
