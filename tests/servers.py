"""Programs that tests start beside the service; `tests/servers.sh` installs them."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name: str) -> Path:
    """The program of this name; the test is skipped where it is not installed, and fails in CI."""
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        reason = f"{name} is not installed: tests/servers.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)
