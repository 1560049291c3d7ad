"""Held-out text on which effects are measured: windows of the harvest, or texts that somebody names."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError
from safesail.intervene.config import InterveneConfig
from safesail.sae.encode import encode_rows
from safesail.sae.protocol import SAE
from safesail.store.connection import Db
from safesail.store.effects import Span, strongest_spans
from safesail.store.exemplars import find_feature
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length
from safesail.text.documents import read_documents
from safesail.text.windows import cut

_BATCH_TOKENS = 1024


class FiringText(Protocol):
    """Where text in which a feature fires comes from."""

    texts_id: str
    """What tells it apart from other text."""

    def spans(self, feature: FeatureId) -> list[Span]:
        """Round its strongest token of each document, the strongest first."""
        ...


class HarvestedText:
    """The test split of an SAE's harvest."""

    def __init__(self, db: Db, harvest_id: str, config: InterveneConfig) -> None:
        self.texts_id = harvest_id
        self._db, self._config = db, config

    def spans(self, feature: FeatureId) -> list[Span]:
        """From the harvest; see `FiringText`."""
        c = self._config
        known = find_feature(self._db, feature)
        return strongest_spans(self._db, known, "test", before=c.context, after=c.edited, limit=c.n_texts)


class GivenText:
    """Texts from files, run through the SAE now."""

    def __init__(
        self,
        subject: Subject,
        sae: SAE,
        features: Sequence[int],
        config: InterveneConfig,
    ) -> None:
        """Read and encode them.

        Raises:
            ConfigError: none of the features fires in them with room round it.
        """
        self._config = config
        self._best: dict[int, dict[str, tuple[float, Span]]] = defaultdict(dict)
        documents = {d.document_id: subject.tokenize(d.text) for d in read_documents(config.texts)}
        digest = hashlib.sha256("\n".join(sorted(documents)).encode()).hexdigest()
        self.texts_id = f"texts:{digest[:16]}"
        n_ctx = min(subject.n_ctx_max, max(64, config.context + config.edited + 1))
        windows = [(name, ids) for name, whole in documents.items() for _, ids in cut(whole, n_ctx)]
        for batch in batches_by_length([len(ids) for _, ids in windows], _BATCH_TOKENS):
            self._add(subject, sae, set(features), [windows[i] for i in batch])
        if not any(self._best.values()):
            named = ", ".join(f"{sae.info.sae_id}#{j}" for j in features[:4])
            raise ConfigError(
                f"{named} fires nowhere in {', '.join(config.texts)} with {config.context} tokens before it and "
                f"{config.edited} behind it; name longer or other texts"
            )

    def _add(
        self, subject: Subject, sae: SAE, features: set[int], windows: Sequence[tuple[str, Sequence[int]]]
    ) -> None:
        before, after = self._config.context, self._config.edited
        fired = encode_rows(subject, [sae], [ids for _, ids in windows]).by_sae[sae.info.sae_id]
        for row, position, feature, value in zip(
            fired.row.tolist(),
            fired.position.tolist(),
            fired.feature.tolist(),
            fired.value.tolist(),
            strict=True,
        ):
            name, ids = windows[row]
            if feature not in features or position < before or position + 1 + after > len(ids):
                continue
            best = self._best[feature].get(name)
            if best is None or value > best[0]:
                span = Span(name, tuple(ids[position - before : position + 1 + after]))
                self._best[feature][name] = (value, span)

    def spans(self, feature: FeatureId) -> list[Span]:
        """From the texts; see `FiringText`."""
        strongest = sorted(self._best[feature.index].values(), key=lambda v: (-v[0], v[1].document_id))
        return [span for _, span in strongest[: self._config.n_texts]]
