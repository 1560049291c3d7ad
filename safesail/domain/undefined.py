"""A value that does not exist, with its reason."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Undefined:
    """A figure that this input does not define. Never stored as 0 or NaN."""

    reason: str
    """One line: why there is no value."""
