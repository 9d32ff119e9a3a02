"""The workflow away from its repository: in another folder, as a module, by `mosa run`, out of a wheel."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from forked import run_snakemake
from standin import image, save
from workspace import CONFIG, ROOT

from mosa.base.errors import UserError
from mosa.base.files import WORKFLOW
from mosa.cli import launch
from mosa.records import load_record

pytestmark = pytest.mark.slow
TINY = CONFIG | {
    "benchmarks": {"demo": ["digits"]},
    "seeds": [0],
    "variants": {"linear": {"method": "linear"}},
}
PARTS = ("Snakefile", "config.yaml", "rules", "envs", "profiles", "configs", "report")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with a config that is not called config.yaml, as the working directory."""
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# With snakemake


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (["-s", ROOT / "Snakefile", "--configfile", "my.yaml"], "."),
        (["-s", ROOT / "workflow" / "Snakefile", "--configfile", "my.yaml", "-d", "there"], "there"),
    ],
)
def test_snakemake_runs_the_workflow_in_any_folder(folder, options, place):
    result = run_snakemake(folder, *options, "-n", "--quiet", "rules")
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r"^train +1$", result.stdout + result.stderr, re.MULTILINE)
    assert "profiles/default" in result.stderr  # of the repository
    assert len(list((folder / place / "results/specifications").iterdir())) == 1
    assert {path.name for path in folder.iterdir()} <= {"my.yaml", "results", ".snakemake", "there"}


MODULE = """
configfile: "outer.yaml"

module bench:
    snakefile: "{snakefile}"
    config: config["bench"]
{more}
use rule * from bench as bench_*

rule mine:
    default_target: True
    input: "results/tables/comparison.txt"
    output: "mine.txt"
    shell: "cp {{input}} {{output}}"
"""


def use_as_module(folder, *options, snakefile=ROOT / "Snakefile", more="", bench=TINY):
    (folder / "Snakefile").write_text(MODULE.format(snakefile=snakefile, more=more))
    (folder / "outer.yaml").write_text(yaml.safe_dump({"name": "outer", "seeds": ["x"], "bench": bench}))
    return run_snakemake(folder, *options, "-n", "--quiet", "rules")


def test_another_workflow_uses_it_as_a_module(folder):
    """With a part of its config, its own targets, and its own command line."""
    result = use_as_module(folder, "mine")
    assert result.returncode == 0, result.stderr[-2000:]
    found = dict(re.findall(r"^(\w+) +(\d+)$", result.stdout + result.stderr, re.MULTILINE))
    names = ("make_data", "train", "collect", "write_tables")
    assert found == {f"bench_{name}": "1" for name in names} | {"mine": "1", "total": "5"}
    result = use_as_module(folder, "mine", "--config", "bench={seeds: [0, 1]}")  # numbers, not texts
    assert re.search(r"^bench_train +2$", result.stdout + result.stderr, re.MULTILINE), result.stderr[-2000:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more": '    prefix: "sub"'}, "takes no prefix; set paths.results"),
        ({"bench": TINY | {"seeds": [1, 1]}}, "seeds: 1 is listed twice"),
    ],
)
def test_a_module_that_cannot_work_is_refused(folder, change, words):
    result = use_as_module(folder, **change)
    output = result.stdout + result.stderr
    assert result.returncode != 0 and re.search(words, output) and "outer.yaml, line" not in output


# With mosa run


def line(*words, files=()):
    return launch.command_line(words, [Path(file) for file in files])


def test_mosa_run_hands_on_what_snakemake_takes(folder):
    words = ["tables", "-n", "--config", "seeds=[1]"]
    given = line(*words, files=["my.yaml"])
    snakefile = str(WORKFLOW / "Snakefile")
    assert given == ["--configfile", "my.yaml", "--snakefile", snakefile, *words]  # cores: of the profile
    assert line("--forcerun", "train", "--", "tables", files=["my.yaml"])[-4:] == [
        *("--forcerun", "train", "--", "tables"),
    ]
    without = line("--workflow-profile", "none", files=["my.yaml"])
    assert without[2:4] == ["--cores", "all"]
    assert "--cores" not in line("--workflow-profile", "none", "-c", "1", files=["my.yaml"])[:4]


def test_mosa_run_finds_the_configs_and_profiles_of_the_package(folder):
    base, overlay = WORKFLOW / "config.yaml", WORKFLOW / "configs/demo-tune.yaml"
    given = line("-n", files=["configs/demo-tune.yaml"])
    assert given[:3] == ["--configfile", str(base), str(overlay)]
    assert str(WORKFLOW / "profiles/local-gpu") in line("--profile", "profiles/local-gpu", files=["my.yaml"])
    shutil.copy("my.yaml", "config.yaml")
    assert "--configfile" not in line("-n")  # Snakemake reads ./config.yaml
    assert "--configfile" not in line("-n", files=["config.yaml"])
    last = ["my.yaml", "config.yaml"]  # named last, it counts most, as for Snakemake
    assert line("-n", files=last)[:3] == ["--configfile", *last]
    words = r"demo-tune.yaml, line 22: tune.variants.full: unknown variant .*is merged over config.yaml here"
    with pytest.raises(UserError, match=words):
        line("-n", files=["configs/demo-tune.yaml"])  # merged over ./config.yaml


