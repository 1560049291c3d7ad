"""Effects that were planted are found, and features that do nothing in particular are not."""

from pathlib import Path

from safesail.store.connection import Db
from safesail.store.effects import SHOWN_Q
from tests.planted_effects import make_world, measured

N_PLANTED, N_FEATURES = 12, 80


def test_planted_effects_are_found_and_few_others(tmp_path: Path, db: Db) -> None:
    world = make_world(
        tmp_path, n_features=N_FEATURES, n_planted=N_PLANTED, d_model=64, vocabulary=800, strength=0.3
    )
    q = measured(world, sorted(world.sizes), db)
    for condition in ("ablate", "double", "steer"):
        shown = {j for (j, c), value in q.items() if c == condition and value <= SHOWN_Q}
        assert shown >= set(range(N_PLANTED)), condition
        false = len(shown - set(range(N_PLANTED)))
        assert false <= 0.25 * len(shown), (condition, sorted(shown))
