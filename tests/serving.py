"""A real uvicorn on a real socket, in a thread of the tests."""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from PIL import Image

STARTUP_SECONDS = 120


@contextmanager
def running(app: FastAPI) -> Generator[str]:
    """Serve on a free port of 127.0.0.1; gives the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    before = Image.MAX_IMAGE_PIXELS or 0
    thread.start()
    patience = time.monotonic() + STARTUP_SECONDS
    while not server.started:
        assert thread.is_alive(), "the service did not start; the log says why"
        assert time.monotonic() < patience, f"the service did not start within {STARTUP_SECONDS} seconds"
        time.sleep(0.05)
    # Pillow's limit is the process's: a strict service must not set it for its neighbours in the tests
    Image.MAX_IMAGE_PIXELS = max(before, Image.MAX_IMAGE_PIXELS or 0)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive(), "the service did not stop"
