"""The client for threads."""

import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Literal, Self, Unpack, overload

import httpx

from app.client.answers import (
    Model,
    Perceived,
    Restored,
    RestoredFile,
    described,
    models_of,
    perceived_of,
)
from app.client.attempts import Attempts
from app.client.connection import TIMEOUT, URL, Connection
from app.client.errors import DerainError
from app.client.options import RestoreOptions, form_of
from app.client.uploads import ImageSource, Upload
from app.whole_files import whole_file


class Derain:
    """The service at `url`. To be used by any number of threads, and closed in the end (`with Derain() ...`).

    Calls raise `DerainError`, the problem that the service answered with. While it is overloaded (503), or
    the key's quota is used up (429), and while connections break before an answer comes, they try again, as
    long as `Retry-After` and their `timeout` leave time for it.

    Args:
        url: where the service is.
        api_key: else the environment's `DERAIN_API_KEY`, else none.
        timeout: seconds for each call, tries and waits included. The service is told, and drops what it
            cannot do in that time.
        retries: tries after the first.
        http: an httpx client with certificates, proxies or limits of one's own; it stays open.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = 5,
        http: httpx.Client | None = None,
    ) -> None:
        self._connection = Connection(url, api_key, timeout=timeout, retries=retries)
        self._http = http or httpx.Client()
        self._owned = http is None

    def restore(self, image: ImageSource, **options: Unpack[RestoreOptions]) -> Restored:
        """Take the rain out of an image.

        Raises:
            DerainError: it was refused or failed, or no answer came.
            OSError: the image cannot be read.
        """
        attempts = self._connection.attempts(options.get("timeout"))
        with self._answered(attempts, "/derain", image, form_of(options)) as response:
            told = described(response, options)
            return Restored(data=b"".join(_pieces(response, attempts)), **told)

    def restore_to_file(
        self, image: ImageSource, path: str | os.PathLike[str], **options: Unpack[RestoreOptions]
    ) -> RestoredFile:
        """Take the rain out of an image, and write the answer to a file as it comes. The file appears whole
        or not at all, and replaces one that is there.

        Raises:
            DerainError: it was refused or failed, or no answer came.
            OSError: the image cannot be read, or the file not be written.
        """
        attempts = self._connection.attempts(options.get("timeout"))
        with self._answered(attempts, "/derain", image, form_of(options)) as response:
            told = described(response, options)
            with whole_file(Path(path)) as file:
                for piece in _pieces(response, attempts):
                    file.write(piece)
            return RestoredFile(path=Path(path), **told)

    @overload
    def restore_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 4,
        return_errors: Literal[False] = False,
        **options: Unpack[RestoreOptions],
    ) -> Iterator[Restored]: ...

    @overload
    def restore_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 4,
        return_errors: Literal[True],
        **options: Unpack[RestoreOptions],
    ) -> Iterator[Restored | DerainError | OSError]: ...

    def restore_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 4,
        return_errors: bool = False,
        **options: Unpack[RestoreOptions],
    ) -> Iterator[Restored | DerainError | OSError]:
        """Restore images, several at once, in requests of their own, which the service puts into batches.
        Gives the results in the order of the images, each as soon as it and those before are there; takes no
        more images than that needs.

        Args:
            concurrency: requests at once.
            return_errors: give the error of an image in its place, and go on; else the first one is raised.
        """
        pool = ThreadPoolExecutor(concurrency, "derain")
        running: deque[Future[Restored]] = deque()

        def first() -> Restored | DerainError | OSError:
            try:
                return running.popleft().result()
            except (DerainError, OSError) as error:
                if not return_errors:
                    raise
                return error

        try:
            for image in images:
                running.append(pool.submit(self.restore, image, **options))
                if len(running) >= 2 * concurrency:
                    yield first()
            while running:
                yield first()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def perceive(
        self, image: ImageSource, *, model: str | None = None, timeout: float | None = None
    ) -> Perceived:
        """What is wrong with an image, and the prompt that follows from it.

        Raises:
            DerainError: it was refused or failed, or no answer came.
            OSError: the image cannot be read.
        """
        attempts = self._connection.attempts(timeout)
        form = {} if model is None else {"model": model}
        with self._answered(attempts, "/perceive", image, form) as response:
            return perceived_of(response, b"".join(_pieces(response, attempts)))

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The checkpoints that are served. Raises DerainError."""
        attempts = self._connection.attempts(timeout)
        with self._answered(attempts, "/models") as response:
            return models_of(response, b"".join(_pieces(response, attempts)))

    def ready(self, *, timeout: float = 10.0) -> bool:
        """Whether the service takes requests; False as well where it cannot be reached. Tries once.

        Raises:
            DerainError: it answers something else, so it is not the service.
        """
        try:
            with self._answered(self._connection.attempts(timeout, retries=0), "/readyz"):
                return True
        except DerainError as error:
            if error.status not in (None, 503):
                raise
            return False

    @contextmanager
    def _answered(
        self,
        attempts: Attempts,
        path: str,
        image: ImageSource | None = None,
        form: dict[str, str] | None = None,
    ) -> Generator[httpx.Response]:
        """A good answer, whose body is still to be read."""
        with ExitStack() as stack:
            upload = None if image is None else stack.enter_context(Upload(image))
            while True:
                try:
                    request = self._connection.request(self._http, attempts, path, upload, form)
                    response = self._http.send(request, stream=True)
                except httpx.TransportError as error:
                    wait = attempts.broken(error)
                else:
                    with closing(response):
                        if response.is_success:
                            yield response
                            return
                        wait = attempts.refused(response, b"".join(_pieces(response, attempts)))
                time.sleep(wait)

    def close(self) -> None:
        """Close the connections."""
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pieces(response: httpx.Response, attempts: Attempts) -> Iterator[bytes]:
    """The body of an answer as it comes. Raises DerainError."""
    try:
        for piece in response.iter_bytes():
            attempts.left()
            yield piece
    except httpx.TransportError as error:
        raise attempts.lost(error) from error
