"""A small byte-pair vocabulary (Sennrich et al., ACL 2016) in the form that open_clip's SimpleTokenizer
reads.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

from model.prompts import DENSITIES, DIRECTIONS, TYPES
from training.descriptions import DESCRIPTIONS, FILLER, TRAINING, Attributes, canonical, english
from training.instructions import Mixture, request
from training.phrases import GRAMMAR, SYMBOL, WISHES

DRAWN = 12_000
"""Sentences that words are counted in, beside those of `training/written.json`."""


def taught_words(seed: int = 0) -> Counter[str]:
    """Lower-case words of sentences for training, each at least once, and how often they come; unknown ones
    are left out."""
    rng = random.Random(seed)
    rain = [Attributes(k, d, a) for k in ("rain", "rain and haze") for d in DENSITIES for a in DIRECTIONS]
    others = [Attributes(k) for k in TYPES if k not in ("rain", "rain and haze")]
    mixture = Mixture(full=0.6, partial=0.25, unchanged=0.15, strange=0, perceived=0.1)
    texts = [request(rng.choice(rain + others), mixture, rng, TRAINING).text or "" for _ in range(DRAWN)]
    texts += [canonical(a) for a in rain + others] * 20
    texts += [text for written in WISHES.values() for text in written] + [text for text, _ in DESCRIPTIONS]
    texts += [text for choices in GRAMMAR.values() for text in choices] + TRAINING.phrases()
    return Counter(word for text in texts for word in re.findall(r"[a-z]+", SYMBOL.sub(" ", text.lower())))


def count_words(seed: int = 0) -> Counter[str]:
    """`taught_words`, and words that say nothing; those of English once or more, by rank."""
    counts = taught_words(seed)
    counts.update(FILLER * 10)
    counts.update({word: 1 + DRAWN // (100 + rank) for rank, word in enumerate(english())})
    return counts


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent pairs, merged greedily within words, which end in `</w>`."""
    spelled: dict[str, tuple[str, ...]] = {word: (*word[:-1], f"{word[-1]}</w>") for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    having: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def enter(word: str, sign: int) -> None:
        for pair in pairwise(spelled[word]):
            pairs[pair] += sign * words[word]
            having[pair].add(word)

    for word in words:
        enter(word, 1)
    merges: list[tuple[str, str]] = []
    while len(merges) < count and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in having.pop(best):
            enter(word, -1)
            spelled[word] = _merge(spelled[word], best)
            enter(word, 1)
        pairs = +pairs  # without those that are no more
    return merges


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def write_vocabulary(path: Path, count: int = 2500) -> int:
    """Writes the merges. Returns the tokenizer's vocabulary size."""
    merges = learn_merges(count_words(), count)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    write_gzipped(path, "\n".join(lines))
    return 512 + len(merges) + 2


def write_words(path: Path) -> None:
    """Writes how often each word that is taught comes, for `model.spelling`."""
    write_gzipped(path, json.dumps(dict(sorted(taught_words().items()))))


def write_gzipped(path: Path, text: str) -> None:
    """Writes a text, gzipped and reproducible to the byte, into a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as zipped:
        zipped.write(text.encode())
