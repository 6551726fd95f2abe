"""Memory of the host and of its container. Counted wrongly, the alert comes when the kernel has killed
already."""

import mmap
import os
from pathlib import Path

import pytest
import torch

from app.device_memory import device_memory, host_memory

MIB = 1024 * 1024


def proc(folder: Path) -> Path:
    """A machine of 8000 MiB, 3000 of them available, and a process of which 100 pages are resident."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/statm").write_text("500 100 40 1 0 300 0\n")
    (folder / "proc/meminfo").write_text(
        f"MemTotal:       {8000 * 1024} kB\nMemFree:   1 kB\nMemAvailable:   {3000 * 1024} kB\n"
    )
    return folder / "proc"


@pytest.mark.parametrize(
    ("files", "free", "total"),
    [
        pytest.param({}, 3000, 8000, id="no control groups"),
        pytest.param({"memory.max": "max"}, 3000, 8000, id="no bound"),
        pytest.param(
            {
                "memory.max": str(1000 * MIB),
                "memory.current": str(900 * MIB),
                "memory.stat": f"anon 5\ninactive_file {300 * MIB}\n",
            },
            400,
            1000,
            id="bound, some of it idle files",
        ),
        pytest.param(
            {
                "memory.max": str(7000 * MIB),
                "memory.current": str(500 * MIB),
                "memory.stat": "inactive_file 0\n",
            },
            3000,
            7000,
            id="the machine has less left than the bound",
        ),
        pytest.param(
            {
                "memory/memory.limit_in_bytes": str(1000 * MIB),
                "memory/memory.usage_in_bytes": str(900 * MIB),
                "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n",
            },
            200,
            1000,
            id="version 1",
        ),
        pytest.param(
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "5",
                "memory/memory.stat": "total_inactive_file 1\n",
            },
            3000,
            8000,
            id="version 1 without bound",
        ),
    ],
)
def test_a_bound_counts_where_it_is_less(
    tmp_path: Path, files: dict[str, str], free: int, total: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert host_memory(proc(tmp_path), tmp_path) == {
        "allocated": 100 * os.sysconf("SC_PAGE_SIZE"),
        "free": free * MIB,
        "total": total * MIB,
    }


def test_a_host_that_does_not_tell_has_no_series(tmp_path: Path) -> None:
    assert host_memory(tmp_path, tmp_path) == {}


def test_of_this_machine_it_is_true() -> None:
    before = device_memory(torch.device("cpu"))
    # pages that no allocator kept from before
    held = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"\1" * (64 * MIB))
    after = device_memory(torch.device("cpu"))
    assert after["allocated"] - before["allocated"] > 60 * MIB
    assert after["allocated"] < after["total"]
    assert 0 < after["free"] < after["total"]
    held.close()
