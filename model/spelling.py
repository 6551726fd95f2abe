"""Corrects misspelled words for a small text tower, which knows a word only as it was taught, and leaves out
those it never saw."""

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
    """Knows the words that a tower was taught, and English.

    A word of neither becomes the most frequent of the taught ones from which a single letter, lost, doubled,
    wrong or swapped with its neighbour, makes it (Norvig, "How to write a spelling corrector", 2007). The
    shorter a word is, the likelier it is something else: of four letters it only becomes one that was taught
    200 times, of five 20 times. Letter case goes where a word is corrected.

    Any other word that was not taught is left out: a tower that learned from nothing makes of its pieces
    whatever it likes, and what is known around it says more. Words with letters beyond a to z stay.
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
        self._known = lru_cache(maxsize=4096)(self._find)

    def __call__(self, sentence: str, limit: int = 0) -> str:
        """The sentence in words that are known, but for those after the first `limit` (0: none)."""
        return LETTERS.sub(lambda found: self._known(found[0]), sentence, count=limit)

    def _find(self, word: str) -> str:
        if word in self._taught or not word.isascii():
            return word
        if len(word) >= SHORTEST and word not in self._english:
            meant = self._taught.correction(word)
            if meant and self._taught[meant] >= max(2, 2 * 10 ** (6 - len(word))):
                return meant
        return ""


class SpellingTokenizer(SimpleTokenizer):
    """open_clip's tokenizer of sentences whose words are corrected or left out first."""

    def __init__(self, speller: Speller, bpe_path: str, context_length: int) -> None:
        super().__init__(bpe_path=bpe_path, context_length=context_length)
        self._speller = speller
        self._limit = 4 * context_length

    def encode(self, text: str) -> list[int]:
        """Tokens of a sentence. Words far beyond `context_length` hardly ever come to fit: they stay as they
        are."""
        return super().encode(self._speller(text, self._limit))
