"""A service in a process of its own on 127.0.0.1, and what Linux says of its memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STARTUP_SECONDS = 120
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: where it is, and its process."""

    url: str
    pid: int

    def memory(self, kind: str) -> int:
        """Bytes: `VmRSS` now, or `VmHWM`, the most since the last reset."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{kind}:\s+(\d+) kB$", status, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"the kernel does not tell {kind}")
        return int(found[1]) * 1024

    def reset_peak(self) -> None:
        """Let VmHWM begin at what is resident now (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def service(**settings: str) -> Iterator[Service]:
    """Start a service on a free port of 127.0.0.1, with the environment's settings and these; ends it."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log)
        try:
            patience = time.monotonic() + STARTUP_SECONDS
            while not (found := re.search(r"running on (http://\S+)", _text(log.fileno()))):
                if process.poll() is not None or time.monotonic() > patience:
                    raise RuntimeError(f"the service did not start:\n{_text(log.fileno())}")
                time.sleep(0.1)
            yield Service(found[1], process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _text(descriptor: int) -> str:
    return os.pread(descriptor, MIB, 0).decode()
