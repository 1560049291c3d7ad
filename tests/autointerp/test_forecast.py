"""What a dry run says, against what the run then does."""

from pathlib import Path
from typing import Any

import pytest

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.ranking import FeatureChoice
from safesail.autointerp.run import explain_store, forecast_store
from safesail.errors import ConfigError
from safesail.llm.budget import Price, Prices, parse_budget
from safesail.store.connection import open_reader, open_writer
from safesail.store.sql import value
from tests.pipeline.conftest import Made


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Path:
    copy = tmp_path / "store.duckdb"
    copy.write_bytes((made.out / "safesail.duckdb").read_bytes())
    return copy


def asked(
    budget: str = "unlimited", prices: Prices | None = None, **config: Any
) -> tuple[FeatureChoice, ChatSettings, AutointerpConfig]:
    chat = ChatSettings("lexical", "lexical", parse_budget(budget), prices=prices)
    return FeatureChoice(), chat, AutointerpConfig.model_validate({"concurrency": 2} | config)


def forget(store: Path) -> None:
    with open_writer(store) as db:
        for table in ("llm_calls", "explanations", "scores", "pools"):
            db.execute(f"DELETE FROM {table}")


def test_it_asks_nobody_and_writes_nothing(store: Path) -> None:
    forget(store)
    before = store.read_bytes()
    found = forecast_store(store, *asked())
    assert found.cost.calls > 0
    assert found.above_chance is None
    assert store.read_bytes() == before


def test_it_foresees_features_calls_and_nearly_the_tokens(store: Path) -> None:
    explain_store(store, *asked(), quiet=True)  # from now on the ledger knows what answers cost
    with open_reader(store) as db:
        paid = value(db, "SELECT sum(tokens) FROM ledger")
    with open_writer(store) as db:  # as if another had asked: same costs, other questions
        db.execute("UPDATE llm_calls SET cache_key = 'x' || cache_key")
    found = forecast_store(store, *asked())
    report = explain_store(store, *asked(), quiet=True)
    assert found.finished == found.features == len(report.explained)
    assert found.cost.tokens == pytest.approx(report.tokens, rel=0.25)
    assert report.tokens <= paid
    assert found.above_chance is not None


def test_what_is_cached_costs_nothing(store: Path) -> None:
    explain_store(store, *asked(), quiet=True)
    found = forecast_store(store, *asked("1"))
    assert (found.cost.calls, found.cost.tokens) == (0, 0)
    assert found.finished == found.features


def test_a_budget_stops_it_before_all_are_finished(store: Path) -> None:
    forget(store)
    all_of_them = forecast_store(store, *asked())
    half = forecast_store(store, *asked(str(round(all_of_them.cost.tokens / 2))))
    assert 0 < half.finished < all_of_them.finished
    assert half.cost_of_all.tokens == all_of_them.cost.tokens
    assert forecast_store(store, *asked("1calls")).finished == 0


def test_dollars_need_a_price(store: Path) -> None:
    forget(store)
    with pytest.raises(ConfigError, match="--prices"):
        forecast_store(store, *asked("$5"))
    prices = {"lexical": Price(input=1.0, output=2.0)}
    found = forecast_store(store, *asked("$5", prices=prices)).cost
    assert found.dollars == pytest.approx((found.tokens_in + 2 * found.tokens_out) / 1e6, rel=0.01)


def test_a_weight_of_0_leaves_nothing(store: Path) -> None:
    with pytest.raises(ConfigError, match="weight 0"):
        forecast_store(store, *asked(order={"weights": {"violence": 0}}))


def test_money_goes_to_a_feature_only_if_it_is_likely_to_be_finished(store: Path) -> None:
    """At any budget, many at once: what is explained is scored, all but the one at which the money ended."""
    forget(store)
    all_of_them = explain_store(store, *asked(concurrency=8), quiet=True)
    assert len(all_of_them.scored) + len(all_of_them.undefined) > 2
    for share in (0.3, 0.6, 0.9):
        forget(store)
        found = explain_store(
            store, *asked(str(round(share * all_of_them.tokens)), concurrency=8), quiet=True
        )
        assert found.tokens <= share * all_of_them.tokens + 1
        assert len(found.explained) - len(found.scored) - len(found.undefined) <= 1
