"""Several images at once on a CPU, each on its share of the cores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Value = TypeVar("Value")


class Lanes:
    """Threads that each compute one image on a share of the calling thread's cores.

    Spread over several cores, every layer of a network ends with a wait for the slowest of them, and many
    layers are too small to be worth spreading; side by side, images wait for nothing but their own.

    Args:
        cores: how many there are at most.
    """

    def __init__(self, cores: int) -> None:
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="lane")

    def map(
        self, function: Callable[[Item], Value], items: Iterable[Item], *, at_once: int
    ) -> Iterator[Value]:
        """`function` of every item, in order, computed in groups of `at_once`, a lane for each of a group.

        Without gradients. Nothing is computed ahead of the group that is asked for. A single item is computed
        by the calling thread on all its cores. When one of a group fails, the others are waited for first.
        """
        items = iter(items)
        while group := list(itertools.islice(items, max(1, min(at_once, torch.get_num_threads())))):
            if len(group) == 1:
                yield function(group[0])
            else:
                yield from self._side_by_side(function, group)

    def _side_by_side(self, function: Callable[[Item], Value], group: Sequence[Item]) -> list[Value]:
        cores = torch.get_num_threads()
        share = cores // len(group)

        def compute(item: Item) -> Value:
            compute_on(share)
            with torch.inference_mode():  # a thread's own
                return function(item)

        computed = [self._pool.submit(compute, item) for item in group]
        wait(computed)
        torch.set_num_threads(cores)  # for threads that are new
        return [one.result() for one in computed]


def compute_on(cores: int) -> None:
    """Let this thread compute on so many cores. A thread that is new begins with what any thread set last."""
    if torch.get_num_threads() != cores:  # the first call takes over the process's number
        torch.set_num_threads(cores)


def even_parts(count: int, lanes: int) -> list[slice]:
    """Slices of `count` items: one for each of `lanes`, all equally long, and then one for each item that is
    left."""
    each = count // lanes
    shared = [slice(i * each, (i + 1) * each) for i in range(lanes if each else 0)]
    return shared + [slice(i, i + 1) for i in range(lanes * each, count)]
