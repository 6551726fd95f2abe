"""How the service is spoken to: what both clients have in common."""

import os
from importlib.metadata import version
from typing import IO, cast

import httpx

from app.client.attempts import Attempts
from app.client.uploads import Upload, Watched

URL = "http://127.0.0.1:8000"
TIMEOUT = 300.0
"""Seconds for a call; the service's own deadline, where it is not set to something else."""

OCTETS = "application/octet-stream"
"""Of every image: the service looks for itself."""

KEY_VARIABLE = "DERAIN_API_KEY"
"""Environment variable of the API key."""


class Connection:
    """Where the service is, who asks, and how long and how often."""

    def __init__(self, url: str, api_key: str | None, *, timeout: float, retries: int) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._retries = retries
        self._headers = {"User-Agent": f"tvi-derain-client/{version('tvi-derain')}"}
        if key := api_key or os.environ.get(KEY_VARIABLE):
            self._headers["Authorization"] = f"Bearer {key}"

    def attempts(self, timeout: float | None = None, *, retries: int | None = None) -> Attempts:
        """The tries of a new call."""
        return Attempts(
            self._timeout if timeout is None else timeout, self._retries if retries is None else retries
        )

    def request(
        self,
        http: httpx.Client | httpx.AsyncClient,
        attempts: Attempts,
        path: str,
        upload: Upload | None = None,
        form: dict[str, str] | None = None,
    ) -> httpx.Request:
        """One try: POST with an image and the fields of a form, or GET without.

        Raises:
            DerainTimeoutError: the time of the call is over.
        """
        files = None
        if upload is not None:  # httpx reads, seeks and tells, and no more
            file = cast(IO[bytes], Watched(upload.file, attempts.left))
            files = {"image": (upload.name, file, OCTETS)}
        return http.build_request(
            "GET" if upload is None else "POST",
            self._url + path,
            headers={
                **self._headers,
                **attempts.headers(),
                "Accept": "image/*" if path == "/derain" else "application/json",
            },
            data=form or None,
            files=files,
            timeout=attempts.timeouts(),
        )
