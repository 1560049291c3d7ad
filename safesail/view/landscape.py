"""A map of explanations: where each one lies in two dimensions, and how faithful that is. Placed once, and kept.

Vectors are of meaning where the catalog's are there (`MiniLM`), else of words: TF-IDF, reduced to some dimensions.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from safesail.errors import DataError
from safesail.files import whole_file
from safesail.store.connection import Db
from safesail.store.shelf import drawn_texts

MAX_POINTS = 100_000
"""Of a larger catalog so many are drawn."""

LANDMARKS = 5_000
"""Points that are placed by t-SNE; the others go among their nearest ones."""

FEWEST = 12
"""Explanations of which a map is made."""

N_DIMENSIONS = 48
"""Of vectors of words."""

NEIGHBOURS = 15
SAMPLE = 1_000
"""Points whose neighbours are counted."""

CHUNK = 500
"""Explanations of one script that the map loads."""

VERSION = 1
"""Raise when points are placed otherwise."""

Vectors = Float[np.ndarray, "n d"]
Points = Float[np.ndarray, "n 2"]


@dataclass(frozen=True)
class MapText:
    """An explanation on the map."""

    sae_id: str
    layer: int | None
    index: int
    explanation: str
    mask: int
    """Bits of its domains."""

    score: float | None


@dataclass(frozen=True)
class Landscape:
    """The map."""

    texts: tuple[MapText, ...]
    points: Points
    """In [0, 1]."""

    n_all: int
    """Explanations there are."""

    method: str
    by_meaning: bool
    kept: float
    """Share of the nearest neighbours that are near on the map too."""

    kept_shuffled: float

    @property
    def n(self) -> int:
        """Points."""
        return len(self.texts)


def read_texts(db: Db) -> list[MapText]:
    """The explanations that a map shows."""
    return [MapText(*row[2:]) for row in drawn_texts(db, MAX_POINTS)]


def project(texts: Sequence[MapText], n_all: int, folder: Path, meaning: Vectors | None = None) -> Landscape:
    """Place explanations, or read where they were placed before.

    Args:
        texts: At least `FEWEST`.
        n_all: Explanations that the catalog has.
        folder: Where places are kept.
        meaning: Vectors of the texts' meaning; None: those of their words are made.
    """
    said = [text.explanation for text in texts]
    digest = hashlib.sha256(json.dumps([VERSION, meaning is not None, said]).encode("utf-8", "surrogatepass"))
    path = folder / f"{digest.hexdigest()[:32]}.map.npz"
    made = _kept(path, len(texts))
    if made is None:
        vectors = word_vectors(said) if meaning is None else np.asarray(meaning, np.float32)
        points = _projected(vectors)
        faithful = faithfulness(vectors, points)
        made = points, faithful
        _keep(path, points, faithful)
    points, (kept, shuffled) = made
    method = "t-SNE" if len(texts) <= LANDMARKS else f"t-SNE of {LANDMARKS:,} and the nearest of these"
    vectors_of = "MiniLM vectors" if meaning is not None else "TF-IDF vectors of words"
    return Landscape(
        tuple(texts), points, n_all, f"{method}, on {vectors_of}", meaning is not None, kept, shuffled
    )


def word_vectors(texts: Sequence[str]) -> Vectors:
    """Vectors of length 1 by the words and pairs of letters of texts; alike texts are near."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    # Runs of letters inside words: forms of one word share most, and scripts without blanks have words too.
    weights = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), min_df=2 if len(texts) > 200 else 1,
                              max_features=40_000, sublinear_tf=True)  # fmt: skip
    counts = weights.fit_transform(texts)
    wanted = max(2, min(N_DIMENSIONS, min(counts.shape) - 1))
    reduced: Any = TruncatedSVD(wanted, random_state=0).fit_transform(counts)
    return np.ascontiguousarray(normalize(reduced), dtype=np.float32)


def _projected(vectors: Vectors) -> Points:
    """In [0, 1], the same whenever it is computed on one machine."""
    n = len(vectors)
    chosen = (
        np.arange(n)
        if n <= LANDMARKS
        else np.sort(np.random.default_rng(0).choice(n, LANDMARKS, replace=False))
    )
    placed = _tsne(vectors[chosen])
    if len(chosen) < n:
        placed = _among(vectors, vectors[chosen], placed)
    low, high = np.quantile(placed, [0.001, 0.999], axis=0)
    return np.clip((placed - low) / np.maximum(high - low, 1e-9), 0, 1).astype(np.float32)


def _tsne(vectors: Vectors) -> Points:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    start = PCA(2, random_state=0).fit_transform(vectors)
    start = start / max(float(start[:, 0].std()), 1e-9) * 1e-4
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init=start, random_state=0, max_iter=750, n_jobs=1).fit_transform(
        vectors
    )


