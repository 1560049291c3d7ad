"""What a run reads: windows of the documents of one split, source by source."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from safesail.domain.records import Document, Split
from safesail.errors import ConfigError
from safesail.subject.protocol import Subject
from safesail.text.documents import read_documents
from safesail.training.buffer import Tally, Window, shuffled, take_windows
from safesail.training.config import TrainConfig


@dataclass(frozen=True)
class Texts:
    """Windows of one split, and what was taken from each source."""

    windows: list[Window]
    tallies: tuple[Tally, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens in all windows."""
        return sum(tally.n_tokens for tally in self.tallies)


def train_texts(config: TrainConfig, subject: Subject) -> Texts:
    """Windows to train on: each source up to its own limit, all of them up to `n_tokens`.

    Raises:
        ConfigError: not enough text for one optimiser step.
    """
    texts = _read(config, subject, "train", config.n_tokens)
    if texts.n_tokens < config.batch_tokens:
        raise ConfigError(
            f"the texts give {texts.n_tokens} tokens to train on, fewer than one batch of {config.batch_tokens}; "
            "name more text or lower batch_tokens"
        )
    return texts


def held_out_texts(config: TrainConfig, subject: Subject) -> Texts:
    """Windows to measure on, of the `test` split, in random order; sources have the shares they have in training.

    Raises:
        ConfigError: no document is in the split.
    """
    texts = _read(config, subject, "test", config.eval_tokens)
    if texts.n_tokens < 2:
        raise ConfigError("no document of the texts is in the test split; name text of more documents")
    return Texts(shuffled(texts.windows, config.seed), texts.tallies)


def source_name(source: str) -> str:
    """Name of a source without the place where it lies on this machine."""
    path = Path(source)
    if source.startswith("hf:") or source == "-":
        return source
    return "/".join(path.parts[-2:]) if path.is_file() else path.resolve().name


def _read(config: TrainConfig, subject: Subject, split: Split, n_tokens: int) -> Texts:
    limits = [min(text.max_tokens or config.n_tokens, config.n_tokens) for text in config.texts]
    factor = min(1.0, n_tokens / sum(limits))
    seen: set[str] = set()
    windows: list[Window] = []
    tallies: list[Tally] = []
    for text, limit in zip(config.texts, limits, strict=True):
        documents = read_documents([text.source], column=text.column, seed=config.seed)
        found, n_documents, digest = take_windows(
            _fresh(documents, split, seen), subject.tokenize, config.n_ctx, ceil(limit * factor)
        )
        windows += found
        tallies.append(Tally(source_name(text.source), n_documents, sum(map(len, found)), digest))
    return Texts(windows, tuple(tallies))


def _fresh(documents: Iterator[Document], split: Split, seen: set[str]) -> Iterator[Document]:
    """Documents of `split` that no earlier source held."""
    for document in documents:
        if document.split == split and document.document_id not in seen:
            seen.add(document.document_id)
            yield document
