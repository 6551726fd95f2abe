"""How many cores this process may compute on."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores within affinity and the quota of the control group, at least 1.

    A container that is given two of sixteen cores still sees sixteen, and with a thread on each it would be
    stopped for most of every tenth of a second.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """Cores' worth of time, by control groups of version 2, else 1; infinity where there is no bound."""
    for quota, period in (
        (cgroup / "cpu.max", None),
        (cgroup / "cpu/cpu.cfs_quota_us", cgroup / "cpu/cpu.cfs_period_us"),
    ):
        try:
            words = [*quota.read_text().split(), *(period.read_text().split() if period else ())]
            return int(words[0]) / int(words[1]) if int(words[0]) > 0 else math.inf
        except (OSError, ValueError, IndexError, ZeroDivisionError):  # "max": no bound
            continue
    return math.inf
