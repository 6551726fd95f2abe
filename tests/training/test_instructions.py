"""A prompt must ask for what it says: otherwise the network learns to ignore it."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable

import pytest
import torch

from training.descriptions import JOINING, TRAINING, Attributes, chatter, english, punctuate
from training.instructions import (
    LIGHTLY,
    LIGHTLY_KEEPS,
    OTHER,
    RAIN_ONLY,
    UNCHANGED,
    Mixture,
    Request,
    instruct,
    request,
)
from training.phrases import STARTS
from training.rain import PLAIN, synthesise

RAIN = Attributes("rain", "heavy", "left")
VEILED = Attributes("rain and haze", "light", "vertical")
EVERYTHING = Mixture(full=0.5, partial=0.3, unchanged=0.1)


ASKED_FOR = {
    "remove_rain": Request(text=None),
    "remove_rain_completely": Request(text=None, thorough=True),
    "weaken_rain": Request(text=None, rain_left=LIGHTLY_KEEPS),
    "change_nothing": Request(text=None, rain_left=1.0),
    "remove_rain_only": Request(text=None),
    "remove_rain_and_haze": Request(text=None, haze=True),
    "remove_haze": Request(text=None, rain_left=1.0, haze=True),
    "remove_noise": Request(text=None, rain_left=1.0, noise=True),
}


@pytest.fixture(autouse=True)
def wishes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a sentence of the grammar, or one that was written, what it was to ask for; no written
    descriptions."""
    monkeypatch.setattr("training.instructions.phrase", lambda start, _rng: f"<{start}>")
    monkeypatch.setattr("training.instructions.written", lambda _named: ())


def drawn(attributes: Attributes, mixture: Mixture, count: int = 600) -> list[Request]:
    rng = random.Random(3)
    return [request(attributes, mixture, rng, TRAINING) for _ in range(count)]


def named(request: Request, *words: str) -> bool:
    return any(word in (request.text or "") for word in words)


def test_each_wish_has_its_target() -> None:
    assert set(ASKED_FOR) == set(STARTS)
    asked = drawn(VEILED, EVERYTHING, 3000)
    for start, wanted in ASKED_FOR.items():
        of_this = [one for one in asked if one.text == f"<{start}>"]
        assert of_this, start
        assert all(one == dataclasses.replace(wanted, text=f"<{start}>") for one in of_this)


@pytest.mark.parametrize("attributes", [RAIN, VEILED, Attributes("clean")])
def test_only_what_is_named_is_removed(attributes: Attributes) -> None:
    hazy = ("haze", "hazy", "fog", "mist", "milky", "veil", "smog")
    for asked in drawn(attributes, EVERYTHING):
        if asked.text is None:
            assert asked == Request(text=None, haze=True, noise=True)
        elif asked.text in (*UNCHANGED, "<change_nothing>"):
            assert asked == Request(text=asked.text, rain_left=1.0)
        elif asked.text in LIGHTLY:
            assert asked == Request(text=asked.text, rain_left=LIGHTLY_KEEPS)
        else:
            wants_haze = named(asked, *hazy) and asked.text not in RAIN_ONLY
            assert asked.haze == wants_haze
            others = [word for kind in OTHER for word in TRAINING.kinds[kind]]
            if named(asked, *others) and not named(asked, *TRAINING.kinds["rain"]):
                assert asked.rain_left == 1.0 or asked.haze
            if asked.rain_left == 1.0:
                assert named(asked, *others)


def test_a_word_that_nobody_knows_is_taken_for_rain() -> None:
    known = [word for words in TRAINING.kinds.values() for word in words]
    full = drawn(RAIN, Mixture(full=1, partial=0, unchanged=0))
    unknown = [
        asked for asked in full if not named(asked, *known, "rain", "clean", "dry", "restore", "streaks")
    ]
    assert len(unknown) > 5
    assert all(asked.rain_left == 0 and not asked.haze and not asked.noise for asked in unknown)
    joined = re.compile(r"rain[a-z]+|[a-z]+rain")
    assert sum(bool(joined.search(asked.text or "")) for asked in full) > 20


