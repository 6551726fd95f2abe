"""The client for asyncio."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
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


class AsyncDerain:
    """The same as `Derain`, for any number of tasks of one event loop (`async with AsyncDerain() as ...`). A
    call that is cancelled is dropped by the service as well.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = 5,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._connection = Connection(url, api_key, timeout=timeout, retries=retries)
        self._http = http or httpx.AsyncClient()
        self._owned = http is None

    async def restore(self, image: ImageSource, **options: Unpack[RestoreOptions]) -> Restored:
        """See `Derain.restore`."""
        attempts = self._connection.attempts(options.get("timeout"))
        async with self._answered(attempts, "/derain", image, form_of(options)) as response:
            told = described(response, options)
            return Restored(data=await _body(response, attempts), **told)

    async def restore_to_file(
        self, image: ImageSource, path: str | os.PathLike[str], **options: Unpack[RestoreOptions]
    ) -> RestoredFile:
        """See `Derain.restore_to_file`."""
        attempts = self._connection.attempts(options.get("timeout"))
        async with self._answered(attempts, "/derain", image, form_of(options)) as response:
            told = described(response, options)
            with whole_file(Path(path)) as file:
                async for piece in _pieces(response, attempts):
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
    ) -> AsyncGenerator[Restored]: ...

    @overload
    def restore_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 4,
        return_errors: Literal[True],
        **options: Unpack[RestoreOptions],
    ) -> AsyncGenerator[Restored | DerainError | OSError]: ...

    async def restore_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 4,
        return_errors: bool = False,
        **options: Unpack[RestoreOptions],
    ) -> AsyncGenerator[Restored | DerainError | OSError]:
        """See `Derain.restore_many`. When the iteration is left, what is not there yet is given up."""
        places = asyncio.Semaphore(concurrency)
        running: deque[asyncio.Task[Restored | DerainError | OSError]] = deque()

        async def restore(image: ImageSource) -> Restored | DerainError | OSError:
            try:
                async with places:
                    return await self.restore(image, **options)
            except (DerainError, OSError) as error:
                if not return_errors:
                    raise
                return error

        try:
            for image in images:
                running.append(asyncio.create_task(restore(image)))
                if len(running) >= 2 * concurrency:
                    yield await running.popleft()
            while running:
                yield await running.popleft()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def perceive(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the service is told
    ) -> Perceived:
        """See `Derain.perceive`."""
        attempts = self._connection.attempts(timeout)
        form = {} if model is None else {"model": model}
        async with self._answered(attempts, "/perceive", image, form) as response:
            return perceived_of(response, await _body(response, attempts))

    async def models(self, *, timeout: float | None = None) -> list[Model]:  # noqa: ASYNC109
        """See `Derain.models`."""
        attempts = self._connection.attempts(timeout)
        async with self._answered(attempts, "/models") as response:
            return models_of(response, await _body(response, attempts))

    async def ready(self, *, timeout: float = 10.0) -> bool:  # noqa: ASYNC109
        """See `Derain.ready`."""
        try:
            async with self._answered(self._connection.attempts(timeout, retries=0), "/readyz"):
                return True
        except DerainError as error:
            if error.status not in (None, 503):
                raise
            return False

    @asynccontextmanager
    async def _answered(
        self,
        attempts: Attempts,
        path: str,
        image: ImageSource | None = None,
        form: dict[str, str] | None = None,
    ) -> AsyncGenerator[httpx.Response]:
        """A good answer, whose body is still to be read within the context, and the time of the call."""
        limit = asyncio.timeout(attempts.left())
        try:
            async with limit, AsyncExitStack() as stack:
                upload = None
                if image is not None:
                    upload = stack.enter_context(await asyncio.to_thread(Upload, image))
                while True:
                    try:
                        request = self._connection.request(self._http, attempts, path, upload, form)
                        response = await self._http.send(request, stream=True)
                    except httpx.TransportError as error:
                        wait = attempts.broken(error)
                    else:
                        async with aclosing(response):
                            if response.is_success:
                                yield response
                                return
                            wait = attempts.refused(response, await _body(response, attempts))
                    await asyncio.sleep(wait)
        except TimeoutError as error:
            if limit.expired():
                raise attempts.out_of_time() from error
            raise

    async def close(self) -> None:
        """Close the connections."""
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _pieces(response: httpx.Response, attempts: Attempts) -> AsyncIterator[bytes]:
    """The body of an answer as it comes. Raises DerainError."""
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except httpx.TransportError as error:
        raise attempts.lost(error) from error


async def _body(response: httpx.Response, attempts: Attempts) -> bytes:
    return b"".join([piece async for piece in _pieces(response, attempts)])
