"""A video file like another, with other pictures: all else is copied from the one that is read."""

# PyAV leaves open in its types what streams and packets hold.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import io
import os
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.codec import Codec, PixFmtLoss, find_best_pix_fmt_of_list
from av.error import FFmpegError
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.stream import Disposition, Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from app.cores import usable_cores
from app.video_frames import FrameConverter, depth, described
from app.video_reading import CopiedPacket, VideoError, VideoReader


@dataclass(frozen=True, slots=True)
class VideoCodec:
    """How a video is coded: FFmpeg's encoder, its options, its scale of constant quality and that of its
    answers to it."""

    encoder: str
    crf: int
    worst_crf: int
    options: dict[str, str] = field(default_factory=dict[str, str])


CODECS = {
    "h264": VideoCodec("libx264", 18, 51),
    "hevc": VideoCodec("libx265", 20, 51, {"x265-params": "log-level=none"}),
    "av1": VideoCodec("libsvtav1", 24, 63, {"preset": "8"}),
}
"""By FFmpeg's names of the formats, the one most can play first."""

QUICKTIME = frozenset({"mov", "mp4", "ipod", "3gp", "3g2"})
"""FFmpeg's names of the containers that descend from QuickTime's."""

HOLD_ROTATION = QUICKTIME | {"matroska"}
HOLD_TIMES = QUICKTIME | {"matroska", "webm", "mpegts"}
"""Containers that say of every frame when it is shown."""

SILENT_SVT = {"SVT_LOG": "1"}
"""SVT-AV1 tells the terminal about itself unless its environment says that only errors matter."""

STALE_TAGS = frozenset(
    {
        "major_brand",
        "minor_version",
        "compatible_brands",
        "encoder",
        "bps",
        "duration",
        "number_of_frames",
        "number_of_bytes",
    }
)
"""What the muxer and the encoder of the input said of their own work."""


def available_codecs() -> list[str]:
    """Names in `CODECS` whose encoder is in this build of FFmpeg."""
    return [name for name, codec in CODECS.items() if codec.encoder in av.codecs_available]


