"""Draw docs/images/pretraining-curve.png: the training curve that is shipped with the weights.

python benchmarks/pretraining_curve.py
"""

import json
from pathlib import Path

from matplotlib import pyplot as plt

from mosa.backbones.build import ASSETS

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "pretraining-curve.png"
STYLES = {  # from the palette of Okabe and Ito
    "shape": ("#0072B2", "-"),
    "small_shape": ("#56B4E9", "--"),
    "texture": ("#D55E00", "-"),
    "fill_texture": ("#E69F00", "--"),
    "background_hue": ("#009E73", "-"),
    "hue": ("#CC79A7", "--"),
}


def main() -> None:
    curve = json.loads((ASSETS / "micro_vit.json").read_text())["curve"]
    seen = [point["images"] / 1e6 for point in curve]
    figure, axis = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for head, (colour, line) in STYLES.items():
        accuracy = [point[f"{head}_top1"] for point in curve]
        axis.plot(seen, accuracy, line, color=colour, label=head.replace("_", " "))
    difficulty = [100 * point["difficulty"] for point in curve]
    axis.fill_between(seen, difficulty, color="0.93", label="greatest difficulty, %")
    axis.set(xlabel="pictures seen, millions", ylabel="top-1, %", ylim=(0, 100), xlim=(0, seen[-1]))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUTPUT, dpi=200, metadata={"Software": None})
    print(OUTPUT)


if __name__ == "__main__":
    main()
