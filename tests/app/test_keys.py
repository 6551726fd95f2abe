"""Were these wrong, somebody without a key would get in, or somebody with one would be locked out."""

import hmac
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.keys import LOOK_SECONDS, KeyFile, KeyFileError, append_entry, entry_of, new_secret


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def add(path: Path, name: str, *, expires: datetime | None = None) -> str:
    secret = new_secret()
    append_entry(path, entry_of(secret, name, expires=expires))
    return secret


def named(keys: KeyFile, secret: str) -> str | None:
    key = keys.find(secret.encode())
    return None if key is None else key.name


def test_each_key_is_known_by_its_own_name_and_no_other_key_is_known(path: Path) -> None:
    alice, bob = add(path, "alice"), add(path, "bob")
    keys = KeyFile(path)
    assert (named(keys, alice), named(keys, bob)) == ("alice", "bob")
    for stranger in (new_secret(), "", alice[:-1], alice + "x", alice.upper()):
        assert named(keys, stranger) is None


def test_the_file_holds_no_key(path: Path) -> None:
    secret = add(path, "alice")
    assert secret not in path.read_text()
    assert len(secret) > 43  # 256 bits in base64, and the prefix


def test_limits_are_read(path: Path) -> None:
    secret = new_secret()
    append_entry(path, entry_of(secret, "alice", requests_per_minute=60, concurrent_requests=4))
    key = KeyFile(path).find(secret.encode())
    assert key is not None
    assert (key.requests_per_minute, key.concurrent_requests, key.expires) == (60, 4, None)


def test_a_key_ends_when_it_expires(path: Path) -> None:
    now = datetime.now(UTC)
    past = add(path, "past", expires=now - timedelta(seconds=1))
    future = add(path, "future", expires=now + timedelta(hours=1))
    keys = KeyFile(path)
    assert named(keys, past) is None
    assert named(keys, future) == "future"


def test_every_entry_is_compared_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [add(path, f"holder-{number}") for number in range(5)]
    keys = KeyFile(path)
    compared = 0
    original = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        nonlocal compared
        compared += 1
        return original(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for secret in (secrets[0], secrets[-1], new_secret()):
        compared = 0
        named(keys, secret)
        assert compared == 5


class TestReload:
    def test_a_new_key_is_let_in_and_a_removed_one_no_longer(self, path: Path) -> None:
        clock = Clock()
        alice = add(path, "alice")
        keys = KeyFile(path, clock=clock)
        first = path.read_text()
        bob = add(path, "bob")
        assert named(keys, bob) is None, "the file is looked at once a second, not at every request"
        clock.now += LOOK_SECONDS
        assert (named(keys, alice), named(keys, bob)) == ("alice", "bob")
        path.write_text(path.read_text().removeprefix(first))
        clock.now += LOOK_SECONDS
        assert (named(keys, alice), named(keys, bob)) == (None, "bob")

    def test_a_replaced_file_is_seen_even_with_the_same_time_and_size(self, path: Path) -> None:
        clock = Clock()
        add(path, "alice")
        keys = KeyFile(path, clock=clock)
        bob = add(path.with_suffix(".new"), "bobby")
        status = path.stat()
        path.with_suffix(".new").replace(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size
        clock.now += LOOK_SECONDS
        assert named(keys, bob) == "bobby"

    @pytest.mark.parametrize("how", ["broken", "deleted"])
    def test_a_file_that_breaks_leaves_the_keys_in_force_and_is_told_once(
        self, path: Path, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = Clock()
        alice = add(path, "alice")
        keys = KeyFile(path, clock=clock)
        whole = path.read_text()
        if how == "broken":
            path.write_text(whole + "[[key")
        else:
            path.unlink()
        for _ in range(3):
            clock.now += LOOK_SECONDS
            assert named(keys, alice) == "alice"
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
        bob = add(path.with_suffix(".new"), "bob")
        path.write_text(whole + path.with_suffix(".new").read_text())
        clock.now += LOOK_SECONDS
        assert named(keys, bob) == "bob"

    def test_a_file_that_is_emptied_lets_nobody_in(self, path: Path) -> None:
        clock = Clock()
        alice = add(path, "alice")
        keys = KeyFile(path, clock=clock)
        path.write_text("# all revoked\n")
        clock.now += LOOK_SECONDS
        assert named(keys, alice) is None


SECRET = "derain_this-is-a-key-in-the-wrong-place"
HASH = "0" * 64


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[key", "not TOML"),
        (f'[[key]]\nname = "a"\nsha256 = "{SECRET}"', "sha256"),
        (f'[[key]]\nname = "{SECRET} "\nsha256 = "{HASH}"', "name"),
        (f'[[key]]\nsha256 = "{HASH}"', "name"),
        (f'[[key]]\nname = "a"\nsha256 = "{HASH}"\nrequests_per_minute = 0', "requests_per_minute"),
        (f'[[key]]\nname = "a"\nsha256 = "{HASH}"\nrequest_per_minute = 1', "request_per_minute"),
        (f'[[key]]\nname = "a"\nsha256 = "{HASH}"\nexpires = 2027-01-01T00:00:00', "expires"),
        (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"', "keys"),
        (f'[[key]]\nname = "a"\nsha256 = "{HASH}"\n' * 2, "same name"),
        (f'[[key]]\nname = "a"\nsha256 = "{HASH}"\n[[key]]\nname = "b"\nsha256 = "{HASH}"', "same sha256"),
    ],
)
def test_a_broken_file_is_refused_at_the_start_and_none_of_it_repeated(
    path: Path, text: str, complaint: str
) -> None:
    path.write_text(text)
    with pytest.raises(KeyFileError, match=complaint) as refused:
        KeyFile(path)
    assert SECRET not in str(refused.value)
    assert HASH not in str(refused.value)


def test_a_missing_file_is_refused_at_the_start(path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        KeyFile(path)


class TestAppend:
    def test_a_new_file_is_read_by_its_owner_alone_and_an_old_one_keeps_its_mode(self, path: Path) -> None:
        add(path, "alice")
        assert path.stat().st_mode & 0o077 == 0
        path.chmod(0o640)
        add(path, "bob")
        assert path.stat().st_mode & 0o777 == 0o640

    def test_comments_and_an_unfinished_last_line_are_kept(self, path: Path) -> None:
        path.write_text("# ours")
        alice = add(path, "alice")
        assert path.read_text().startswith("# ours\n")
        assert named(KeyFile(path), alice) == "alice"

    def test_a_name_that_is_taken_or_cannot_be_one_leaves_the_file_as_it_was(self, path: Path) -> None:
        add(path, "alice")
        before = path.read_text()
        for name in ("alice", 'x"\nsha256 = "', ""):
            with pytest.raises(KeyFileError):
                add(path, name)
        assert path.read_text() == before