def _among(vectors: Vectors, landmarks: Vectors, placed: Points) -> Points:
    """Each vector at the weighted mean of the places of its three nearest landmarks, a hair beside them."""
    out = np.empty((len(vectors), 2), np.float32)
    rng = np.random.default_rng(1)
    for first in range(0, len(vectors), 4096):
        likeness = vectors[first : first + 4096] @ landmarks.T
        near = np.argpartition(-likeness, 3, axis=1)[:, :3]
        weight = np.maximum(np.take_along_axis(likeness, near, axis=1), 1e-3) ** 8
        weight /= weight.sum(axis=1, keepdims=True)
        out[first : first + 4096] = (placed[near] * weight[..., None]).sum(axis=1)
    return out + rng.normal(scale=0.004 * float(placed.std()), size=out.shape).astype(np.float32)


def faithfulness(vectors: Vectors, points: Points) -> tuple[float, float]:
    """Share of the 15 nearest neighbours that are also near on the map, and the same with the points shuffled."""
    n = len(vectors)
    k = min(NEIGHBOURS, n - 1)
    rng = np.random.default_rng(0)
    asked = np.sort(rng.choice(n, min(SAMPLE, n), replace=False))
    truly = _nearest(-(vectors[asked] @ vectors.T), asked, k)
    shuffled = points[rng.permutation(n)]
    return tuple(_shared(truly, _near_points(p, asked, k)) for p in (points, shuffled))  # type: ignore[return-value]


def _near_points(points: Points, asked: Int[np.ndarray, " m"], k: int) -> Int[np.ndarray, "m k"]:
    parts: list[NDArray[np.int64]] = []
    for first in range(0, len(asked), 100):
        some = asked[first : first + 100]
        distance = ((points[some, None] - points[None]) ** 2).sum(axis=2)
        parts.append(_nearest(distance, some, k))
    return np.concatenate(parts)


def _nearest(
    distance: Float[np.ndarray, "m n"], itself: Int[np.ndarray, " m"], k: int
) -> Int[np.ndarray, "m k"]:
    distance[np.arange(len(itself)), itself] = np.inf
    return np.argpartition(distance, k - 1, axis=1)[:, :k]


def _shared(a: Int[np.ndarray, "m k"], b: Int[np.ndarray, "m k"]) -> float:
    return float(np.mean([len(np.intersect1d(x, y)) / a.shape[1] for x, y in zip(a, b, strict=True)]))


def _kept(path: Path, n: int) -> tuple[Points, tuple[float, float]] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            points, faithful = stored["points"], stored["faithful"]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return (points, (float(faithful[0]), float(faithful[1]))) if points.shape == (n, 2) else None


def _keep(path: Path, points: Points, faithful: tuple[float, float]) -> None:
    try:
        with whole_file(path) as partial, partial.open("wb") as stream:
            np.savez(stream, points=points, faithful=np.array(faithful))
    except DataError:  # no room for a file: it is placed again the next time
        return


def points_script(landscape: Landscape, saes: Sequence[str], domains: Sequence[str]) -> str:
    """The map as a script: columns as base64, so that a page from a file can load it.

    Args:
        landscape: The map.
        saes: SAEs by number.
        domains: Domains by bit.
    """
    number = {sae_id: at for at, sae_id in enumerate(saes)}
    texts = landscape.texts
    scores = [
        0 if t.score is None else 1 + round(254 * (min(max(t.score, -0.2), 1.0) + 0.2) / 1.2) for t in texts
    ]
    columns = {
        "xy": np.round(landscape.points * 65535).astype("<u2"),
        "index": np.array([t.index for t in texts], "<u4"),
        "sae": np.array([number[t.sae_id] for t in texts], "<u2"),
        "layer": np.array([-1 if t.layer is None else t.layer for t in texts], "<i2"),
        "domain": np.array([_first_bit(t.mask) for t in texts], "<u1"),
        "score": np.array(scores, "<u1"),
    }
    packed = {name: base64.b64encode(column.tobytes()).decode() for name, column in columns.items()}
    head = {"n": len(texts), "chunk": CHUNK, "saes": list(saes), "domains": list(domains), **packed}
    return f"safesailPoints({script_json(head)});\n"


def _first_bit(mask: int) -> int:
    """The lowest domain, which is the catalog's most frequent one; 255: none."""
    return (mask & -mask).bit_length() - 1 if mask else 255


def texts_script(landscape: Landscape, chunk: int) -> str:
    """The explanations of a chunk of points, as a script."""
    said = [t.explanation for t in landscape.texts[chunk * CHUNK : (chunk + 1) * CHUNK]]
    return f"safesailTexts({int(chunk)},{script_json(said)});\n"


def script_json(value: Any) -> str:
    """JSON that stands in a script file: ASCII alone, so that neither a character nor an encoding can end it early."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )


def shortened(landscape: Landscape, most: int) -> Landscape:
    """The same map with each explanation cut after `most` characters."""
    texts = tuple(replace(t, explanation=t.explanation[:most]) for t in landscape.texts)
    return replace(landscape, texts=texts)
