"""Draw docs/images/split.svg: one matrix, split among four experts, which are trained and merged.

    python benchmarks/split_figure.py

tests/unit/test_docs.py holds the figure to this.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "split.svg"
ROWS, COLUMNS, EXPERTS, CELL = 8, 6, 4, 15
# Okabe and Ito's, told apart by colour-blind readers; and letters, for greyscale.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
LETTERS = "ABCD"
INITIAL, INK = "#e4e7eb", "#1f2933"
TOP = 64
WIDTH, HEIGHT = 880, 236


def partition(seed: int = 0) -> list[list[int]]:
    """Return the expert of each entry: a random partition into parts of equal size."""
    numbers = [number % EXPERTS for number in range(ROWS * COLUMNS)]
    random.Random(seed).shuffle(numbers)
    return [numbers[row * COLUMNS : (row + 1) * COLUMNS] for row in range(ROWS)]


def draw() -> str:
    """Return the figure."""
    owners, step = partition(), COLUMNS * CELL
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{INK}" role="img">',
        "<title>One matrix is split among four experts, trained one expert at a time, and merged by the mean"
        "</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    left = 20
    parts += _text(left, 24, "1. Split: each entry has one expert", bold=True)
    parts += _matrix(left, owners, lambda owner: COLOURS[owner], LETTERS)
    parts += _text(left, TOP + ROWS * CELL + 20, "W: as many entries as dense")
    left = 292
    parts += _text(left, 24, "2. Train: one expert in each pass, drawn at random", bold=True)
    for expert in range(EXPERTS):
        place = left + expert * (0.6 * step + 34)
        parts += _matrix(
            place, owners, lambda owner, e=expert: COLOURS[e] if owner == e else INITIAL, "", 0.6
        )
        parts += _text(place, TOP - 8, f"expert {LETTERS[expert]}", colour=COLOURS[expert])
    below = TOP + 0.6 * ROWS * CELL
    parts += _text(left, below + 22, "active: its own entries; grey: their initial value W0 (zero)")
    parts += _text(left, below + 40, "a second pass with other experts: both shall predict alike")
    parts += _text(left, below + 58, "each weight is trained in 1 of 4 passes", bold=True)
    left = 728
    parts += _text(left, 24, "3. Merge: the mean", bold=True)
    parts += _matrix(left, owners, lambda owner: "#7b8794", "")
    parts += _text(left, TOP + ROWS * CELL + 20, "(W + 3 W0) / 4:")
    parts += _text(left, TOP + ROWS * CELL + 36, "a plain adapter")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _matrix(
    left: float, owners: list[list[int]], colour: Callable[[int], str], letters: str, scale: float = 1
) -> Iterator[str]:
    side = CELL * scale
    for row, experts in enumerate(owners):
        for column, expert in enumerate(experts):
            x, y = left + column * side, TOP + row * side
            yield (
                f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" fill="{colour(expert)}" '
                'stroke="#ffffff" stroke-width="1"/>'
            )
            if letters:
                yield (
                    f'<text x="{x + side / 2:g}" y="{y + side / 2 + 3:g}" font-size="8" fill="#ffffff" '
                    f'text-anchor="middle">{letters[expert]}</text>'
                )


def _text(x: float, y: float, text: str, bold: bool = False, colour: str = INK) -> Iterator[str]:
    weight = ' font-weight="bold"' if bold else ""
    yield f'<text x="{x:g}" y="{y:g}" fill="{colour}"{weight}>{text}</text>'


if __name__ == "__main__":
    OUTPUT.write_text(draw(), encoding="utf-8")
