"""The queues between the threads. Were this wrong, a long video would fill the memory, or a failure of one
thread would leave the others waiting for ever."""

import threading
import time

import pytest

from app.bounded_queue import BoundedQueue, StoppedError


def test_it_holds_no_more_than_its_bytes_and_keeps_the_order() -> None:
    queue: BoundedQueue[int] = BoundedQueue(100)
    put: list[int] = []

    def fill() -> None:
        for number in range(20):
            queue.put(number, 30)
            put.append(number)
        queue.close()

    filling = threading.Thread(target=fill)
    filling.start()
    taken: list[int] = []
    for number in queue:
        taken.append(number)
        time.sleep(0.002)
        assert len(put) <= len(taken) + 100 // 30
    filling.join(10)
    assert taken == list(range(20))


def test_what_is_larger_than_all_passes_alone() -> None:
    queue: BoundedQueue[str] = BoundedQueue(10)
    queue.put("large", 1000)
    queue.close()
    assert list(queue) == ["large"]


@pytest.mark.parametrize("side", ["put", "take"])
def test_who_waits_is_told_when_the_other_gives_up(side: str) -> None:
    queue: BoundedQueue[int] = BoundedQueue(10)
    raised: list[type[BaseException]] = []

    def wait() -> None:
        try:
            if side == "put":
                queue.put(1, 10)
                queue.put(2, 10)
            else:
                list(queue)
        except StoppedError as error:
            raised.append(type(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.05)
    queue.stop()
    waiting.join(10)
    assert raised == [StoppedError]
