"""What a look-up would need: how often each token string occurs, and how much a feature fires on it."""

from collections import Counter
from collections.abc import Mapping

from safesail.domain.ids import FeatureId
from safesail.domain.pieces import join_pieces
from safesail.store.exemplars import HarvestedFeature
from safesail.store.sql import Db, rows, value

Table = Mapping[str, float]
"""Mean activation of a feature by token string; strings that are not in it have 0."""

_PIECES = r"contains(array_to_string(w.tokens, ''), '\x')"
"""Windows that may hold pieces of characters: their tokens are joined as those of exemplars are."""

_WHOLE = "SEMI JOIN (FROM documents WHERE whole) d USING (harvest_key, document_id)"


class TokenTables:
    """Token tables of the features of a store, fitted on every train window that holds all of their nonzeros."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._counts: dict[tuple[int, bool], Mapping[str, int]] = {}
        self._whole: dict[FeatureId, bool] = {}

    def sparse(self, feature: HarvestedFeature) -> bool:
        """Whether only the nonzeros of documents that are kept whole are sure to be all stored."""
        if feature.feature not in self._whole:
            self._whole[feature.feature] = not keeps_all(self._db, feature)
        return self._whole[feature.feature]

    def table(self, feature: HarvestedFeature) -> Table:
        """Mean activation of a feature on every token string on which it fires in train windows."""
        whole = self.sparse(feature)
        key = feature.harvest_key, whole
        if key not in self._counts:
            self._counts[key] = _counts(self._db, *key)
        counts = self._counts[key]
        sums = _sums(self._db, feature, whole=whole)
        return {token: total / counts[token] for token, total in sorted(sums.items())}


def keeps_all(db: Db, f: HarvestedFeature) -> bool:
    """Whether all of a feature's nonzeros are stored; else only those in documents that are kept whole are sure."""
    stored = value(
        db,
        "SELECT count(*) FROM activations WHERE sae_key = ? AND feature = ?",
        [f.sae_key, f.feature.index],
    )
    return int(stored) == f.n_active


def _counts(db: Db, harvest_key: int, whole: bool) -> Mapping[str, int]:
    """How often each token string occurs in train windows."""
    source = f"windows w {_WHOLE if whole else ''} WHERE harvest_key = ? AND split = 'train' AND"
    counted = rows(
        db,
        f"SELECT token, count(*) FROM (SELECT unnest(w.tokens) AS token FROM {source} NOT {_PIECES}) GROUP BY 1",
        [harvest_key],
    )
    counts = Counter({str(token): int(n) for token, n in counted})
    for (tokens,) in rows(db, f"SELECT w.tokens FROM {source} {_PIECES}", [harvest_key]):
        counts.update(join_pieces(tokens, [0.0] * len(tokens))[0])
    return counts


def _sums(db: Db, f: HarvestedFeature, *, whole: bool) -> Mapping[str, float]:
    """Summed activation of a feature by token string, over train windows."""
    joined = f"JOIN windows w USING (harvest_key, window_id) {_WHOLE if whole else ''}"
    which = "sae_key = ? AND feature = ? AND w.split = 'train' AND"
    of = [f.sae_key, f.feature.index]
    summed = rows(
        db,
        f"SELECT w.tokens[a.position + 1] AS token, sum(a.value) FROM activations a {joined}"
        f" WHERE {which} NOT {_PIECES} GROUP BY 1",
        of,
    )
    sums: dict[str, float] = {str(token): float(total) for token, total in summed}
    pieces = (
        f"SELECT w.tokens, a.positions, a.activations FROM active_windows a {joined} WHERE {which} {_PIECES}"
    )
    for tokens, positions, values in rows(db, pieces, of):
        activations = [0.0] * len(tokens)
        for position, activation in zip(positions, values, strict=True):
            activations[position] = float(activation)
        for token, activation in zip(*join_pieces(tokens, activations), strict=True):
            if activation > 0:
                sums[token] = sums.get(token, 0.0) + activation
    return sums
