#!/usr/bin/env bash
# Run by Snakemake in the new environment: installs the checkout of this package, or links to where a wheel put it.
set -euo pipefail
source=$(dirname "$MOSA_PACKAGE") # which rules/common.smk says
if [ -f "$source/pyproject.toml" ]; then
    exec python -m pip install --quiet --no-deps --editable "$source"
fi
libraries=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
commands=$(python -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
ln -sfn "$source"/mosa "$source"/mosa_benchmark-*.dist-info "$libraries"
printf '#!%s/python\nfrom mosa.cli import main\n\nmain()\n' "$commands" > "$commands/mosa"
chmod +x "$commands/mosa"
