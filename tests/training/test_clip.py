"""The compact CLIP's training data and loss must say the same thing about a picture."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from model.perception import DEGRADATIONS
from model.prompts import TYPES
from model.spelling import WORDS
from training.clip import contrastive_loss, matches, spoken
from training.descriptions import HELD_OUT, TRAINING, Attributes, canonical, disturb, sentence
from training.vocabulary import learn_merges, write_vocabulary, write_words

CLIP = Path(__file__).parents[2] / "weights" / "degradation-clip"


def test_vocabulary_is_reproducible_and_read_by_open_clip(tmp_path: Path) -> None:
    size = write_vocabulary(tmp_path / "a.txt.gz", 60)
    write_vocabulary(tmp_path / "b.txt.gz", 60)
    assert (tmp_path / "a.txt.gz").read_bytes() == (tmp_path / "b.txt.gz").read_bytes()
    tokenizer = SimpleTokenizer(bpe_path=str(tmp_path / "a.txt.gz"), context_length=24)
    assert tokenizer.vocab_size == size
    assert tokenizer.decode(tokenizer.encode("heavy rain, 雨!")).strip() == "heavy rain , 雨 !"


def test_words_that_spelling_knows_are_those_of_the_sentences(tmp_path: Path) -> None:
    write_words(tmp_path / WORDS)
    written, shipped = (gzip.decompress((folder / WORDS).read_bytes()) for folder in (tmp_path, CLIP))
    assert written == shipped


def test_merges_take_the_most_frequent_pair_first() -> None:
    words = Counter({"rain": 3, "ran": 1, "in": 3})
    assert learn_merges(words, 3) == [("i", "n</w>"), ("r", "a"), ("ra", "in</w>")]
    assert len(learn_merges(words, 9)) == 4  # until every word is whole


@pytest.mark.parametrize("wording", [TRAINING, HELD_OUT])
def test_every_degradation_can_be_said(wording: object) -> None:
    words = random.Random(0)
    for degradation in DEGRADATIONS:
        assert sentence(Attributes(*degradation), words, wording)  # pyright: ignore[reportArgumentType]
        assert canonical(Attributes(*degradation))
    assert {d[0] for d in DEGRADATIONS} == set(TYPES)


def test_held_out_wording_is_not_in_training() -> None:
    for part in ("kinds", "densities", "directions"):
        for key, phrases in getattr(HELD_OUT, part).items():
            assert not set(phrases) & set(getattr(TRAINING, part)[key])
    assert not set(HELD_OUT.carriers) & set(TRAINING.carriers)


def test_a_sentence_matches_crops_of_which_it_is_true() -> None:
    shown = Attributes("rain", "heavy", "left")
    assert matches(Attributes("rain"), shown)
    assert matches(Attributes("rain", "heavy"), shown)
    assert not matches(Attributes("rain", "light"), shown)
    assert not matches(Attributes("clean"), shown)
    words = random.Random(1)
    assert all(matches(spoken(shown, words, 0.5, TRAINING)[1], shown) for _ in range(50))


def test_loss_is_least_when_agreeing_pairs_are_alike() -> None:
    positive = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    good = contrastive_loss(positive.float() * 20, positive)
    bad = contrastive_loss((~positive).float() * 20, positive)
    assert good == pytest.approx(np.log(2) * 2 / 3, abs=1e-3)
    assert bad > 5


def test_disturbed_text_keeps_most_of_its_words() -> None:
    words = random.Random(0)
    kept = sum("heavy rain" in disturb("a photo with heavy rain", words) for _ in range(300))
    assert 240 < kept < 300
