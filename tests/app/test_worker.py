"""Were these wrong, one bad image would take its neighbours with it, or the whole service."""

import gc
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from app import worker as worker_module
from app.batching import BatchKey, BatchQueue
from app.worker import (
    DeviceFailedError,
    DeviceWorker,
    Job,
    RestorationEntry,
    RestorationError,
    RestorationQueue,
    calibrate,
)
from model.prompts import Prompt
from model.restorer import AbandonedError

SIDE = 8
KEY = BatchKey("network", SIDE, SIDE)
POISON = 13


class WholeNetwork(ABC):
    """What restores in one go, so that neither a place to write to nor leaving clients matter to it."""

    def healthy(self) -> bool:
        return True

    @abstractmethod
    def run(self, images: Sequence[torch.Tensor], prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """Restore them."""

    def restore(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[Prompt],
        *,
        in_place: bool = False,  # noqa: ARG002
        cancelled: Callable[[], bool] | None = None,  # noqa: ARG002
    ) -> list[torch.Tensor]:
        return self.run(images, prompts)


class FragileNetwork(WholeNetwork):
    """Fails, as a real one does only by accident, on chosen images or on batches over a chosen size."""

    def __init__(self, *, most: int = 1000) -> None:
        self.most = most
        self.batches: list[int] = []
        self.computed: list[weakref.ref[torch.Tensor]] = []
        self.most_held = 0

    def run(self, images: Sequence[torch.Tensor], prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        self.batches.append(len(images))
        self.most_held = max(self.most_held, sum(ref() is not None for ref in self.computed))
        features = torch.zeros(1)
        self.computed.append(weakref.ref(features))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        if any(int(image[0, 0, 0]) == POISON for image in images):
            raise FloatingPointError("not finite")
        return [image + len(prompt.degradation or "") for image, prompt in zip(images, prompts, strict=True)]


class Bench:
    start: Callable[[], object]

    def __init__(self) -> None:
        self.queue: RestorationQueue = BatchQueue(batch_pixels=8 * SIDE * SIDE)
        self.reports: list[tuple[int, int]] = []
        self.network = FragileNetwork()
        self.worker = DeviceWorker(
            {"network": self.network},
            self.queue,
            on_batch=lambda images, pixels: self.reports.append((images, pixels)),
        )
        self.start = self.worker.start

    def put(self, *values: int) -> list[RestorationEntry]:
        entries = [
            RestorationEntry(
                key=KEY,
                payload=Job(
                    torch.full((3, SIDE, SIDE), value, dtype=torch.uint8),
                    Prompt(degradation="x" * (value % 3)),
                ),
            )
            for value in values
        ]
        self.queue.put(entries)
        return entries


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.queue.close()
    bench.worker.join(timeout=10)
    assert not bench.worker.alive


def value_of(entry: RestorationEntry) -> int:
    return int(entry.reply.result(timeout=10).image[0, 0, 0])


def test_every_image_gets_its_own_answer(bench: Bench) -> None:
    entries = bench.put(*range(20, 40))
    bench.worker.start()
    assert [value_of(entry) for entry in entries] == [value + value % 3 for value in range(20, 40)]
    assert bench.network.batches == [8, 8, 4]
    assert [entry.reply.result().batch_size for entry in entries] == [8] * 16 + [4] * 4
    assert bench.reports == [(8, 8 * 64), (8, 8 * 64), (4, 4 * 64)]


def test_only_the_culprit_fails(bench: Bench) -> None:
    entries = bench.put(1, 2, POISON, 4, 5, 6, 7)
    bench.worker.start()
    assert [value_of(entry) for entry in entries if entry is not entries[2]] == [2, 4, 5, 7, 6, 8]
    with pytest.raises(RestorationError):
        entries[2].reply.result(timeout=10)


def test_the_worker_survives_a_failure(bench: Bench) -> None:
    bench.worker.start()
    with pytest.raises(RestorationError):
        bench.put(POISON)[0].reply.result(timeout=10)
    assert value_of(bench.put(21)[0]) == 21
    assert bench.worker.alive


def test_want_of_memory_halves_the_batches_and_loses_nothing(bench: Bench) -> None:
    bench.network.most = 3
    entries = bench.put(*range(20, 28))
    bench.worker.start()
    assert [value_of(entry) for entry in entries] == [value + value % 3 for value in range(20, 28)]
    assert bench.queue.batch_pixels <= 3 * SIDE * SIDE
    assert bench.worker.out_of_memory == 3, "of 8, and both of 4"
    assert bench.network.most_held == 0, "what did not fit is let go of before it is tried again in halves"
    tried = len(bench.network.batches)
    more = bench.put(*range(30, 38))
    assert [value_of(entry) for entry in more] == [value + value % 3 for value in range(30, 38)]
    assert max(bench.network.batches[tried:]) <= 3


def test_one_image_that_does_not_fit_into_memory_fails_alone(bench: Bench) -> None:
    bench.network.most = 0
    entry = bench.put(1)[0]
    bench.worker.start()
    with pytest.raises(RestorationError):
        entry.reply.result(timeout=10)
    assert bench.queue.batch_pixels >= SIDE * SIDE


def test_photographs_are_let_go_of_at_once(bench: Bench) -> None:
    """Else a large one would stay in memory until the next one comes, or a garbage collection."""
    bench.worker.start()
    entries = bench.put(1, 2)
    held = [weakref.ref(thing) for entry in entries for thing in (entry.payload.image, entry)]
    held += [weakref.ref(entry.reply.result(timeout=10).image) for entry in entries]
    gc.disable()
    try:
        del entries
        patience = time.monotonic() + 10
        while any(ref() is not None for ref in held):
            assert time.monotonic() < patience, "something still holds them"
            time.sleep(0.01)
    finally:
        gc.enable()


def test_the_speed_is_measured(bench: Bench) -> None:
    bench.worker.start()
    assert bench.queue.throughput.pixels_per_second == 0.0
    value_of(bench.put(1)[0])
    assert bench.queue.throughput.pixels_per_second > 0.0


def test_batches_grow_again_when_there_is_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one bad minute would slow the service down for good."""
    whole = bench.queue.batch_pixels
    bench.network.most = 1
    bench.worker.start()
    for entry in bench.put(*range(20, 28)):
        value_of(entry)
    assert bench.queue.batch_pixels == SIDE * SIDE
    bench.network.most = 1000
    value_of(bench.put(1)[0])
    assert bench.queue.batch_pixels == SIDE * SIDE, "not at once"
    monkeypatch.setattr(worker_module, "REGROW_SECONDS", 0.0)
    monkeypatch.setattr(bench.worker, "_regrow_at", 0.0)
    for _ in range(5):
        value_of(bench.put(1)[0])
    assert bench.queue.batch_pixels == whole


class MeetingNetwork(FragileNetwork):
    """Begins its first batches only when there are two of them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.together = threading.Barrier(2)
        self.first: Iterator[int] = iter(range(2))
        self.cores: set[int] = set()

    def run(self, images: Sequence[torch.Tensor], prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        self.cores.add(torch.get_num_threads())
        if next(self.first, None) is not None:
            self.together.wait(30)
        return super().run(images, prompts)


@pytest.fixture
def two_lanes() -> Iterator[tuple[Bench, MeetingNetwork]]:
    """Two workers on one queue; neither has begun."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    bench, network = Bench(), MeetingNetwork()
    bench.queue = BatchQueue(batch_pixels=8 * SIDE * SIDE, lanes=2)
    workers = [
        DeviceWorker({"network": network}, bench.queue, on_batch=lambda *_: None, lane=lane)
        for lane in range(2)
    ]
    bench.start = lambda: [worker.start() for worker in workers]
    yield bench, network
    bench.queue.close()
    for worker in workers:
        worker.join(timeout=10)
        assert not worker.alive
    torch.set_num_threads(before)


def test_lanes_compute_side_by_side_and_lose_nothing(two_lanes: tuple[Bench, MeetingNetwork]) -> None:
    bench, network = two_lanes
    entries = bench.put(*range(20, 60), POISON)
    bench.start()
    assert [value_of(entry) for entry in entries[:-1]] == [value + value % 3 for value in range(20, 60)]
    with pytest.raises(RestorationError):
        entries[-1].reply.result(timeout=10)
    assert max(network.batches) == 4, "half of the budget"
    assert network.cores == {1}, "half of the cores"


def test_an_image_alone_has_all_cores(two_lanes: tuple[Bench, MeetingNetwork]) -> None:
    bench, network = two_lanes
    network.first = iter(())  # it need not meet another
    bench.start()
    for value in (20, 21, 22):
        assert value_of(bench.put(value)[0]) == value + value % 3
    assert network.cores == {2}


class BrokenNetwork(WholeNetwork):
    """A device after an error that sticks."""

    def healthy(self) -> bool:
        return False

    def run(self, images: Sequence[torch.Tensor], prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        del images, prompts
        raise RuntimeError("CUDA error: device-side assert triggered")


class HangingNetwork(WholeNetwork):
    """A device that does not answer, until somebody lets go of it."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def run(self, images: Sequence[torch.Tensor], prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        del prompts
        self.released.wait(30)
        return list(images)


def all_are_told(entries: Sequence[RestorationEntry], reason: str) -> None:
    for entry in entries:
        with pytest.raises(DeviceFailedError, match=reason):
            entry.reply.result(timeout=10)


def test_a_device_that_has_failed_takes_nothing_more_and_nobody_waits_for_it(bench: Bench) -> None:
    told: list[str] = []
    worker = DeviceWorker(
        {"network": BrokenNetwork()}, bench.queue, on_batch=lambda *_: None, on_failure=told.append
    )
    entries = bench.put(*range(20))
    worker.start()
    all_are_told(entries, "device-side assert")
    worker.join(timeout=10)
    assert not worker.alive
    assert told == ["the device has failed: CUDA error: device-side assert triggered"]
    all_are_told(bench.put(1), "device-side assert")
    bench.worker.start()


def test_a_device_that_hangs_is_given_up(bench: Bench) -> None:
    hanging, told = HangingNetwork(), threading.Event()
    worker = DeviceWorker(
        {"network": hanging},
        bench.queue,
        on_batch=lambda *_: None,
        on_failure=lambda _: told.set(),
        hang_seconds=0.3,
    )
    entries = bench.put(*range(20))
    worker.start()
    began = time.monotonic()
    all_are_told(entries, "has not ended")
    assert 0.3 < time.monotonic() - began < 5
    assert told.wait(timeout=10)
    assert not worker.alive
    worker.join()  # does not wait for it
    hanging.released.set()  # and what comes late hurts nobody
    bench.worker.start()


def test_a_thread_that_dies_does_not_leave_anybody_waiting(bench: Bench) -> None:
    told: list[str] = []

    def report(images: int, pixels: int) -> None:
        raise SystemError(f"{images} images, {pixels} pixels")

    worker = DeviceWorker({"network": bench.network}, bench.queue, on_batch=report, on_failure=told.append)
    entries = bench.put(*range(20))
    worker.start()
    all_are_told(entries, "SystemError")
    worker.join(timeout=10)
    assert not worker.alive
    assert len(told) == 1
    bench.worker.start()


class EndlessNetwork:
    """Works, as on a very large image, until it is told to give up."""

    def __init__(self) -> None:
        self.running = threading.Event()

    def healthy(self) -> bool:
        return True

    def restore(
        self,
        images: Sequence[torch.Tensor],  # noqa: ARG002
        prompts: Sequence[Prompt],  # noqa: ARG002
        *,
        in_place: bool = False,  # noqa: ARG002
        cancelled: Callable[[], bool] | None = None,
    ) -> list[torch.Tensor]:
        self.running.set()
        while not (cancelled and cancelled()):
            time.sleep(0.001)
        raise AbandonedError("nobody waits")


def test_a_client_that_leaves_frees_the_device(bench: Bench) -> None:
    endless = EndlessNetwork()
    worker = DeviceWorker(
        {"network": endless}, bench.queue, on_batch=lambda *report: bench.reports.append(report)
    )
    first, second = bench.put(1, 2)
    worker.start()
    assert endless.running.wait(timeout=10)
    first.abandon()
    assert not second.reply.done(), "the other client of the batch still waits"
    second.abandon()
    for entry in (first, second):
        with pytest.raises(AbandonedError):
            entry.reply.result(timeout=10)
    assert not bench.reports, "what was given up says nothing about the speed"
    assert worker.steps > 1, "else an alert would take a large image for a device that hangs"
    assert worker.alive
    bench.worker.start()
    bench.queue.close()
    worker.join(timeout=10)


def test_a_client_that_leaves_the_queue_costs_the_device_nothing(bench: Bench) -> None:
    first, second = bench.put(1, 2)
    first.abandon()
    bench.worker.start()
    assert value_of(second) == 4
    assert bench.network.batches == [1]
    assert first.reply.cancelled()


class SteadyNetwork(WholeNetwork):
    """Takes a fixed time per call and per image, by a clock of its own."""

    def __init__(self, *, per_call: float, per_image: float) -> None:
        self.per_call = per_call
        self.per_image = per_image
        self.now = 0.0

    def run(self, images: Sequence[torch.Tensor], prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        self.now += self.per_call + self.per_image * len(images)
        return [image for image, _ in zip(images, prompts, strict=True)]


@pytest.mark.parametrize(
    ("per_call", "per_image", "images"),
    [
        (0.0, 0.02, 1),  # one core: a second image takes as long as the first
        (0.001, 0.00005, 512),  # a GPU: calls are what costs
        (0.001, 0.0009, 32),  # in between: batches of 64 are not 3 % faster per image any more
        (0.01, 0.01, 16),  # a batch of 32 would keep everyone waiting for too long
    ],
)
def test_batches_grow_as_long_as_it_pays(
    per_call: float, per_image: float, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SteadyNetwork(per_call=per_call, per_image=per_image)
    monkeypatch.setattr("app.worker.time.monotonic", lambda: network.now)
    calibration = calibrate(network)
    assert calibration.batch_pixels == images * 128 * 128
    assert calibration.pixels_per_second > 0
