"""Tables and plots of predictions: worked by hand, paired by seed, and what is lacking is said."""

import numpy as np
import pytest
from test_records import make_record

from mosa.base.errors import UserError
from mosa.data.predictions import write_images, write_predictions
from mosa.data.task import kept_path
from mosa.records import seal, write_record
from mosa.results.aggregate import Results, compare
from mosa.results.answers import NOTHING, answers, matrix, pairs
from mosa.results.frame import load_records, read_table, write_table
from mosa.results.plots.per_image import agreement_figure, confusion_figure, reliability_figure
from mosa.results.registry import registered
from mosa.results.tables.agreement import mcnemar_table
from mosa.results.tables.classes import (
    _classes_text,
    _confused_text,
    _intervals_text,
    classes_table,
    confused_table,
    intervals_table,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])
# Of task and variant, the predicted classes by seed.
SAID = {
    "digits": {
        "adapter": [[0, 0, 1, 1, 1, 1, 0, 2], [0, 0, 1, 0, 1, 1, 0, 2]],
        "mosa": [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 2]],
    },
    "count": {"adapter": [[0, 0, 0, 0, 1, 1, 1, 2]]},
}


def write(folder, task, variant, seed, predicted, labels=LABELS, sure=2.0):
    """Write a record with predictions, and return its path; None: it has none."""
    path = folder / f"runs/demo/{task}/micro_vit/{variant}/seed{seed}.json"
    record = make_record(task=task, variant=variant, method=variant, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    if predicted is not None:
        images = folder / "runs/demo" / task
        images.mkdir(parents=True, exist_ok=True)
        names = write_images(
            images, [f"{number}.png" for number in range(len(labels))], ["cat", "dog", "newt"]
        )
        logits = sure * np.eye(3, dtype=np.float32)[predicted]
        digest = write_predictions(
            kept_path(path, "predictions"), "test", logits, labels, images=images / names
        )
        record["kept"] = {"predictions": digest, "model": None, "images": f"../../{names}"}
    write_record(seal(record), path)
    return path


@pytest.fixture
def paths(tmp_path):
    found = [
        write(tmp_path, task, variant, seed, predicted)
        for task, variants in SAID.items()
        for variant, seeds in variants.items()
        for seed, predicted in enumerate(seeds)
    ]
    return [*found, write(tmp_path, "count", "mosa", 0, None)]


@pytest.fixture
def section(paths):
    return compare(load_records(paths), ["adapter", "mosa"])[0]


def rows(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table.to_dict("records")


def test_accuracy_by_class_is_a_mean_over_seeds(section):
    table = classes_table([section])
    found = {
        row["class"]: (row["images"], row["accuracy"]) for row in rows(table, task="digits", variant="mosa")
    }
    assert found == {"cat": (4, 100.0), "dog": (3, pytest.approx(100 * (2 / 3 + 1) / 2)), "newt": (1, 50.0)}


def test_intervals_are_over_images(section):
    (row,) = rows(intervals_table([section]), task="count", variant="adapter")
    assert (row["images"], row["seeds"], row["accuracy"]) == (8, 1, 100.0)
    assert (row["bootstrap_low"], row["bootstrap_high"], row["wilson_high"]) == (100, 100, 100)
    assert row["wilson_low"] == pytest.approx(100 * 8 / (8 + 1.959964**2), abs=1e-4)
    (row,) = rows(intervals_table([section]), task="digits", variant="mosa")
    assert row["accuracy"] == 100 * 14 / 16 and row["bootstrap_low"] < row["accuracy"]


def test_an_accuracy_is_printed_as_in_the_table_of_means(tmp_path):
    """28.75 = (25 + 32.5) / 2 %, which a mean over all answers misses by its last bit."""
    labels = np.zeros(40, np.int32)
    for seed, right in enumerate((10, 13)):
        write(tmp_path, "digits", "adapter", seed, (np.arange(40) >= right).astype(int), labels)
    (section,) = compare(load_records(sorted(tmp_path.rglob("seed*.json"))))
    printed = section.metric.shown((25 + 32.5) / 2)
    assert f"{100 * (23 / 80):.1f}" != printed  # or nothing is tested
    assert f"| adapter | {printed} " in "\n".join(_intervals_text(section))
    assert f"| cat | 40 | {printed} |" in "\n".join(_classes_text(section))


def test_the_most_confused_pair_has_its_images(section):
    first, *_ = rows(confused_table([section]), task="digits", variant="adapter")
    assert (first["class"], first["predicted"], first["images"]) == ("cat", "dog", 1.5)
    assert first["share"] == pytest.approx(100 * 3 / 8) and first["which"] == "2.png; 3.png"


def test_a_variant_that_lacks_seeds_is_not_called_the_best_and_says_so(tmp_path):
    right = np.where(np.arange(8) < 7, LABELS, 0)
    found = [write(tmp_path, "digits", "adapter", seed, right) for seed in (0, 1)]
    found.append(write(tmp_path, "digits", "lora", 0, LABELS))
    frame = load_records(found)
    (section,) = compare(frame)
    made = {output.name: make(Results(frame)) for output, make in registered("tables") if output.name in OURS}
    assert "**digits**, adapter" in made["confused"]["md"]
    cell = next(line for line in made["intervals"]["md"].splitlines() if line.startswith("| lora"))
    assert "] (n=1) |" in cell and made["intervals"]["md"].count("(n=") == 1
    assert "| lora (n=1) |" in made["classes"]["md"]
    assert "lora + adapter (n=1) |" in made["agreement"]["md"] and "fewer than 2" in made["agreement"]["md"]
    assert "The pair, accuracy" in made["agreement"]["md"] and "chosen on" not in made["agreement"]["md"]
    for name in ("confused", "intervals", "classes"):
        assert "Not ranked, as seeds are missing: lora (has 0)." in made[name]["md"], name
    (part,) = confusion_figure(Results(frame)).subfigs
    assert part.axes[0].get_title().startswith("digits: adapter, 87.5 %")
    other = [write(tmp_path, "digits", "lora", 1, LABELS), write(tmp_path, "digits", "mosa", 2, LABELS)]
    (section,) = compare(load_records([*found[1:], other[1]]))
    assert answers(section).tasks[0].best is None
    assert "no variant has all seeds" in "\n".join(_confused_text(section))
    results = Results(load_records([*found[1:], other[1]]))
    assert "no variant" in confusion_figure(results).subfigs[0].axes[0].get_title()


def test_mcnemar_is_paired_by_seed(section):
    """Seed 0: mosa alone is right on images 2 and 3, adapter alone on 7; seed 1: on 2 and 6, and none."""
    found = {row["seed"]: row for row in rows(mcnemar_table([section]), variant="mosa")}
    assert {seed: (row["only_variant"], row["only_reference"]) for seed, row in found.items()} == {
        0: (2, 1),
        1: (2, 0),
    }
    assert found[0]["p"] == 1 and found[1]["p"] == 0.5 == found[1]["smallest_p"]
    assert found[1]["reference"] == "adapter" and found[1]["task"] == "digits"


def test_agreement_and_gains_are_per_seed_then_averaged(section):
    (row,) = rows(pairs(section), variant="adapter", other="mosa")
    # Mistakes of seed 0: {2, 3, 6} and {6, 7}; of seed 1: {2, 6} and none.
    assert row["shared_mistakes"] == pytest.approx(100 * (1 / 4 + 0) / 2)
    assert row["better"] == 100 * (6 / 8 + 1) / 2 and row["oracle"] == 100 * (7 / 8 + 1) / 2
    assert row["oracle_gain"] == row["oracle"] - row["better"]
    (itself,) = rows(pairs(section), variant="adapter", other="adapter", task="digits")
    assert itself["seeds"] == 1 and itself["shared_mistakes"] == pytest.approx(100 * 2 / 3)
    assert np.isnan(itself["ensemble"])
    table = matrix(section, "shared_mistakes")
    assert table.loc["mosa", "adapter"] == table.loc["adapter", "mosa"] == row["shared_mistakes"]


def test_an_ensemble_follows_the_surer_one(tmp_path):
    """On image 0 both err in turn: the right one is surer, so the average is right."""
    said = {"adapter": ([1, 0, 0, 0, 1, 1, 1, 2], 1.0), "mosa": ([0, 0, 0, 0, 1, 1, 1, 0], 3.0)}
    paths = [write(tmp_path, "digits", name, 0, *pair[:1], sure=pair[1]) for name, pair in said.items()]
    (row,) = rows(pairs(compare(load_records(paths))[0]), variant="adapter", other="mosa")
    assert (row["better"], row["oracle"]) == (87.5, 100) and row["ensemble_gain"] == 0


def test_what_is_lacking_is_said(section, paths, tmp_path):
    assert "as they kept no predictions: 1 of 6 runs; `mosa plan` names them" in answers(section).note
    kept_path(paths[0], "predictions").unlink()
    assert "2 of 6 runs" in answers(compare(load_records(paths))[0]).note
    bare = load_records([write(tmp_path / "bare", "digits", "mosa", 0, None)])
    assert answers(compare(bare)[0]).note == NOTHING
    assert answers(compare(bare.drop(columns=["predictions_sha256"]))[0]).note == NOTHING


def test_other_predictions_and_other_images_are_refused(paths, tmp_path):
    write(tmp_path, "digits", "mosa", 1, [0] * 8, labels=LABELS[::-1])
    with pytest.raises(UserError, match="digits: the predictions of mosa seed 1 are of other images"):
        answers(compare(load_records(paths))[0])
    kept_path(paths[0], "predictions").write_bytes(b"damaged")
    with pytest.raises(UserError, match="not the predictions of the record beside it"):
        answers(compare(load_records(paths))[0])


OURS = ("agreement", "classes", "confused", "intervals", "mcnemar")


def test_tables_are_the_same_from_records_in_any_order_and_from_their_csv(paths, tmp_path):
    write_table(load_records(paths), tmp_path / "runs.csv")
    frames = [load_records(paths), load_records(paths[::-1]), read_table(tmp_path / "runs.csv")]
    made = [
        {output.name: make(Results(frame)) for output, make in registered("tables") if output.name in OURS}
        for frame in frames
    ]
    assert made[0] == made[1] == made[2] and set(made[0]) == set(OURS)
    for name, text in made[0].items():
        assert "1 of 6 runs" in text["md"] and text["csv"].count("\n") > 1, name
    bare = Results(load_records([write(tmp_path / "bare", "digits", "mosa", 0, None)]))
    for output, make in registered("tables"):
        if output.name in OURS:
            text = make(bare)
            assert NOTHING in text["md"] and text["csv"].count("\n") == 1, output.name


@pytest.mark.parametrize("draw", [confusion_figure, reliability_figure, agreement_figure])
def test_plots_show_what_there_is_or_that_there_is_nothing(draw, paths, tmp_path):
    figure = draw(Results(load_records(paths)))
    panels = [axes for part in figure.subfigs for axes in part.axes if axes.axison]
    assert len(panels) == (1 if draw is agreement_figure else 2)
    (bare,) = draw(Results(load_records([write(tmp_path / "bare", "digits", "mosa", 0, None)]))).subfigs
    assert bare.axes[0].texts[0].get_text() == "no predictions were kept"
