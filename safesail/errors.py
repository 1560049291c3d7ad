"""Every error Safe-SAIL raises on purpose.

SafeSailError
├── ConfigError                a setting, a command-line value or a file a user wrote is wrong
├── DataError                  stored data is missing, damaged or of another version
│   ├── NotFoundError
│   ├── SchemaVersionError
│   ├── ChecksumError
│   ├── FingerprintError       two things that must not be mixed: other model, SAE, text or hook
│   ├── StoreLockedError       another process holds the DuckDB file
│   └── CacheMissError         replay mode, and the answer is not in the cache
├── SubjectError               a subject model cannot be found, fetched or loaded
├── DeviceMemoryError          the memory of the GPU, or of the machine, does not hold what was asked
├── SaeError                   an SAE cannot be loaded or does not fit the subject model
└── LLMError
    ├── TransientLLMError      one attempt failed; it is tried again
    ├── LLMUnavailableError    still failing after every retry: stops the run
    ├── BudgetExceededError    the next call could overrun the budget: ends the run in order
    └── BadAnswerError         about this one request: recorded as a row, the run goes on
        ├── UnparsableAnswerError
        ├── TruncatedAnswerError
        └── RefusedAnswerError

A broken invariant inside the program is an `assert`; a wrong argument is a `ValueError`.
"""

import difflib
from collections.abc import Iterable


class SafeSailError(Exception):
    """Base class: catching it catches every failure a user can act on."""


class ConfigError(SafeSailError):
    """A setting, a command-line value or a file a user wrote is wrong."""


class DataError(SafeSailError):
    """Stored data is missing, damaged, or of another schema version."""


class NotFoundError(DataError):
    """The requested record does not exist in the store or catalog."""


class SchemaVersionError(DataError):
    """The file was written by a newer Safe-SAIL than this one."""


class ChecksumError(DataError):
    """A file's content does not match the digest recorded for it."""


class FingerprintError(DataError):
    """Stored numbers came from another model, SAE, text or hook than the one at hand."""


class StoreLockedError(DataError):
    """Another process holds the DuckDB file."""


class CacheMissError(DataError):
    """Replay mode was asked for and the answer is not in the cache."""


class SubjectError(SafeSailError):
    """A subject model cannot be found, fetched or loaded."""


class DeviceMemoryError(SafeSailError):
    """The memory of the device does not hold the batch, the model or the SAEs."""


class SaeError(SafeSailError):
    """An SAE cannot be loaded or does not fit the subject model."""


class LLMError(SafeSailError):
    """A call to a language model gave no usable answer."""


class TransientLLMError(LLMError):
    """One attempt failed in a way that another may not."""

    def __init__(self, message: str, *, maybe_billed: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.maybe_billed = maybe_billed
        """Whether the endpoint may have done the work, and charged for it, before it failed."""
        self.retry_after = retry_after
        """Seconds the endpoint asked to wait; None where it did not say."""


class LLMUnavailableError(LLMError):
    """The endpoint kept failing after every retry; the run cannot go on."""


class BudgetExceededError(LLMError):
    """The worst case of the next call does not fit into what is left of the budget."""


class BadAnswerError(LLMError):
    """The model answered, but this answer cannot be used."""

    tokens: int = 0
    """Billed for it, as far as the one who raises it knows."""


class UnparsableAnswerError(BadAnswerError):
    """The answer is not in the form the prompt asked for."""


class TruncatedAnswerError(BadAnswerError):
    """The answer ended at `max_tokens`."""


class RefusedAnswerError(BadAnswerError):
    """The model declined to answer."""


def meant(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the near one, or all that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"
