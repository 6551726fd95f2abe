"""Corrects misspelled words for a small text tower, which knows a word only as it was taught."""

# open_clip comes without types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer
from spellchecker import SpellChecker

WORDS = "words.json.gz"
"""The file in a compact CLIP's folder that says how often its sentences had each word."""

SHORTEST = 4
"""Letters of the shortest word that is corrected."""

LETTERS = re.compile(r"[^\W\d_]+")


@cache
def english() -> SpellChecker:
    """The words of English; one dictionary, 160,000 words, for all towers."""
    return SpellChecker(language="en")


class Speller:
    """Knows the words that a tower was taught, and English, which it leaves as it is.

    A word of neither becomes the most frequent of the taught ones from which a single letter, lost, doubled,
    wrong or swapped with its neighbour, makes it; if there is none it stays (Norvig, "How to write a spelling
    corrector", 2007). The shorter a word is, the likelier it is something else: of four letters it only
    becomes one that was taught 200 times, of five 20 times. Letter case goes where a word is corrected.
    """

    def __init__(self, words: Path) -> None:
        """
        Args:
            words: gzipped JSON, word -> how often it was taught.

        Raises:
            OSError, EOFError, ValueError, zlib.error: the file is missing or damaged.
        """
        self._taught = SpellChecker(language=None, local_dictionary=words, distance=1)
        self._english = english()
        self._corrected = lru_cache(maxsize=4096)(self._correct)

    def __call__(self, sentence: str, limit: int = 0) -> str:
        """The sentence, of which the first `limit` words are corrected (0: all of them)."""
        return LETTERS.sub(lambda found: self._corrected(found[0]), sentence, count=limit)

    def _correct(self, word: str) -> str:
        if len(word) < SHORTEST or not word.isascii() or word in self._taught or word in self._english:
            return word
        meant = self._taught.correction(word)
        return meant if meant and self._taught[meant] >= 2 * 10 ** (6 - len(word)) else word


class SpellingTokenizer(SimpleTokenizer):
    """open_clip's tokenizer of sentences whose words are corrected first."""

    def __init__(self, speller: Speller, bpe_path: str, context_length: int) -> None:
        super().__init__(bpe_path=bpe_path, context_length=context_length)
        self._speller = speller
        self._limit = context_length

    def encode(self, text: str) -> list[int]:
        """Tokens of a sentence; none of the words beyond `context_length` would fit, so these stay as they
        are."""
        return super().encode(self._speller(text, self._limit))
