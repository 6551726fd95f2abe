"""Sentences about degradations: templates and synonyms for training, others held out for measuring.

A sentence is drawn for what is in the picture (`Attributes`) and may leave out density or direction. What is
to be done about it is said by the instructions of `training/instructions.py`, which choose the target.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import string
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from open_clip.tokenizer import default_bpe

from model.prompts import describe
from training.phrases import WRITTEN


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is wrong with a picture: a kind of `model.prompts.TYPES`; density and direction of rain."""

    kind: str
    density: str | None = None
    direction: str | None = None


@dataclass(frozen=True, slots=True)
class Wording:
    """One set of synonyms and templates."""

    kinds: dict[str, tuple[str, ...]]
    densities: dict[str, tuple[str, ...]]
    directions: dict[str, tuple[str, ...]]
    carriers: tuple[str, ...]
    """Sentences around a description `{}`."""

    def phrases(self) -> list[str]:
        """Every synonym and every template."""
        parts = (self.kinds, self.densities, self.directions)
        return [phrase for part in parts for said in part.values() for phrase in said] + [*self.carriers]


TRAINING = Wording(
    kinds={
        "clean": (
            "a clean photo",
            "no rain at all",
            "a clear picture",
            "dry weather",
            "nothing wrong",
            "sharp and clear",
            "an undegraded image",
            "no degradation",
        ),
        "rain": (
            "rain",
            "rain streaks",
            "streaks of rain",
            "falling rain",
            "raindrops falling",
            "a rain shower",
            "rain trails",
            "pouring rain",
            "a downpour",
            "drizzle",
            "rainy weather",
            "raining",
            "rain marks",
            "wet weather with rain",
            "rain falling down",
            "water streaks",
            "wet streaks",
            "a rainstorm",
            "a cloudburst",
            "showers",
            "precipitation",
            "needles of rain",
            "threads of rain",
            "rain in the air",
            "a rainy scene",
            "rain everywhere",
            "drops of rain",
            "rain stripes",
            "streaky rain",
            "rain strokes",
            "falling water from the sky",
            "rain pouring down",
            "rain dropping down",
            "bad weather with rain",
            "rain scratches",
            "lines of falling water",
            "rain shower marks",
            "a wet day",
        ),
        "rain and haze": (
            "rain and haze",
            "rain streaks and fog",
            "rain with mist",
            "rain streaks in a hazy scene",
            "rain and a foggy veil",
        ),
        "haze": (
            "haze",
            "fog",
            "mist",
            "a hazy veil",
            "a milky fog over the scene",
            "foggy weather",
            "smog",
            "thin fog",
            "a misty morning",
        ),
        "noise": (
            "sensor noise",
            "grain",
            "a noisy image",
            "high iso noise",
            "speckle",
            "noise",
            "digital noise",
        ),
        "blur": (
            "blur",
            "a blurry image",
            "out of focus",
            "motion blur",
            "a soft unsharp picture",
            "blurriness",
            "camera shake",
        ),
        "raindrops": (
            "raindrops on the lens",
            "water drops on the glass",
            "drops on the windshield",
            "droplets on the camera",
            "a wet lens",
            "droplets on a window",
        ),
    },
    densities={
        "light": (
            "light",
            "slight",
            "thin",
            "weak",
            "sparse",
            "a little",
            "fine",
            "gentle",
            "soft",
            "tiny",
            "minor",
            "low",
            "subtle",
            "delicate",
            "barely visible",
            "hardly any",
            "pale",
            "dim",
            "modest",
            "very light",
            "rather weak",
            "faint",
            "feathery",
            "wispy",
            "mild",
            "flimsy",
            "frail",
            "scant",
            "meagre",
            "puny",
            "spindly",
            "skinny",
            "slim",
            "narrow",
            "lean",
            "dainty",
            "tenuous",
            "negligible",
            "marginal",
            "sporadic",
            "scattered",
            "occasional",
            "isolated",
            "small",
            "minimal",
            "short",
            "lightweight",
            "timid",
            "lazy",
            "threadlike",
            "hair-thin",
            "needle-thin",
            "gauzy",
            "patchy",
            "paltry",
            "limp",
            "muted",
            "tame",
            "half-hearted",
            "fragile",
            "wan",
            "insignificant",
            "inconspicuous",
            "unobtrusive",
            "harmless",
            "next to no",
            "just a touch of",
            "low intensity",
            "light intensity",
            "weak intensity",
            "low density",
            "low strength",
        ),
        "moderate": (
            "moderate",
            "medium",
            "steady",
            "average",
            "some",
            "normal",
            "middling",
            "ordinary",
            "typical",
            "noticeable",
            "regular",
            "intermediate",
            "medium heavy",
            "constant",
            "quite some",
            "of average strength",
            "fairly strong",
            "even",
            "persistent",
            "continuous",
            "usual",
            "common",
            "everyday",
            "fair",
            "reasonable",
            "unremarkable",
            "so-so",
            "decent",
            "tolerable",
            "mid-range",
            "standard",
            "appreciable",
            "sustained",
            "incessant",
            "passable",
            "considerable",
            "a fair amount of",
            "a good bit of",
            "medium intensity",
            "average intensity",
            "moderate intensity",
            "mid intensity",
            "medium density",
            "medium strength",
        ),
        "heavy": (
            "heavy",
            "dense",
            "strong",
            "intense",
            "thick",
            "pouring",
            "torrential",
            "violent",
            "a lot of",
            "extreme",
            "severe",
            "hard",
            "serious",
            "terrible",
            "powerful",
            "very strong",
            "very dense",
            "big",
            "huge",
            "enormous",
            "really heavy",
            "very thick",
            "an awful lot of",
            "bucketing",
            "fierce",
            "massive",
            "gigantic",
            "brutal",
            "savage",
            "furious",
            "wild",
            "raging",
            "ferocious",
            "relentless",
            "merciless",
            "blinding",
            "lashing",
            "pelting",
            "hammering",
            "driving",
            "drenching",
            "teeming",
            "monstrous",
            "immense",
            "giant",
            "tremendous",
            "overwhelming",
            "ruthless",
            "vicious",
            "forceful",
            "crushing",
            "copious",
            "abundant",
            "profuse",
            "vast",
            "excessive",
            "opaque",
            "impenetrable",
            "horrible",
            "dreadful",
            "awful",
            "hefty",
            "sturdy",
            "stout",
            "beastly",
            "harsh",
            "tempestuous",
            "loads of",
            "masses of",
            "high intensity",
            "heavy intensity",
            "extreme intensity",
            "full intensity",
            "high density",
            "full strength",
        ),
    },
    directions={
        "left": (
            "slanting to the left",
            "leaning left",
            "falling from upper right to lower left",
            "blown to the left",
            "driven leftwards",
            "tilted left",
            "from right to left",
            "inclined to the left",
            "sloping left",
            "diagonal to the left",
            "heading down left",
            "moving towards the lower left",
            "bent towards the left",
        ),
        "vertical": (
            "falling straight down",
            "vertical",
            "falling vertically",
            "coming straight down",
            "upright",
            "from top to bottom",
            "plumb",
            "straight",
            "going vertically",
            "dropping from above",
            "without any slant",
        ),
        "right": (
            "slanting to the right",
            "leaning right",
            "falling from upper left to lower right",
            "blown to the right",
            "driven rightwards",
            "tilted right",
            "from left to right",
            "inclined to the right",
            "sloping right",
            "diagonal to the right",
            "heading down right",
            "moving towards the lower right",
            "bent towards the right",
        ),
    },
    carriers=(
        "{}",
        "{}",
        "a photo with {}",
        "an image with {}",
        "this picture has {}",
        "the photo shows {}",
        "there is {}",
        "remove {}",
        "degraded by {}",
        "please clean {}",
        "taken in {}",
        "i see {} here",
        "get rid of {}",
        "fix {}",
        "{} all over the picture",
        "the view is spoiled by {}",
        "shot through {}",
        "can you take {} away",
        "too much {}",
        "the problem is {}",
        "a photograph full of {}",
        "a picture taken during {}",
        "clear away {}",
        "erase {}",
        "without {} please",
        "take out {}",
        "my camera caught {}",
        "{} spoils this",
        "a scene with {}",
        "a snapshot with {}",
        "what ruins it is {}",
        "what disturbs me is {}",
        "{} in front of the lens",
        "{} in the view",
        "{} in this picture",
        "we have {}",
        "we see {}",
        "it got {}",
        "we want {} gone",
        "covered by {}",
        "{} makes it hard to see",
        "footage with {}",
    ),
)

