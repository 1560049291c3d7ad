"""`concepts generate`: a chat model writes a concept's pairs, under a budget, and a concept file comes out."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from safesail import __version__
from safesail.concepts.config import CheckConfig, GenerateConfig
from safesail.concepts.read import SourcedConcept
from safesail.concepts.writing import STAGE, Draft, PairWriter, Written
from safesail.errors import ConfigError, LLMError
from safesail.llm.budget import load_prices, parse_budget
from safesail.llm.factory import BUILT_IN, make_client
from safesail.llm.metered import MeteredClient
from safesail.store.calls import CallTable
from safesail.store.connection import Db, open_writer
from safesail.store.registry import finish_run, start_run


@dataclass(frozen=True)
class GenerateOptions:
    """What the command line says."""

    name: str
    """An id (`domain.name`), or a plain name."""

    definition: str
    domain: str | None
    lang: str
    n: int
    keywords: tuple[str, ...]
    licence: str | None
    budget: str
    model: str | None
    base_url: str | None
    prices: Path | None
    replay: bool

    def client(self, db: Db, run_id: str) -> MeteredClient:
        """The model that is asked; its calls go to the ledger of `db` under `run_id`.

        Raises:
            ConfigError: the built-in model, no key for an endpoint that needs one, or a wrong budget or price table.
        """
        if self.model in (None, BUILT_IN):
            raise ConfigError(
                f"the built-in model {BUILT_IN!r} cannot write texts; name a chat model with --model, and its"
                " endpoint with --base-url"
            )
        return MeteredClient(
            make_client(str(self.model), base_url=self.base_url),
            CallTable(db, run_id),
            parse_budget(self.budget),
            prices=None if self.prices is None else load_prices(self.prices),
            replay=self.replay,
        )

    def concept(self) -> SourcedConcept:
        """The concept, still without pairs.

        Raises:
            ConfigError: the name has no letter in it.
        """
        given, _, last = self.name.rpartition(".") if " " not in self.name.strip() else ("", "", self.name)
        domain = self.domain or given.split(".")[0] or "own"
        slug = "_".join(re.findall(r"\w+", last.casefold()))
        if not slug or not self.definition.strip():
            raise ConfigError(
                f"a concept needs a name and a --definition, not {self.name!r} and {self.definition!r}"
            )
        return SourcedConcept(
            concept_id=f"{given or domain}.{slug}",
            domain=domain,
            leaf=given.split(".")[1] if given.count(".") == 1 else None,
            name=" ".join(last.replace("_", " ").split()),
            definition=" ".join(self.definition.split()),
            pairs=(),
            keywords={self.lang: self.keywords} if self.keywords else {},
            source="generated",
        )


@dataclass(frozen=True)
class Generated:
    """A concept's pairs, and what they cost."""

    written: Written
    file: Mapping[str, Any]
    """What goes into the concept file."""

    tokens: int
    """Newly spent."""

    @property
    def concept(self) -> SourcedConcept:
        """With the pairs kept."""
        return self.written.draft.concept

    @property
    def rejected(self) -> dict[str, int]:
        """Pairs and answers that were not kept, by reason, the commonest first."""
        return {reason: n for reason, n in self.written.draft.rejected.most_common() if n}

    def as_yaml(self) -> str:
        """The concept file."""
        return yaml.safe_dump(dict(self.file), allow_unicode=True, sort_keys=False, width=10_000)

    def as_json(self) -> dict[str, Any]:
        """Figures, by name, and the file's content."""
        return {
            "concept": self.concept.concept_id,
            "kept": len(self.concept.pairs),
            "wanted": self.written.draft.n,
            "forms": dict(Counter(pair.form for pair in self.concept.pairs)),
            "rejected": self.rejected,
            "ended": self.written.ended,
            "calls": self.written.calls,
            "tokens": self.tokens,
            "file": self.file,
        }

    def as_text(self) -> str:
        """One line for people."""
        why = ", ".join(f"{n} {reason}" for reason, n in self.rejected.items()) or "none"
        ended = "" if self.written.ended == "complete" else f"; stopped: {self.written.ended}"
        return (
            f"{self.concept.concept_id}: {len(self.concept.pairs)} of {self.written.draft.n} pairs kept"
            f" (rejected: {why}) for {self.tokens:,} new tokens{ended}"
        )


def generate_concept(
    store: Path, wanted: GenerateOptions, config: GenerateConfig, *, quiet: bool
) -> Generated:
    """Have pairs written; every call is in the ledger of `store`, so the same run again costs nothing.

    Raises:
        ConfigError: a setting is wrong; nothing was asked.
        LLMError: the endpoint is dead, or fewer than 2 pairs could be kept.
    """
    concept = wanted.concept()
    draft = Draft(concept, wanted.lang, wanted.n, CheckConfig())
    with open_writer(store) as db:
        run_id = start_run(db, STAGE, config.model_dump(mode="json") | {"concept_id": concept.concept_id})
        client = wanted.client(db, run_id)
        writer = PairWriter(client, str(wanted.model), config)
        with tqdm(total=wanted.n, desc="pairs", unit="pair", disable=quiet) as bar:
            written = asyncio.run(writer.write(draft, progress=lambda kept: _show(bar, kept)))
        finish_run(db, run_id)
    by = f"{wanted.model} @ {client.endpoint}, prompt {STAGE}/{config.template} {writer.prompt_hash[:12]}"
    found = Generated(written, concept_file(draft, by, wanted.licence), client.spent_tokens)
    if len(draft.pairs) < 2:
        raise LLMError(f"{found.as_text()}; a concept needs at least 2 pairs, so nothing is written")
    return found


def concept_file(draft: Draft, by: str, licence: str | None) -> dict[str, Any]:
    """A concept file in the form that `concepts check` reads.

    Args:
        draft: With the pairs kept.
        by: Model and prompt that wrote them.
        licence: Of the texts; None: as the model's terms say.
    """
    concept, rejected = draft.concept, sum(draft.rejected.values())
    return {
        "domain": concept.domain,
        "licence": licence or "as the terms of the model that wrote the pairs say",
        "provenance": (
            f"Written by {by}, on {datetime.now(UTC).date()}; {len(concept.pairs)} pairs kept, {rejected} pairs or"
            f" answers rejected by Safe-SAIL {__version__}; not read by a person."
        ),
        "concepts": [
            {
                "id": concept.concept_id,
                "leaf": concept.leaf,
                "name": concept.name,
                "definition": concept.definition,
                "keywords": {lang: list(words) for lang, words in concept.keywords.items()},
                "pairs": [
                    {"lang": p.lang, "form": p.form, "pos": p.pos, "neg": p.neg} for p in concept.pairs
                ],
            }
        ],
    }


def write_concept_file(path: Path, text: str) -> None:
    """Write it; a file that is there already is left alone.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; the answers are in the store, the same run again is free"
        ) from error


def _show(bar: "tqdm[Any]", kept: int) -> None:
    bar.n = kept
    bar.refresh()
