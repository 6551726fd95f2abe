"""Commands of other packages: found when they are there, explained when they are not, never in the way."""

from importlib.metadata import EntryPoint

import pytest
import typer
from typer.testing import CliRunner

from app.cli.entry_points import COMMANDS, add_commands

runner = CliRunner()


def shout(word: str, times: int = 1) -> None:
    """Says a word loudly."""
    typer.echo(word.upper() * times)


def measure() -> None:
    """Needs a package that is imported late."""
    import no_such_package  # noqa: F401  # pyright: ignore[reportMissingImports]


@pytest.fixture
def cli() -> typer.Typer:
    cli = typer.Typer()
    cli.command("keep")(lambda: typer.echo("kept"))
    return cli


def test_a_plain_function_becomes_a_command_with_its_options(cli: typer.Typer) -> None:
    add_commands(cli, [EntryPoint("shout", f"{__name__}:shout", COMMANDS)])
    assert runner.invoke(cli, ["shout", "rain", "--times", "2"]).output == "RAINRAIN\n"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_package.cli:train", "No module named 'no_such_package'"),
        ("json:no_such_function", "no_such_function"),
    ],
)
def test_a_command_that_cannot_be_imported_says_so_and_harms_no_other(
    cli: typer.Typer, value: str, said: str
) -> None:
    add_commands(cli, [EntryPoint("train", value, COMMANDS)])
    asked = runner.invoke(cli, ["train", "--epochs", "3", "DATA"])
    assert asked.exit_code == 1
    assert said in asked.output
    assert said in runner.invoke(cli, ["--help"]).output
    assert runner.invoke(cli, ["keep"]).output == "kept\n"


def test_a_package_found_missing_while_a_command_runs_is_named_without_a_traceback(cli: typer.Typer) -> None:
    add_commands(cli, [EntryPoint("measure", f"{__name__}:measure", COMMANDS)])
    asked = runner.invoke(cli, ["measure"])
    assert asked.exit_code == 1
    assert "'no_such_package'" in asked.output
    assert "tvi-derain[train]" in asked.output
