"""A network that breaks: stands between a client and a service, and cuts connections."""

import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST, as when the other machine has gone."""


class Relay:
    """Passes bytes to and fro.

    Args:
        url: of the service.
        drop: so many connections are cut before a byte of the answer passes.
        cut_after: bytes of the answer of every connection after which it is cut.
    """

    def __init__(self, url: str, *, drop: int = 0, cut_after: int | None = None) -> None:
        parts = urlsplit(url)
        self._service = (parts.hostname or "", parts.port or 0)
        self._drop = drop
        self._cut_after = cut_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._relay, args=(client, self.connections), daemon=True).start()

    def _relay(self, client: socket.socket, number: int) -> None:
        left = 0 if number <= self._drop else self._cut_after
        with client, socket.create_connection(self._service) as service:
            while True:
                for source in select.select([client, service], [], [])[0]:
                    try:
                        data = source.recv(65536)
                    except OSError:
                        data = b""
                    if not data:
                        return
                    if source is client:
                        service.sendall(data)
                        continue
                    if left is None:
                        client.sendall(data)
                        continue
                    client.sendall(data[:left])
                    left -= len(data)
                    if left <= 0:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        return
