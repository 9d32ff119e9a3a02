"""timm's names of architectures and of their published weights, and the files of the hub."""

from pathlib import Path
from typing import Any

import mosa.backbones.micro_vit  # noqa: F401  registers our architecture with timm
from mosa.backbones.kinds import NORMALIZATIONS, name_of
from mosa.base.errors import UserError, shown, suggest, unknown
from mosa.base.timm import get_deprecated_models, timm

HUB = "hub:"
_FILE = "model.safetensors"  # of a repository of the hub that names no other


def check_architecture(name: str) -> None:
    """Refuse what is not the current name of an architecture of timm's, without a tag.

    Raises:
        UserError: What is meant, or which names are near.
    """
    known = timm.list_models()
    if name in known:
        return
    plain = name.rpartition("/")[2]  # timm/vit_... and hf-hub:timm/vit_... are names of the hub
    now = get_deprecated_models().get(plain)
    base, _, tag = (now or plain).partition(".")
    if base not in known:
        raise UserError(
            f"unknown architecture {shown(name)}: expected a name of timm's, such as vit_base_patch16_224 "
            f"(timm.list_models() has all){suggest(base, known)}"
        )
    if tag and f"{HUB}{tag}" not in hub_names(base):
        raise unknown(f"tag of {base}", tag, [each.removeprefix(HUB) for each in hub_names(base)])
    former = "is a former name of timm's" if now else "is no name of an architecture alone"
    weights = f" and `weights: {HUB}{tag}` (or a file)" if tag else ""
    raise UserError(f"architecture {name!r} {former}; set `architecture: {base}`{weights}")


def hub_names(architecture: str) -> list[str]:
    """Return what `weights` can be for an architecture's published weights: "hub:" and each tag."""
    return [f"{HUB}{name.partition('.')[2]}" for name in timm.list_pretrained(f"{architecture}.*")]


def hub_config(architecture: str, weights: str) -> Any:
    """Return timm's configuration of published weights.

    Raises:
        UserError: The architecture has no such tag.
    """
    known = hub_names(architecture)
    if not known:
        raise UserError(
            f"weights {weights!r}: {architecture} has no published weights; set `weights` to a file, "
            "'builtin' or 'random'"
        )
    given = weights.removeprefix(HUB)
    tag = given.rpartition("/")[2].removeprefix(f"{architecture}.")
    if f"{HUB}{tag}" not in known:
        raise unknown(f"tag of {architecture}", tag, [name.removeprefix(HUB) for name in known])
    if tag != given:
        raise UserError(f"weights {weights!r}: expected the tag alone; set `weights: {HUB}{tag}`")
    return timm.get_pretrained_cfg(f"{architecture}.{tag}")


def hub_file(architecture: str, weights: str) -> Path:
    """Return the file of a tag of timm's, from the local cache if it is there.

    Raises:
        UserError: The architecture has no such tag, or the file is neither there nor can it be downloaded.
    """
    from huggingface_hub import hf_hub_download

    config = hub_config(architecture, weights)
    statistics = name_of((tuple(config.mean), tuple(config.std)))
    settings = "set `weights` to that file and `kind` to 'timm'"
    settings += f", and `normalization` to {statistics!r}" if statistics in NORMALIZATIONS else ""
    if not config.hf_hub_id:
        raise UserError(f"weights {weights!r}: are not on the hub; download {config.url}, and {settings}")
    name = config.hf_hub_filename or _FILE
    try:
        return Path(hf_hub_download(config.hf_hub_id, name))
    except Exception as error:  # the hub's client raises many unrelated types
        raise UserError(
            f"weights {weights!r}: cannot be downloaded ({type(error).__name__}); where there is a network, "
            f"download {name} of {config.hf_hub_id}, {settings}"
        ) from None


def cached_file(architecture: str, weights: str) -> Path | None:
    """Return the file of a tag of timm's from the local cache; None: there is no such file or tag."""
    from huggingface_hub import try_to_load_from_cache

    try:
        config = hub_config(architecture, weights)
    except UserError:
        return None
    if not config.hf_hub_id:
        return None
    found = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or _FILE)
    return Path(found) if isinstance(found, str) else None
