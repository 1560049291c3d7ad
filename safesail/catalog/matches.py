"""What a search index finds, words of a query, and the fusion of two rankings. Pure."""

import re
import unicodedata
from dataclasses import dataclass

from safesail.errors import ConfigError

MAX_TERMS = 32
MAX_RANKED = 20_000
"""At most so many matches are ranked."""

FUSION_K = 60
"""Of Cormack, Clarke and Buettcher (2009), `Reciprocal Rank Fusion outperforms Condorcet and individual Rank
Learning Methods`, SIGIR: how little the first places count above later ones."""

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_TERM = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+|[^\W_]+")


@dataclass(frozen=True)
class Matches:
    """What an index finds."""

    found: list[tuple[str, int, float]]
    """(sae_id, index, rank), best first."""

    n: int
    """Matches, counted up to one more than are ranked."""

    left_out: tuple[str, ...]
    """Words that are too common to tell anything."""


def parse_terms(text: str) -> list[str]:
    """The words of a query as FTS5 strings; runs of Chinese characters become phrases.

    Raises:
        ConfigError: there is none.
    """
    terms: list[str] = []
    for word in _TERM.findall(unicodedata.normalize("NFKC", text).lower()):
        term = f'"{spaced(word).strip()}"'
        if term not in terms:
            terms.append(term)
    if not terms:
        raise ConfigError(f"nothing to search for in {text[:60]!r}; give words")
    return terms[:MAX_TERMS]


def spaced(text: str) -> str:
    """Each Chinese or Japanese character as a word, since those scripts have no spaces."""
    return _CJK.sub(lambda found: f" {found.group()} ", text)


def fuse(a: Matches, b: Matches, limit: int) -> Matches:
    """Both rankings as one, by the sum of 1 / (60 + place) (Cormack et al. 2009); ties by SAE and index."""
    ranks: dict[tuple[str, int], float] = {}
    for matches in (a, b):
        for place, (sae_id, index, _) in enumerate(matches.found, 1):
            ranks[sae_id, index] = ranks.get((sae_id, index), 0.0) + 1 / (FUSION_K + place)
    best = sorted(ranks.items(), key=lambda item: (-item[1], item[0]))[:limit]
    return Matches(
        [(sae_id, index, rank) for (sae_id, index), rank in best], max(a.n, b.n), (*a.left_out, *b.left_out)
    )
