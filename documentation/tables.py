"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without the columns that are empty in every row, followed by an empty line."""
    rows = list(rows)
    used = [place for place in range(len(head)) if any(row[place] for row in rows)]
    lines = [head, ["---"] * len(head), *rows]
    shown = ([_cell(line[place]) for place in used] for line in lines)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in shown) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
