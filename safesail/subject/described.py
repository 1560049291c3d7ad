"""A subject model that runs elsewhere: what is known of it, and its tokenizer, without its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from safesail.domain.records import LoadedSubject
from safesail.errors import SubjectError
from safesail.subject.protocol import Subject, unknown_hook
from safesail.subject.tokens import TokenSpeller


@dataclass(frozen=True)
class DescribedSubject:
    """Tokens and names of a model; running it is an error."""

    info: LoadedSubject
    device: str
    """Where the model runs."""

    n_ctx_max: int
    tokenizer: Any
    prefix: tuple[int, ...]
    hooks: frozenset[str]

    @classmethod
    def of(cls, subject: Subject) -> "DescribedSubject":
        """What is known of a model that is loaded here, to be told elsewhere."""
        return cls(
            subject.info, subject.device, subject.n_ctx_max, subject.tokenizer, subject.prefix,
            frozenset(subject.hooks),
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, no special token added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def token_strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        """One readable string per token."""
        speller = TokenSpeller.of(self.tokenizer)
        return tuple(speller.spell(int(i)) for i in ids)

    def check_hook(self, hook: str) -> None:
        """Raises ConfigError, naming near names, where the model has no such hook point."""
        if hook not in self.hooks:
            raise unknown_hook(self.info.model_id, hook, list(self.hooks))

    def run(self, *_: Any, **__: Any) -> NoReturn:
        """Always a `SubjectError`."""
        raise SubjectError(f"{self.info.model_id} is not loaded in this process, and cannot be run")

    resume = run
    differentiate = run
    generate = run
