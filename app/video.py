"""Videos without their rain: read, restored and written by a thread each, with bounded queues between."""

import fcntl
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import torch
from av.error import FFmpegError
from av.video.frame import VideoFrame
from torch import Tensor

from app.bounded_queue import BoundedQueue, StoppedError
from app.files import ACCELERATOR_BATCH_PIXELS, CPU_BATCH_PIXELS
from app.steady_prompt import SteadyPrompt
from app.video_frames import FrameConverter
from app.video_reading import CopiedPacket, VideoError, VideoReader
from app.video_writing import VideoWriter
from model.perception import Perception
from model.prompts import Prompt
from model.restorer import AbandonedError, Restorer

QUEUE_BYTES = 64 * 1024 * 1024
"""Frames and packets in each of the two queues."""

WAITING_ITEMS = 64
"""Frames and packets that wait for a batch to become full at most. Frames equal to the one before take no
place in it, and packets none."""


ENOUGH = 0.98
"""Share of the frames that a file promises below which it is said that some are missing: what it says of its
duration is often not exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOrder:
    """What is asked for.

    Attributes:
        prompt: the degradation prompt; None: perceived, scene by scene.
        caption: the semantic prompt; None: none.
        codec: a name in `app.video_writing.CODECS`; None: the input's where that can be.
        crf: constant quality, on the codec's scale; None: the codec's default.
        overwrite: replace a file that exists.
    """

    prompt: str | None = None
    caption: str | None = None
    codec: str | None = None
    crf: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class PromptChange:
    """A prompt, and the time in the video from which on it was used, seconds."""

    seconds: float
    prompt: str


@dataclass(frozen=True, slots=True)
class VideoSummary:
    """What was done; `elapsed` in seconds, `copied` are streams, `notes` what is not as in the input."""

    frames: int
    width: int
    height: int
    elapsed: float
    codec: str
    crf: int
    pixel_format: str
    prompts: list[PromptChange]
    copied: list[str]
    notes: list[str]

    @property
    def frames_per_second(self) -> float:
        """Frames restored in a second."""
        return self.frames / max(self.elapsed, 1e-9)


@dataclass(slots=True)
class _Picture:
    """A frame and its picture (3, H, W), first as it came and then restored; None: as the one before."""

    frame: VideoFrame
    image: Tensor | None
    prompt: Prompt

    @property
    def bytes(self) -> int:
        """In memory."""
        frame = self.frame.width * self.frame.height * self.frame.format.padded_bits_per_pixel // 8
        return frame + (0 if self.image is None else self.image.nbytes)


_Item: TypeAlias = "_Picture | CopiedPacket"


def restore_video(
    restorer: Restorer,
    source: Path,
    target: Path,
    order: VideoOrder,
    *,
    progress: Callable[[int | None], None] = lambda _total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> VideoSummary:
    """Restore a video into a file that appears when it is whole, and not at all when this is interrupted.

    Args:
        progress: called after each frame, with the number of all as far as it is known.
        cancelled: asked before every frame, and between tiles, whether to give up.

    Raises:
        AbandonedError: `cancelled` said so.
        VideoError: it cannot be read, restored or written.
    """
    started = time.monotonic()
    if target.exists() and not order.overwrite:
        raise VideoError(f"{target} exists; --overwrite replaces it")
    with VideoReader(source) as reader, _appearing_whole(target) as part:
        try:
            writer = VideoWriter(part, reader, codec=order.codec, crf=order.crf)
        except VideoError as error:
            raise VideoError(f"{target}: {error}") from None
        try:
            run = _Run(restorer, reader, writer, order, cancelled)
            run(lambda: progress(reader.frames))
        except FFmpegError as error:
            writer.abandon()
            raise VideoError(f"{target}: {error.strerror}") from None
        except BaseException:
            writer.abandon()
            raise
    if reader.broken:
        writer.notes.append(f"{reader.broken} packets could not be decoded")
    if reader.frames is not None and run.frames < ENOUGH * reader.frames:
        writer.notes.append(f"{reader.frames} frames were expected, and {run.frames} are there")
    return VideoSummary(
        frames=run.frames,
        width=reader.first.width,
        height=reader.first.height,
        elapsed=time.monotonic() - started,
        codec=writer.codec,
        crf=writer.crf,
        pixel_format=writer.pixel_format,
        prompts=run.prompts,
        copied=writer.copied,
        notes=writer.notes,
    )


class _Run:
    """The three threads: one reads and perceives, one writes, the calling one restores."""

    def __init__(
        self,
        restorer: Restorer,
        reader: VideoReader,
        writer: VideoWriter,
        order: VideoOrder,
        cancelled: Callable[[], bool],
    ) -> None:
        self.frames = 0
        self.prompts: list[PromptChange] = []
        self._restorer = restorer
        self._reader = reader
        self._writer = writer
        self._order = order
        self._cancelled = cancelled
        self._decoded: BoundedQueue[_Item] = BoundedQueue(QUEUE_BYTES)
        self._restored: BoundedQueue[_Item] = BoundedQueue(QUEUE_BYTES)
        height, width = restorer.padded_size(reader.first.height, reader.first.width)
        pixels = CPU_BATCH_PIXELS if restorer.device.type == "cpu" else ACCELERATOR_BATCH_PIXELS
        self._batch = max(1, pixels // (height * width))

    def __call__(self, progress: Callable[[], None]) -> None:
        """Restore everything; `progress` is called after each frame."""
        with ThreadPoolExecutor(2, "video") as pool:
            stages: list[Future[None]] = []
            try:
                stages += [pool.submit(self._read), pool.submit(self._write)]
                for item in self._restore(self._decoded):
                    if isinstance(item, _Picture):
                        self._restored.put(item, item.bytes)
                        self.frames += 1
                        progress()
                    else:
                        self._restored.put(item, item.size)
                self._restored.close()
            except StoppedError:
                self._stop()  # one of the others has failed, and will say why
            except BaseException:
                self._stop()
                raise
            for stage in stages:
                stage.result()

    def _stop(self) -> None:
        self._decoded.stop()
        self._restored.stop()

    def _read(self) -> None:
        torch.get_num_threads()  # or the next call would count for all threads
        torch.set_num_threads(1)  # the others are the network's
        converter = FrameConverter()
        steady = SteadyPrompt(cast(Perception, self._restorer.perception))
        first = self._reader.first
        try:
            for item in self._reader:
                if not isinstance(item, VideoFrame):
                    self._decoded.put(item, item.size)
                    continue
                if (item.width, item.height) != (first.width, first.height):
                    raise VideoError(
                        f"{self._reader.path}: the size changes from {first.width}x{first.height} to "
                        f"{item.width}x{item.height} after {item.time:.1f} seconds"
                    )
                image = converter.image(item)
                said = self._order.prompt or steady(image, item.time)
                if not self.prompts or self.prompts[-1].prompt != said:
                    self.prompts.append(PromptChange(item.time, said))
                picture = _Picture(item, image, Prompt(said, self._order.caption))
                self._decoded.put(picture, picture.bytes)
            self._decoded.close()
        except StoppedError:
            pass
        except BaseException:
            self._decoded.stop()
            raise

    def _write(self) -> None:
        try:
            image: Tensor | None = None
            for item in self._restored:
                if isinstance(item, _Picture):
                    image = item.image if item.image is not None else image
                    assert image is not None
                    self._writer.write(item.frame, image)
                else:
                    self._writer.copy(item)
            self._writer.finish()
        except StoppedError:
            pass
        except BaseException:
            self._restored.stop()
            raise

    def _restore(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The same items in order, their pictures restored in batches. A picture that equals the one before,
        sample by sample and in its prompt, is not computed again."""
        waiting: list[_Item] = []
        batch: list[_Picture] = []
        before: tuple[Tensor, Prompt] | None = None
        for item in items:
            if self._cancelled():
                raise AbandonedError("nobody waits for this video any more")
            waiting.append(item)
            if isinstance(item, _Picture):
                assert item.image is not None
                if before is not None and before[1] == item.prompt and torch.equal(before[0], item.image):
                    item.image = None
                else:
                    before = item.image, item.prompt
                    batch.append(item)
            if len(batch) >= self._batch or len(waiting) >= WAITING_ITEMS:
                self._restore_batch(batch)
                yield from waiting
                waiting, batch = [], []
        self._restore_batch(batch)
        yield from waiting

    def _restore_batch(self, batch: list[_Picture]) -> None:
        if not batch:
            return
        images = [cast(Tensor, picture.image) for picture in batch]
        try:
            prompts = [picture.prompt for picture in batch]
            restored = self._restorer.restore(images, prompts, cancelled=self._cancelled)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            self._batch = max(1, self._batch // 2)
            middle = len(batch) // 2
            self._restore_batch(batch[:middle])
            self._restore_batch(batch[middle:])
            return
        for picture, image in zip(batch, restored, strict=True):
            picture.image = image


@contextmanager
def _appearing_whole(path: Path) -> Generator[Path]:
    """A file beside the one named, that takes its place if all goes well and else is deleted.

    What a run left that was killed is used again.

    Raises:
        VideoError: the folder is not there, or another run writes the same file now.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        claim = part.open("ab")
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from None
    with claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise VideoError(f"{path} is being written by somebody else") from None
        try:
            yield part
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