HELD_OUT = Wording(
    kinds={
        "clean": ("a spotless picture", "no bad weather in it", "clear dry air"),
        "rain": ("rainwater falling", "rain in flight", "wet trails of rain"),
        "rain and haze": ("rain amid fog", "a misty scene with rain"),
        "haze": ("a foggy shot", "thick mist"),
        "noise": ("a grainy picture", "image noise"),
        "blur": ("a defocused picture", "blurred contours"),
        "raindrops": ("drops of water on the lens", "wet glass with droplets"),
    },
    densities={
        "light": ("feeble", "slender"),
        "moderate": ("middle intensity", "fairly steady"),
        "heavy": ("mighty", "colossal"),
    },
    directions={
        "left": ("tilting towards the left", "sinking to the left"),
        "vertical": ("running vertically", "straight from above"),
        "right": ("tilting towards the right", "going down to the right"),
    },
    carriers=("a shot with {}", "what spoils it is {}", "{} in the frame", "we got {}"),
)

DESCRIPTIONS: tuple[tuple[str, Attributes], ...] = tuple(
    (one["text"], Attributes(one["kind"], one.get("density"), one.get("direction")))
    for one in WRITTEN["descriptions"]
)
"""Descriptions that were written one by one, and what they say."""

UNSEEN: dict[str, list[str]] = json.loads(Path(__file__).with_name("unseen_prompts.json").read_text("utf-8"))
"""What people may send, by a language model that had seen none of training's sentences: wish -> sentences. 17
short ones of the 245 are also among what training's grammar draws."""

