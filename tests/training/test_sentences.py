"""What a sentence means is known when it is drawn."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from model.weights import load_clip
from training.sentences import EXEMPLARS, MEANINGS, batches, draw

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


def test_every_meaning_is_drawn_and_has_its_target() -> None:
    rng = random.Random(0)
    drawn = [draw(rng) for _ in range(3000)]
    counted = Counter(one.meaning for one in drawn)
    assert set(counted) == set(MEANINGS)
    assert min(counted.values()) > 20
    left = {one.meaning: one.asked.rain_left for one in drawn if one.asked.described is None}
    assert left == {
        "rain": 0.0,
        "all rain": 0.0,
        "some rain": 0.5,
        "nothing": 1.0,
        "haze": 1.0,
        "noise": 1.0,
        "rain and haze": 0.0,
    }
    assert any(one.caption for one in drawn)


def test_the_known_sentence_says_the_same() -> None:
    rng = random.Random(1)
    for one in (draw(rng) for _ in range(500)):
        known = one.exemplar(rng)
        named = one.asked.described
        if named is None:
            assert known == EXEMPLARS[one.meaning]
        else:
            assert named.density is None or named.density in known
            assert "haze" not in known or "haze" in named.kind


def test_sentences_of_a_batch_are_about_as_long() -> None:
    tokenizer = load_clip(WEIGHTS / "degradation-clip").tokenizer
    source = batches(tokenizer, 16, seed=3)
    lengths = [tokenizer([one.text for one in next(source)]).argmax(-1) for _ in range(12)]
    spans = [int(of_one.max() - of_one.min()) for of_one in lengths]
    assert sorted(spans)[6] < 8
    again, other = batches(tokenizer, 16, seed=3), batches(tokenizer, 16, seed=3, rank=1)
    first = [one.text for one in next(batches(tokenizer, 16, seed=3))]
    assert [one.text for one in next(again)] == first
    assert [one.text for one in next(other)] != first
