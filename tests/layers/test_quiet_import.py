"""Importing the library says nothing of what its dependencies do."""

import subprocess
import sys

import pytest


# Each in a process of its own: whoever comes second finds everything imported.
@pytest.mark.parametrize("module", ["engine", "utils.analysis"])
def test_no_module_warns_of_torchscript_whichever_is_imported_first(module):
    outcome = subprocess.run(
        [
            sys.executable,
            *("-W", "error:`torch.jit.script` is deprecated"),
            *("-c", f"import detectron2.{module}"),
        ],
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
