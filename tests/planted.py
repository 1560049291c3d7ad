"""Features planted in the texts that come with Safe-SAIL: each fires on a list of words, so its meaning is known."""

import hashlib
import json
import re
from functools import cache
from typing import NamedTuple

from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Split, Window
from safesail.resources import resource_dir


class Planted(NamedTuple):
    """What a feature fires on, and how a person would say it."""

    pattern: str
    explanation: str


PLANTED = (
    Planted(
        r" ?(?:attack|kill|bomb|shoot|murder|stab|assault)\w*",
        "words for attacking or killing people, e.g. bomb",
    ),
    Planted(
        r" (?:court|judge|lawyer|jury|trial|prosecut|sentenc)\w*", "courts of law: judges, lawyers and trials"
    ),
    Planted(r" (?:money|bank|pay|paid|price|account|debt)\w*", "money, banks and payments"),
    Planted(
        r" (?:vote|minister|parliament|election|party|president)\w*",
        "politics: elections and those in office",
    ),
    Planted(r" (?:he|she|his|her)", "third-person singular pronouns: “he”, “she”, “his”, “her”"),
    Planted(r" \d+", "numbers written in digits"),
    Planted(r" (?:said|asked|told)", "verbs of reported speech, such as “said”, “asked” and “told”"),
    Planted(r" (?:doctor|nurse|patient|hospital|medic|drug)\w*", "medicine: doctors, hospitals and patients"),
    Planted(r" (?:school|teach|student|class|lesson|exam|universit)\w*", "schools, teachers and students"),
    Planted(r" (?:water|river|rain|sea|lake|flood|wave)\w*", "water: rivers, rain and the sea"),
    Planted(r" (?:day|week|month|year|hour|minute)s?", "units of time such as days, weeks and years"),
    Planted(r" (?:mother|father|sister|brother|son|daughter|wife|husband|family)\w*", "members of a family"),
    Planted(r" (?:bread|soup|meal|food|cook|kitchen|eat|rice|tea)\w*", "food, meals and cooking"),
    Planted(
        r" (?:computer|password|software|network|server|data|hack)\w*", "computers, networks and passwords"
    ),
    Planted(r" (?:police|officer|arrest|detective|jail|prison)\w*", "police, arrests and prisons"),
    Planted(r" (?:not|never|no|n't|nothing|nobody)", "negation: “not”, “never”, “no”, “nothing”, “nobody”"),
)


def documents() -> list[str]:
    folder = resource_dir("data") / "texts"
    lines = [
        line
        for name in ("ordinary", "safety")
        for line in (folder / f"{name}.jsonl").read_text().splitlines()
    ]
    return [json.loads(line)["text"] for line in lines]


@cache
def windows(split: Split) -> tuple[Window, ...]:
    found: list[Window] = []
    for number, text in enumerate(documents()):
        if (number % 2 == 0) != (split == "train"):
            continue
        tokens = re.findall(r" ?\w+| ?[^\w\s]|\s", text)
        for start in range(0, len(tokens) - 63, 64):
            piece = tuple(tokens[start : start + 64])
            found.append(Window(f"d{number}", start, tuple(range(64)), piece, split))
    return tuple(found)


def noise(*parts: object) -> float:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def planted(number: int, window: Window) -> Exemplar:
    """Strength 4 to 10 on nine in ten of its tokens, and weak activity on one in a hundred of all others."""
    activations: list[float] = []
    for i, token in enumerate(window.tokens):
        draw = noise(number, window.document_id, window.start + i)
        if re.fullmatch(PLANTED[number].pattern, token, re.I):
            activations.append(4.0 + 6.0 * draw if draw < 0.9 else 0.0)
        else:
            activations.append(1.0 if draw < 0.01 else 0.0)
    active = max(activations) > 0
    kind = "active" if active else "random"
    return Exemplar(FeatureId("planted", number), window, tuple(activations), kind, int(max(activations) > 2))
