"""Programs that tests start beside the service; `tests/servers.sh` installs them."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name: str) -> Path:
    """The program of this name; the test is skipped where it is not installed, and fails in CI."""
    folders = (os.environ.get("PATH", os.defpath), "/usr/sbin", str(Path(sys.executable).parent))
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        reason = f"{name} is not installed: tests/servers.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)