@pytest.mark.parametrize(
    ("words", "files", "message"),
    [
        ([], [], r"config.yaml: no such config; `mosa init` writes one"),
        ([], ["configs/vtab.yaml"], r"configs/vtab.yaml: no such config; did you mean 'configs/vtab1k.yaml'"),
        (["--config", "training.lr=0.1"], ["my.yaml"], r"without a dot; write 'training=\{lr: 0.1\}'"),
        (
            ["--config", "seeds=[1]", "tables"],
            ["my.yaml"],
            r"--config tables: expected KEY=VALUE; targets go",
        ),
        (["--config", "sedes=[1]"], ["my.yaml"], r"unknown key 'sedes'.*did you mean 'seeds'"),
        (["--corse", "1"], ["my.yaml"], r"unrecognized arguments: --corse; did you mean '--cores'"),
        (["--cores", "x"], ["my.yaml"], r"snakemake does not take this: .*must be integer or 'all'"),
        (["--set-resources", "train=4h"], ["my.yaml"], r"train=4h: expected RULE:NAME=VALUE, such as"),
        (
            ["--default-resources", "a=b", "tables"],
            ["my.yaml"],
            r"resources tables: expected NAME=V",
        ),
        (["--profile", "profiles/slrm"], ["my.yaml"], r"does not take this: profile directory given"),
        (["-s", "other"], ["my.yaml"], r"--snakefile: `mosa run` has its own"),
        (["my.yaml"], ["my.yaml"], r"my.yaml is a config, and no target; give --configfile before it"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(folder, words, files, message):
    with pytest.raises(UserError, match=message) as caught:
        line(*words, files=files)
    assert "\n" not in str(caught.value)


# Out of a wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is made of."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in ("mosa", "setup.py", "pyproject.toml", "README.md", "LICENSE", *PARTS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta\nbuild_meta.build_wheel('dist')"
    (source / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next((source / "dist").glob("*.whl"))


def make_images(root):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(12):
            save(root / name / f"{number}.png", image(rng))


def call(folder, *command, **environment):
    """Run a command, and return what it printed."""
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_wheel_has_the_workflow_and_plans_with_it(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    packed = site / "mosa" / "workflow"
    files = [path for name in PARTS for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file()]
    assert {path.relative_to(packed) for path in packed.rglob("*") if path.is_file()} == {
        path.relative_to(ROOT) for path in files
    }
    assert all((packed / path.relative_to(ROOT)).read_bytes() == path.read_bytes() for path in files)
    work = tmp_path / "work"
    make_images(work / "pets")
    mosa, python_path = [sys.executable, "-m", "mosa.cli"], {"PYTHONPATH": str(site)}
    call(work, *mosa, "init", "--own-data", "pets", **python_path)
    told = call(work, *mosa, "run", "-n", "--quiet", "rules", **python_path)
    assert re.search(r"^train +15$", told, re.MULTILINE) and re.search(r"^search +5$", told, re.MULTILINE)
    assert str(packed / "profiles/default") in told


@pytest.mark.thorough
def test_a_wheel_alone_takes_own_images_to_a_report(wheel, tmp_path):
    """In an environment that has the wheel, and of this one the libraries, but not this checkout."""
    home, work = tmp_path / "environment", tmp_path / "work"
    venv.create(home, symlinks=True)
    python, mosa = home / "bin" / "python", home / "bin" / "mosa"
    call(
        tmp_path,
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
    )
    library = next(home.glob("lib/python*/site-packages"))
    (library / "others.pth").write_text(
        f"{Path(np.__file__).parents[1]}\n"
    )  # a path, whose own .pth are not read
    alone = {"PYTHONPATH": "", "PATH": "/usr/bin:/bin"}
    found = call(tmp_path, python, "-c", "import mosa; print(mosa.__file__)", **alone)
    assert found.strip() == str(library / "mosa" / "__init__.py")

    make_images(work / "pets")
    assert "next: mosa run" in call(work, mosa, "init", "--own-data", "pets", **alone)
    others = "{full: null, adapter: null, lora: null}"
    small = ["seeds=[0]", "training={epochs: 1, warmup_epochs: 0}", f"variants={others}"]
    small.append(f"tune={{extend: 0, folds: null, variants: {others}}}")
    call(work, mosa, "run", "--config", *small, **alone)
    records = [load_record(path) for path in (work / "results/runs").rglob("*.json")]
    assert {record["specification"]["variant"] for record in records} == {"linear", "mosa"}
    assert "mosa" in (work / "results/tables/comparison.txt").read_text()
    assert "lr" in (work / "results/tables/chosen.md").read_text()
    assert "pets" in (work / "results/report.html").read_text()
    assert "Nothing to be done" in call(work, mosa, "run", "-n", "--config", *small, **alone)
