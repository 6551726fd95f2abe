"""Sentences as people put them: what is to go and how much of it, in very many ways.

Some were written one by one, by language models that had seen no other list (`written.json`). The others
come from a grammar: a symbol stands for one of its alternatives, in which other symbols are named in braces
(`phrases.toml`). What a sentence asks for is the symbol that it starts with.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from pathlib import Path
from typing import Any

GRAMMAR: dict[str, list[str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
"""Symbols and what each may stand for."""

STARTS = (
    "remove_rain",
    "remove_rain_completely",
    "weaken_rain",
    "change_nothing",
    "remove_rain_only",
    "remove_rain_and_haze",
    "remove_haze",
    "remove_noise",
)
"""What a sentence may ask for."""

WRITTEN: dict[str, Any] = json.loads(Path(__file__).with_name("written.json").read_text("utf-8"))
"""Sentences that were written one by one: wishes, and descriptions."""

WISHES: dict[str, list[str]] = WRITTEN["wishes"]
"""What a sentence may ask for and what was written for it."""

SHARE_WRITTEN = 0.65
"""Of the sentences, how many are from `WISHES`."""

SYMBOL = re.compile(r"\{([a-z_]+)\}")


def phrase(symbol: str, rng: random.Random) -> str:
    """What `symbol`, for a sentence one of `STARTS`, stands for, drawn at random."""
    if symbol in WISHES and rng.random() < SHARE_WRITTEN:
        return rng.choice(WISHES[symbol])
    drawn = SYMBOL.sub(lambda found: phrase(found[1], rng), rng.choice(GRAMMAR[symbol]))
    return " ".join(drawn.split()) if symbol in STARTS else drawn
