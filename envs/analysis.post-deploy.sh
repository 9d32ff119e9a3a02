#!/usr/bin/env bash
# Run by Snakemake in the new environment, from the working directory: installs this checkout.
set -euo pipefail
python -m pip install --quiet --no-deps --editable .
