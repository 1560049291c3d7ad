"""What a look-up would need: how often each token string occurs, and how much a feature fires on it."""

from collections import Counter
from collections.abc import Mapping, Sequence

from safesail.domain.ids import FeatureId
from safesail.domain.pieces import join_pieces
from safesail.store.exemplars import HarvestedFeature, spread
from safesail.store.sql import Db, numbers, rows

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
        self._sparse: dict[FeatureId, bool] = {}
        self._tables: dict[FeatureId, Table] = {}

    def sparse(self, feature: HarvestedFeature) -> bool:
        """Whether only the nonzeros of documents that are kept whole are sure to be all stored."""
        self.look_up([feature])
        return self._sparse[feature.feature]

    def look_up(self, features: Sequence[HarvestedFeature]) -> None:
        """Find out at once of which features of one SAE all nonzeros are stored."""
        self._sparse |= {f: not kept for f, kept in keep_all(self._db, [
            f for f in features if f.feature not in self._sparse]).items()}  # fmt: skip

    def fit(self, features: Sequence[HarvestedFeature]) -> None:
        """Make the tables of some features of one SAE at once; each is handed out once."""
        self.look_up(features)
        for whole in (False, True):
            of = [f for f in features if self._sparse[f.feature] == whole]
            if not of:
                continue
            key = of[0].harvest_key, whole
            if key not in self._counts:
                self._counts[key] = _counts(self._db, *key)
            counts = self._counts[key]
            for feature, sums in _sums(self._db, of, whole=whole).items():
                self._tables[feature] = {
                    token: total / counts[token] for token, total in sorted(sums.items())
                }

    def table(self, feature: HarvestedFeature) -> Table:
        """Mean activation of a feature on every token string on which it fires in train windows."""
        if feature.feature not in self._tables:
            self.fit([feature])
        return self._tables.pop(feature.feature)


def keep_all(db: Db, features: Sequence[HarvestedFeature]) -> dict[FeatureId, bool]:
    """Of which features of one SAE all nonzeros are stored; of others only those in whole documents are sure."""
    if not features:
        return {}
    stored = rows(
        db,
        "SELECT feature, count(*) FROM activations"
        f" WHERE sae_key = ? AND feature IN ({numbers(f.feature.index for f in features)}) GROUP BY 1",
        [features[0].sae_key],
    )
    counts = {int(feature): int(n) for feature, n in stored}
    return {f.feature: counts.get(f.feature.index, 0) == f.n_active for f in features}


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


def _sums(db: Db, features: Sequence[HarvestedFeature], *, whole: bool) -> dict[FeatureId, dict[str, float]]:
    """Summed activation of each feature by token string, over train windows."""
    sae_id = features[0].feature.sae_id
    joined = f"JOIN windows w USING (harvest_key, window_id) {_WHOLE if whole else ''}"
    listed = numbers(f.feature.index for f in features)
    which = f"sae_key = ? AND feature IN ({listed}) AND w.split = 'train' AND"
    sums: dict[FeatureId, dict[str, float]] = {f.feature: {} for f in features}
    for feature, token, total in rows(
        db,
        f"SELECT a.feature, w.tokens[a.position + 1] AS token, sum(a.value) FROM activations a {joined}"
        f" WHERE {which} NOT {_PIECES} GROUP BY 1, 2",
        [features[0].sae_key],
    ):
        sums[FeatureId(sae_id, int(feature))][str(token)] = float(total)
    pieces = (
        f"SELECT a.feature, w.tokens, a.positions, a.activations FROM active_windows a {joined}"
        f" WHERE {which} {_PIECES} ORDER BY a.feature, a.window_id"
    )
    for feature, tokens, positions, values in rows(db, pieces, [features[0].sae_key]):
        of = sums[FeatureId(sae_id, int(feature))]
        for token, activation in zip(
            *join_pieces(tokens, spread(positions, values, len(tokens))), strict=True
        ):
            if activation > 0:
                of[token] = of.get(token, 0.0) + activation
    return sums
