"""Draw docs/images/demo-tasks.png: ten test images of every demo task, of different classes.

python benchmarks/demo_sheet.py
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from mosa.data.catalogue import get_task, list_tasks
from mosa.data.demo import render_splits

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "demo-tasks.png"
COLUMNS = 10


def main() -> None:
    tasks = [get_task(f"demo/{name}") for name in list_tasks("demo")]
    figure, rows = plt.subplots(len(tasks), COLUMNS, figsize=(8.4, 5.6), layout="constrained")
    for task, row in zip(tasks, rows, strict=True):
        images, labels = render_splits(task)["test"]
        classes = np.linspace(0, task.num_classes - 1, COLUMNS).round().astype(int)
        for i, (axis, label) in enumerate(zip(row, classes, strict=True)):
            members = np.flatnonzero(labels == label)
            axis.imshow(images[members[i % len(members)]])
            axis.set(xticks=[], yticks=[])
            axis.set_title(str(label), fontsize=6, pad=2)
        row[0].set_ylabel(task.name, rotation=0, ha="right", va="center", fontsize=9)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUTPUT, dpi=200, metadata={"Software": None})
    print(OUTPUT)


if __name__ == "__main__":
    main()
