"""Were it wrong, the service would be slower, or not start where the C library is another one."""

import os
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


ENVIRONMENT = """
import ctypes
from model.memory import keep_fewer_convolutions
keep_fewer_convolutions()
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(getenv(b"LRU_CACHE_CAPACITY").decode())
"""


@pytest.mark.parametrize(("given", "found"), [(None, str(memory.KEPT_CONVOLUTIONS)), ("300", "300")])
def test_the_library_finds_the_bound_unless_there_is_one(given: str | None, found: str):
    environment = {name: value for name, value in os.environ.items() if name != "LRU_CACHE_CAPACITY"}
    if given is not None:
        environment["LRU_CACHE_CAPACITY"] = given
    told = subprocess.run(
        [sys.executable, "-c", ENVIRONMENT], capture_output=True, text=True, check=True, env=environment
    )
    assert told.stdout.strip() == found
