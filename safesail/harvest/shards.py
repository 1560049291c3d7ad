"""From documents to shards: pure, streaming, independent of batches and of the machine."""

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


@dataclass(frozen=True)
class Shard:
    """A run of whole documents: the unit of work that is stored all or not at all."""

    number: int
    documents: tuple[TokenizedDocument, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens in all documents."""
        return sum(len(d.token_ids) for d in self.documents)

    @property
    def content(self) -> str:
        """Hash of the document ids in order: tells whether a resumed harvest reads the same text."""
        joined = "\n".join(d.document.document_id for d in self.documents)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


class WindowCut(NamedTuple):
    """A window on its way through the subject model."""

    document: TokenizedDocument
    start: int
    """Index of its first token in the document."""

    token_ids: tuple[int, ...]


def cut_shards(
    documents: Iterable[Document],
    tokenize: Callable[[str], list[int]],
    *,
    shard_tokens: int,
    n_tokens: int | None,
) -> Iterator[Shard]:
    """Group documents into shards of at least `shard_tokens` tokens (the last one may be smaller).

    Documents without a token are left out. Reading stops after the document that reaches `n_tokens`.

    Raises:
        DataError: a document that the tokenizer cannot take.
    """
    waiting: list[TokenizedDocument] = []
    held, seen, number = 0, 0, 0
    for document in documents:
        token_ids = _tokens(document, tokenize)
        if not token_ids:
            continue
        waiting.append(TokenizedDocument(document, token_ids))
        held += len(token_ids)
        seen += len(token_ids)
        if held >= shard_tokens:
            yield Shard(number, tuple(waiting))
            waiting, held, number = [], 0, number + 1
        if n_tokens is not None and seen >= n_tokens:
            break
    if waiting:
        yield Shard(number, tuple(waiting))


def _tokens(document: Document, tokenize: Callable[[str], list[int]]) -> tuple[int, ...]:
    try:
        return tuple(tokenize(document.text))
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(
            f"the tokenizer cannot take document {document.document_id} of {document.source} "
            f"({' '.join(str(error).split())[:120]}); leave it out and run again: what is stored so far is kept"
        ) from error


def cut_windows(shard: Shard, n_ctx: int) -> list[WindowCut]:
    """All windows of a shard, in the order of the documents."""
    return [
        WindowCut(document, start, token_ids)
        for document in shard.documents
        for start, token_ids in cut(document.token_ids, n_ctx)
    ]


def in_sample(document_id: str, share: float, seed: int) -> bool:
    """Whether a document is in the uniform sample of `share`; the same document always gets the same answer."""
    digest = hashlib.blake2b(f"whole/{seed}/{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
