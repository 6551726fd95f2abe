"""Sentences are many, whole, and none that is measured with."""

from __future__ import annotations

import random
import re

import pytest

from training.descriptions import DESCRIPTIONS, HELD_OUT, UNSEEN
from training.phrases import GRAMMAR, STARTS, SYMBOL, WISHES, phrase


def test_every_symbol_is_explained_and_used() -> None:
    used = {name for choices in GRAMMAR.values() for text in choices for name in SYMBOL.findall(text)}
    assert used | {*STARTS} == set(GRAMMAR)


@pytest.mark.parametrize("start", STARTS)
def test_sentences_are_many_and_no_symbol_is_left(start: str) -> None:
    rng = random.Random(0)
    drawn = {phrase(start, rng) for _ in range(1000)}
    assert len(drawn) > 300
    for text in drawn:
        assert text == " ".join(text.split())
        assert text
        assert not {*"{}"} & {*text}


def test_the_same_seed_gives_the_same_sentence() -> None:
    first, second = ([phrase(start, random.Random(7)) for start in STARTS] for _ in range(2))
    assert first == second


def bare(text: str) -> str:
    """Words alone, between spaces."""
    words = re.findall(r"\w+", text.lower())
    return f" {' '.join(words)} "


WHOLE = [bare(text) for text in (*(text for texts in WISHES.values() for text in texts), *dict(DESCRIPTIONS))]


def test_words_that_are_held_out_are_not_in_it() -> None:
    held_out = [
        bare(word)
        for part in (HELD_OUT.kinds, HELD_OUT.densities, HELD_OUT.directions)
        for words in part.values()
        for word in words
    ]
    texts = [*WHOLE, *(bare(text) for choices in GRAMMAR.values() for text in choices)]
    assert [word for word in held_out if any(word in text for text in texts)] == []


def test_no_written_sentence_is_one_that_is_measured_with_or_comes_twice() -> None:
    assert set(WISHES) == {*STARTS}
    assert len(set(WHOLE)) == len(WHOLE)
    assert {bare(text) for texts in UNSEEN.values() for text in texts}.isdisjoint(WHOLE)
