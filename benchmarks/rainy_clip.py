"""Videos that nobody filmed: a photograph that stands still, rain that falls in front of it, and a sensor's
noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch

from training.rain import procedural_layer

Frame = npt.NDArray[np.uint8]
"""(H, W, 3)."""

FALL = 0.45
"""How far rain falls from frame to frame, in parts of the picture's height."""


def rainy_frames(
    photograph: Frame, count: int, *, rain: float, noise: float, seed: int = 0
) -> Iterator[Frame]:
    """Frames of a photograph in the rain.

    Args:
        rain: mean brightness of its layer in [0, 1]; 0: it is dry.
        noise: standard deviation of the sensor's noise, levels of 255.
    """
    height, width = photograph.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    tall = 4 * height
    spread = torch.tensor([3.0])
    layer = procedural_layer(torch.tensor([rain or 0.01]), (tall, 2 * width), 2, spread, generator)
    falling = layer[0, 0].numpy() * (255 if rain else 0)
    for number in range(count):
        top = tall - height - round(number * FALL * height) % (tall - height)
        left = int(random.integers(width))
        drops = falling[top : top + height, left : left + width, None]
        grain = random.normal(0, noise, photograph.shape)
        yield np.clip(photograph + drops + grain, 0, 255).round().astype(np.uint8)


def write_clip(path: Path, frames: Iterable[Frame], *, rate: int = 25, crf: int = 8) -> None:
    """Write frames as H.264 of the full chroma resolution."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate, {"crf": str(crf)})
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame)
            picture.pts, picture.time_base = number, Fraction(1, rate)
            if number == 0:
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv444p"
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def read_clip(path: Path) -> Iterator[Frame]:
    """The frames of a video, as they are stored."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
