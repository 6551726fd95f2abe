"""`derain serve`."""

import ipaddress
import logging
import signal
from types import FrameType
from typing import Annotated

import typer

from app.cli.loading import inspect_checkpoints, load_settings

OPEN_TO_ALL = (
    "ANYBODY WHO REACHES %s MAY USE THIS SERVICE: it listens beyond this machine and asks for no API key. "
    "DERAIN_API_KEYS_FILE names a file of keys (derain key NAME --append FILE makes one)."
)

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open. Longer than proxies and load balancers keep theirs (60 seconds,
mostly): they should be the ones that close, or a request meets a closed door now and then."""


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error; else DERAIN_LOG_LEVEL.")
    ] = None,
) -> None:
    """Serve POST /derain and the rest over HTTP. Everything else is set by DERAIN_* variables."""
    import uvicorn

    from app import logs
    from app.keys import KeyFileError
    from app.main import create_app
    from app.protocol import bounded_protocol, bounded_websocket
    from app.tracing import TracingError

    if log_level not in (None, "debug", "info", "warning", "error"):
        raise typer.BadParameter(f"{log_level!r} is not a level", param_hint="--log-level")
    settings = load_settings()
    found, _ = inspect_checkpoints(settings)
    if damaged := [one.name for one in found if not one.intact]:
        raise SystemExit(f"{settings.weights_dir}: damaged: {', '.join(damaged)}")
    logs.set_up(log_level or settings.log_level, settings.log_format)
    try:
        app = create_app(settings)
    except KeyFileError as error:
        raise SystemExit(f"DERAIN_API_KEYS_FILE: {error}") from None
    except TracingError as error:
        raise SystemExit(f"DERAIN_TRACING: {error}") from None
    if settings.api_keys_file is None and not _is_loopback(host):
        logging.getLogger("app.cli").warning(OPEN_TO_ALL, host)
    # what the server does last is to raise the signal once more that it was told to leave by
    signal.signal(signal.SIGTERM, _leave)
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=bounded_protocol(settings),
        ws=bounded_websocket(settings),
        ws_max_size=settings.max_frame_bytes,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.deadline_seconds) + 10,
    )


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
