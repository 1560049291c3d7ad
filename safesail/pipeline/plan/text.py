"""How many tokens texts have: by the model's own tokenizer where it is here, else by a rule."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safesail.domain.records import Concept, ConceptPair
from safesail.errors import ConfigError
from safesail.pipeline.config import PipelineConfig
from safesail.pipeline.plan.estimate import Estimate
from safesail.resources import cache_dir, expand
from safesail.subject.fetch import local_dir
from safesail.text.documents import check_sources, read_documents

MAX_BYTES = 50_000_000
"""Text that is counted at most."""

BYTES_PER_TOKEN = 4.2
"""Of English text in a subject model's tokens: SmolLM2's on the texts that come along."""

SAMPLE_TOKENS = 20_000
"""Of the text that stands for what an explainer will be shown: windows enough for every stand-in feature."""

_RULE = re.compile(r" ?[^\W\d_\u3000-\u9fff]{1,8}|[\u3000-\u9fff]{1,2}|\d| ?[^\w\s]{1,2}|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Tokenizer:
    """Cuts text into the strings of its tokens."""

    cut: Callable[[str], list[str]]
    basis: str


@dataclass(frozen=True)
class TextPart:
    """What is harvested."""

    tokens: Estimate
    n_bytes: Estimate
    """UTF-8 bytes of the texts."""

    download: Estimate
    sample: list[list[str]] = field(repr=False)
    """Documents as the strings of their tokens."""


@dataclass(frozen=True)
class PairPart:
    """The concept pairs that a selection reads."""

    n_concepts: int
    n_pairs: int
    n_bytes: int
    tokens: Estimate


def open_tokenizer(model: str) -> Tokenizer:
    """The model's own tokenizer where its files are here, read without torch; else a rule."""
    path = local_dir(model, cache_dir())
    if path is None or not (path / "tokenizer.json").is_file():
        return Tokenizer(_RULE.findall, "counted by a rule of thumb: the model's tokenizer is not here")
    return Tokenizer(_own(path / "tokenizer.json"), "counted by the model's own tokenizer")


def _own(path: Path) -> Callable[[str], list[str]]:
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_file(str(path))

    def pieces(text: str) -> list[str]:
        ends = [end for _, end in fast.encode(text, add_special_tokens=False).offsets]
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    return pieces


def pairs_of(concepts: Sequence[Concept], config: PipelineConfig) -> list[ConceptPair]:
    """The pairs in the languages and forms that the selection asks for."""
    languages, forms = config.selection.languages, config.selection.forms
    return [
        pair
        for concept in concepts
        for pair in concept.pairs
        if (languages is None or pair.lang in languages) and (forms is None or pair.form in forms)
    ]


def count_pairs(concepts: Sequence[Concept], config: PipelineConfig, tokenizer: Tokenizer) -> PairPart:
    """Tokens that a selection would run.

    Raises:
        ConfigError: no pair is left.
    """
    pairs = pairs_of(concepts, config)
    if not pairs:
        of = config.selection
        raise ConfigError(
            f"no pair is in the languages {of.languages or 'any'} and forms {of.forms or 'any'}"
        )
    sides = [side for pair in pairs for side in (pair.pos, pair.neg)]
    n_tokens = sum(len(tokenizer.cut(side)) for side in sides)
    n_bytes = sum(len(side.encode()) for side in sides)
    return PairPart(len(concepts), len(pairs), n_bytes, Estimate(n_tokens, tokenizer.basis))


def count_texts(config: PipelineConfig, tokenizer: Tokenizer) -> TextPart:
    """Tokens that a harvest would run.

    Raises:
        NotFoundError: a text that is not there.
        ConfigError: a text that cannot be read.
    """
    sources = [expand(source) for source in config.texts]
    check_sources(sources, column=config.harvest.column)
    far = [source for source in sources if source.startswith("hf:") or source == "-"]
    n_bytes = n_tokens = 0
    sample: list[list[str]] = []
    sampled = 0
    limit, complete = config.harvest.n_tokens, True
    for text in _near_texts([s for s in sources if s not in far], config.harvest.column):
        pieces = tokenizer.cut(text)
        if sampled < SAMPLE_TOKENS:
            sample.append(pieces)
            sampled += len(pieces)
        n_bytes, n_tokens = n_bytes + len(text.encode()), n_tokens + len(pieces)
        if n_bytes > MAX_BYTES or (limit is not None and n_tokens >= limit):
            complete = False
            break
    if limit is None and (far or not complete):
        why = f"{', '.join(far) or 'the text'} is not counted; say harvest.n_tokens to know"
        return TextPart(*[Estimate(None, why)] * 3, sample=sample)
    if limit is None or (limit > n_tokens and complete and not far):
        return TextPart(
            Estimate(n_tokens, tokenizer.basis), Estimate(n_bytes, "counted"), Estimate(0, "here"), sample
        )
    rate = n_bytes / n_tokens if n_tokens else BYTES_PER_TOKEN
    rest = max(0, limit - n_tokens) * rate
    return TextPart(
        Estimate(limit, "as harvest.n_tokens says"),
        Estimate(n_bytes * min(1, limit / max(n_tokens, 1)) + rest, f"{rate:.1f} bytes per token"),
        Estimate(
            rest if far else 0, f"{', '.join(far) or 'here'}: the text alone, {rate:.1f} bytes per token"
        ),
        sample,
    )


def _near_texts(sources: Sequence[str], column: str | None) -> Iterable[str]:
    return (document.text for document in read_documents(sources, column=column))
