"""What the log does not tell: the queries of requests, which hold prompts."""

import logging

LONGEST = 200
"""Characters of a path that are logged at most."""


class WithoutQuery(logging.Filter):
    """Cuts every text of an access log line at its question mark, and where it is too long."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always logged."""
        if isinstance(record.args, tuple):
            record.args = tuple(_cut(value) if isinstance(value, str) else value for value in record.args)
        return True


_without_query = WithoutQuery()


def keep_queries_out() -> None:
    """Cut the lines of uvicorn that name addresses, however its handlers are configured."""
    for name in ("uvicorn.access", "uvicorn.error"):  # the latter tells of WebSockets
        logging.getLogger(name).addFilter(_without_query)  # one that is there already is not added


def _cut(text: str) -> str:
    path = text.partition("?")[0]
    return path if len(path) <= LONGEST else f"{path[:LONGEST]}..."
