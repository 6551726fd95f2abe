"""A video file, frame by frame, with the packets of its other streams between."""

# PyAV leaves open in its types what streams and packets hold.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import av
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

CopiedPacket: TypeAlias = "Packet[Stream]"

PROTOCOLS = {"protocol_whitelist": "file"}
"""A playlist may name files, and no addresses."""


class VideoError(Exception):
    """A video that cannot be read or written; the message is meant for whoever named it."""


class VideoReader:
    """An open video. Gives its best video stream frame by frame, and of all others the packets, in the order
    of the file.

    A packet that cannot be decoded is left out and counted. A frame without a time, or with one that has
    been, gets the next. Streams whose clock begins anywhere (MPEG-TS) begin at zero.

    Attributes:
        video: the stream whose frames are given.
        first: its first frame, which tells what all are like.
        frames: how many there are, as far as the file tells.
        broken: packets that could not be decoded so far.

    Raises:
        VideoError: it cannot be read, or is no video that can be restored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = 0
        self._last: int | None = None
        try:
            with av.open(str(path), "r", options=PROTOCOLS) as container:
                self.first = _first_frame(container)
            self.container = av.open(str(path), "r", options=PROTOCOLS)
            self.video = _best_video(self.container)
        except FFmpegError as error:
            raise VideoError(f"{path}: {error.strerror}") from None
        except VideoError as error:
            raise VideoError(f"{path}: {error}") from None
        self.video.thread_type = "AUTO"
        self.frames = self._promised_frames()
        self._start = Fraction(0)
        if self.container.format.flags & Flags.ts_discont.value:
            self._start = Fraction(self.container.start_time or 0, av.time_base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.container.close()

    @property
    def time_base(self) -> Fraction:
        """Seconds in which the times of frames count."""
        return self.video.time_base or Fraction(1, av.time_base)

    @property
    def rate(self) -> Fraction | None:
        """Frames per second, on average; None where nothing says so."""
        return self.video.average_rate or self.video.guessed_rate

    def __iter__(self) -> "Iterator[VideoFrame | CopiedPacket]":
        """All frames and packets.

        Raises:
            VideoError: the file cannot be read any further.
        """
        try:
            for packet in self.container.demux():
                if packet.stream is self.video:
                    for frame in self._decoded(packet):
                        yield self._timed(frame)
                elif packet.dts is not None:  # those without end the stream
                    yield self._shifted(packet)
        except FFmpegError as error:
            raise VideoError(f"{self.path}: {error.strerror}") from None

    def _promised_frames(self) -> int | None:
        if self.video.frames:
            return self.video.frames
        if self.video.duration and self.rate:
            return round(self.video.duration * self.time_base * self.rate)
        if self.container.duration and self.rate:
            return round(Fraction(self.container.duration, av.time_base) * self.rate)
        return None

    def _decoded(self, packet: CopiedPacket) -> list[VideoFrame]:
        try:
            return self.video.decode(packet)
        except InvalidDataError:
            self.broken += 1
            return []

    def _timed(self, frame: VideoFrame) -> VideoFrame:
        step = frame.duration or round(1 / (self.rate * self.time_base)) if self.rate else 1
        pts = None if frame.pts is None else frame.pts - round(self._start / self.time_base)
        if self._last is None:
            pts = pts or 0
        elif pts is None or pts <= self._last:
            pts = self._last + max(1, step)
        frame.pts = self._last = pts
        return frame

    def _shifted(self, packet: CopiedPacket) -> CopiedPacket:
        if self._start:
            start = round(self._start / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - start
            packet.dts = None if packet.dts is None else packet.dts - start
        return packet


def _best_video(container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise VideoError("no video")
    return stream


def _first_frame(container: InputContainer) -> VideoFrame:
    stream = _best_video(container)
    for packet in container.demux(stream):
        try:
            frames = stream.decode(packet)
        except InvalidDataError:
            continue
        for frame in frames:
            if frame.interlaced_frame:
                raise VideoError("interlaced: deinterlace it first, for example with ffmpeg -vf bwdif")
            return frame
    raise VideoError("no frame of it can be decoded")
