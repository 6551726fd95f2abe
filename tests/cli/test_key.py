"""`derain key`. Were this wrong, a key would be lost, or lie in a file that should hold its hash only."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.keys import PREFIX, KeyFile

runner = CliRunner()


def test_a_key_is_printed_once_and_its_entry_appended(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    limits = ["--requests-per-minute", "60", "--concurrent-requests", "4", "--days", "30"]
    made = runner.invoke(cli, ["key", "alice", "--append", str(path), *limits])
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert secret.startswith(PREFIX)
    assert secret not in path.read_text()
    assert secret not in made.stderr
    key = KeyFile(path).find(secret.encode())
    assert key is not None
    assert (key.name, key.requests_per_minute, key.concurrent_requests) == ("alice", 60, 4)
    assert key.expires is not None


def test_without_a_file_standard_output_is_an_entry_that_can_be_redirected_into_one(tmp_path: Path) -> None:
    made = runner.invoke(cli, ["key", "alice"])
    path = tmp_path / "keys.toml"
    path.write_text(made.stdout)
    secret = made.stderr.split()[-1]
    assert secret.startswith(PREFIX)
    assert secret not in made.stdout
    assert KeyFile(path).find(secret.encode()) is not None


def test_two_keys_are_never_the_same() -> None:
    assert len({runner.invoke(cli, ["key", "a"]).stderr.split()[-1] for _ in range(20)}) == 20


@pytest.mark.parametrize("name", ["alice", "a b", 'x"', ""])
def test_a_name_that_is_taken_or_cannot_be_one_is_explained(tmp_path: Path, name: str) -> None:
    path = tmp_path / "keys.toml"
    assert runner.invoke(cli, ["key", "alice", "--append", str(path)]).exit_code == 0
    before = path.read_text()
    refused = runner.invoke(cli, ["key", name, "--append", str(path)])
    assert refused.exit_code == 1
    assert "name: " in refused.stderr or "same name" in refused.stderr
    assert PREFIX not in refused.output
    assert path.read_text() == before
