"""The service on a device that can be made to fail: `uvicorn --factory tests.service.failing:create_app`.

A photograph whose prompt is one of these sentences, or that is of `BLINDING` size, sets off what the name
says. All else is the service's own.
"""

import time
from collections.abc import Callable, Sequence

import torch
from fastapi import FastAPI
from torch import Tensor

from app import main
from model.perception import Perceived
from model.prompts import Prompt
from model.restorer import Restorer
from model.text import TextFeatures

HANGS, BREAKS, FULL = "a device that hangs", "a device that breaks", "a device that is full"

BLINDING = (7, 7)
"""Height and width of an image at whose sight the device breaks, where no prompt is given."""

ROOM = 260 * 260
"""Pixels for which the memory of a full device suffices."""


class FailingRestorer(Restorer):
    """A restorer whose device fails when it is told to."""

    broken = full = False

    def restore(
        self,
        images: Sequence[Tensor],
        prompts: Sequence[Prompt],
        *,
        in_place: bool = False,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Tensor]:
        said = {prompt.degradation for prompt in prompts}
        if HANGS in said:
            time.sleep(3600)
        self.broken = self.broken or BREAKS in said
        self.full = FULL in said
        return super().restore(images, prompts, in_place=in_place, cancelled=cancelled)

    def perceive(self, image: Tensor) -> Perceived:
        self.broken = self.broken or image.shape[-2:] == BLINDING
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().perceive(image)

    def healthy(self) -> bool:
        return not self.broken

    def _run(self, batch: Tensor, features: TextFeatures) -> Tensor:
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if self.full and batch.shape[0] * batch.shape[2] * batch.shape[3] > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._run(batch, features)


def create_app() -> FastAPI:
    """As `app.main.create_app`."""
    main.Restorer = FailingRestorer
    return main.create_app()
