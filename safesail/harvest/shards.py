"""From documents to shards and windows: pure, streaming, independent of batches and of the machine."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from safesail.domain.records import Document
from safesail.errors import DataError
from safesail.text.windows import cut


@dataclass(frozen=True)
class TokenizedDocument:
    """A document and its tokens, without BOS."""

    document: Document
    token_ids: tuple[int, ...]


class Window(NamedTuple):
    """A run of consecutive tokens of one document."""

    window_id: int
    """0, 1, 2, ... within the harvest."""

    document: Document
    start: int
    """Index of its first token in the document."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """A run of documents: the unit of work that is stored all or not at all."""

    number: int
    documents: tuple[TokenizedDocument, ...]
    first_window: int
    """Windows of the harvest before this shard."""

    @property
    def n_tokens(self) -> int:
        """Tokens in all documents."""
        return sum(len(d.token_ids) for d in self.documents)

    @property
    def content(self) -> str:
        """Hash of the document ids in order: tells whether a resumed harvest reads the same text."""
        joined = "\n".join(d.document.document_id for d in self.documents)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def windows(self, n_ctx: int) -> list[Window]:
        """All windows of at most `n_ctx` tokens, in the order of the documents."""
        cuts = [(d.document, *window) for d in self.documents for window in cut(d.token_ids, n_ctx)]
        return [Window(self.first_window + i, *window) for i, window in enumerate(cuts)]


def cut_shards(
    documents: Iterable[Document],
    tokenize: Callable[[str], list[int]],
    *,
    n_ctx: int,
    shard_tokens: int,
    n_tokens: int | None,
) -> Iterator[Shard]:
    """Group documents into shards of at least `shard_tokens` tokens (the last one may be smaller).

    Documents without a token are left out. Reading stops at `n_tokens` tokens, within a document where need be.

    Raises:
        DataError: a document that the tokenizer cannot take.
    """
    waiting: list[TokenizedDocument] = []
    waiting_tokens = all_tokens = number = first_window = 0
    for document in documents:
        left = None if n_tokens is None else n_tokens - all_tokens
        token_ids = _tokens(document, tokenize)[:left]
        if not token_ids:
            continue
        waiting.append(TokenizedDocument(document, token_ids))
        waiting_tokens += len(token_ids)
        all_tokens += len(token_ids)
        if waiting_tokens >= shard_tokens:
            yield Shard(number, tuple(waiting), first_window)
            first_window += _n_windows(waiting, n_ctx)
            waiting, waiting_tokens, number = [], 0, number + 1
        if all_tokens == n_tokens:
            break
    if waiting:
        yield Shard(number, tuple(waiting), first_window)


def _n_windows(documents: Iterable[TokenizedDocument], n_ctx: int) -> int:
    return sum(-(-len(d.token_ids) // n_ctx) for d in documents)


def _tokens(document: Document, tokenize: Callable[[str], list[int]]) -> tuple[int, ...]:
    try:
        return tuple(tokenize(document.text))
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(
            f"the tokenizer cannot take document {document.document_id} of {document.source} "
            f"({' '.join(str(error).split())[:120]}); leave it out and run again: what is stored so far is kept"
        ) from error


def in_sample(document_id: str, share: float, seed: int) -> bool:
    """Whether a document is in the uniform sample of `share`; the same document always gets the same answer."""
    digest = hashlib.blake2b(f"whole/{seed}/{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
