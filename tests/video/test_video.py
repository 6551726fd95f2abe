"""`restore_video` on real files. Were this wrong, somebody's holiday would come back silent, sideways, in
other colours, out of step, or flickering."""

import threading
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from app.video import VideoOrder, VideoSummary, restore_video
from app.video_frames import FrameConverter
from app.video_reading import VideoError
from benchmarks.rainy_clip import Frame, rainy_frames
from model.prompts import Prompt
from model.restorer import Restorer
from tests.video.clips import BT2020_PQ, ClipOptions, read, write

Restore = Callable[..., VideoSummary]

RAIN = "a photo with moderate rain streaks falling straight down"


def psnr(frames: list[Frame], clean: Frame) -> float:
    """Of all frames together, dB."""
    error = np.stack(frames).astype(np.float32) - clean
    return float(10 * np.log10(255**2 / (error**2).mean()))


class TestWhatStays:
    @pytest.mark.parametrize(("name", "codec"), [("out.mp4", "h264"), ("out.mov", "hevc")])
    def test_all_but_the_picture(
        self, name: str, codec: str, tmp_path: Path, photograph: Frame, rainy: list[Frame], restore: Restore
    ) -> None:
        source = write(
            tmp_path / "in.mp4",
            (np.rot90(frame) for frame in rainy),
            ClipOptions(
                rotation=-90,
                aspect=Fraction(4, 3),
                uneven=True,
                sound="aac",
                subtitles=True,
                options={"crf": "4"},
            ),
        )
        summary = restore(source, tmp_path / name, codec=codec)
        before, after = read(source), read(tmp_path / name)
        assert (after.codec, summary.codec, summary.frames) == (codec, codec, len(rainy))
        assert after.times == before.times
        assert after.time_base == before.time_base
        assert abs(after.duration - before.duration) < 0.02
        assert after.rate == pytest.approx(float(before.rate), rel=0.02)
        assert after.packets["audio"] == before.packets["audio"]
        assert after.packets["subtitle"] == before.packets["subtitle"]
        assert after.labels["subtitle"]["language"] == "nor"
        assert (after.title, after.chapters) == ("Rain", ["a"])
        assert after.display_matrix == before.display_matrix != b""
        assert (after.colours, after.aspect) == (before.colours, Fraction(4, 3))
        assert summary.notes == []
        upright = [np.rot90(frame, -1) for frame in after.frames]
        assert psnr(upright, photograph) > psnr(rainy, photograph) + 6, "the rain was seen upright"

    def test_sideways_is_as_upright(self, tmp_path: Path, rainy: list[Frame], restore: Restore) -> None:
        lossless = ClipOptions(pixel_format="yuv444p", options={"qp": "0"})
        upright = write(tmp_path / "upright.mp4", rainy[:3], lossless)
        sideways = write(
            tmp_path / "sideways.mp4",
            (np.rot90(frame) for frame in rainy[:3]),
            replace(lossless, rotation=-90),
        )
        for source in (upright, sideways):
            restore(source, tmp_path / f"out-{source.name}", crf=0)
        straight = read(tmp_path / "out-upright.mp4").frames
        turned = read(tmp_path / "out-sideways.mp4").frames
        for one, other in zip(straight, turned, strict=True):
            assert np.abs(one.astype(int) - np.rot90(other, -1)).max() <= 2

    def test_a_frame_is_what_the_network_makes_of_its_picture(
        self, tmp_path: Path, rainy: list[Frame], restore: Restore, restorer: Restorer
    ) -> None:
        source = write(
            tmp_path / "in.mkv", rainy[:5], ClipOptions(pixel_format="yuv444p", options={"qp": "0"})
        )
        restore(source, tmp_path / "out.mkv", prompt=RAIN, crf=0)
        pictures = [torch.from_numpy(frame.copy()).permute(2, 0, 1) for frame in read(source).frames]
        expected = restorer.restore(pictures, [Prompt(RAIN)] * 5)
        for picture, frame in zip(expected, read(tmp_path / "out.mkv").frames, strict=True):
            assert np.abs(picture.permute(1, 2, 0).numpy().astype(int) - frame).mean() < 0.7

    def test_ten_bits_stay_ten_and_hdr_is_still_called_so(self, tmp_path: Path, restore: Restore) -> None:
        ramp = np.linspace(12000, 16000, 128, dtype=np.uint16)
        frame = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (96, 128, 3)))
        source = write(
            tmp_path / "in.mp4",
            [frame] * 3,
            ClipOptions(
                codec="libx265",
                pixel_format="yuv420p10le",
                colours=BT2020_PQ,
                options={"crf": "4", "x265-params": "log-level=none"},
            ),
        )
        summary = restore(source, tmp_path / "out.mp4", prompt="leave it unchanged", crf=4)
        assert (summary.codec, summary.pixel_format) == ("hevc", "yuv420p10le")
        after = read(tmp_path / "out.mp4", "yuv420p10le")
        assert (after.pixel_format, after.colours) == ("yuv420p10le", BT2020_PQ)
        luma = after.frames[1][:96].astype(int)
        before = read(source, "yuv420p10le").frames[1][:96].astype(int)
        assert np.abs(luma - before).mean() < 2, "half a step of 8 bits"
        assert len(np.unique(luma[40])) > 40, "eight bits would leave sixteen steps of this ramp"

    @pytest.mark.parametrize("full", [False, True])
    def test_a_picture_that_is_left_alone_keeps_its_levels(
        self, full: bool, tmp_path: Path, photograph: Frame, restore: Restore
    ) -> None:
        """Black, white and colours shift where range or matrix are taken for others."""
        colours = (2, 1, 1, 1) if full else (1, 6, 6, 6)
        source = write(tmp_path / "in.mp4", [photograph] * 3, ClipOptions(colours=colours))
        restore(source, tmp_path / "out.mp4", prompt="leave it unchanged", crf=4)
        before, after = read(source, "yuv420p"), read(tmp_path / "out.mp4", "yuv420p")
        assert after.colours == before.colours == colours
        difference = np.stack(after.frames).astype(float) - np.stack(before.frames)
        assert abs(difference.mean()) < 0.3
        assert np.abs(difference).mean() < 1.2

    def test_streams_whose_clock_begins_anywhere_and_frames_without_times(
        self, tmp_path: Path, rainy: list[Frame], restore: Restore
    ) -> None:
        broadcast = write(tmp_path / "in.ts", rainy[:6], ClipOptions(sound="mp2", begin=5000))
        assert read(broadcast).times[0] > 4000
        restore(broadcast, tmp_path / "out.mp4", prompt=RAIN)
        after = read(tmp_path / "out.mp4")
        assert after.times[0] < 0.1
        assert np.diff(after.times) == pytest.approx(1001 / 30000, abs=1e-4)
        assert [data for _, data in after.packets["audio"]] == [
            data for _, data in read(broadcast).packets["audio"]
        ]
        raw = write(tmp_path / "in.h264", rainy[:6], ClipOptions(options={"bf": "0"}))
        restore(raw, tmp_path / "raw.mp4", prompt=RAIN)
        steps = np.diff(read(tmp_path / "raw.mp4").times)
        assert len(steps) == 5
        assert steps.min() == pytest.approx(steps.max(), abs=1e-3)

    def test_webm_is_av1_and_other_sound_than_it_holds_is_no_reason_to_drop_it(
        self, tmp_path: Path, rainy: list[Frame], restore: Restore
    ) -> None:
        source = write(tmp_path / "in.mkv", rainy[:4], ClipOptions(sound="libopus"))
        summary = restore(source, tmp_path / "out.webm", prompt=RAIN)
        assert (summary.codec, summary.copied) == ("av1", ["audio (opus)"])
        assert len(read(tmp_path / "out.webm").frames) == 4
        again = restore(tmp_path / "out.webm", tmp_path / "again.mkv", prompt=RAIN)
        assert again.codec == "av1", "as the input"
        silent = restore(write(tmp_path / "silent.mkv", rainy[:4]), tmp_path / "silent.webm", prompt=RAIN)
        assert silent.codec == "av1"
        assert restore(tmp_path / "silent.webm", tmp_path / "again.mov", prompt=RAIN).codec == "h264"
        other = write(tmp_path / "aac.mp4", rainy[:4], ClipOptions(sound="aac"))
        with pytest.raises(VideoError, match=r"does not hold this audio \(aac\); Matroska"):
            restore(other, tmp_path / "aac.webm", prompt=RAIN)
        assert not (tmp_path / "aac.webm").exists()


