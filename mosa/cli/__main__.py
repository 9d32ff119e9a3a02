"""`python -m mosa.cli`, as `mosa` does it."""

from mosa.cli import main

main()
