"""How much memory the device has, and how much of it this process takes."""

import os
import re
from pathlib import Path

import torch

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def device_memory(device: torch.device) -> dict[str, int]:
    """Bytes by kind: `allocated` by this process, `free` and `total`; on a GPU `reserved` as well, which
    PyTorch keeps for what comes next.

    Whatever is no GPU with memory of its own shares the host's: there what is allocated is the process's
    resident memory. Empty where the host does not tell (no Linux), and where the device has failed.
    """
    if device.type != "cuda":
        return host_memory()
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:  # it has failed: what else is told of the process matters the more
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "free": free,
        "total": total,
    }


def host_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> dict[str, int]:
    """The same of the host: free and total are the machine's, or the container's where it is given less."""
    try:
        pages = int((proc / "self/statm").read_text().split()[1])
        machine = _numbers(proc / "meminfo")
        total, free = 1024 * machine["MemTotal"], 1024 * machine["MemAvailable"]
    except (OSError, KeyError):
        return {}
    bound = _bound(cgroup)
    if bound is not None:
        total, free = min(total, bound[0]), min(free, bound[1])
    return {"allocated": pages * os.sysconf("SC_PAGE_SIZE"), "free": free, "total": total}


def _bound(cgroup: Path) -> tuple[int, int] | None:
    """What the container may take, and may take yet, by control groups of version 2, else 1; None where there
    is no bound.

    Pages of files that nobody has used for a while count as free: the kernel drops them first.
    """
    for limit, usage, stat, idle in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            most = int((cgroup / limit).read_text())
            used = int((cgroup / usage).read_text()) - _numbers(cgroup / stat)[idle]
            return most, max(0, most - used)
        except (OSError, ValueError, KeyError):  # "max": no bound
            continue
    return None


def _numbers(file: Path) -> dict[str, int]:
    """Names and numbers of lines such as `MemTotal: 12 kB` and `inactive_file 12`."""
    return {name: int(number) for name, number in re.findall(r"^(\w+):?\s+(\d+)", file.read_text(), re.M)}
