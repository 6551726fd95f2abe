"""Images side by side on a CPU."""

import threading
from collections.abc import Iterator

import pytest
import torch

from model.lanes import Lanes, even_parts

PATIENCE = 30.0


@pytest.fixture(params=[4], autouse=True)
def cores(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def test_answers_come_in_the_order_of_the_items():
    lanes = Lanes(4)
    first_may_end = threading.Event()

    def double(item: int) -> int:
        if item == 0:
            assert first_may_end.wait(PATIENCE)
        else:
            first_may_end.set()
        return 2 * item

    assert list(lanes.map(double, range(5), at_once=2)) == [0, 2, 4, 6, 8]


def test_as_many_as_asked_for_are_computed_at_once():
    together = threading.Barrier(3)

    def meet(_: int) -> int:
        return together.wait(PATIENCE)

    assert sorted(Lanes(4).map(meet, range(3), at_once=3)) == [0, 1, 2]


@pytest.mark.parametrize("cores", [2], indirect=True)
def test_no_more_are_computed_at_once_than_there_are_cores():
    counting = threading.Lock()
    running = most = 0

    def count(_: int) -> None:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with counting:
            running -= 1

    assert len(list(Lanes(4).map(count, range(8), at_once=8))) == 8
    assert most == 2


def test_nothing_is_computed_before_it_is_asked_for():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(6):
            taken.append(item)
            yield item

    answers = Lanes(4).map(lambda item: item, items(), at_once=2)
    assert taken == []
    assert next(answers) == 0
    assert taken == [0, 1]


def test_a_failure_is_told_after_the_others_have_ended():
    ended = threading.Event()
    failing = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            failing.set()
            raise ValueError("the first")
        assert failing.wait(PATIENCE)
        threading.Event().wait(0.05)
        ended.set()

    with pytest.raises(ValueError, match="the first"):
        list(Lanes(4).map(work, range(2), at_once=2))
    assert ended.is_set()


def threads_of_a_new_thread() -> int:
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return told[0]


def test_the_cores_are_shared_and_given_back():
    lanes = Lanes(4)

    def threads(_: int) -> int:
        return torch.get_num_threads()

    assert list(lanes.map(threads, range(3), at_once=2)) == [2, 2, 4]
    assert list(lanes.map(threads, range(4), at_once=4)) == [1, 1, 1, 1]
    assert list(lanes.map(threads, range(2), at_once=4)) == [2, 2]
    assert torch.get_num_threads() == 4
    assert threads_of_a_new_thread() == 4


def test_a_single_item_is_computed_by_the_thread_that_asks():
    (thread,) = Lanes(4).map(lambda _: threading.get_ident(), [0], at_once=2)
    assert thread == threading.get_ident()


def test_lanes_compute_without_gradients():
    weight = torch.ones(2, requires_grad=True)
    for answer in Lanes(4).map(lambda factor: weight * factor, [1, 2], at_once=2):
        assert not answer.requires_grad


@pytest.mark.parametrize(
    ("count", "lanes", "lengths"),
    [
        (1, 1, [1]),
        (5, 1, [5]),
        (1, 2, [1]),
        (2, 2, [1, 1]),
        (3, 2, [1, 1, 1]),
        (9, 4, [2, 2, 2, 2, 1]),
        (3, 4, [1] * 3),
    ],
)
def test_a_batch_is_parted_evenly(count: int, lanes: int, lengths: list[int]):
    parts = [list(range(count))[part] for part in even_parts(count, lanes)]
    assert [len(part) for part in parts] == lengths
    assert [item for part in parts for item in part] == list(range(count))
