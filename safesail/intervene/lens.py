"""The logit lens: where a feature's direction points to, through the model's own final norm and unembedding."""

from collections.abc import Sequence
from typing import Any

import torch

from safesail.sae.edit import feature_directions
from safesail.sae.protocol import SAE
from safesail.store.connection import Db
from safesail.store.effects import without_lens, write_lens
from safesail.subject.device import to_host
from safesail.subject.head import head_logits
from safesail.subject.protocol import Subject

N_TOKENS = 10
"""Top and bottom tokens that are stored."""

_CHUNK = 512


def top_ids(subject: Subject, sae: SAE, feature: int, n: int) -> list[int]:
    """Ids of the tokens that the feature's direction makes likeliest."""
    logits = head_logits(subject, feature_directions(sae, [feature]))[0]
    return to_host(logits.topk(n).indices).tolist()


def logit_lens(subject: Subject, sae: SAE, features: Sequence[int]) -> dict[str, Any]:
    """Columns of the table `logit_lens`, for some features of an SAE.

    Raises:
        SaeError: the SAE has no decoder.
        SubjectError: the model has no language head.
    """
    columns: dict[str, Any] = {"feature": list(features)}
    columns |= {f"{side}_{what}": [] for side in ("top", "bottom") for what in ("tokens", "logits")}
    for start in range(0, len(features), _CHUNK):
        logits = head_logits(subject, feature_directions(sae, features[start : start + _CHUNK])).float()
        for side, largest in (("top", True), ("bottom", False)):
            values, ids = logits.topk(min(N_TOKENS, logits.shape[1]), dim=1, largest=largest)
            columns[f"{side}_tokens"] += [list(subject.token_strings(row)) for row in to_host(ids).tolist()]
            columns[f"{side}_logits"] += to_host(values).tolist()
    return columns


@torch.no_grad()
def store_lens(db: Db, subject: Subject, sae: SAE, features: Sequence[int]) -> None:
    """Record the logit lens of some features, and of all that are explained, unless it is there."""
    if missing := without_lens(db, sae.info.sae_id, features):
        write_lens(db, sae.info.sae_id, logit_lens(subject, sae, missing))
