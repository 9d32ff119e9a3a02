"""Records of several sources, such as labs, side by side: `mosa compare`."""

from mosa.results.side_by_side.render import FORMATS, rendered
from mosa.results.side_by_side.scores import SideBySide, side_by_side
from mosa.results.side_by_side.sources import Source, opened

__all__ = ["FORMATS", "SideBySide", "Source", "opened", "rendered", "side_by_side"]
