"""All that changes a score besides explanation, method and simulator."""

from collections.abc import Mapping
from typing import Any

from safesail.autointerp.config import AutointerpConfig, ScoringConfig
from safesail.autointerp.simulator import context_of
from safesail.domain.ids import FeatureId
from safesail.store.connection import Db
from safesail.store.exemplars import harvest_of
from safesail.store.explanations import ScoreOrigin


def score_origin(db: Db, run_id: str, sae_id: str, config: AutointerpConfig) -> ScoreOrigin:
    """How the scores of a run are made.

    Raises:
        NotFoundError: the SAE has no finished harvest.
    """
    settings = {
        "harvest": harvest_of(db, sae_id),
        "test_exemplars": config.test_exemplars.model_dump(mode="json"),
        "scoring": _scoring(config.scoring),
        "prompt_hash": context_of(FeatureId(sae_id, 0), config.scoring).prompt_hash,
    }
    return ScoreOrigin(run_id, settings)


def _scoring(scoring: ScoringConfig) -> Mapping[str, Any]:
    """Of scoring. How many rounds there are says how certain a pooled score is, and not how it was made."""
    if scoring.method != "pooled":
        return scoring.model_dump(mode="json", exclude={"model", "pool"})
    return scoring.model_dump(mode="json", exclude={"model": True, "pool": {"min_rounds", "max_rounds"}})
