"""An experiment as the workflow sees it: which files there are to make, from what, and which are stale.

The head process makes it from the config, and freezes it: whatever happens to the config afterwards, the jobs
that wait in a queue read what was frozen. What is stale is decided by what lies on disk, not by what
Snakemake remembers: a record names its specification, and a table what it was made from.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mosa.base.errors import UserError, unreadable
from mosa.data.task import OWN, Task
from mosa.experiment.expand import (
    Identities,
    Run,
    config_tasks,
    display_names,
    expand,
    identify,
    left_out,
)
from mosa.experiment.load import load_config
from mosa.experiment.manifest import (
    Meant,
    digest_of_collected,
    peek,
    with_choice,
    write_by_content,
    write_manifest,
)
from mosa.experiment.outputs import Output
from mosa.experiment.plugins import checked_by, references, relative_to, shown
from mosa.experiment.protocol import PRESETS
from mosa.experiment.space import TOP1, metric_of, search_path, search_settings
from mosa.experiment.specification import Specification
from mosa.experiment.stale import told, why_stale

FROZEN = "MOSA_EXPERIMENT"  # the environment variable that hands the frozen experiment on to the jobs
_CHECKED = ("name", "protocol", "paths", "tasks", "benchmarks", "backbones", "packing", "variants", "sweeps")


class Workflow:
    """What the rules ask for.

    Args:
        config: A loaded config.
        identities: What lies on disk, by content.

    Attributes:
        results: The results folder, as text.
        runs: Every run, by the path of its record.
        tasks: Every task, by its full name.
    """

    def __init__(self, config: dict[str, Any], identities: Identities) -> None:
        self.config, self.identities = config, identities
        self.results = Path(config["paths"]["results"]).as_posix()
        self.packs = Path(config["paths"]["packs"]).as_posix()
        self.tasks = {task.full_name: task for task in config_tasks(config)}
        found = expand(config, identities)
        self.runs: dict[str, Run] = {f"{self.results}/{run.path}": run for run in found}
        self._places: dict[str, Run] = {}
        for run in found:
            self._places.setdefault(run.specification.folder, run)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        files: Iterable[str | Path] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> "Workflow":
        """Load a config, and look at what lies on disk; arguments as for `load_config`."""
        return cls.of(load_config(config, files, overrides))

    @classmethod
    def of(cls, loaded: dict[str, Any]) -> "Workflow":
        """Look at what lies on disk for a loaded config."""
        return cls(loaded, identify(loaded))

    @classmethod
    def from_frozen(cls, path: str | None) -> "Workflow":
        """Read a frozen experiment.

        Raises:
            UserError: There is none, or it cannot be read.
        """
        if not path:
            raise UserError(
                f"{FROZEN} is not set in the environment of this job, so what it was meant to do is not "
                "known; let the cluster pass the environment of the head process on (Slurm: --export=ALL)"
            )
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(content["config"], Identities(**content["identities"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: the frozen experiment cannot be read ({unreadable(error)}); run the workflow again"
            ) from None

    def freeze(self) -> Path:
        """Write the experiment into a file that is named by its content."""
        content = {"config": self.config, "identities": asdict(self.identities)}
        return write_by_content(self._manifests, "experiment-", "json", json.dumps(content, indent=1) + "\n")

    @property
    def _manifests(self) -> Path:
        return Path(self.results) / "manifests"

    @cached_property
    def manifest(self) -> str:
        """The manifest of the records, and with it the specifications; written where their content is new."""
        variants, name = list(self.config["variants"]), self.config["name"]
        about = left_out(self.config), display_names(self.config), self.config["reference"]
        return write_manifest(self.runs.values(), Path(self.results), variants, name, *about).as_posix()

    @cached_property
    def shown_config(self) -> str:
        """The config with every default filled in, for the report to show."""
        config = self.config | {"plugins": shown(self.config["plugins"])}
        if not config["plugins"]:
            del config["plugins"]
        text = yaml.safe_dump(config, sort_keys=False)
        return write_by_content(self._manifests, "config-", "yaml", text).as_posix()

    @cached_property
    def checked_config(self) -> str | None:
        """What of the config is to be checked; None: all of it comes with the package, as for the demo."""
        backbones = self.config["backbones"].values()
        shipped = all(
            entry["architecture"] == "mosa_vit_micro" and entry["weights"] in ("builtin", "random")
            for entry in backbones
        )
        deciding, needed = checked_by(self.config["plugins"])
        if shipped and not deciding and not any(task.on_disk for task in self.tasks.values()):
            return None
        checked = {name: self.config[name] for name in _CHECKED} | {"seeds": self.config["seeds"][:1]}
        checked["variants"] = {
            name: {key: value for key, value in variant.items() if key != "display_name"}
            for name, variant in checked["variants"].items()
        }
        content = json.dumps(asdict(self.identities), sort_keys=True)
        if needed:
            content += f", and plugins {[one['sha256'] for one in deciding]}"
            checked["plugins"] = relative_to(needed, self._manifests)
            checked["tasks"] = {
                name: {key: value for key, value in task.items() if key != "reader"}
                for name, task in checked["tasks"].items()
            }
        text = f"# What lies on disk: {content}\n{yaml.safe_dump(checked, sort_keys=False)}"
        return write_by_content(self._manifests, "data-", "yaml", text).as_posix()

    def at(self, benchmark: str, task: str, backbone: str, variant: str) -> Run:
        """Return the first run of a variant; its specification is that of all seeds."""
        return self._places[f"runs/{benchmark}/{task}/{backbone}/{variant}"]

    def specification_file(self, run: Run) -> str:
        """Return the path of a run's specification."""
        return f"{self.results}/specifications/{run.specification.digest[:16]}.json"

    @cached_property
    def packed(self) -> dict[str, Specification]:
        """A specification that uses it, for each pack by its path below the folder of packs."""
        return {run.specification.data.pack: run.specification for run in self._places.values()}

    def pack_options(self, pack: str) -> list[str]:
        """Return how a pack is made, as options of `mosa make-data`."""
        specification = self.packed[pack]
        task: Task = self.tasks[specification.task]
        if not task.on_disk:
            return []
        data = specification.data
        own = ["--own", json.dumps(data.own)] if task.benchmark == OWN else ["--root", data.root]
        size = ["--image-size", str(specification.backbone.image_size)]
        preset = PRESETS[specification.protocol.name]
        how = ["--interpolation", preset.interpolation_for(task.resize)]
        content = ["--content", data.source] if data.source else []
        used = [one.path or one.name for one in specification.plugins if one.sha256 == task.reader]
        content += ["--plugin", used[0]] if used else []
        return [*own, *size, *how, *content, "--limit-gib", str(self.config["packing"]["limit_gib"])]

    @cached_property
    def searches(self) -> dict[str, Run]:
        """The searches of hyper-parameters, by the path of their results."""
        first = self.config["seeds"][0]
        return {
            f"{self.results}/{search_path(run.specification)}": run
            for run in self._places.values()
            if run.choice and run.seed == first and run.specification.variant in self.config["variants"]
        }

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        """The results of searches that each choice is made from, by the path of the choice."""
        found: dict[str, list[str]] = {}
        for run in self._places.values():
            if run.choice:
                searches = found.setdefault(f"{self.results}/tune/choices/{run.choice}.json", [])
                base = run.choice.rpartition("/")[2]
                path = f"{self.results}/{search_path(run.specification)}".rpartition("/")[0] + f"/{base}.json"
                if path not in searches:
                    searches.append(path)
        return found

    def search_options(self, run: Run) -> dict[str, Any]:
        """Return how a variant is searched on a task, as options of `mosa tune`."""
        tune, metric = self.config["tune"], metric_of(run.specification)
        names = {"search": "search", "trials": "trials", "seed": "search_seed", "folds": "folds"}
        names |= {"extend": "extend"} if tune["extend"] else {}
        options = {option: tune[name] for name, option in names.items()} | (tune["halving"] or {})
        options["seeds"] = ",".join(map(str, tune["seeds"]))
        options |= {} if metric == TOP1 else {"metric": metric}
        return options | {"space": json.dumps(tune["variants"][run.specification.variant], sort_keys=True)}

    @cached_property
    def list_of_searches(self) -> list[str]:
        """A file that lists the results of all searches; nothing without a search."""
        if not self.searches:
            return []
        text = "".join(f"{path}\n" for path in self.searches)
        return [write_by_content(self._manifests, "searches-", "txt", text).as_posix()]

    @cached_property
    def showing(self) -> list[str]:
        """The plugins that commands need which show records, as `--plugin` takes them."""
        return references(self.config["plugins"])

    @cached_property
    def showing_files(self) -> list[str]:
        """The source files of these plugins."""
        found = [one["files"] for one in self.config["plugins"] if references([one])]
        return [file for files in found for file in files]

    def caption(self, kind: str, output: Output) -> str:
        """Return the file with the caption of a plugin's table or plot; "" for one of the package."""
        if all(output.name != one["name"] for plugin in self.config["plugins"] for one in plugin[kind]):
            return ""
        path = write_by_content(self._manifests, f"{output.name}-", "rst", f"{output.caption}\n")
        return path.absolute().as_posix()

    def stale_records(self) -> set[str]:
        """Return the records that exist and are of another specification than the one that is meant."""
        stale = set()
        for path, run in self.runs.items():
            found = peek(Path(path))
            if found is None:
                if os.path.exists(path):
                    stale.add(path)
            elif found[0] != self.meant_digest(run):
                stale.add(path)
        return stale

    def told_stale(self, stale: Collection[str]) -> str:
        """Return which of the stale files are records, and why, for the user; empty if none is."""
        found = [(path, run) for path, run in self.runs.items() if path in stale]
        reasons = [(run.specification.variant, why_stale(Path(path), run)) for path, run in found]
        return told(reasons, len(self.runs)) if found else ""

    def meant_digest(self, run: Run) -> str:
        """Return the digest of the specification that a record has to have."""
        if not run.choice:
            return run.specification.digest
        path = f"{self.results}/tune/choices/{run.choice}.json"
        try:
            choice = json.loads(Path(path).read_text("utf-8"))
            if not self._is_meant(choice, path):
                return ""
            return with_choice(run.specification, choice["chosen"]).digest
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
            return ""  # whatever is there is not of a choice that can be read

    def _is_meant(self, choice: Mapping[str, Any], path: str) -> bool:
        """Return whether a choice is one among the searches that the file is meant to be made from."""
        of = [self.searches[search].specification for search in self.choices[path]]
        names = {(one.backbone.name, one.variant) for one in of}
        tasks = {one.task for one in of}
        return names == {(choice["backbone"], choice["variant"])} and tasks == set(choice["tasks"])

    def stale_choices(self) -> set[str]:
        """Return the choices that were made among other searches than those that are meant."""
        return _unlike(self.choices, self._is_meant)

    def stale_searches(self) -> set[str]:
        """Return the results of searches of another specification, or of another search."""

        def is_meant(found: Mapping[str, Any], path: str) -> bool:
            run = self.searches[path]
            meant = run.specification.digest, self.search_settings(run)
            return (found["specification"], found["search"]) == meant

        return _unlike(self.searches, is_meant)

    def search_settings(self, run: Run) -> dict[str, Any]:
        """Return how a variant is searched, as the results of its search say it."""
        return search_settings(self.config["tune"], run.specification)

    def table_is_stale(self) -> bool:
        """Return whether the table of records exists and was not made from the records that are there."""
        made_from = Path(self.results) / "tables" / "runs.made-from"
        if not (Path(self.results) / "tables" / "runs.csv").exists():
            return False
        records = [(Path(path), found[1]) for path in self.runs if (found := peek(Path(path)))]
        try:
            return made_from.read_text(encoding="utf-8").partition("\n")[0] != digest_of_collected(
                Path(self.manifest), records
            )
        except OSError:
            return True

    def meant(self) -> list[Meant]:
        """Return the records that are meant."""
        choices = Path(self.results) / "tune" / "choices"
        return [
            Meant(
                Path(path),
                run.specification,
                run.seed,
                choices / f"{run.choice}.json" if run.choice else None,
            )
            for path, run in self.runs.items()
        ]

    def stale_files(self) -> set[str]:
        """Return the files that exist and were made from something else than what is meant."""
        table = {f"{self.results}/tables/runs.csv"} if self.table_is_stale() else set()
        return self.stale_records() | self.stale_searches() | self.stale_choices() | table

    @property
    def wildcard_constraints(self) -> dict[str, str]:
        """What each wildcard of a path may be."""
        tasks = [task for names in self.config["benchmarks"].values() for task in names]
        specifications = [run.specification for run in self._places.values()]
        scopes = {one.task for one in specifications} | set(self.config["benchmarks"])
        names = {
            "benchmark": self.config["benchmarks"],
            "task": tasks,
            "backbone": self.config["backbones"],
            "scope": sorted(scopes),
            "pack": self.packed,
            "variant": sorted({one.variant for one in specifications}),
            "seed": map(str, self.config["seeds"]),
        }
        return {name: "|".join(map(re.escape, values)) for name, values in names.items()}


def _unlike(paths: Iterable[str], is_meant: Callable[[Mapping[str, Any], str], bool]) -> set[str]:
    """Return those of some JSON files that exist and are not what is meant, or cannot be read."""
    found = set()
    for path in paths:
        try:
            same = is_meant(json.loads(Path(path).read_text(encoding="utf-8")), path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            same = False
        if not same:
            found.add(path)
    return found
