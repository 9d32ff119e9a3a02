"""Memory of a training step of ViT-B, -L and -H at 224 pixels, and the images of a step that fit a card.

    python benchmarks/memory.py

Counted by `mosa.engine.cost.memory` without computing, which agrees with torch's profiler
(tests/unit/test_memory.py); `mosa memory --configfile FILE` does the same for the variants of a config.
CUDA's context and workspaces come on top, for which 1 GiB of a card is left. "kept": gradient
checkpointing off; "again": on.
"""

from mosa.backbones.build import build_backbone
from mosa.engine.cost.memory import CARDS, RESERVED, fitting
from mosa.engine.machine import Machine
from mosa.experiment.recipe import Recipe
from mosa.peft import attach

ARCHITECTURES = ("vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224")
METHODS = ("linear", "lora", "adapter", "mosa", "full")
BATCHES = (32, 64)


def main() -> None:
    heads = [*(f"GiB at {batch}" for batch in BATCHES), *(f"{card} GB" for card in CARDS)]
    print(f"{'':22} {'':8} {'':9} {'activations':>11}" + "".join(f"{head:>10}" for head in heads))
    for architecture in ARCHITECTURES:
        for method in METHODS:
            model, backbone = build_backbone(architecture, "random", 100)
            attach(model, method)
            for precision in ("float32", "bfloat16"):
                for again in (False, True):
                    recipe, machine = (
                        Recipe(precision=precision),
                        Machine(gradient_checkpointing=again),
                    )
                    size_of, images_in = fitting(model, backbone.image_size, recipe, machine)
                    cells = [f"{size_of(batch) / 2**30:.1f}" for batch in BATCHES]
                    cells += [f"{images_in(1e9 * card - RESERVED * 2**30):,}" for card in CARDS]
                    kept = "again" if again else "kept"
                    line = f"{architecture:22} {method:8} {precision:9} {kept:>11}"
                    print(line + "".join(f"{cell:>10}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
