"""How a weights file that does not fit is refused: what differs, and what to do about it."""

from pathlib import Path

import torch
from torch import nn

from mosa.base.errors import LISTED, UserError

Row = tuple[str, str]  # a tensor's name, and what is wrong with it
_DAMAGED = "has values that are not finite"


def refusal(
    path: Path, kind: str, model: nn.Module, rows: list[Row], total: int, names: list[str] | None = None
) -> UserError:
    """Return the error for a file.

    Args:
        path: The file.
        kind: Its kind, as named or found.
        model: The model.
        rows: What is wrong, tensor by tensor.
        total: Tensors that were compared.
        names: All names of the file, where the model's were looked for.
    """
    missing = sum(what == "missing in the file" for _, what in rows)
    architecture = type(model).__name__
    if names is not None and missing > 0.75 * total:
        return UserError(
            f"{path} (kind {kind}) does not fit {architecture}: it has {total - missing} of the {total} "
            f"names of this architecture in timm, and holds {', '.join(names[:LISTED])} ...; take the "
            "architecture that the file is for, or save it with timm's names"
        )
    count = f"{len(rows)} of {total} tensors"
    if all(what == _DAMAGED for _, what in rows):
        what = f"values of {count} are not finite; copy the file again, or take one of another training"
    elif any(_is_layout(what) for _, what in rows):
        what = f"{count} differ; take the architecture that the file is for, or set its `kind`"
    else:
        what = f"{count} cannot be used; save its weights as plain tensors of floating-point numbers"
    width = max(len(name) for name, _ in sorted(rows)[:LISTED])
    lines = [f"{path} (kind {kind}) does not fit {architecture}: {what}"]
    lines += [f"  {name:<{width}}  {what}" for name, what in sorted(rows)[:LISTED]]
    lines += [f"  ... and {len(rows) - LISTED} more"] if len(rows) > LISTED else []
    return UserError("\n".join(lines))


def _is_layout(what: str) -> bool:
    return what.startswith(("missing", "not in", "shape"))


def patch_weight(model: nn.Module) -> torch.Size | None:
    """Return height and width of a model's patches; None if it has none that a file could contradict."""
    weight = getattr(getattr(getattr(model, "patch_embed", None), "proj", None), "weight", None)
    return None if weight is None or weight.ndim != 4 else weight.shape[-2:]


def check_patch(found: tuple[int, ...], expected: torch.Size, path: Path) -> None:
    """Refuse a file for patches of another size, which timm would resize.

    Raises:
        UserError: The sizes differ.
    """
    if tuple(found) != tuple(expected):
        raise UserError(
            f"{path}: is for patches of {found[0]}x{found[1]} pixels, the architecture has "
            f"{expected[0]}x{expected[1]}; take the architecture that the file is for"
        )
