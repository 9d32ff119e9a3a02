"""The readers of text under a coverage-guided fuzzer, for a fixed time.

pytest -m thorough tests/unit/test_atheris.py; needs `pip install atheris`.
"""

import os
import subprocess
import sys

import pytest

SECONDS = int(os.environ.get("MOSA_FUZZ_SECONDS", "60"))
HARNESS = """
import sys
from pathlib import Path
import atheris
with atheris.instrument_imports(include=["mosa"]):
    from mosa import records
    from mosa.experiment import config
    from mosa.search import choose
from mosa.base.errors import UserError

path = Path(sys.argv.pop(1))
readers = [config.read_config, records.load_record, choose.read_trials, choose.read_choice]

def one(content):
    if content:
        path.write_bytes(content[1:])
        try:
            readers[content[0] % len(readers)](path)
        except UserError:
            pass

atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


def test_readers_of_text(tmp_path):
    pytest.importorskip("atheris", reason="needs atheris (pip install atheris)")
    command = [
        sys.executable,
        "-c",
        HARNESS,
        str(tmp_path / "input"),
        f"-max_total_time={SECONDS}",
        "-max_len=2000",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
