"""The command line. Every command of a workflow imports this; the verbs are in `mosa.cli.commands`."""

import os
import sys


def main() -> None:
    """Run `mosa`: where MOSA_WARM is set, in a server that has the imports done (see `mosa.cli.warm`)."""
    warm = os.environ.get("MOSA_WARM", "").lower() not in ("", "0", "false", "no", "off")
    if warm and sys.argv[1:] and sys.argv[1] != "run":
        from mosa.cli.warm import run_warm

        status = run_warm(sys.argv[1:])
        if status is not None:
            sys.exit(status)
    from mosa.cli.commands import run

    run()
