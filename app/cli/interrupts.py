"""Ctrl-C, SIGTERM and the end of a terminal, so that what has been begun is ended well."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """Turns the first signal into a call; a second one does what it always does. Signals that are ignored, as
    by nohup, stay so.

    Attributes:
        signal: the number of the signal that came; 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Generator[None]:
        """For as long as the context lasts. Only in the main thread."""
        found = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in found.items() if handler != signal.SIG_IGN}

        def interrupt(number: int, _frame: FrameType | None) -> None:
            self.signal = number
            restore()
            stop()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, interrupt)
        try:
            yield
        finally:
            restore()
