"""Videos that the tests make: a photograph in the rain, with all that a file can hold beside the picture."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import numpy.typing as npt
from av import AudioStream, VideoStream
from av.sidedata.sidedata import Type

from benchmarks.rainy_clip import Frame

if TYPE_CHECKING:
    from av.container.core import Chapter

CLOCK = Fraction(1, 90000)
RATE = Fraction(30000, 1001)
UNEVEN = (3003, 3400, 2600)
"""Ticks of `CLOCK` from frame to frame, over and over, where the rate varies."""

CHAPTER: "Chapter" = {
    "id": 1,
    "start": 0,
    "end": 40,
    "time_base": Fraction(1, 100),
    "metadata": {"title": "a"},
}

BT709 = (1, 1, 1, 1)
BT2020_PQ = (1, 9, 16, 9)
"""Range, primaries, transfer and matrix in the numbers of ITU-T H.273."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptions:
    """How a clip is written; `rotation` in degrees anticlockwise, `begin` in seconds."""

    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: {"crf": "8"})
    colours: tuple[int, int, int, int] = BT709
    rotation: int = 0
    aspect: Fraction = Fraction(1)
    uneven: bool = False
    sound: str | None = None
    subtitles: bool = False
    begin: int = 0


def write(path: Path, frames: Iterable[npt.NDArray[Any]], how: ClipOptions = ClipOptions()) -> Path:
    """Write a clip; frames of 16 bits are given as such."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Rain"
        video = cast(VideoStream, container.add_stream(how.codec, RATE, dict(how.options)))
        context = video.codec_context
        video.time_base = context.time_base = CLOCK
        video.pix_fmt = how.pixel_format
        (context.color_range, context.color_primaries, context.color_trc, context.colorspace) = how.colours
        context.sample_aspect_ratio = how.aspect
        video.set_display_rotation(how.rotation)
        sound = None
        if how.sound is not None:
            sound = cast(AudioStream, container.add_stream(how.sound, 48000, layout="mono"))
        subtitles = container.add_mux_stream("mov_text") if how.subtitles else None
        if subtitles is not None:
            subtitles.metadata["language"] = "nor"
        begin = how.begin * CLOCK.denominator
        at = begin
        for number, frame in enumerate(frames):
            if number == 0:
                video.height, video.width = frame.shape[:2]
                container.set_chapters([CHAPTER])
            deep = frame.dtype == np.uint16
            picture = av.VideoFrame.from_ndarray(frame, "rgb48le" if deep else "rgb24")
            picture = picture.reformat(
                format=how.pixel_format,
                dst_colorspace=how.colours[3],
                src_color_range=2,
                dst_color_range=how.colours[0],
                interpolation="BICUBIC",
            )
            picture.pts, picture.time_base = at, CLOCK
            at += UNEVEN[number % 3] if how.uneven else 3003
            container.mux(video.encode(picture))
        if sound is not None:
            tone = np.sin(np.arange(int(48000 * (at - begin) * CLOCK)) / 20).astype(np.float32)[None] / 4
            for start in range(0, tone.shape[1], 1024):
                piece = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "mono"
                )
                piece.sample_rate, piece.time_base = 48000, Fraction(1, 48000)
                piece.pts = 48000 * how.begin + start
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))
        if subtitles is not None:
            for number, words in enumerate((b"\x00\x04rain", b"\x00\x03dry")):
                packet = av.Packet(words)
                packet.stream, packet.time_base = subtitles, Fraction(1, 1000)
                packet.pts = packet.dts = 200 * number
                packet.duration = 150
                container.mux(packet)
        container.mux(video.encode(None))
    return path


@dataclass(frozen=True, slots=True)
class Clip:
    """What a player sees of a file: times in seconds, `packets` of the streams that are not restored."""

    frames: list[Frame]
    times: list[float]
    time_base: Fraction
    rate: Fraction
    duration: float
    codec: str
    pixel_format: str
    colours: tuple[int, int, int, int]
    display_matrix: bytes
    aspect: Fraction | None
    packets: dict[str, list[tuple[float, bytes]]]
    labels: dict[str, dict[str, str]]
    title: str | None
    chapters: list[str]


def read(path: Path, pixel_format: str = "rgb24") -> Clip:
    """All of a file."""
    frames: list[Frame] = []
    times: list[float] = []
    packets: dict[str, list[tuple[float, bytes]]] = {}
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        first = last = None
        for packet in container.demux():
            if packet.stream is not video:
                if packet.pts is not None:
                    found = packets.setdefault(packet.stream.type, [])
                    found.append((round(float(packet.pts * packet.time_base), 4), bytes(packet)))
                continue
            for last in video.decode(packet):
                first = first or last
                times.append(last.time)
                frames.append(cast(Frame, np.asarray(last.to_ndarray(format=pixel_format))))
        assert first is not None
        assert last is not None
        assert video.time_base is not None
        assert video.average_rate is not None
        matrix = cast(Any, first.side_data).get(Type.DISPLAYMATRIX)
        return Clip(
            frames=frames,
            times=times,
            time_base=video.time_base,
            rate=video.average_rate,
            duration=last.time + float(last.duration * video.time_base),
            codec=video.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            colours=(first.color_range, first.color_primaries, first.color_trc, first.colorspace),
            display_matrix=b"" if matrix is None else bytes(matrix),
            aspect=video.sample_aspect_ratio,
            packets=packets,
            labels={stream.type: stream.metadata for stream in container.streams},
            title=container.metadata.get("title"),
            chapters=[chapter["metadata"]["title"] for chapter in container.chapters()],
        )
