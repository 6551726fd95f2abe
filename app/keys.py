"""API keys: a TOML file of their SHA-256 hashes, read again when it changes. Knows no HTTP.

    [[key]]
    name = "alice"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    requests_per_minute = 60          # optional
    concurrent_requests = 4           # optional
    expires = 2027-01-01T00:00:00Z    # optional, with a time zone

A key is 256 random bits, so its plain SHA-256 is enough: there is no dictionary to try.
"""

import hashlib
import hmac
import json
import logging
import secrets
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

logger = logging.getLogger(__name__)

PREFIX = "derain_"
"""Beginning of every key that `new_secret` makes, by which scanners for leaked secrets can know it."""

LOOK_SECONDS = 1.0
"""How often the file is looked at, at most."""


class KeyFileError(ValueError):
    """A file of keys that cannot be read. The message holds nothing of what the file says but names of
    fields: somebody may have put a key where its hash belongs."""


class Key(BaseModel):
    """What is known of one key, and what its holder may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    requests_per_minute: PositiveInt | None = None
    concurrent_requests: PositiveInt | None = None
    expires: AwareDatetime | None = None

    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


class _KeyTable(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[Key] = []

    @model_validator(mode="after")
    def _distinct(self) -> "_KeyTable":
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in self.key]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {what}")
        return self


class KeyFile:
    """The keys of a file, which may change while it is used.

    A change is seen within `LOOK_SECONDS`. A file that cannot be read any more leaves the keys as they were
    and is told to the log; one without keys lets nobody in.

    Raises:
        KeyFileError: the file cannot be read now.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._signature = _signature(path)
        self._known = _known(_read(path))

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def __len__(self) -> int:
        return len(self._known)

    def find(self, secret: bytes) -> Key | None:
        """The entry of a key, unless there is none or it has expired.

        Every entry is compared, each in constant time: how long it takes tells nothing about any of them.
        """
        self._look()
        digest = hashlib.sha256(secret).digest()
        found: Key | None = None
        for known, key in self._known:
            if hmac.compare_digest(known, digest):
                found = key
        return None if found is None or found.expired() else found

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        signature = _signature(self._path)  # before reading: a change meanwhile is seen the next time
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._known = _known(_read(self._path))
        except KeyFileError as error:
            logger.error("%s; the %d keys read before stay in force", error, len(self._known))
            return
        logger.info("%s has changed: %d keys", self._path, len(self._known))


def new_secret() -> str:
    """A new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def entry_of(
    secret: str,
    name: str,
    *,
    requests_per_minute: int | None = None,
    concurrent_requests: int | None = None,
    expires: datetime | None = None,
) -> str:
    """The lines of a file of keys that stand for one key.

    Raises:
        KeyFileError: a value is not one that the file may hold.
    """
    digest = hashlib.sha256(secret.encode()).hexdigest()
    lines = ["[[key]]", f"name = {json.dumps(name)}", f'sha256 = "{digest}"']
    if requests_per_minute is not None:
        lines.append(f"requests_per_minute = {requests_per_minute}")
    if concurrent_requests is not None:
        lines.append(f"concurrent_requests = {concurrent_requests}")
    if expires is not None:
        lines.append(f"expires = {expires.isoformat()}")
    entry = "\n".join(lines) + "\n"
    _parse(entry, "this entry")
    return entry


def append_entry(path: Path, entry: str) -> None:
    """Add an entry to a file of keys, with one write; a new file can be read by its owner alone.

    Raises:
        KeyFileError: the file cannot be read or written, or would not be valid with this entry.
    """
    try:
        text = path.read_text() if path.exists() else ""
        _parse(text + "\n" + entry, f"{path} with this entry")
        lead = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        path.touch(0o600)
        with path.open("a") as file:
            file.write(lead + entry)
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: {error}") from error


def _read(path: Path) -> list[Key]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise KeyFileError(f"{path}: {reason}") from None
    return _parse(text, str(path))


def _parse(text: str, what: str) -> list[Key]:
    try:
        return _KeyTable.model_validate(tomllib.loads(text)).key
    except tomllib.TOMLDecodeError:
        raise KeyFileError(f"{what} is not TOML") from None
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, item['loc'])) or 'keys'}: {item['msg']}" for item in error.errors())
        raise KeyFileError(f"{what} is not a file of keys: {'; '.join(wrong)}") from None


def _known(keys: list[Key]) -> list[tuple[bytes, Key]]:
    if not keys:
        logger.warning("the file of API keys holds none: nobody is let in")
    return [(bytes.fromhex(key.sha256), key) for key in keys]


def _signature(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file changes, or is replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
