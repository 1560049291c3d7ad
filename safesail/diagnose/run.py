"""A prompt, or two sets of prompts, through the model and its SAEs once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray
from tqdm import tqdm

from safesail.catalog.source import open_source
from safesail.diagnose.compare import Comparison, Fired, compare
from safesail.diagnose.config import CompareConfig, DiagnoseConfig, PathConfig
from safesail.diagnose.firing import Unexplained, fired_frame, strongest, unexplained
from safesail.diagnose.known import KnownFeatures
from safesail.diagnose.path import PredictionPath, next_token, one_per_hook, trace
from safesail.diagnose.tokens import Tokens, answer_text, read_prompt, with_answer
from safesail.domain.records import SaeInfo
from safesail.errors import ConfigError
from safesail.sae.encode import EncodedRows, encode_rows
from safesail.sae.protocol import SAE
from safesail.store.corpus import harvested_as, share_higher
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length

PER_LAYER = 5
"""Strongest features that are listed per SAE."""


@dataclass(frozen=True)
class Diagnosis:
    """What fires on one prompt."""

    prompt: str
    tokens: Tokens
    answer: str | None
    """The model's continuation; None where none was asked for."""

    fired: pd.DataFrame
    """One row per token and feature; `safesail.diagnose.firing.COLUMNS`."""

    unexplained: tuple[Unexplained, ...]
    """By SAE."""

    path: PredictionPath | None = None
    """What a prediction rests on, where it was asked for."""

    def strongest(self, *, per_layer: int = PER_LAYER, tagged: bool = True) -> pd.DataFrame:
        """The strongest features of each SAE; those that bear a tag, or all."""
        return strongest(self.fired, per_layer=per_layer, tagged=tagged)


def diagnose_prompt(
    subject: Subject,
    saes: Sequence[SAE],
    text: str,
    config: DiagnoseConfig,
    *,
    known: KnownFeatures,
    corpus: Path | None = None,
) -> Diagnosis:
    """Which features fire on a prompt, and on what the model answers.

    Args:
        subject: The model.
        saes: SAEs of any of its hooks.
        text: The prompt.
        config: Template, answer.
        known: What a catalog knows of the features.
        corpus: A store with a harvest of these SAEs; None: values are not compared with it.

    Raises:
        ConfigError: no token, or more than the model takes.
        SubjectError: an answer or a path is asked of a model that predicts nothing.
        SaeError: a path is asked of an SAE without a decoder.
    """
    tokens = read_prompt(subject, text, chat=config.chat, room=config.generate)
    path = None if config.target is None else _path(subject, saes, tokens, config.target, known)
    answer = None
    if config.generate:
        (ids,) = subject.generate([tokens.ids], max_tokens=config.generate)
        tokens = with_answer(subject, tokens, ids)
        answer = answer_text(tokens)
    encoded = encode_rows(subject, saes, [list(tokens.ids)], measure=True)
    infos = [sae.info for sae in saes]
    fired = fired_frame(tokens, infos, encoded.by_sae, known, _higher(corpus, saes, encoded))
    own = fired.loc[fired["role"] != "template"]
    shares = tuple(
        unexplained(
            info,
            own.loc[own["sae"] == info.sae_id],
            encoded.by_sae[info.sae_id],
            encoded.spreads.get(info.hook),
        )
        for info in infos
    )
    return Diagnosis(text, tokens, answer, fired, shares, path)


def _path(
    subject: Subject, saes: Sequence[SAE], tokens: Tokens, target: str, known: KnownFeatures
) -> PredictionPath:
    ids = subject.tokenize(target)
    token = ids[0] if ids else next_token(subject, tokens.ids)
    return trace(subject, one_per_hook(saes, known), tokens, token, PathConfig(), known=known)


def _higher(
    corpus: Path | None, saes: Sequence[SAE], encoded: EncodedRows
) -> Mapping[str, Float[np.ndarray, " n"]]:
    if corpus is None:
        return {}
    with open_source(corpus) as db:
        names = harvested_as(db, [sae.info.sha256 for sae in saes])
        return {
            sae.info.sae_id: share_higher(db, names[sae.info.sha256], columns.feature, columns.value)
            for sae in saes
            if sae.info.sha256 in names
            for columns in (encoded.by_sae[sae.info.sae_id],)
        }


def compare_prompts(
    subject: Subject,
    saes: Sequence[SAE],
    sets: tuple[Sequence[str], Sequence[str]],
    config: CompareConfig,
    *,
    known: KnownFeatures,
    quiet: bool = True,
) -> Comparison:
    """Which features fire more on the prompts of one set than on those of the other.

    Raises:
        ConfigError: a set is empty, a prompt has no token or more than the model takes, or translations are of
            different number.
    """
    if config.translations and len(sets[0]) != len(sets[1]):
        raise ConfigError(
            f"{len(sets[0])} prompts and {len(sets[1])} translations; line i of one must be that of the other"
        )
    prompts = [
        _named(subject, text, f"prompt {n} of the {name} set", chat=config.chat)
        for name, texts in zip(("first", "second"), sets, strict=True)
        for n, text in enumerate(texts, 1)
    ]
    in_a = np.arange(len(prompts)) < len(sets[0])
    return compare(
        fired_shares(subject, saes, prompts, config.batch_tokens, quiet=quiet), in_a, known, config
    )


def _named(subject: Subject, text: str, name: str, *, chat: bool) -> Tokens:
    try:
        return read_prompt(subject, text, chat=chat)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def fired_shares(
    subject: Subject, saes: Sequence[SAE], prompts: Sequence[Tokens], batch_tokens: int, *, quiet: bool = True
) -> list[Fired]:
    """Per SAE and prompt: on which share of the prompt's own tokens each feature fires."""
    own = [np.array([role == "prompt" for role in tokens.roles]) for tokens in prompts]
    parts: dict[str, list[_Nonzeros]] = {sae.info.sae_id: [] for sae in saes}
    batches = batches_by_length([len(tokens) for tokens in prompts], batch_tokens)
    for batch in tqdm(batches, desc="prompts", unit="batch", disable=quiet):
        encoded = encode_rows(subject, saes, [list(prompts[n].ids) for n in batch])
        starts = np.cumsum([0, *(len(own[n]) for n in batch)])[:-1]
        counted = np.concatenate([own[n] for n in batch])
        for sae_id, columns in encoded.by_sae.items():
            chosen = counted[starts[columns.row] + columns.position]
            parts[sae_id].append((np.array(batch)[columns.row[chosen]], columns.feature[chosen]))
    n_tokens = np.array([mask.sum() for mask in own])
    return [_shares(sae.info, parts[sae.info.sae_id], n_tokens) for sae in saes]


_Nonzeros = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Prompt and feature of each."""


def _shares(sae: SaeInfo, parts: Sequence[_Nonzeros], n_tokens: Int[np.ndarray, " n_prompts"]) -> Fired:
    prompt = np.concatenate([p for p, _ in parts])
    features, column = np.unique(np.concatenate([f for _, f in parts]), return_inverse=True)
    counts = np.zeros((len(n_tokens), len(features)), np.float32)
    np.add.at(counts, (prompt, column), 1)
    return Fired(sae, features, counts / n_tokens[:, None].astype(np.float32))
