"""Writing a bundle: a zip file whose bytes follow from what is in it."""

import hashlib
import zipfile
from pathlib import Path

from mosa.base.errors import UserError
from mosa.base.files import WORKFLOW as SOURCES
from mosa.base.files import digest_of_file, written_atomically
from mosa.results.bundle.contents import METADATA, WORKFLOW, Contents
from mosa.results.bundle.crate import metadata_of

LICENSE = "not stated; ask who exported it"
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file knows
_CHUNK = 1 << 20


def write_bundle(contents: Contents, config: Path, output: Path, license_: str = LICENSE) -> int:
    """Write a bundle; the same contents give the same bytes.

    Args:
        contents: What the bundle has, from `contents_of`.
        config: The config with every default filled in, named by its content, in the folder of the manifest.
        output: The zip file.
        license_: Licence of the bundle: an address, or words.

    Returns:
        Number of files.

    Raises:
        UserError: The library `rocrate` is not installed, or a file cannot be read or written.
    """
    if output.suffix != ".zip":
        raise UserError(f"{output}: expected a name that ends with .zip")
    config_path = f"manifests/{config.name}"
    members = {path: contents.results / path for path in [config_path, *contents.files]} | _workflow()
    files = {path: (digest_of_file(members[path]), members[path].stat().st_size) for path in sorted(members)}
    metadata = metadata_of(contents, files, config_path, license_)
    with written_atomically(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(_entry(METADATA), metadata)
        for path, (digest, _) in files.items():
            _write(archive, path, members[path], digest)
    return len(files) + 1


def _workflow() -> dict[str, Path]:
    """Return the files of the workflow that made the records."""
    rules = sorted((SOURCES / "rules").glob("*.smk"))
    files = [SOURCES / "Snakefile", *rules]
    return {f"{WORKFLOW}{path.relative_to(SOURCES).as_posix()}": path for path in files}


def _entry(path: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, _TIME)
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    entry.compress_type = zipfile.ZIP_STORED if path.endswith(".safetensors") else zipfile.ZIP_DEFLATED
    return entry


def _write(archive: zipfile.ZipFile, path: str, source: Path, digest: str) -> None:
    found = hashlib.sha256()
    entry = _entry(path)
    entry.file_size = source.stat().st_size
    with source.open("rb") as file, archive.open(entry, "w") as member:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
            member.write(chunk)
    if found.hexdigest() != digest:
        raise UserError(f"{source}: was changed while it was exported; export again")
