"""What a budget means, and what calls cost."""

from pathlib import Path

import pytest

from safesail.errors import ConfigError
from safesail.llm.budget import Budget, Price, load_prices, parse_budget, price_of


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10k", Budget("tokens", 10_000)),
        (" 2M ", Budget("tokens", 2_000_000)),
        ("1.5b", Budget("tokens", 1.5e9)),
        ("300", Budget("tokens", 300)),
        ("300 tokens", Budget("tokens", 300)),
        ("$5", Budget("dollars", 5)),
        ("$0.25", Budget("dollars", 0.25)),
        ("200calls", Budget("calls", 200)),
        ("1 call", Budget("calls", 1)),
        ("2k calls", Budget("calls", 2000)),
        ("Unlimited", Budget("unlimited", float("inf"))),
    ],
)
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["", "0", "$0", "0 calls", "-5", "5€", "$5calls", "ten", "1e6", "inf", "nan", "5 k tokens x", "$"]
)
def test_anything_else_is_refused_and_the_error_says_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_budget(text)
    message = str(caught.value)
    assert repr(text) in message
    assert "$5, 200calls or unlimited" in message
    assert "\n" not in message


def test_prices_by_hand(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("small: {input: 0.5, output: 2}\nfree: {input: 0, output: 0}\n", encoding="utf-8")
    prices = load_prices(table)
    assert prices == {"small": Price(input=0.5, output=2), "free": Price(input=0, output=0)}
    # 1000 tokens at $0.5 a million are $0.0005, 250 at $2 a million are the same.
    assert price_of(prices, "small", 1000, 250) == pytest.approx(0.001)
    assert price_of(prices, "free", 1000, 250) == 0.0
    assert price_of(prices, "unheard of", 1000, 250) is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("small: {input: -1, output: 2}", "input"),
        ("small: {input: 1}", "output"),
        ("small: {input: 1, output: 2, cached: 0}", "cached"),
        ("small: 3", "small"),
        ("- small", "mapping"),
    ],
)
def test_a_wrong_price_table_is_named(tmp_path: Path, content: str, fault: str) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_prices(table)
    assert str(table) in str(caught.value)
    assert fault in str(caught.value)


def test_a_missing_price_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file at"):
        load_prices(tmp_path / "none.yaml")
