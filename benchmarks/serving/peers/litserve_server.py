"""LitServe: a LitAPI with `max_batch_size` and `batch_timeout` (its documentation, "Batching"); files arrive
as form fields ("Request and response format"); one worker, since there is one device.

LitServe reads the annotations of the hooks, as classes: they must not be postponed here.
"""

# pyright: reportMissingImports=false
# It is installed in an environment of its own.

import sys
from typing import Any

import litserve
from fastapi import Request, Response

from app.images import Photograph
from benchmarks.serving import restoring


class Derain(litserve.LitAPI):
    """Decoding and encoding are the API's hooks, as in its image examples; the batch stays a list, because
    its images differ in size."""

    def setup(self, device: str) -> None:
        """Load the network in the worker."""
        del device  # the restorer finds its own
        self.restorer = restoring.load()

    def decode_request(self, request: Request) -> Photograph:
        """A form's field `image`."""
        form: Any = request
        return restoring.decode(form["image"].file.read())

    def batch(self, inputs: list[Photograph]) -> list[Photograph]:
        """As they are."""
        return inputs

    def predict(self, x: list[Photograph]) -> list[Photograph]:
        """A batch through the network."""
        return restoring.restore(self.restorer, x)

    def unbatch(self, output: list[Photograph]) -> list[Photograph]:
        """As they are."""
        return output

    def encode_response(self, output: Photograph) -> Response:
        """The file itself."""
        return Response(restoring.encode(output), media_type=output.image_format.media_type)


def main(port: int, max_batch_size: int, wait_seconds: float) -> None:
    """Serve until told to stop."""
    api = Derain(max_batch_size=max_batch_size, batch_timeout=wait_seconds)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
