"""Ctrl-C and SIGTERM, so that what has been begun is ended well."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Turns the first signal into a call; a second one does what it always does.

    Attributes:
        signal: the number of the signal that came; 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Generator[None]:
        """For as long as the context lasts. Only in the main thread."""
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def interrupt(number: int, _frame: FrameType | None) -> None:
            self.signal = number
            restore()
            stop()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in SIGNALS:
            signal.signal(number, interrupt)
        try:
            yield
        finally:
            restore()
