"""A file that is there is whole: a run that is begun again goes by that."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.whole_files import DEAD_SECONDS, remove_unfinished, whole_file, write_whole


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"ne")
        assert path.read_bytes() == b"old"
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.mkdir()
    with pytest.raises(OSError, match="irectory"):
        write_whole(path, b"data")
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / f"{'long' * 60}.png"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_named_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as reader:
        came = reader.submit(path.read_bytes)
        write_whole(path, b"data")
        assert came.result(timeout=60) == b"data"
    assert path.is_fifo()


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead, alive, other = (tmp_path / f".derain-{name}.part" for name in ("01234567", "89abcdef", "photo"))
    for path in (dead, alive, other):
        path.touch()
    for path in (dead, other):
        os.utime(path, (0, time.time() - DEAD_SECONDS - 1))
    remove_unfinished(tmp_path)
    assert set(tmp_path.iterdir()) == {alive, other}
    remove_unfinished(tmp_path / "nowhere")
