"""The metadata of a bundle: a Workflow Run RO-Crate, which names every file with its digest.

https://w3id.org/ro/wfrun/workflow/0.5 on RO-Crate 1.1 (Leo et al., Recording provenance of workflow runs with
RO-Crate, PLOS ONE 2024). The library `rocrate` makes it; files are written by `mosa.results.bundle.export`,
since the library's archives have the time of writing in them.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mosa import __version__
from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.results.bundle.contents import METADATA, WORKFLOW, Contents

if TYPE_CHECKING:
    from rocrate.model import File
    from rocrate.rocrate import ROCrate

MAIN = f"{WORKFLOW}Snakefile"
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_TERMS = {
    "sha256": "https://w3id.org/ro/terms/workflow-run#sha256"
}  # which the context of RO-Crate 1.1 lacks
_FORMATS = {
    ".json": "application/json", ".yaml": "application/yaml", ".smk": "text/plain", "": "text/plain",
    ".safetensors": "application/octet-stream", ".gz": "application/gzip",
}  # fmt: skip


def metadata_of(contents: Contents, files: Mapping[str, tuple[str, int]], config: str, license_: str) -> str:
    """Return the text of ro-crate-metadata.json; the same bundle gives the same text.

    Args:
        contents: What the bundle has.
        files: SHA-256 and size of every file, by its path in the bundle.
        config: Path of the config in the bundle.
        license_: Licence of the bundle: an address, or words.

    Raises:
        UserError: The library `rocrate` is not installed.
    """
    crate = _empty_crate()
    ended = max(record["created"] for record in contents.records.values())
    crate.name = f"Benchmark results: {contents.name}"
    crate.description = (
        f"{count(len(contents.records), 'run record')} of {contents.name}, with the specifications that they "
        "were trained by and, where they were kept, their predictions. `mosa import` verifies every digest."
    )
    crate.datePublished = ended
    crate.license = _license(crate, license_)
    entities = _add_files(crate, files, _described(contents, config))
    inputs = [entities[config], *(entities[path] for path in (*contents.specifications, *contents.choices))]
    results = [entities[path] for path in (*contents.records, *contents.kept)]
    started = min(record["created"] for record in contents.records.values())
    action = crate.add_action(
        entities[MAIN],
        f"#{contents.manifest.rpartition('/')[2].removesuffix('.json')}",
        object=inputs,
        result=results,
        properties={
            "@type": "CreateAction", "name": f"Runs of {contents.name}", "endTime": ended,
            "description": f"The first of the runs ended at {started}; each record has its own times, "
            "machine, versions and commit.",
        },
    )  # fmt: skip
    crate.root_dataset["mentions"] = action
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True) + "\n"


def _empty_crate() -> "ROCrate":
    try:
        from rocrate.model import ContextEntity
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise UserError('exporting needs the library rocrate: pip install "mosa-benchmark[share]"') from None
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms |= _TERMS
    profiles = [
        crate.add(
            ContextEntity(
                crate, address, {"@type": "CreativeWork", "name": name, "version": address.rpartition("/")[2]}
            )
        )
        for address, name in _PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = profiles
    return crate


def _license(crate: "ROCrate", text: str) -> Any:
    """Return a licence as an entity where it is an address, else its words."""
    from rocrate.model import ContextEntity

    if not text.startswith(("http://", "https://")):
        return text
    return crate.add(ContextEntity(crate, text, {"@type": "CreativeWork", "name": text, "url": text}))


def _described(contents: Contents, config: str) -> dict[str, str]:
    """Return what the files are, by path."""
    known = {
        contents.manifest: "Manifest: which record is of which specification",
        config: "Config of the experiment, with every default",
        MAIN: "The workflow",
    }
    known |= dict.fromkeys(
        contents.specifications, "Specification: what decides a run's result, except the seed"
    )
    known |= dict.fromkeys(contents.choices, "Hyper-parameters that were chosen on val")
    known |= dict.fromkeys(contents.records, "Record of a run")
    return known | dict.fromkeys(contents.kept, "What a run kept")


def _add_files(
    crate: "ROCrate", files: Mapping[str, tuple[str, int]], described: Mapping[str, str]
) -> dict[str, "File"]:
    found = {}
    for path, (digest, size) in files.items():
        properties: dict[str, Any] = {
            "name": path.rpartition("/")[2],
            "sha256": digest,
            "contentSize": str(size),
            "encodingFormat": _FORMATS[path[path.rfind(".") :] if "." in path else ""],
        }
        if path in described:
            properties["description"] = described[path]
        if path == MAIN:
            properties |= {"version": __version__}
            found[path] = crate.add_workflow(None, path, main=True, lang="snakemake", properties=properties)
        else:
            found[path] = crate.add_file(None, path, properties=properties)
    return found


def digests_of(text: str) -> dict[str, str]:
    """Return the SHA-256 of every file that a bundle's metadata name.

    Raises:
        UserError: They are not such metadata.
    """
    try:
        graph = json.loads(text)["@graph"]
        files = {one["@id"]: one["sha256"] for one in graph if "File" in _types(one)}
        if not all(isinstance(value, str) for pair in files.items() for value in pair):
            raise ValueError("a digest is no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{METADATA}: not the metadata of a bundle ({type(error).__name__}: {error})"
        ) from None
    return files


def _types(entity: Mapping[str, Any]) -> list[str]:
    found = entity["@type"]
    return found if isinstance(found, list) else [found]