class TestFlicker:
    def test_static_regions_vary_no_more_than_before_and_the_prompt_does_not_flip(
        self, tmp_path: Path, photograph: Frame, rainy: list[Frame], restore: Restore
    ) -> None:
        for name, frames in (
            ("rain", rainy),
            ("dry", list(rainy_frames(photograph, 24, rain=0, noise=1.5))),
        ):
            source = write(tmp_path / f"{name}.mp4", frames)
            summary = restore(source, tmp_path / f"{name}-out.mp4")
            before, after = (
                np.stack(read(path).frames).astype(np.float32).var(axis=0).mean()
                for path in (source, tmp_path / f"{name}-out.mp4")
            )
            assert after <= before, name
            assert len(summary.prompts) == 1, name
        assert psnr(read(tmp_path / "rain-out.mp4").frames, photograph) > psnr(rainy, photograph) + 6

    def test_what_has_not_changed_is_not_computed_again_and_what_has_is(
        self, tmp_path: Path, rainy: list[Frame], restorer: Restorer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nearly = rainy[0].copy()
        nearly[0, 0, 0] ^= 2
        source = write(
            tmp_path / "in.mkv",
            [rainy[0]] * 5 + [nearly] + [rainy[0]] * 5,
            ClipOptions(codec="ffv1", pixel_format="bgr0", options={}),
        )
        computed: list[int] = []
        original = restorer.restore

        def counting(images: list[torch.Tensor], *others: Any, **options: Any) -> list[torch.Tensor]:
            computed.append(len(images))
            return original(images, *others, **options)

        monkeypatch.setattr(restorer, "restore", counting)
        summary = restore_video(restorer, source, tmp_path / "out.mkv", VideoOrder(prompt=RAIN))
        assert summary.frames == 11
        assert sum(computed) == 3
        frames = read(tmp_path / "out.mkv").frames
        assert len(frames) == 11
        assert psnr(frames[:5], frames[6]) > 40


class TestRefusals:
    def test_what_cannot_be_done_is_said_and_leaves_nothing(
        self, tmp_path: Path, rainy: list[Frame], restore: Restore
    ) -> None:
        source = write(tmp_path / "in.mp4", rainy[:3])
        (tmp_path / "text.mp4").write_bytes(b"no video" * 100)
        combed = write(
            tmp_path / "combed.mkv", rainy[:3], ClipOptions(options={"x264-params": "interlaced=1"})
        )
        turned = write(tmp_path / "turned.mp4", rainy[:3], ClipOptions(rotation=90))
        wide = write(tmp_path / "wide.mp4", rainy[:3], ClipOptions(aspect=Fraction(4, 3)))
        (tmp_path / "there.mp4").touch()
        with av.open(str(tmp_path / "sound.mkv"), "w") as container:
            sound = container.add_stream("flac", 48000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "mono")
            silence.sample_rate = 48000
            container.mux([*sound.encode(silence), *sound.encode(None)])
        there = {path.name for path in tmp_path.iterdir()}
        for given, target, order, message in (
            (source, "there.mp4", {}, "--overwrite"),
            (source, "out.txt", {}, "no kind of video ends in '.txt'"),
            (source, "nowhere/out.mp4", {}, "No such file"),
            (source, "out.webm", {"codec": "h264"}, "webm does not hold h264"),
            (source, "out.mp4", {"crf": 60}, "51 at most"),
            (turned, "out.ts", {}, "cannot say that the video is turned by 90 degrees"),
            (source, "out.avi", {}, "does not keep times"),
            (wide, "out.mkv", {"codec": "av1"}, "cannot say that pixels are 4/3 wide"),
            (combed, "out.mp4", {}, "deinterlace"),
            (tmp_path / "text.mp4", "out.mp4", {}, "Invalid data"),
            (tmp_path / "sound.mkv", "out.mp4", {}, "no video"),
        ):
            with pytest.raises(VideoError) as refused:
                restore(given, tmp_path / target, **order)
            assert message in str(refused.value)
            assert "\n" not in str(refused.value)
        assert {path.name for path in tmp_path.iterdir()} == there

    def test_a_size_that_changes_on_the_way_ends_it(
        self, tmp_path: Path, rainy: list[Frame], restore: Restore
    ) -> None:
        first = write(tmp_path / "first.ts", rainy[:3])
        second = write(tmp_path / "second.ts", [frame[:64] for frame in rainy[:3]])
        (tmp_path / "in.ts").write_bytes(first.read_bytes() + second.read_bytes())
        with pytest.raises(VideoError, match="the size changes from 128x96 to 128x64"):
            restore(tmp_path / "in.ts", tmp_path / "out.mp4", prompt=RAIN)
        assert not (tmp_path / "out.mp4").exists()

    def test_what_is_broken_in_the_middle_is_counted_and_the_rest_goes_on(
        self, tmp_path: Path, rainy: list[Frame], restore: Restore
    ) -> None:
        source = write(
            tmp_path / "in.mov", rainy[:6], ClipOptions(codec="png", pixel_format="rgb24", options={})
        )
        with av.open(str(source)) as container:
            third = [packet for packet in container.demux(video=0) if packet.pts is not None][2]
            assert third.pos is not None
            data = bytearray(source.read_bytes())
            data[third.pos : third.pos + third.size] = bytes(third.size)
        source.write_bytes(data)
        summary = restore(source, tmp_path / "out.mp4", prompt=RAIN)
        assert summary.frames == len(read(tmp_path / "out.mp4").frames) == 5
        assert "1 packets could not be decoded" in summary.notes
        (tmp_path / "torn.mov").write_bytes(data[: third.pos])
        with pytest.raises(VideoError, match="Invalid data"):
            restore(tmp_path / "torn.mov", tmp_path / "torn.mp4", prompt=RAIN)
        cut = write(tmp_path / "cut.mkv", rainy[:20])
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        notes = restore(cut, tmp_path / "cut.mp4", prompt=RAIN).notes
        assert [note for note in notes if "frames were expected" in note]

    def test_two_runs_do_not_write_one_file(
        self, tmp_path: Path, rainy: list[Frame], restorer: Restorer, restore: Restore
    ) -> None:
        source = write(tmp_path / "in.mp4", rainy)
        began, go_on = threading.Event(), threading.Event()

        def wait(_total: int | None) -> None:
            began.set()
            go_on.wait(60)

        first = threading.Thread(
            target=restore_video,
            args=(restorer, source, tmp_path / "out.mp4", VideoOrder(prompt=RAIN)),
            kwargs={"progress": wait},
        )
        first.start()
        try:
            assert began.wait(60)
            with pytest.raises(VideoError, match="by somebody else"):
                restore(source, tmp_path / "out.mp4", prompt=RAIN)
        finally:
            go_on.set()
            first.join(60)
        assert len(read(tmp_path / "out.mp4").frames) == len(rainy)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "gbrp", "gray"]
)
def test_a_frame_survives_being_converted_there_and_back(pixel_format: str, photograph: Frame) -> None:
    frame = av.VideoFrame.from_ndarray(photograph, "rgb24").reformat(format=pixel_format)
    target = {"gbrp": "yuv444p", "yuvj420p": "yuv420p"}.get(pixel_format, pixel_format)
    before = frame.to_ndarray(format="rgb24").astype(int)
    converter = FrameConverter()
    image = converter.image(frame)
    back = converter.frame(frame, image, target).to_ndarray(format="rgb24").astype(int)
    assert np.abs(back - before).mean() < 1.5
    assert abs((back - before).mean()) < 0.5
    assert Image.fromarray(back.astype(np.uint8)).size == (128, 96)
