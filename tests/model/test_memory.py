"""Were it wrong, the service would be slower, or not start where the C library is another one."""

import resource
import subprocess
import sys

import pytest

from model import memory

FAULTS = """
import resource, torch
from model.memory import keep_freed_memory
assert keep_freed_memory()
for _ in range(10):
    layers = [torch.ones(7_000_000) for _ in range(6)]
    del layers
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    layers = [torch.ones(7_000_000) for _ in range(6)]
    del layers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not memory.keep_freed_memory(), reason="not glibc")
def test_memory_of_one_layer_is_used_for_the_next():
    """Without it some processes fault every page in again and others none, by where their heap lies."""
    pages = 10 * 6 * 28_000_000 // resource.getpagesize()
    for _ in range(3):
        command = [sys.executable, "-c", FAULTS]
        faults = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert faults < pages / 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
