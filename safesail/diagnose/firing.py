"""What fires on each token, beside what is known of it; what is not explained. Pure: frames in, frames out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from safesail.diagnose.known import KnownFeatures
from safesail.diagnose.tokens import Tokens
from safesail.domain.ids import layer_of
from safesail.domain.records import SaeInfo
from safesail.domain.undefined import Undefined
from safesail.sae.encode import SparseColumns, Spread

COLUMNS = (
    "position", "token", "role", "start", "end", "sae", "layer", "feature", "value", "normalised", "share_higher",
    "explanation", "score", "chance_score", "above_chance", "beyond_lookup", "tags",
)  # fmt: skip
"""position: of the token in the row, BOS not counted. start, end: its characters, in the prompt or the answer. feature:
`sae#index`. value: the activation. normalised: value / Q(0.999) of the feature over its harvest. share_higher: share of
the harvest's tokens on which the feature is stronger. The rest as the catalog knows it."""


@dataclass(frozen=True)
class Unexplained:
    """What of one SAE's activity on the prompt has no explanation that is above chance."""

    sae: str
    layer: int | None
    n_features: int
    """Different features that fire on the prompt's or the answer's tokens."""

    n_explained: int
    """Of these, with an explanation above chance."""

    share_unexplained: float | Undefined
    """1 - n_explained / n_features."""

    variance_unexplained: float | Undefined
    """Of the activations at the hook, on all tokens of the row: squared error of the SAE / variance."""


def fired_frame(
    tokens: Tokens,
    saes: Sequence[SaeInfo],
    by_sae: Mapping[str, SparseColumns],
    known: KnownFeatures,
    higher: Mapping[str, Float[np.ndarray, " n"]],
) -> pd.DataFrame:
    """One row per token and feature that fires on it, by position, SAE and value; columns as `COLUMNS`.

    Args:
        tokens: The row.
        saes: The SAEs, in order.
        by_sae: What fired, by SAE.
        known: What a catalog knows.
        higher: By SAE, `share_higher` of every value; SAEs that are left out have none.
    """
    if not saes:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})
    frames = [_of_sae(sae, by_sae[sae.sae_id], known, higher.get(sae.sae_id)) for sae in saes]
    frame = pd.concat(frames, ignore_index=True)
    order = np.lexsort(
        (-frame["value"].to_numpy(), frame.pop("order").to_numpy(), frame["position"].to_numpy())
    )
    frame = frame.iloc[order].reset_index(drop=True)
    position = frame["position"].to_numpy()
    spans = [span or (None, None) for span in tokens.spans]
    of_token = {
        "token": tokens.strings, "role": tokens.roles, "start": [s for s, _ in spans], "end": [e for _, e in spans]
    }  # fmt: skip
    for name, values in of_token.items():
        frame[name] = pd.array(list(values), dtype="Int64" if name in ("start", "end") else None).take(
            position
        )
    return frame.reindex(columns=list(COLUMNS))


def _of_sae(
    sae: SaeInfo, fired: SparseColumns, known: KnownFeatures, higher: Float[np.ndarray, " n"] | None
) -> pd.DataFrame:
    # Features repeat from token to token: each is looked up once.
    features, back = np.unique(fired.feature, return_inverse=True)
    facts = known.of(sae.sae_id).drop(columns=["mean", "maximum"]).reindex(features).reset_index(drop=True)
    facts["feature"] = [f"{sae.sae_id}#{feature}" for feature in features]
    frame = facts.take(back).reset_index(drop=True)
    frame["value"] = fired.value.astype(np.float64)
    frame["normalised"] = frame["value"] / frame.pop("q999").astype(float)
    frame["share_higher"] = np.full(len(frame), np.nan) if higher is None else higher
    return frame.assign(position=fired.position, sae=sae.sae_id, layer=layer_of(sae.hook), order=sae.sae_id)


def unexplained(
    sae: SaeInfo, fired: pd.DataFrame, columns: SparseColumns, spread: Spread | None
) -> Unexplained:
    """How much of one SAE's activity is not explained.

    Args:
        sae: The SAE.
        fired: Rows of `fired_frame`, of this SAE and of the prompt's and the answer's tokens.
        columns: What the SAE gave on the row.
        spread: Of the activations at its hook; None: not measured.
    """
    features = fired.drop_duplicates("feature")
    n = len(features)
    n_explained = sum(above is True or above == 1 for above in features["above_chance"].tolist())
    share = 1 - n_explained / n if n else Undefined("no feature fires")
    return Unexplained(sae.sae_id, layer_of(sae.hook), n, n_explained, share, _variance(columns, spread))


def _variance(columns: SparseColumns, spread: Spread | None) -> float | Undefined:
    if columns.squared_error is None or spread is None:
        return Undefined("the SAE has no decoder")
    if spread.n < 2 or spread.about_mean <= 0:
        return Undefined(f"activations of {spread.n} token do not vary")
    return columns.squared_error / spread.about_mean


def has_tags(tags: object) -> bool:
    """Whether a cell of the column `tags` holds any; it may be missing."""
    return isinstance(tags, list | tuple | np.ndarray) and len(tags) > 0


def strongest(fired: pd.DataFrame, *, per_layer: int, tagged: bool) -> pd.DataFrame:
    """Features that fire strongest on the prompt and the answer, layer by layer.

    Args:
        fired: Rows of `fired_frame`; the template's tokens are left out.
        per_layer: At most so many per SAE.
        tagged: Only those that bear a tag, such as a safety concept.

    Returns:
        One row per feature: layer, feature, normalised (largest), token and position (where it is), n_tokens (on which
        it fires), explanation, score, chance_score, above_chance, tags.
    """
    own = fired.loc[fired["role"] != "template"]
    if tagged:
        own = own.loc[own["tags"].map(has_tags).astype(bool)]
    columns = ["layer", "feature", "normalised", "token", "position", "n_tokens", *_SAID]
    if own.empty:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in columns})
    own = own.assign(n_tokens=own.groupby("feature")["position"].transform("nunique"))
    # Features without Q(0.999) stand last, by value.
    ranked = own.sort_values(["normalised", "value"], ascending=False, na_position="last", kind="stable")
    best = ranked.drop_duplicates("feature").groupby("sae", sort=False).head(per_layer)
    order = best.sort_values(["layer", "sae", "normalised"], ascending=[True, True, False], kind="stable")
    return order.reindex(columns=columns).reset_index(drop=True)


_SAID = ("explanation", "score", "chance_score", "above_chance", "tags")