@pytest.mark.parametrize(
    ("mixture", "allowed"),
    [
        (Mixture(full=1, partial=0, unchanged=0), lambda asked: asked.rain_left == 0),
        (Mixture(full=0, partial=0, unchanged=1), lambda asked: asked.rain_left == 1 and not asked.haze),
        (Mixture(full=0, partial=0, unchanged=0), lambda asked: asked.text is None),
        (Mixture(full=0, partial=1, unchanged=0), lambda asked: asked.text is not None),
    ],
)
def test_shares_are_kept(mixture: Mixture, allowed: Callable[[Request], bool]) -> None:
    assert all(allowed(asked) for asked in drawn(RAIN, mixture))


def test_partial_prompts_ask_for_less_and_for_other_things() -> None:
    asked = drawn(VEILED, Mixture(full=0, partial=1, unchanged=0))
    assert {a.rain_left for a in asked} == {0.0, LIGHTLY_KEEPS, 1.0}
    assert any(a.haze and a.rain_left == 1.0 for a in asked)
    assert any(a.text in RAIN_ONLY for a in asked)


def test_rain_is_sometimes_misdescribed_and_still_to_be_removed() -> None:
    asked = [
        a for a in drawn(RAIN, Mixture(full=1, partial=0, unchanged=0)) if named(a, "a photo with light")
    ]
    assert asked
    assert all(a.rain_left == 0 for a in asked)


def test_a_batch_gets_targets_and_captions_by_its_prompts() -> None:
    clean = torch.rand((24, 3, 48, 48), generator=torch.Generator().manual_seed(0)) * 0.5 + 0.1
    recipe = dataclasses.replace(PLAIN, light=0.5, heavy=0.5)
    sample = synthesise(clean, torch.zeros(24, 1, 48, 48), recipe, torch.Generator().manual_seed(1))
    wanted = instruct(sample, Mixture(full=0.8, partial=0, unchanged=0.2, captioned=0.5), random.Random(0))
    for i, prompt in enumerate(wanted.prompts):
        kept = prompt.degradation is not None and any(u in prompt.degradation for u in UNCHANGED)
        assert not kept or torch.equal(wanted.target[i], sample.rainy[i])
    assert any(torch.equal(t, c) for t, c in zip(wanted.target, clean, strict=True))
    captions = [p.semantic for p in wanted.prompts if p.semantic]
    assert 0 < len(captions) < len(wanted.prompts)
    assert wanted.thorough.any()
    assert not wanted.thorough.all()


def test_strangers_are_words_of_english_that_ask_for_nothing() -> None:
    words = english()
    assert len(words) > 10_000
    assert {"camera", "garden", "thanks"} <= {*words}
    assert not {"haze", "foggy", "keep", "unchanged", "nothing", "slightly", "lens", "blurry"} & {*words}


def test_a_sentence_that_says_nothing_known_asks_for_the_rain_to_go() -> None:
    rng = random.Random(5)
    said = [chatter(rng) for _ in range(200)]
    assert sum(named(Request(text=text), *TRAINING.kinds["rain"]) for text in said) < 120
    assert max(len(text.split()) for text in said) > 8
    chatted = [
        asked
        for asked in drawn(RAIN, Mixture(full=1, partial=0, unchanged=0))
        if len({*(asked.text or "").split()} & {*JOINING, *english()}) > 4
    ]
    assert chatted
    rng = random.Random(6)
    marked = [punctuate("remove the rain", rng, chance=1) for _ in range(50)]
    assert len({*marked}) > 20
    assert all(word in text for text in marked for word in ("remove", "the", "rain"))
    assert all(asked.rain_left == 0 for asked in chatted)
