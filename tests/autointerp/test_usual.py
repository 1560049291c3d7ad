"""What a feature usually costs: real prompts about stand-in features, priced by the dry run."""

from random import Random

import pytest

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.exemplars import collect
from safesail.autointerp.usual import stand_in_store, usual_cost
from safesail.llm.budget import Price, parse_budget
from safesail.store.sql import value

STEMS = ("river", "mill", "old", "miller", "sold", "flour", "to", "bakers", "of", "town", "each", "winter")
WORDS = [f" {stem}{ending}" for stem in STEMS for ending in ("", "s", "ing", "er", "ish")]
TEXTS = [Random(i).choices(WORDS, k=60) for i in range(90)]


def chat(model: str = "lexical", prices: dict[str, Price] | None = None) -> ChatSettings:
    return ChatSettings(model, model, parse_budget("unlimited"), "https://api.example.com/v1", prices)


def test_stand_in_features_have_windows_of_every_kind() -> None:
    config = AutointerpConfig()
    with stand_in_store(TEXTS, 20) as (db, plan):
        windows = collect(db, plan.features[0], "test", config.test_exemplars)
    kinds = [e.kind for e in windows]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"active": 10, "random": 5, "hard": 5}


def test_the_cost_follows_the_settings_of_explaining_and_scoring() -> None:
    segments = {"scoring": {"method": "segment"}}
    usual = usual_cost(TEXTS, 20, chat(), AutointerpConfig.read(segments, "test"))
    unlined = usual_cost(TEXTS, 20, chat(), AutointerpConfig.read({**segments, "chance_every": 0}, "test"))
    assert unlined.cost.tokens < usual.cost.tokens
    assert unlined.cost.calls == 2 * unlined.n_features  # 20 windows go into one call
    assert usual.of(2 * usual.n_features).tokens == pytest.approx(2 * usual.cost.tokens)
    pooled = usual_cost(TEXTS, 20, chat(), AutointerpConfig())
    assert pooled.cost.tokens < usual.cost.tokens


def test_an_endpoint_is_priced_without_a_key_and_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    priced = usual_cost(TEXTS, 20, chat("m", {"m": Price(input=1, output=2)}), AutointerpConfig())
    assert priced.cost.dollars == pytest.approx(
        (priced.cost.tokens_in + 2 * priced.cost.tokens_out) / 1e6, rel=0.01
    )
    assert usual_cost(TEXTS, 20, chat("m"), AutointerpConfig()).cost.dollars is None


def test_nothing_is_asked_or_left() -> None:
    with stand_in_store(TEXTS, 20) as (db, plan):
        assert value(db, "SELECT count(*) FROM llm_calls") == 0
        assert value(db, "SELECT count(DISTINCT feature) FROM features") == 32
        assert len(plan.features) == 16
