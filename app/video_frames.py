"""Frames of a video to upright RGB images and back into frames, in the video's own colours."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from av.video.format import VideoFormat
from av.video.frame import PictureType, VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

SCALING = int(
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
"""How chroma is brought to the size of luma and back. By libswscale's own choice, luma that is only converted
there and back is off by 1.2 levels (root mean square), by this one 0.2."""

BT709 = 1
MATRICES = {
    BT709: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
"""libswscale's matrices by their numbers in ITU-T H.273."""

SD_LINES = 576
"""A video that names no matrix is taken for BT.601 up to so many lines, for BT.709 beyond, as players do."""


@dataclass(frozen=True, slots=True)
class ColourDescription:
    """What a video says of its colours, in the numbers of ITU-T H.273; `colour_range` as in `ColorRange`."""

    matrix: int
    colour_range: int
    primaries: int
    transfer: int


def described(frame: VideoFrame) -> ColourDescription:
    """The description of a frame's colours, as it is to be written: of an RGB frame that of the YUV which it
    becomes."""
    if frame.format.is_rgb or frame.format.has_palette:
        matrix, colour_range = BT709, int(ColorRange.MPEG)
    else:
        full = frame.format.name.startswith("yuvj")
        matrix, colour_range = frame.colorspace, int(ColorRange.JPEG) if full else frame.color_range
    return ColourDescription(matrix, colour_range, frame.color_primaries, frame.color_trc)


def depth(pixel_format: VideoFormat) -> int:
    """Bits a sample."""
    return max(component.bits for component in pixel_format.components)


class FrameConverter:
    """Converts the frames of one video. Used by one thread at a time."""

    def __init__(self) -> None:
        self._to_rgb = VideoReformatter()
        self._from_rgb = VideoReformatter()
        self._to_canvas = VideoReformatter()

    def image(self, frame: VideoFrame) -> Tensor:
        """The upright picture of a frame: uint8 (3, H, W), full scale, or uint16 where samples have more than
        8 bits."""
        rgb = self._to_rgb.reformat(
            frame,
            format="rgb48le" if depth(frame.format) > 8 else "rgb24",
            src_colorspace=_matrix(frame.colorspace, frame.height),
            dst_color_range=ColorRange.JPEG,
            interpolation=SCALING,
        )
        stored = torch.as_tensor(rgb.to_ndarray()).permute(2, 0, 1)
        return _turned(stored, _turns(frame))

    def frame(self, original: VideoFrame, image: Tensor, pixel_format: str) -> VideoFrame:
        """A picture, such as `image` gave of the original, as a frame of this pixel format.

        All else is the original's: its time and duration, the description of its colours, captions. The
        original may be overwritten.
        """
        colours = described(original)
        matrix = _matrix(colours.matrix, original.height)
        colour_range = colours.colour_range or ColorRange.MPEG
        stored = _turned(image, -_turns(original)).permute(1, 2, 0).contiguous()
        rgb = VideoFrame.from_ndarray(stored.numpy(), "rgb24" if image.dtype == torch.uint8 else "rgb48le")
        painted = self._from_rgb.reformat(
            rgb,
            format=pixel_format,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=colour_range,
            interpolation=SCALING,
        )
        canvas = self._to_canvas.reformat(
            original, format=pixel_format, dst_colorspace=matrix, dst_color_range=colour_range
        )
        canvas.make_writable()
        for plane, source in zip(canvas.planes, painted.planes, strict=True):
            width = min(plane.line_size, source.line_size)
            _lines(plane)[:, :width] = _lines(source)[:, :width]
        canvas.colorspace, canvas.color_range = colours.matrix, colours.colour_range
        canvas.pict_type = PictureType.NONE  # which pictures are key frames is the encoder's affair
        return canvas


def _matrix(matrix: int, height: int) -> Colorspace:
    return MATRICES.get(matrix) or (Colorspace.ITU601 if height <= SD_LINES else Colorspace.ITU709)


def _turns(frame: VideoFrame) -> int:
    """Quarter turns anticlockwise until the frame is upright."""
    return round(frame.rotation / 90) % 4


def _turned(image: Tensor, turns: int) -> Tensor:
    return torch.rot90(image, turns, (1, 2)) if turns else image


def _lines(plane: VideoPlane) -> npt.NDArray[np.uint8]:
    """The bytes of a plane, line by line, with those that fill a line up."""
    return np.frombuffer(cast(Any, plane), np.uint8).reshape(plane.height, plane.line_size)
