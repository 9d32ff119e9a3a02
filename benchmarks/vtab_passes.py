"""What a run on each task of VTAB-1k costs in image-passes, against the schedule common in public code.

    python benchmarks/vtab_passes.py

Ours: 100 epochs of the 1000 training images, and test once, after the last. The common one evaluates val and
test after every epoch (and reports the best). A method of two passes takes each training image twice; the
common code evaluates twice too. Counted from the sizes of the splits, nothing is run.
"""

from statistics import fmean

from mosa.data.catalogue import get_task, list_tasks

EPOCHS = 100


def main() -> None:
    print(f"{'task':24} {'test':>7} {'ours':>9} {'common':>11} {'ours / common':>14} {'two passes':>11}")
    ratios = {1: [], 2: []}
    for name in list_tasks("vtab1k"):
        sizes = get_task(f"vtab1k/{name}").sizes
        train, val, test = sizes["train"] + sizes["val"], sizes["val"], sizes["test"]
        for passes in ratios:
            ours = EPOCHS * train * passes + test
            common = EPOCHS * passes * (train + val + test)
            ratios[passes].append(ours / common)
            if passes == 1:
                row = f"{name:24} {test:7,} {ours:9,} {common:11,}"
        print(f"{row} {ratios[1][-1]:14.3f} {ratios[2][-1]:11.3f}")
    print(f"{'mean of the ratios':54} {fmean(ratios[1]):14.3f} {fmean(ratios[2]):11.3f}")


if __name__ == "__main__":
    main()
