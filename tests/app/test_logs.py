"""Were this wrong, prompts of clients would lie in the operator's logs."""

import logging

from app.logs import WithoutQuery, keep_queries_out

LINE = '%s - "%s %s HTTP/%s" %d'


def logged(path: str) -> str:
    arguments = ("127.0.0.1:5", "POST", path, "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, LINE, arguments, None)
    assert WithoutQuery().filter(record)
    return record.getMessage()


def test_the_query_is_cut() -> None:
    assert logged("/derain?prompt=my%20secret&format=png") == '127.0.0.1:5 - "POST /derain HTTP/1.1" 200'
    assert logged("/derain") == '127.0.0.1:5 - "POST /derain HTTP/1.1" 200'


def test_a_long_path_is_cut() -> None:
    assert len(logged("/" + "x" * 10_000)) < 300


def test_it_is_installed_once() -> None:
    keep_queries_out()
    keep_queries_out()
    filters = logging.getLogger("uvicorn.access").filters
    assert len([one for one in filters if isinstance(one, WithoutQuery)]) == 1
