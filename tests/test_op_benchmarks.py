"""The benchmarks of ops still call what there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "ops.py"


@pytest.mark.slow
def test_every_benchmark_of_an_op_runs_to_its_end():
    options = ["--repeats", "1", "--no-reference", "--busy-machine"]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *options], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    folders = [
        path.stem for path in (PROGRAM.parent / "ops").glob("*.py") if path.stem != "measure"
    ]
    assert len(rows) > 2 * len(folders)
