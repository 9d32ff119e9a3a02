"""`mosa init`: a config to start from, which loads, and says what was found."""

import os
import shutil

import pytest
import yaml
from click.testing import CliRunner
from test_own import images

from mosa.base.errors import UserError
from mosa.cli.commands import cli
from mosa.data.formats import count_own
from mosa.experiment.config import config_tasks, read_config
from mosa.experiment.starter import write_config


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, data=None, **options):
    """The config that is written, as text and loaded."""
    path = write_config(folder, data, **options).path
    return path.read_text(), read_config(path)


def test_images_in_folders_of_classes(here):
    images(here / "My pets", "cat", "dog", number=12)
    text, config = written(here, here / "My pets")
    assert "# found 24 images of 2 classes: train 18, val 2, test 4\n" in text
    assert "#   test: 4 images held out of train, 20% of each class, seed 0\n" in text
    assert "#       12  cat\n#       12  dog\n" in text
    (task,) = config["tasks"]
    assert (task, config["tasks"][task]["root"]) == ("my_pets", "My pets")  # relative: it can be moved
    assert count_own(config_tasks(config)[0]) == {"train": 18, "val": 2, "test": 4}
    assert config["tune"]["folds"] == 3 and "Val has 2 images, too few" in text
    assert config["training"]["epochs"] == 30
    notes = write_config(here, here / "My pets", force=True).notes
    assert notes[-1].startswith("warning: test has 4 images: one more right is 25.0 points, and variants")
    assert set(config["tune"]["variants"]) == set(config["variants"])


def test_a_class_without_images_is_counted_as_the_run_counts_it(here):
    images(here / "pets", "cat", "dog", number=12)
    (here / "pets" / "eel").mkdir()
    found, *_, warning, _ = write_config(here, here / "pets").notes
    assert found == "found 24 images of 3 classes: train 18, val 2, test 4"
    assert warning.endswith("no training image of 1 of 3 classes ('eel')")


def test_splits_are_recognised_and_the_rest_follows_from_the_numbers(here):
    for split, number in {"Training": 600, "valid": 120, "test": 5}.items():
        for name in ("a", "b"):
            (here / "data" / split / name).mkdir(parents=True)
            for index in range(number):
                (here / "data" / split / name / f"{split}{index}.png").touch()
    (here / "data/test/b/more.png").touch()
    text, config = written(here / "work", here / "data")
    assert "found 1,451 images of 2 classes: train 1,200, val 240, test 11" in text
    assert config["training"]["epochs"] == 8 and config["tune"]["folds"] is None  # some 10,000 images a run
    ((task, entry),) = config["tasks"].items()
    assert task == here.name and entry["metric"] == "top1"  # "data" would be no name
    assert entry["root"] == str(here / "data")  # elsewhere: absolute


def test_a_csv_is_found_alone_or_in_its_folder_and_lists_by_their_names(here):
    images(here / "birds" / "photos", "", number=9)
    rows = [f"photos/{number}.png,{'owl' if number < 7 else 'tit'}" for number in range(9)]
    (here / "birds.csv").write_text("\n".join(["path,label", *(f"birds/{row}" for row in rows)]))
    text, config = written(here, here / "birds.csv")
    assert config["tasks"]["birds"]["layout"] == "csv" and "metric: mean_per_class  # since" in text
    (here / "birds" / "train.txt").write_text("\n".join(f"photos/{n}.png {n % 2}" for n in range(9)))
    _, config = written(here, here / "birds", force=True)
    assert config["tasks"]["birds"]["layout"] == "lists"


def test_many_classes_are_summed_up_and_names_stay_in_their_comment(here):
    for number in range(30):
        images(here / "many", f"c{number:02}", number=3 + (number < 20))
    images(here / "many", "evil\nname: x", number=4)
    text, _ = written(here, here / "many")
    assert "and 11 smaller classes, of 3 to 4 images" in text
    for number in range(20, 30):
        shutil.rmtree(here / "many" / f"c{number}")
    assert "and 1 smaller class, of 4 images" in written(here, here / "many", force=True)[0]
    assert all(line.startswith("#") for line in text.partition("\nname:")[0].splitlines())


def test_names_that_yaml_would_take_for_something_else(here):
    for name in ("yes", "[a, b]: #c", "Größe 1", "2024"):
        images(here / name, "x", "y", number=4)
        _, config = written(here / "work", here / name, force=True)
        ((task, entry),) = config["tasks"].items()
        assert entry["root"] == str(here / name) and task == task.lower()


def test_what_cannot_be_used_is_refused_and_nothing_is_written(here):
    images(here / "one", "cat", number=4)
    (here / "one" / "dog").mkdir()
    (here / "one" / "dog" / "1.heic").touch()
    (here / "file.txt").touch()
    for data, words in (
        (here / "nowhere", "no such folder"),
        (here / "one", r"of one class only .*; 'dog/1.heic': not read \(1 .heic\); images end in"),
        (here / "file.txt", "expected a folder of images, or a CSV"),
    ):
        with pytest.raises(UserError, match=words):
            write_config(here, data)
    images(here / "two", "cat", "dog", number=4)
    for inside in (here / "two", here / "two" / "work"):
        with pytest.raises(UserError, match="where results would be taken for a class"):
            write_config(inside, here / "two")
    assert not list(here.rglob("*.yaml"))


def test_a_config_is_overwritten_by_force_only(here):
    (here / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"is there already; .* --force"):
        write_config(here)
    assert (here / "config.yaml").read_text() == "mine"
    text, config = written(here, force=True)
    assert config["name"] == "demo-quick" and os.path.isfile(text.partition("$schema=")[2].split()[0])


def test_the_command_says_what_was_found_and_what_comes_next(here):
    images(here / "pets", "cat", "dog", number=12)
    told = CliRunner().invoke(cli, ["init", "--own-data", "pets"])
    assert told.output.startswith("found 24 images of 2 classes") and told.output.endswith("next: mosa run\n")
    told = CliRunner().invoke(cli, ["init", "pets"])
    assert told.output.startswith("warning: pets: holds images (") and "and --own-data pets\n" in told.output
    told = CliRunner().invoke(cli, ["init", "a b"])
    assert told.output.endswith("next: cd 'a b' && mosa run\n")
    assert yaml.safe_load((here / "a b" / "config.yaml").read_text())["name"] == "demo-quick"