FILLER = [
    "street", "car", "road", "people", "city", "house", "tree", "dog", "window", "bridge",
    "river", "boat", "flower", "night", "camera", "dashcam", "traffic", "old", "red", "small",
    "very", "really", "our", "near", "across", "sky", "bicycle", "woman", "man", "bus",
    "snow", "wall", "lamp", "today", "holiday", "trip",
]  # fmt: skip
"""Words that say nothing about a degradation."""

JOINING = (
    "the", "a", "in", "of", "and", "my", "on", "with", "to", "it", "is", "was", "this", "that", "at", "for",
    "please", "i", "you", "we", "from", "can", "when", "so",
)  # fmt: skip
"""Words between others."""

MARKS = (".", ",", "!", "?", ":", ";", "'", "'s", "...", "!!", " -", "-")
"""What may follow a word."""

TELLING = re.compile(
    "haz|fog|mist|smog|smok|veil|steam|cloud|nois|grain|speck|iso|blur|focus|soft|sharp|drop|lens|glass|dirt|"
    "keep|kept|lea|left|stay|remain|retain|preserv|noth|never|not|dont|without|chang|touch|alter|orig|same|intact|"
    "ignor|skip|stop|undo|alone|half|part|light|slight|little|bit|less|reduc|some|only|weak|gent|mild|faint|"
    "subtl|tone"
)
"""What words have in them that could say what is wrong besides rain, or ask for less than all of it to go."""

FREQUENT = 20_000
"""Words of English that are looked at."""


def sentence(
    attributes: Attributes,
    rng: random.Random,
    wording: Wording = TRAINING,
    *,
    detail: float = 0.7,
    noun: str | None = None,
) -> str:
    """A random sentence about `attributes`; density and direction each with probability `detail`.

    `noun` names the degradation instead of one of the wording's.
    """
    words = noun or rng.choice(wording.kinds[attributes.kind])
    if attributes.density is not None and rng.random() < detail:
        words = f"{rng.choice(wording.densities[attributes.density])} {words}"
    if attributes.direction is not None and rng.random() < detail:
        words = f"{words} {rng.choice(wording.directions[attributes.direction])}"
    return rng.choice(wording.carriers).format(words)


