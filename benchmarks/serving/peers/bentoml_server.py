"""BentoML: a batchable API behind a service that takes one photograph (its documentation, "Adaptive
batching", "Handle multiple parameters"); BentoML adapts the batching window within its limit."""

# pyright: reportMissingImports=false
# It is installed in an environment of its own.

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

MAX_BATCH_SIZE = int(os.environ.get("MAX_BATCH_SIZE", "4"))


@bentoml.service(workers=1, traffic={"timeout": 120, "concurrency": 256})
class Restoring:
    """Owns the network; called by the other service only."""

    def __init__(self) -> None:
        from benchmarks.serving import restoring

        self.restoring: Any = restoring
        self.restorer = restoring.load()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=60_000)
    def restore(self, files: list[bytes]) -> list[bytes]:
        """A batch of JPEG files."""
        photographs = [self.restoring.decode(file) for file in files]
        return [self.restoring.encode(one) for one in self.restoring.restore(self.restorer, photographs)]


@bentoml.service(workers=1, traffic={"timeout": 120, "concurrency": 256})
class Derain:
    """Takes forms with one photograph."""

    inner = bentoml.depends(Restoring)

    @bentoml.api
    async def derain(
        self, image: Annotated[Path, ContentType("image/jpeg")], ctx: bentoml.Context
    ) -> Annotated[Path, ContentType("image/jpeg")]:
        """One JPEG file, answered as one."""
        [restored] = await self.inner.to_async.restore([image.read_bytes()])
        answer = Path(ctx.temp_dir) / "restored.jpg"
        answer.write_bytes(restored)
        return answer


def main(port: int, max_batch_size: int) -> None:
    """Become `bentoml serve`."""
    os.environ["MAX_BATCH_SIZE"] = str(max_batch_size)
    target = "benchmarks.serving.peers.bentoml_server:Derain"
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
    os.execve(sys.executable, command, os.environ)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
