"""Classes of size: were they wrong, the target of a small photograph would be asked of a large one. Series
that are there from the start: were one not, nobody would see the first problem of its kind."""

import ast
from pathlib import Path

import pytest

import app
from app.metrics import PROBLEMS, size_class


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1, 1, "tiny"),
        (256, 256, "tiny"),
        (257, 256, "small"),
        (800, 600, "small"),
        (1280, 720, "medium"),
        (1920, 1080, "medium"),
        (2560, 1440, "large"),
        (3840, 2160, "large"),
        (4000, 3000, "huge"),
        (12246, 8164, "huge"),
    ],
)
def test_usual_formats_are_in_the_class_that_is_named_after_them(width: int, height: int, size: str) -> None:
    assert size_class(width * height) == size


def test_every_kind_of_problem_is_counted_from_the_start() -> None:
    raised = {
        call.args[1].value
        for path in Path(app.__file__).parent.glob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "ProblemError"
        and isinstance(call.args[1], ast.Constant)
    }
    # these are answers to what is no request, and are not counted
    assert raised - {"foreign-origin", "upgrade-required"} <= set(PROBLEMS)
    assert {"overloaded", "draining", "not-found", "body-too-large"} <= set(PROBLEMS), "named by a variable"
    assert len(raised) > 20
