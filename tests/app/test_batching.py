"""Were these wrong, images would wait for ever, starve, or get each other's answers."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.batching import AdmissionError, BatchKey, BatchQueue, DeadlineError, Entry, Throughput

SMALL = BatchKey("s", 10, 10)
WIDE = BatchKey("s", 10, 20)
OTHER_MODEL = BatchKey("m", 10, 10)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def entries(key: BatchKey, *names: str, deadline: float = float("inf")) -> list[Entry[str, str]]:
    return [Entry(key=key, payload=name, deadline=deadline) for name in names]


def names(batch: list[Entry[str, str]]) -> list[str]:
    return [entry.payload for entry in batch]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> BatchQueue[str, str]:
    return BatchQueue(batch_pixels=400, clock=clock)


class TestForming:
    def test_a_batch_holds_one_key_in_order_of_arrival(self, queue: BatchQueue[str, str]) -> None:
        queue.put(
            [*entries(SMALL, "a"), *entries(WIDE, "b"), *entries(SMALL, "c"), *entries(OTHER_MODEL, "d")]
        )
        assert names(queue.take()) == ["a", "c"]
        assert names(queue.take()) == ["b"]
        assert names(queue.take()) == ["d"]

    def test_it_is_filled_across_the_whole_queue(self, queue: BatchQueue[str, str]) -> None:
        queue.put([*entries(SMALL, "a"), *entries(WIDE, *map(str, range(50))), *entries(SMALL, "last")])
        assert names(queue.take()) == ["a", "last"]

    def test_it_stays_within_the_pixel_budget(self, queue: BatchQueue[str, str]) -> None:
        queue.put(entries(SMALL, "a", "b", "c", "d", "e"))
        assert names(queue.take()) == ["a", "b", "c", "d"]
        assert names(queue.take()) == ["e"]
        queue.put(entries(WIDE, "f", "g", "h"))
        assert names(queue.take()) == ["f", "g"]

    def test_an_image_over_the_budget_is_a_batch_of_its_own(self, queue: BatchQueue[str, str]) -> None:
        huge = BatchKey("s", 100, 100)
        queue.put(entries(huge, "a", "b"))
        assert names(queue.take()) == ["a"]
        assert names(queue.take()) == ["b"]

    def test_the_budget_can_shrink_between_batches(self, queue: BatchQueue[str, str]) -> None:
        queue.put(entries(SMALL, "a", "b", "c"))
        queue.batch_pixels = 200
        assert names(queue.take()) == ["a", "b"]

    def test_a_steady_stream_of_one_size_does_not_starve_another(self, queue: BatchQueue[str, str]) -> None:
        queue.put(entries(SMALL, "s0", "s1", "s2", "s3", "s4"))
        queue.put(entries(WIDE, "lonely"))
        served: list[str] = []
        for number in itertools.count(5):
            queue.put(entries(SMALL, f"s{number}"))
            served += names(queue.take())
            if "lonely" in served:
                break
        # the oldest is always next: everything that came before it went before it, and it did not wait longer
        assert served == ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "lonely"]

    def test_it_waits_for_work_and_not_for_company(self) -> None:
        queue: BatchQueue[str, str] = BatchQueue(batch_pixels=400)
        with ThreadPoolExecutor(1) as pool:
            batch = pool.submit(queue.take)
            time.sleep(0.05)
            assert not batch.done()
            queue.put(entries(SMALL, "a"))
            assert names(batch.result(timeout=5)) == ["a"]

    def test_readings_tell_how_long_an_image_waited(self, queue: BatchQueue[str, str], clock: Clock) -> None:
        queue.put(entries(SMALL, "a"))
        clock.now += 1.5
        assert queue.take()[0].queue_seconds == 1.5

    def test_images_of_a_slower_model_weigh_more(self, clock: Clock) -> None:
        queue = BatchQueue[str, str](
            batch_pixels=800, throughput=Throughput(100), speeds={"m": Throughput(25)}, clock=clock
        )
        queue.put(entries(OTHER_MODEL, "a", "b", "c"))
        queue.put(entries(SMALL, "d"))
        assert queue.backlog_seconds == 4 + 4 + 4 + 1
        assert names(queue.take()) == ["a", "b"]
        clock.now += 3
        assert queue.backlog_seconds == 8 - 3 + 4 + 1
        assert names(queue.take()) == ["c"]
        assert names(queue.take()) == ["d"]

    def test_a_budget_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="batch_pixels"):
            BatchQueue(batch_pixels=0)


class TestLanes:
    @pytest.fixture
    def queue(self, clock: Clock) -> BatchQueue[str, str]:
        return BatchQueue(batch_pixels=400, lanes=2, throughput=Throughput(100), clock=clock)

    def test_each_takes_its_share_of_the_budget(self, queue: BatchQueue[str, str]) -> None:
        queue.put(entries(SMALL, *"abcde"))
        assert names(queue.take(0)) == ["a", "b"]
        assert names(queue.take(1)) == ["c", "d"]
        assert queue.share(0) == queue.share(1) == 0.5
        assert names(queue.take(0)) == ["e"]
        assert queue.share(0) == 0.5, "the other lane still runs"

    def test_an_image_that_is_alone_has_the_whole_device(self, queue: BatchQueue[str, str]) -> None:
        queue.put(entries(SMALL, "a"))
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(queue.take, 1)
            time.sleep(0.05)
            assert not other.done(), "it is for lane 0"
            assert names(queue.take(0)) == ["a"]
            assert queue.share(0) == 1.0
            queue.put(entries(SMALL, "b", "c", "d"))
            time.sleep(0.05)
            assert not other.done(), "the device is taken"
            assert names(queue.take(0)) in (["b", "c"], ["d"])
            assert names(other.result(timeout=5)) in (["b", "c"], ["d"])
        assert queue.share(0) == queue.share(1) == 0.5

    def test_the_last_of_many_is_not_alone_while_others_run(self, queue: BatchQueue[str, str]) -> None:
        queue.put(entries(SMALL, *"abc"))
        assert names(queue.take(0)) == ["a", "b"]
        assert names(queue.take(1)) == ["c"]
        assert queue.share(1) == 0.5

    def test_time_of_a_lane_is_half_of_the_devices(self, queue: BatchQueue[str, str], clock: Clock) -> None:
        queue.put([*entries(SMALL, "a", "b"), *entries(WIDE, "c")])
        assert queue.backlog_seconds == pytest.approx(4.0)
        queue.take(0)
        queue.take(1)
        assert queue.backlog_seconds == pytest.approx(4.0)
        clock.now += 2
        assert queue.backlog_seconds == pytest.approx(2.0)
        assert queue.busy_seconds == pytest.approx(2.0)
        queue.close()
        assert queue.take(1) == []
        assert queue.backlog_seconds == pytest.approx(1.0)
        clock.now += 2
        assert queue.busy_seconds == pytest.approx(3.0)
        assert queue.take(0) == []
        assert queue.backlog_seconds == 0.0

    def test_all_are_told_when_there_is_nothing_more(self, queue: BatchQueue[str, str]) -> None:
        with ThreadPoolExecutor(2) as pool:
            lanes = [pool.submit(queue.take, lane) for lane in range(2)]
            time.sleep(0.05)
            queue.close()
            assert [lane.result(timeout=5) for lane in lanes] == [[], []]

    def test_a_closed_queue_is_drained_by_all(self, queue: BatchQueue[str, str]) -> None:
        queue.put(entries(SMALL, *map(str, range(9))))
        queue.close()

        def drain(lane: int) -> list[str]:
            taken: list[str] = []
            while batch := queue.take(lane):
                taken += names(batch)
            return taken

        with ThreadPoolExecutor(2) as pool:
            taken = pool.map(drain, range(2))
            assert sorted(name for some in taken for name in some) == [str(number) for number in range(9)]


class TestLeaving:
    def test_a_client_that_left_is_not_restored(self, queue: BatchQueue[str, str]) -> None:
        waiting = entries(SMALL, "a", "b", "c")
        queue.put(waiting)
        assert waiting[0].reply.cancel()
        assert waiting[1].reply.cancel()
        assert names(queue.take()) == ["c"]

    def test_it_counts_no_longer_the_moment_it_leaves(self, queue: BatchQueue[str, str]) -> None:
        queue.throughput.observe(100, 1.0)
        waiting = entries(SMALL, "a", "b")
        queue.put(waiting)
        assert (queue.images, queue.backlog_seconds) == (2, 2.0)
        waiting[0].reply.cancel()
        assert (queue.images, queue.backlog_seconds) == (1, 1.0)
        waiting[1].reply.cancel()
        assert (queue.images, queue.backlog_seconds) == (0, 0.0)

    def test_it_makes_room_in_the_batch(self, queue: BatchQueue[str, str]) -> None:
        waiting = entries(SMALL, "a", "b", "c", "d", "e")
        queue.put(waiting)
        waiting[2].reply.cancel()
        assert names(queue.take()) == ["a", "b", "d", "e"]

    def test_it_is_too_late_once_the_batch_is_formed(self, queue: BatchQueue[str, str]) -> None:
        queue.put(entries(SMALL, "a"))
        taken = queue.take()[0]
        assert not taken.reply.cancel()
        taken.reply.set_result("done")
        assert taken.reply.result() == "done"

    def test_leaving_from_many_threads_while_batches_form_loses_nothing(self) -> None:
        queue: BatchQueue[str, str] = BatchQueue(batch_pixels=300)
        waiting = [entry for i in range(400) for entry in entries((SMALL, WIDE, OTHER_MODEL)[i % 3], str(i))]
        restored: list[str] = []

        def restore() -> None:
            while batch := queue.take():
                restored.extend(names(batch))
                for entry in batch:
                    entry.reply.set_result(entry.payload)

        device = threading.Thread(target=restore)
        device.start()
        with ThreadPoolExecutor(8) as clients:
            clients.map(lambda entry: queue.put([entry]), waiting)
            left = sum(clients.map(lambda entry: entry.reply.cancel(), waiting[::7]))
        queue.close()
        device.join(timeout=10)
        assert not device.is_alive()
        assert len(restored) == len(set(restored)) == 400 - left
        assert (queue.images, queue.backlog_seconds) == (0, 0.0)

    def test_after_its_deadline_an_image_is_not_restored(
        self, queue: BatchQueue[str, str], clock: Clock
    ) -> None:
        late, fine = *entries(SMALL, "late", deadline=clock.now + 1), *entries(SMALL, "fine")
        queue.put([late, fine])
        clock.now += 2
        assert names(queue.take()) == ["fine"]
        with pytest.raises(DeadlineError):
            late.reply.result(timeout=0)


class TestDraining:
    def test_a_closed_queue_gives_out_what_it_holds_and_then_ends(self, queue: BatchQueue[str, str]) -> None:
        queue.put([*entries(SMALL, "a"), *entries(WIDE, "b")])
        queue.close()
        assert names(queue.take()) == ["a"]
        assert names(queue.take()) == ["b"]
        assert queue.take() == []

    def test_it_takes_nothing_more(self, queue: BatchQueue[str, str]) -> None:
        queue.close()
        with pytest.raises(AdmissionError) as refused:
            queue.put(entries(SMALL, "a"))
        assert refused.value.reason == "draining"
        assert queue.images == 0

    def test_closing_wakes_the_taker(self) -> None:
        queue: BatchQueue[str, str] = BatchQueue(batch_pixels=400)
        with ThreadPoolExecutor(1) as pool:
            batch = pool.submit(queue.take)
            time.sleep(0.05)
            queue.close()
            assert batch.result(timeout=5) == []


class TestBacklog:
    def test_it_is_what_waits_and_what_runs_by_measured_speed(
        self, queue: BatchQueue[str, str], clock: Clock
    ) -> None:
        assert queue.backlog_seconds == 0.0
        queue.throughput.observe(pixels=1000, seconds=10.0)
        queue.put(entries(SMALL, *"abcde"))
        assert queue.backlog_seconds == pytest.approx(5.0)
        queue.take()
        assert queue.backlog_seconds == pytest.approx(5.0)
        clock.now += 3
        assert queue.backlog_seconds == pytest.approx(2.0)
        clock.now += 30
        assert queue.backlog_seconds == pytest.approx(1.0)
        queue.take()
        clock.now += 1
        queue.close()
        assert queue.take() == []
        assert queue.backlog_seconds == 0.0

    def test_busy_is_the_time_with_a_batch(self, queue: BatchQueue[str, str], clock: Clock) -> None:
        clock.now += 7
        queue.put([*entries(SMALL, "a"), *entries(WIDE, "b")])
        assert queue.busy_seconds == 0.0
        queue.take()
        clock.now += 2
        assert queue.busy_seconds == pytest.approx(2.0), "also while the batch still runs"
        queue.take()
        clock.now += 3
        queue.close()
        assert queue.take() == []
        clock.now += 5
        assert queue.busy_seconds == pytest.approx(5.0)

    def test_speed_follows_what_is_measured(self) -> None:
        throughput = Throughput(smoothing=0.5)
        assert throughput.seconds(1000) == 0.0
        throughput.observe(10**6, 1.0)
        assert throughput.seconds(10**6) == pytest.approx(1.0)
        throughput.observe(3 * 10**6, 1.0)
        assert throughput.pixels_per_second == pytest.approx(2 * 10**6)

    def test_tiny_images_do_not_make_a_device_look_slow(self) -> None:
        """Large ones would be refused after them, though there is all the time for them."""
        throughput = Throughput(overhead=0.01)
        throughput.observe(10**6, 1.01)
        for _ in range(1000):
            throughput.observe(24 * 24, 0.012)
        assert throughput.pixels_per_second == pytest.approx(10**6)
        for _ in range(20):  # others take their cores away meanwhile
            throughput.observe(24 * 24, 0.05)
        assert throughput.pixels_per_second > 0.9 * 10**6
        for _ in range(40):  # and what is slow is slow
            throughput.observe(10**6, 4.01)
        assert throughput.pixels_per_second == pytest.approx(0.25 * 10**6, rel=0.01)

    def test_what_a_batch_takes_however_small_it_is_counts(self, queue: BatchQueue[str, str]) -> None:
        queue.throughput.overhead = 0.5
        queue.throughput.observe(pixels=1000, seconds=10.5)
        queue.put([*entries(SMALL, *"abcde"), *entries(WIDE, "f")])
        pixels = 5 * SMALL.pixels + WIDE.pixels
        assert queue.backlog_seconds == pytest.approx(pixels / 100 + 3 * 0.5), "four and one, and one"
        assert queue.seconds(800) == pytest.approx(8 + 2 * 0.5)
