"""What a run reads: windows of the documents of one split, source by source."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from safesail.domain.records import Document, Split
from safesail.errors import ConfigError
from safesail.text.documents import read_documents
from safesail.text.windows import cut
from safesail.training.buffer import Window, shuffled
from safesail.training.config import TrainConfig

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class SourceTally:
    """What was read of one source."""

    source: str
    n_documents: int
    n_tokens: int
    sha256: str
    """Over the ids of the documents, in order: the same texts give the same digest."""


@dataclass(frozen=True)
class Texts:
    """Windows of one split, and what was read of each source."""

    windows: list[Window]
    tallies: tuple[SourceTally, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens in all windows."""
        return sum(tally.n_tokens for tally in self.tallies)


def train_texts(config: TrainConfig, tokenize: Tokenize) -> Texts:
    """Windows to train on: each source up to its own limit, all of them up to `n_tokens`.

    Raises:
        ConfigError: not enough text for one optimiser step.
    """
    texts = _read(config, tokenize, "train", config.n_tokens)
    if texts.n_tokens < config.batch_tokens:
        raise ConfigError(
            f"the texts give {texts.n_tokens} tokens to train on, fewer than one batch of {config.batch_tokens}; "
            "name more text or lower batch_tokens"
        )
    return texts


def held_out_texts(config: TrainConfig, tokenize: Tokenize) -> Texts:
    """Windows to measure on, of the `test` split, in random order; sources have the shares they have in training.

    Raises:
        ConfigError: no document is in the split.
    """
    texts = _read(config, tokenize, "test", config.eval_tokens)
    if texts.n_tokens < 2:
        raise ConfigError("no document of the texts is in the test split; name text of more documents")
    return Texts(shuffled(texts.windows, config.seed), texts.tallies)


def source_name(source: str) -> str:
    """Name of a source without its path on this machine."""
    path = Path(source)
    if source.startswith("hf:") or source == "-":
        return source
    return "/".join(path.parts[-2:]) if path.is_file() else path.resolve().name


def _read(config: TrainConfig, tokenize: Tokenize, split: Split, n_tokens: int) -> Texts:
    limits = [min(text.max_tokens or config.n_tokens, config.n_tokens) for text in config.texts]
    factor = min(1.0, n_tokens / sum(limits))
    seen: set[str] = set()
    windows: list[Window] = []
    tallies: list[SourceTally] = []
    for text, limit in zip(config.texts, limits, strict=True):
        documents = read_documents([text.source], column=text.column, seed=config.seed)
        own = _fresh(documents, split, seen)
        of_source, n_documents, digest = take_windows(own, tokenize, config.n_ctx, ceil(limit * factor))
        windows += of_source
        tallies.append(SourceTally(source_name(text.source), n_documents, sum(map(len, of_source)), digest))
    return Texts(windows, tuple(tallies))


def _fresh(documents: Iterator[Document], split: Split, seen: set[str]) -> Iterator[Document]:
    """Documents of `split` that no earlier source held."""
    for document in documents:
        if document.split == split and document.document_id not in seen:
            seen.add(document.document_id)
            yield document


def take_windows(
    documents: Iterator[Document], tokenize: Tokenize, n_ctx: int, max_tokens: int
) -> tuple[list[Window], int, str]:
    """Windows of the first documents, up to `max_tokens` tokens, with the number of documents and their digest."""
    windows: list[Window] = []
    digest = hashlib.sha256()
    n_tokens = n_documents = 0
    for document in documents:
        n_documents += 1
        digest.update(f"{document.document_id}\n".encode())
        for _, window in cut(tokenize(document.text), n_ctx):
            kept = window[: max_tokens - n_tokens]
            n_tokens += len(kept)
            if kept:
                windows.append(kept)
        if n_tokens >= max_tokens:
            break
    return windows, n_documents, digest.hexdigest()
