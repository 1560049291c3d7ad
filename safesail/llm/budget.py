"""Budgets: how much a run may newly spend, and in what."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat

from safesail.domain.config import Config, load_yaml
from safesail.errors import ConfigError

Unit = Literal["tokens", "dollars", "calls", "unlimited"]
_SCALE = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


@dataclass(frozen=True)
class Budget:
    """A hard cap on what one run newly spends; answers from the cache cost nothing."""

    unit: Unit
    amount: float
    """Tokens (prompt plus completion, as billed), US dollars or calls."""

    def written(self, amount: float) -> str:
        """An amount in the budget's unit, for people."""
        return f"${amount:,.4f}" if self.unit == "dollars" else f"{amount:,.0f} {self.unit}"


class Price(Config):
    """What a model costs."""

    input: NonNegativeFloat
    """US dollars for a million prompt tokens."""

    output: NonNegativeFloat
    """US dollars for a million completion tokens."""


Prices = dict[str, Price]
"""By model name."""


def parse_budget(text: str) -> Budget:
    """Read `10k`, `2M` (tokens), `$5`, `200calls` or `unlimited`.

    Raises:
        ConfigError: anything else, or nothing at all.
    """
    clean = text.strip().lower()
    if clean == "unlimited":
        return Budget("unlimited", float("inf"))
    match = re.fullmatch(r"(\$?)(\d+(?:\.\d+)?)([kmb]?)\s*(calls?|tokens?)?", clean)
    if match is None or (match[1] and match[4]) or float(match[2]) == 0:
        raise ConfigError(
            f"budget {text!r} is not understood; write 10k or 2M (tokens), $5, 200calls or unlimited"
        )
    unit: Unit = "dollars" if match[1] else "calls" if (match[4] or "").startswith("call") else "tokens"
    return Budget(unit, float(match[2]) * _SCALE[match[3]])


def load_prices(path: Path) -> Prices:
    """Read a YAML table of model -> {input, output}, in US dollars for a million tokens.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    return {model: Price.read(entry, f"{path}: {model}") for model, entry in load_yaml(path).items()}


def price_of(prices: Prices, model: str, input_tokens: int, output_tokens: int) -> float | None:
    """Dollars for a call; None where the model has no price."""
    price = prices.get(model)
    return None if price is None else (price.input * input_tokens + price.output * output_tokens) / 1e6
