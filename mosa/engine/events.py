"""TensorBoard events of a run: its training loss in its parts, the learning rate, and val where there is one.

Read with `tensorboard --logdir results/runs`. Nothing of it changes a result.
"""

from collections.abc import Mapping
from pathlib import Path

from mosa.base.errors import UserError
from mosa.base.files import unwritable


def folder_of(record: Path) -> Path:
    """Return the folder of a record's events: seed0.events beside seed0.json."""
    return record.with_suffix(".events")


def drop_events(folder: Path) -> None:
    """Delete what an earlier run left, which would seem to be another's.

    Raises:
        UserError: It cannot be deleted.
    """
    try:
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
    except OSError as error:
        raise unwritable(folder, error) from None


class Events:
    """Scalars of each epoch, in a folder beside the record.

    Args:
        record: Where the record will be; events of seed0.json are in the folder seed0.events.

    Raises:
        UserError: tensorboard is not installed, or the folder cannot be written.
    """

    def __init__(self, record: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                'keep.events needs tensorboard: pip install "mosa-benchmark[events]", or set it to false'
            ) from None
        self.folder, self._open = folder_of(record), SummaryWriter
        self._writer: SummaryWriter | None = None

    def begin(self, epoch: int) -> None:
        """Begin with an epoch: what an earlier run left is deleted at the first, and else from there on."""
        if epoch == 1:
            drop_events(self.folder)
        try:
            self._writer = self._open(str(self.folder), purge_step=epoch)
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def epoch(
        self, epoch: int, loss: float, terms: Mapping[str, float], lr: float, val: Mapping[str, float | None]
    ) -> None:
        """Write an epoch.

        Args:
            epoch: Its number, from 1.
            loss: Mean training loss.
            terms: What it is the sum of, by name.
            lr: Learning rate of its first step.
            val: Metrics of val by name; empty where there is none.

        Raises:
            UserError: It cannot be written.
        """
        scalars = {"loss/train": loss, "lr": lr} | {f"loss/{name}": value for name, value in terms.items()}
        scalars |= {f"val/{name}": value for name, value in val.items() if value is not None}
        try:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                raise unwritable(self.folder, error) from None