class VideoWriter:
    """A video that is being written. What its container cannot hold is left out and noted, but for sound.

    Args:
        path: its ending chooses the container.
        reader: of the video that it is to be like.
        codec: name in `CODECS`; None: as the input where that can be, else the first that can.
        crf: quality, on the scale of the codec; None: that of `CODECS`.

    Attributes:
        codec, crf: as chosen.
        pixel_format: FFmpeg's name.
        notes: what is not as in the input.

    Raises:
        VideoError: it cannot be written like this.
    """

    def __init__(self, path: Path, reader: VideoReader, *, codec: str | None, crf: int | None) -> None:
        self.notes: list[str] = []
        self._path = path
        self._converter = FrameConverter()
        self._durations: dict[int, int] = {}
        self._last_dts: dict[int, int] = {}
        try:
            self._container = av.open(str(path), "w", container_options={"movflags": "+faststart"})
        except ValueError:
            raise VideoError(f"no kind of video ends in {path.suffix or path.name!r}") from None
        self._format = self._container.format.name
        if self._format not in HOLD_TIMES:
            raise VideoError(f"{self._format} does not keep times: use .mp4, .mov, .mkv, .webm or .ts")
        os.environ.update(SILENT_SVT)
        self.codec = codec or self._codec_like(reader.video.codec_context.codec.canonical_name)
        chosen = CODECS[self.codec]
        self.crf = chosen.crf if crf is None else crf
        if self.crf > chosen.worst_crf:
            raise VideoError(f"{self.codec} has a crf of {chosen.worst_crf} at most")
        self.pixel_format = self._pixel_format(reader.first)
        self._container.metadata.update(_lasting(reader.container.metadata))
        self._container.set_chapters(reader.container.chapters())
        self._copies: dict[int, Stream] = {}
        for stream in reader.container.streams:
            if stream is reader.video:
                self._video = self._add_video(reader)
            elif stream.name == "bin_data" and reader.container.chapters():
                pass  # QuickTime's track of chapters; these are written anew
            elif (copy := self._add_copy(stream)) is not None:
                self._copies[stream.index] = copy
        try:
            self._container.start_encoding()
        except FFmpegError as error:
            raise VideoError(
                f"cannot be written as {self.codec} in {self._format}: {error.strerror}"
            ) from None

    @property
    def copied(self) -> list[str]:
        """What was copied: sound, subtitles and so on, each with its coding."""
        return [f"{stream.type} ({stream.name})" for stream in self._copies.values()]

    def write(self, frame: VideoFrame, image: Tensor) -> None:
        """Append a picture in the place of a frame that the reader gave; the frame is used up."""
        assert frame.pts is not None
        self._durations[frame.pts] = frame.duration
        self._mux_video(self._video.encode(self._converter.frame(frame, image, self.pixel_format)))

    def copy(self, packet: CopiedPacket) -> None:
        """Append a packet that the reader gave, unless its stream was left out."""
        copy = self._copies.get(packet.stream_index)
        if copy is None or packet.dts is None:
            return
        last = self._last_dts.get(packet.stream_index)
        if last is not None and packet.dts <= last:  # recordings of broadcasts have such; muxers refuse them
            packet.dts = last + 1
            packet.pts = max(packet.pts or packet.dts, packet.dts)
        self._last_dts[packet.stream_index] = packet.dts
        packet.stream = copy
        self._container.mux(packet)

    def finish(self) -> None:
        """Write what is left, and the end of the file."""
        self._mux_video(self._video.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Delete the file. After `finish` this must not be called."""
        self._path.unlink(missing_ok=True)  # first: its end would be written, and everything moved for that
        with suppress(FFmpegError):
            self._container.close()

    def _mux_video(self, packets: "list[Packet[VideoStream]]") -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, 0)
            self._container.mux(packet)

    def _codec_like(self, name: str) -> str:
        candidates = sorted(available_codecs(), key=lambda candidate: candidate != name)
        for candidate in candidates:
            chosen = CODECS[candidate]
            try:
                with av.open(io.BytesIO(), "w", format=self._format) as probe:
                    probe.add_stream(chosen.encoder, 25, chosen.options)
                    probe.start_encoding()
            except (ValueError, FFmpegError):
                continue
            return candidate
        raise VideoError(f"{self._format} holds none of {', '.join(candidates)}")

    def _pixel_format(self, frame: VideoFrame) -> str:
        """That of the input as far as the encoder has it: chroma as fine, samples as deep."""
        source = frame.format
        name = source.name.replace("yuvj", "yuv")
        formats = [
            known
            for known in Codec(CODECS[self.codec].encoder, "w").video_formats or ()
            if not known.is_rgb and not known.name.startswith("yuvj") and _fits(known, frame)
        ]
        best, loss = find_best_pix_fmt_of_list(formats, name)
        if best is None:
            raise VideoError(f"{self.codec} cannot be written in {frame.width}x{frame.height} pixels")
        if depth(best) < depth(source):
            self.notes.append(f"{depth(source)} bits a sample became {depth(best)}")
        if loss & PixFmtLoss.RESOLUTION:
            self.notes.append(f"colour is stored coarser: {source.name} became {best.name}")
        if any(component.is_alpha for component in source.components):
            self.notes.append("transparency is left out")
        return best.name

    def _add_video(self, reader: VideoReader) -> VideoStream:
        source, frame = reader.video, reader.first
        chosen = CODECS[self.codec]
        try:
            stream = self._container.add_stream(
                chosen.encoder, reader.rate, {**chosen.options, "crf": str(self.crf)}
            )
        except ValueError:
            raise VideoError(f"{self._format} does not hold {self.codec}") from None
        assert isinstance(stream, VideoStream)
        stream.time_base = reader.time_base
        context = stream.codec_context
        context.time_base = reader.time_base
        context.width, context.height, context.pix_fmt = frame.width, frame.height, self.pixel_format
        aspect = source.sample_aspect_ratio
        if aspect not in (None, 1) and self.codec == "av1" and self._format not in QUICKTIME:
            raise VideoError(f"{self._format} with av1 cannot say that pixels are {aspect} wide: use .mp4")
        context.sample_aspect_ratio = aspect or Fraction(0, 1)
        colours = described(frame)
        context.color_range, context.colorspace = colours.colour_range, colours.matrix
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        context.thread_count = usable_cores()
        if self.codec == "hevc" and self._format in QUICKTIME:
            context.codec_tag = "hvc1"  # players of Apple's know hev1 not
        side_data = cast(Any, frame.side_data)
        if Type.DISPLAYMATRIX in side_data:
            if frame.rotation and self._format not in HOLD_ROTATION:
                raise VideoError(
                    f"{self._format} cannot say that the video is turned by "
                    f"{frame.rotation} degrees: use .mp4, .mov or .mkv"
                )
            stream.set_display_matrix(np.frombuffer(side_data[Type.DISPLAYMATRIX], np.int32).tolist())
        _copy_labels(source, stream)
        return stream

    def _add_copy(self, source: Stream) -> Stream | None:
        """A stream that packets of the source can be copied into, where the container has such."""
        try:
            with av.open(io.BytesIO(), "w", format=self._format) as probe:
                probe.add_stream_from_template(source, opaque=True)
                probe.start_encoding()
        except (ValueError, FFmpegError):
            name = f"{source.type} ({source.name})"
            if source.type == "audio":
                raise VideoError(f"{self._format} does not hold this {name}; Matroska (.mkv) would") from None
            self.notes.append(f"{name} is left out: {self._format} does not hold it")
            return None
        copy = self._container.add_stream_from_template(source, opaque=True)
        if source.type == "video" and not source.disposition & Disposition.attached_pic:
            self.notes.append(f"another video ({source.name}) is copied as it is")
        _copy_labels(source, copy)
        return copy


def _fits(pixel_format: VideoFormat, frame: VideoFrame) -> bool:
    """Whether samples of colour, where they are fewer, come out even."""
    known = VideoFormat(pixel_format.name, frame.width, frame.height)
    return all(
        (component.width == frame.width or frame.width % 2 == 0)
        and (component.height == frame.height or frame.height % 2 == 0)
        for component in known.components
    )


def _copy_labels(source: Stream, target: Stream) -> None:
    target.metadata.update(_lasting(source.metadata))
    target.disposition = source.disposition


def _lasting(tags: dict[str, str]) -> dict[str, str]:
    """Tags that are still true of a copy."""
    return {
        name: value
        for name, value in tags.items()
        if name.lower().partition("-")[0] not in STALE_TAGS and not name.startswith("_STATISTICS")
    }
