"""An estimate and what it rests on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number that nobody has measured yet."""

    value: float | None
    """None: unknown."""

    basis: str
    """What it rests on; of an unknown one, why it is unknown."""


NOTHING = Estimate(0, "nothing")


def derived(basis: str, formula: Callable[..., float], *of: Estimate) -> Estimate:
    """An estimate computed from others; unknown, for their reason, where one of them is."""
    unknown = next((part for part in of if part.value is None), None)
    if unknown is not None:
        return unknown
    return Estimate(formula(*(part.value for part in of)), basis)


def total(parts: Iterable[Estimate], basis: str) -> Estimate:
    """The sum; unknown where a part is."""
    return derived(basis, lambda *values: sum(values), *parts)
