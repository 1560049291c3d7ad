"""An estimate and what it rests on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import add, mul, truediv


@dataclass(frozen=True)
class Estimate:
    """A number that nobody has measured yet; what is computed from an unknown one is unknown for its reason."""

    value: float | None
    """None: unknown."""

    basis: str
    """What it rests on; of an unknown one, why it is unknown."""

    def on(self, basis: str) -> "Estimate":
        """The same number, and what it rests on in other words; an unknown one keeps its reason."""
        return self if self.value is None else Estimate(self.value, basis)

    def __add__(self, other: "Estimate | float") -> "Estimate":
        return self._with(other, add)

    def __mul__(self, other: "Estimate | float") -> "Estimate":
        return self._with(other, mul)

    def __truediv__(self, other: "Estimate | float") -> "Estimate":
        return self._with(other, truediv)

    def _with(self, other: "Estimate | float", compute: Callable[[float, float], float]) -> "Estimate":
        right = other if isinstance(other, Estimate) else Estimate(other, self.basis)
        if self.value is None or right.value is None:
            return self if self.value is None else right
        return Estimate(compute(self.value, right.value), self.basis)


NOTHING = Estimate(0, "nothing")


def total(parts: Iterable[Estimate], basis: str) -> Estimate:
    """The sum; unknown where a part is."""
    return sum(parts, start=NOTHING).on(basis)
