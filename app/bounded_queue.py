"""A queue between two threads that holds only so many bytes, and that either of them can end."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class StoppedError(Exception):
    """The other side has given up."""


class BoundedQueue(Generic[Item]):
    """Items in order, from one thread to one other.

    Args:
        limit: bytes that wait at most; a single larger item still passes, alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._stopped = False
        self._changed = threading.Condition()

    def put(self, item: Item, size: int) -> None:
        """Append an item of so many bytes, once there is room.

        Raises:
            StoppedError: nobody takes any more.
        """
        with self._changed:
            while self._items and self._bytes + size > self._limit and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise StoppedError
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def close(self) -> None:
        """Say that nothing more will come; what waits will still be given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Give up, on either side: what waits is dropped, and the other side's next call ends."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Take items until the queue is closed and empty.

        Raises:
            StoppedError: nobody gives any more.
        """
        while True:
            with self._changed:
                while not self._items and not self._closed and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    raise StoppedError
                if not self._items:
                    return
                item, size = self._items.popleft()
                self._bytes -= size
                self._changed.notify_all()
            yield item
            del item  # or it would be held while the next one is waited for
