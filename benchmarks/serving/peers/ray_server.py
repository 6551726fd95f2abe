"""Ray Serve: one deployment with `serve.batch` (its documentation, "Dynamic Request Batching"). The replica
gets all cores: without `num_cpus` Ray would give torch one thread."""

# pyright: reportMissingImports=false, reportArgumentType=false, reportAttributeAccessIssue=false
# It is installed in an environment of its own, so what its decorators make is unknown.

from __future__ import annotations

import os
import signal
import sys

import ray
from ray import serve
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from app.images import Photograph
from benchmarks.serving import restoring


def deployment(max_batch_size: int, wait_seconds: float) -> serve.Application:
    """The application; its batches are formed by Ray."""

    @serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": os.cpu_count()})
    class Derain:
        def __init__(self) -> None:
            self.restorer = restoring.load()

        @serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=wait_seconds)
        async def restore(self, photographs: list[Photograph]) -> list[Photograph]:
            return restoring.restore(self.restorer, photographs)

        async def __call__(self, request: Request) -> Response:
            upload = (await request.form())["image"]
            if not isinstance(upload, UploadFile):
                return Response("the field image is no file", status_code=422)
            restored = await self.restore(restoring.decode(await upload.read()))
            return Response(restoring.encode(restored), media_type=restored.image_format.media_type)

    return Derain.bind()


def main(port: int, max_batch_size: int, wait_seconds: float) -> None:
    """Serve until told to stop."""
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, object_store_memory=100 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(deployment(max_batch_size, wait_seconds), route_prefix="/derain")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
