"""The service on Ray Serve: one replica for each device, spread over the nodes of a cluster.

    serve run --working-dir . deploy.ray.serve:application replicas=4 gpus=1 cpus=8

A replica is the application of `derain serve`, unchanged: it batches, admits and refuses by itself. Ray
starts it, sends it requests, and starts another where it or its node dies.
"""

import os

from pydantic import BaseModel, NonNegativeFloat, PositiveInt
from ray import serve

from app.main import create_app
from app.settings import Settings

BEYOND_ADMISSION = 16
"""Requests that Ray gives to a replica, and as many that it is about to give, in parts of the images that a
replica admits. Far more than those, so that it is the replica which refuses, at once and with the time after
which another try has a chance. Ray would let them wait, and beyond that refuse in a line of plain text."""


class Options(BaseModel):
    """What `serve run` can be told.

    Attributes:
        replicas: as many as there are devices.
        gpus: of each, 1 or 0.
        cpus: cores of each, which it decodes, encodes and without a GPU computes on.
    """

    replicas: PositiveInt = 1
    gpus: NonNegativeFloat = 0
    cpus: PositiveInt = 2


@serve.ingress(create_app)
class Replica:
    """One process with one device."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)  # before `create_app` reads it

    async def check_health(self) -> None:
        """As /readyz. Ray replaces a replica that fails it.

        Raises:
            RuntimeError: the device thread has ended.
        """
        if not self.app.state.pipeline.ready:  # pyright: ignore[reportAttributeAccessIssue] - ingress adds app
            raise RuntimeError("not ready")


def application(options: Options) -> serve.Application:
    """The application, for `serve run` and `serve deploy`; its settings are those of whoever calls this."""
    settings = Settings()
    environment = {name: value for name, value in os.environ.items() if name.startswith("DERAIN_")}
    deployment = serve.deployment(
        name="derain",
        num_replicas=options.replicas,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        max_ongoing_requests=BEYOND_ADMISSION * settings.max_queue_images,
        max_queued_requests=BEYOND_ADMISSION * settings.max_queue_images,
        health_check_period_s=10,
        health_check_timeout_s=30,
        # what has been taken on is finished
        graceful_shutdown_timeout_s=settings.deadline_seconds + 30,
        graceful_shutdown_wait_loop_s=1,
    )(Replica)
    return deployment.bind(environment)
