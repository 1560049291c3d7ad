"""How the built-in model explains: a regression of marks on signs, put into words. From the prompt's text alone."""

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Float

from safesail.llm.lexical_rule import write_rule
from safesail.llm.lexical_words import Marked, Sign, read_marked, signs, stem

_RIDGE, _REFIT = 5.0, 2.0
"""Penalties of the two regressions: all signs, then those kept. Chosen on a half-trained SAE's features."""

_N_SIGNS = 30
_STRONG_FROM, _WEAK_FROM = 0.22, 0.08
_MAX_TAGS = 3


class Answer(TypedDict):
    """The fields of an answer, by their names in JSON."""

    explanation: str
    tags: list[str]
    confidence: float


def explain(active: Sequence[str], silent: Sequence[str], tags: Sequence[str], max_words: int) -> Answer:
    """The answer to an explain prompt.

    Args:
        active: Lines with marks.
        silent: Lines without.
        tags: Those to choose from.
        max_words: Length of the explanation.
    """
    texts = [read_marked(line) for line in (*active, *silent)]
    names, x = _design(texts)
    # The root makes weak marks count: a score asks whether a feature fires, not how much.
    y = np.sqrt(np.array([s for text in texts for s in text.strength], float) / 10)
    kept, weights = _regress(names, x, y)
    shown = _shown(texts)
    ordered = sorted(zip(kept, weights, strict=True), key=lambda item: (-item[1], item[0]))
    if not any(weight >= _STRONG_FROM for _, weight in ordered):
        # Something must fire: the most telling sign, or where none tells anything the most strongly marked word.
        first = ordered[0][0] if ordered else _most_marked(texts)
        ordered = [(first, _STRONG_FROM), *ordered[1:]]
    strong = [(s, _show(s, shown)) for s, w in ordered if w >= _STRONG_FROM]
    weak = [(s, _show(s, shown)) for s, w in ordered if _WEAK_FROM <= w < _STRONG_FROM]
    return Answer(
        explanation=write_rule(strong, weak, max_words),
        tags=_tags([s for s, _ in strong], tags),
        confidence=_fit(x, kept, names, weights, y),
    )


def _design(texts: Sequence[Marked]) -> tuple[list[Sign], Float[np.ndarray, "n_words n_signs"]]:
    """Which signs hold at which words."""
    held = [here for text in texts for here in signs(text.words)]
    counts = Counter(sign for here in held for sign in here)
    held = [{sign for sign in here if _sayable(sign, counts[sign])} for here in held]
    names = sorted(set().union(*held))
    column = {sign: j for j, sign in enumerate(names)}
    x = np.zeros((len(held), len(names)))
    for i, here in enumerate(held):
        x[i, [column[sign] for sign in here]] = 1.0
    return names, x


def _sayable(sign: Sign, count: int) -> bool:
    """Whether a sign may go into an explanation; what stands two words before, seen once, is a coincidence."""
    return (sign[0] != "two after" or count > 1) and not set(sign[1]) & {"“", "”"}


def _regress(
    names: Sequence[Sign], x: Float[np.ndarray, "n_words n_signs"], y: Float[np.ndarray, " n_words"]
) -> tuple[list[Sign], list[float]]:
    """Signs that predict the marks, and their weights: ridge over all, then again over the most telling ones."""
    centred = y - y.mean()
    dual = np.linalg.solve(x @ x.T + _RIDGE * np.eye(len(y)), centred)
    importance = np.round(x.T @ dual * np.sqrt(x.sum(axis=0)), 9)  # rounded: equal signs stay in order
    best = [int(j) for j in np.argsort(-importance, kind="stable")[:_N_SIGNS] if importance[j] > 0]
    part = x[:, best]
    weights = np.linalg.solve(part.T @ part + _REFIT * np.eye(len(best)), part.T @ centred)
    return [names[j] for j in best], np.round(weights, 9).tolist()


def _fit(
    x: Float[np.ndarray, "n_words n_signs"],
    kept: Sequence[Sign],
    names: Sequence[Sign],
    weights: Sequence[float],
    y: Float[np.ndarray, " n_words"],
) -> float:
    """Confidence: the correlation with the marks on the texts shown, in [0, 1]."""
    columns = [names.index(sign) for sign in kept]
    predicted = x[:, columns] @ np.array(weights)
    if np.ptp(predicted) == 0 or np.ptp(y) == 0:
        return 0.0
    return round(float(np.clip(np.corrcoef(predicted, y)[0, 1], 0, 1)), 2)


def _most_marked(texts: Sequence[Marked]) -> Sign:
    marks = [(s, word) for text in texts for word, s in zip(text.words, text.strength, strict=True)]
    return "word", stem(max(marks, key=lambda mark: mark[0])[1])


def _shown(texts: Sequence[Marked]) -> dict[str, str]:
    """For each stem the form that the texts use most."""
    forms = Counter(word.lower() for text in texts for word in text.words)
    best: dict[str, str] = {}
    for form, _ in forms.most_common():
        best.setdefault(stem(form), form)
    return best


def _show(sign: Sign, forms: dict[str, str]) -> str:
    kind, value = sign
    return forms.get(value, value) if kind in {"word", "after", "two after"} else value


def _tags(strong: Sequence[Sign], tags: Sequence[str]) -> list[str]:
    """Tags that share a word with a kind of words that the feature fires on strongly."""
    named = {stem(word) for kind, value in strong if kind == "kind" for word in value.split()}
    return [tag for tag in tags if named.intersection(map(stem, tag.split("_")))][:_MAX_TAGS]
