"""What is misspelled reaches the text tower as what was meant, and what it never saw not at all."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoint_folders import CheckpointError
from model.prompts import Prompt
from model.restorer import Restorer
from model.spelling import WORDS, Speller, SpellingTokenizer
from model.weights import VOCABULARY, load_clip

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.fixture(scope="module")
def spell() -> Speller:
    return Speller(WEIGHTS / "degradation-clip" / WORDS)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a picture taken during somee drizzle", "a picture taken during some drizzle"),
        ("remoove the raiin lightley!", "remove the rain lightly!"),
        ("leve it unchangd", "leave it unchanged"),
        ("VERTIKAL streacks", "vertical streaks"),
    ],
)
def test_a_letter_lost_doubled_wrong_or_swapped(spell: Speller, written: str, meant: str) -> None:
    assert spell(written) == meant


@pytest.mark.parametrize(
    "sentence",
    [
        "remove the rain, slanting to the left",
        "a train in Spain on a plain",  # a letter from what was taught, and taught
        "bitte den Regen entfernen",  # taught, not English
        "très, naïve, 雨, été",
        "f/2.8, don't",
        "",
    ],
)
def test_what_is_no_slip_stays(spell: Speller, sentence: str) -> None:
    assert spell(sentence) == sentence


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("feeble rain", " rain"),  # English that was never taught
        ("it drained here", "it  here"),  # and a letter from what was
        ("raynorth, 2 streaks", ", 2 streaks"),  # two letters from anything
        ("4k hdr", "4k "),  # too short to tell
        ("tona", ""),  # perhaps a name: "tone" is not said often enough
    ],
)
def test_words_that_were_never_taught_are_left_out(spell: Speller, written: str, meant: str) -> None:
    assert spell(written) == meant


def test_of_several_words_the_most_taught_is_meant(tmp_path: Path) -> None:
    with gzip.open(tmp_path / WORDS, "wt") as file:
        json.dump({"streets": 2, "streaks": 9, "rain": 199, "haze": 200}, file)
    assert Speller(tmp_path / WORDS)("streeks raim hase") == "streaks  haze"


def test_no_more_words_than_may_fit_are_looked_at(spell: Speller) -> None:
    assert spell("raiin feeble raiin", 2) == "rain  raiin"
    tokenizer = load_clip(WEIGHTS / "degradation-clip").tokenizer
    assert isinstance(tokenizer, SpellingTokenizer)
    assert torch.equal(tokenizer(["somee feeble drizle"]), tokenizer(["some drizzle"]))
    assert torch.equal(tokenizer(["feeble " * 60 + "drizle"]), tokenizer(["drizzle"]))


@pytest.mark.parametrize("name", [WORDS, VOCABULARY])
def test_damaged_words_and_vocabularies_are_refused_with_their_name(name: str, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "degradation-clip", tmp_path / "clip")
    path = tmp_path / "clip" / name
    whole = path.read_bytes()
    for damaged in (whole[:900], whole[:900] + b"?" * 900 + whole[1800:], b"words", gzip.compress(b"{")):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name):
            load_clip(path.parent)


def test_a_missing_vocabulary_is_refused_with_its_name(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "degradation-clip", tmp_path / "clip")
    (tmp_path / "clip" / VOCABULARY).unlink()
    with pytest.raises(CheckpointError, match=VOCABULARY):
        load_clip(tmp_path / "clip")


def test_a_slip_changes_nothing_in_the_picture() -> None:
    restorer = Restorer.from_checkpoint(WEIGHTS / "tvi-derain-s", device="cpu")
    image = torch.randint(0, 256, (3, 40, 48), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    slip, meant, other = restorer.restore(
        [image] * 3, [Prompt(text) for text in ("leave it unchangd", "leave it unchanged", "remove the rain")]
    )
    assert torch.equal(slip, meant)
    assert not torch.equal(slip, other)