@cache
def english() -> tuple[str, ...]:
    """The most frequent words of CLIP's vocabulary (as open_clip brings it) but for those that tell something
    (`TELLING`) and those that are sentences of `UNSEEN`."""
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = (line.split() for line in file if line.endswith("</w>\n"))
        words = ("".join(merge).removesuffix("</w>") for merge in merges if len(merge) == 2)
        whole = {text for texts in UNSEEN.values() for text in texts}
        frequent = islice((word for word in words if re.fullmatch("[a-z]{3,12}", word)), FREQUENT)
        return tuple(word for word in frequent if not TELLING.search(word) and word not in whole)


def unheard_of(rng: random.Random) -> str:
    """Words for rain that are in no list: an unknown one, alone, joined to `rain` or, every other time,
    before a known one, where amounts are named."""
    word, rain = _stranger(rng), rng.choice(TRAINING.kinds["rain"])
    if rng.random() < 0.5:
        return f"{word} {rain}"
    return rng.choice((word, f"rain{word}", f"rain {word}", f"{word}rain"))


def chatter(rng: random.Random) -> str:
    """Words at random, of which at most one says something: rain."""
    words = [rng.choice(JOINING) if rng.random() < 0.4 else _stranger(rng) for _ in range(rng.randint(1, 9))]
    if rng.random() < 0.3:
        words.insert(rng.randint(0, len(words)), rng.choice(TRAINING.kinds["rain"]))
    return " ".join(words)


def mentioned(attributes: Attributes, rng: random.Random, *, detail: float = 0.7) -> Attributes:
    """`attributes`, density and direction each kept with probability `detail`: what a sentence may say."""
    return Attributes(
        attributes.kind,
        attributes.density if rng.random() < detail else None,
        attributes.direction if rng.random() < detail else None,
    )


@cache
def written(attributes: Attributes) -> tuple[str, ...]:
    """Those of `DESCRIPTIONS` that say exactly this."""
    return tuple(text for text, said in DESCRIPTIONS if said == attributes)


def canonical(attributes: Attributes) -> str:
    """The sentence that `perceive` gives for these attributes."""
    return describe(attributes.kind, attributes.density, attributes.direction)


def caption(rng: random.Random) -> str:
    """A sentence about what a picture shows: a semantic prompt that says nothing about its degradation."""
    things = rng.sample(FILLER, rng.randint(1, 3))
    return rng.choice(("a photo of {}", "{}", "a picture of {}", "a scene with {}")).format(
        " and ".join(things)
    )


def punctuate(text: str, rng: random.Random, *, chance: float = 0.25) -> str:
    """Marks after some of the words, in one text of so many."""
    if rng.random() >= chance:
        return text
    return " ".join(word + rng.choice(MARKS) if rng.random() < 0.3 else word for word in text.split(" "))


def disturb(text: str, rng: random.Random, *, typos: float = 0.15, strangers: float = 0.2) -> str:
    """Mixes in a typo (a swapped, lost, doubled or wrong letter) and one to three unknown words."""
    if rng.random() < typos and len(text) > 4:
        at = rng.randrange(1, len(text) - 1)
        text = rng.choice(
            (
                text[:at] + text[at + 1] + text[at] + text[at + 2 :],
                text[:at] + text[at + 1 :],
                text[:at] + text[at] + text[at:],
                text[:at] + rng.choice(string.ascii_lowercase) + text[at + 1 :],
            )
        )
    if rng.random() < strangers:
        words = text.split(" ")
        at = rng.choice((0, len(words), rng.randint(0, len(words))))
        words[at:at] = [_stranger(rng) for _ in range(rng.randint(1, 3))]
        text = " ".join(words)
    return text


def _stranger(rng: random.Random) -> str:
    way = rng.random()
    if way < 0.3:
        return rng.choice(FILLER)
    if way < 0.7:
        return rng.choice(english())
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 9)))
