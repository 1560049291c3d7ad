"""Edits of a running model by features: what becomes of them, on which tokens; and what it then says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from safesail.domain.ids import FeatureId
from safesail.domain.pieces import joined_text
from safesail.errors import ConfigError, meant
from safesail.sae.edit import Change, ablate, add, clamp, edit_features, scale, where_active
from safesail.sae.protocol import SAE
from safesail.store.effects import FeatureSize
from safesail.subject.protocol import Intervention, Subject

Where = Literal["firing", "everywhere"]
Part = Literal["all", "prompt", "answer"]

CHANGES = ("ablate", "mean", "scale:X", "add:X", "clamp:X", "steer:X")
"""Off; at its mean over all tokens; X times as strong; stronger by X; at X; stronger by X times its maximum."""


@dataclass(frozen=True)
class FeatureEdit:
    """What becomes of some features."""

    changes: Mapping[FeatureId, Change]
    where: Where = "everywhere"
    """`firing`: only on tokens on which the feature is active."""

    part: Part = "all"
    """Of a text that is continued: all of it, the prompt alone, or the answer alone."""

    def interventions(self, saes: Sequence[SAE], n_prompt: int) -> list[Intervention]:
        """For `Subject.run` and `generate`: one per SAE, its error term kept.

        Args:
            saes: Those of the features.
            n_prompt: Tokens of the prompt.

        Raises:
            ConfigError: a feature of another SAE, or one that its SAE does not have.
            SaeError: an SAE without a decoder.
        """
        known = {sae.info.sae_id: sae for sae in saes}
        by_sae: dict[str, dict[int, Change]] = {}
        for feature, change in self.changes.items():
            if feature.sae_id not in known:
                raise ConfigError(f"no SAE {feature.sae_id!r} is loaded; {meant(feature.sae_id, known)}")
            if feature.index >= (width := known[feature.sae_id].info.d_sae):
                raise ConfigError(
                    f"there is no {feature}: the features of {feature.sae_id} are 0 to {width - 1}"
                )
            active = where_active(change) if self.where == "firing" else change
            by_sae.setdefault(feature.sae_id, {})[feature.index] = active

        def at(positions: Tensor) -> Tensor:
            return positions < n_prompt if self.part == "prompt" else positions >= n_prompt

        of_part = None if self.part == "all" else at
        return [edit_features(known[name], changes, at=of_part) for name, changes in by_sae.items()]


def parse_change(text: str, feature: FeatureId, size: FeatureSize | None) -> Change:
    """Read a change such as `ablate` or `scale:2`.

    Args:
        text: One of `CHANGES`.
        feature: Named in errors.
        size: How strongly it fires; None: unknown, and `mean` and `steer` are refused.

    Raises:
        ConfigError: no such change, a number that is not finite, or a size that is not known.
    """
    name, _, amount = text.partition(":")
    if name in ("mean", "steer") and size is None:
        raise ConfigError(f"{name} needs to know how strongly {feature} fires: name a store with its harvest")
    if name in ("ablate", "mean") and not amount:
        return ablate if size is None or name == "ablate" else clamp(size.mean)
    number = _number(text, amount)
    if name == "steer" and size is not None:
        return add(number * size.maximum)
    kinds = {"scale": scale, "add": add, "clamp": clamp}
    if name not in kinds:
        raise ConfigError(f"{text!r} is no change of a feature; there are {', '.join(CHANGES)}")
    return kinds[name](number)


def _number(text: str, amount: str) -> float:
    try:
        number = float(amount)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"{text!r} is no change of a feature: {amount or 'nothing'!r} is not a finite number"
        )
    return number


@dataclass(frozen=True)
class Continuation:
    """What the model says after a prompt."""

    text: str
    perplexity: float | None
    """Of the text, given the prompt, under the model without the edit; None: it is empty."""


@torch.no_grad()
def continuations(
    subject: Subject,
    prompt: str,
    edits: Sequence[Intervention],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> tuple[Continuation, Continuation]:
    """What the model says without and with edits, from the same seed.

    Raises:
        ConfigError: an empty prompt, or one that leaves no room for an answer.
        SubjectError: a model without a language head.
    """
    ids = subject.tokenize(prompt)
    check_prompt(subject, ids, max_tokens)

    def continued(interventions: Sequence[Intervention]) -> Continuation:
        (new,) = subject.generate(
            [ids], max_tokens=max_tokens, interventions=interventions, temperature=temperature, seed=seed
        )
        return Continuation(joined_text(subject.token_strings(new)), _perplexity(subject, ids, new))

    return continued(()), continued(edits)


def check_prompt(subject: Subject, ids: Sequence[int], max_tokens: int) -> None:
    """Raises ConfigError: nothing to go on from, or no room for so many tokens more."""
    if not 0 < len(ids) <= subject.n_ctx_max - max_tokens:
        raise ConfigError(
            f"the prompt has {len(ids)} tokens; from 1 to {subject.n_ctx_max - max_tokens} leave room for "
            f"{max_tokens} more"
        )


def _perplexity(subject: Subject, prompt: Sequence[int], answer: Sequence[int]) -> float | None:
    if not answer:
        return None
    logits = subject.run(torch.tensor([[*prompt, *answer]]), logits=True).logits
    assert logits is not None
    at_answer = logits[0, len(prompt) : -1].double()
    loss = torch.nn.functional.cross_entropy(at_answer, torch.tensor(answer, device=at_answer.device))
    return math.exp(loss.item())
