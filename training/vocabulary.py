"""A small byte-pair vocabulary (Sennrich et al., ACL 2016) in the form that open_clip's SimpleTokenizer
reads.
"""

from __future__ import annotations

import gzip
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from model.prompts import TYPES
from training.descriptions import FILLER, TRAINING, Attributes, canonical, sentence
from training.instructions import COMPLETELY, LIGHTLY, PLAIN, RAIN_ONLY, UNCHANGED


def corpus(seed: int = 0) -> list[str]:
    """Sentences to learn merges from: descriptions in the training wording, instructions, filler words."""
    rng = random.Random(seed)
    rain = [
        Attributes(k, d, a)
        for k in ("rain", "rain and haze")
        for d in TRAINING.densities
        for a in TRAINING.directions
    ]
    others = [Attributes(k) for k in TYPES if k not in ("rain", "rain and haze")]
    texts = [sentence(rng.choice(rain + others), rng) for _ in range(4000)]
    texts += [canonical(a) for a in rain + others] * 20
    texts += [*UNCHANGED, *LIGHTLY, *PLAIN, *COMPLETELY, *RAIN_ONLY] * 40
    return texts + FILLER * 10


def learn_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent pairs, merged greedily within lower-case words that end in `</w>`."""
    words = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    spelled: dict[str, tuple[str, ...]] = {word: (*word[:-1], f"{word[-1]}</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, frequency in words.items():
            for pair in pairwise(spelled[word]):
                pairs[pair] += frequency
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, symbols in spelled.items():
            spelled[word] = _merge(symbols, best)
    return merges


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def write_vocabulary(path: Path, count: int = 600) -> int:
    """Writes the merges, gzipped and reproducible to the byte. Returns the tokenizer's vocabulary size."""
    merges = learn_merges(corpus(), count)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as zipped:
        zipped.write("\n".join(lines).encode())
    return 512 + len(merges) + 2
