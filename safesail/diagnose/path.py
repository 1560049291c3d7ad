"""From features to a prediction: gradient x activation, token by token, layer by layer.

Nodes are features on tokens, their weight what they add to the target (the log-odds of a next token). An edge leads
from a feature to one of a later hook: what the earlier one adds to the later one's activation, times what one unit of
that adds to the target. Both are first-order: see `safesail.sae.attribution`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from safesail.diagnose.config import PathConfig
from safesail.diagnose.known import KnownFeatures
from safesail.diagnose.tokens import Tokens
from safesail.domain.ids import layer_of
from safesail.errors import ConfigError
from safesail.sae.attribution import Attributions, attribute, token_target, value_slopes
from safesail.sae.edit import feature_directions
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Subject

NODES = (
    "layer",
    "position",
    "token",
    "feature",
    "activation",
    "attribution",
    "explanation",
    "score",
    "chance_score",
)
"""Of the nodes' frame; attribution: in nats of log-odds of the target."""

EDGES = ("from_feature", "from_position", "to_feature", "to_position", "attribution")
"""Of the edges' frame; attribution: in nats of log-odds of the target, through the later feature."""

_ROW_TOKENS = 1_024
"""Tokens that are differentiated at once."""


@dataclass(frozen=True)
class PredictionPath:
    """What a prediction rests on."""

    target: str
    """The token."""

    total: float
    """Sum of the attributions of all features, in nats."""

    kept: float
    """Share of the sum of their absolute values that the nodes hold."""

    nodes: pd.DataFrame
    """By layer, then position; columns as `NODES`."""

    edges: pd.DataFrame
    """The largest first; columns as `EDGES`."""

    def strongest_first(self) -> pd.DataFrame:
        """The nodes, whatever the sign of what they add."""
        return self.nodes.sort_values("attribution", key=abs, ascending=False, kind="stable")


@dataclass(frozen=True)
class _Node:
    sae: SAE
    position: int
    feature: int
    activation: float
    attribution: float

    @property
    def name(self) -> str:
        return f"{self.sae.info.sae_id}#{self.feature}"


def next_token(subject: Subject, ids: Sequence[int]) -> int:
    """The likeliest next token."""
    logits = subject.run(torch.tensor([list(ids)]), logits=True).logits
    assert logits is not None
    return int(logits[0, -1].argmax())


def trace(
    subject: Subject,
    saes: Sequence[SAE],
    tokens: Tokens,
    target: int,
    config: PathConfig,
    *,
    known: KnownFeatures,
) -> PredictionPath:
    """The features that a prediction rests on, and what they add to each other.

    Args:
        subject: The model.
        saes: With their decoders, one per hook.
        tokens: The prompt.
        target: A token that may follow it.
        config: How much is kept.
        known: What a catalog knows of the features.

    Raises:
        ConfigError: two SAEs of one hook.
        SaeError: an SAE without a decoder.
        SubjectError: a model without a language head.
    """
    ordered = in_order(saes)
    given = attribute(subject, ordered, tokens.ids, token_target(target))
    weights = np.abs(np.concatenate([given[sae.info.sae_id].attribution for sae in ordered]))
    nodes = _strongest(ordered, given, config)
    edges = list(_edges(subject, ordered, tokens, nodes))
    (text,) = subject.token_strings([target])
    return PredictionPath(
        text,
        float(sum(g.attribution.sum() for g in given.values())),
        float(sum(abs(n.attribution) for n in nodes) / weights.sum()) if weights.sum() > 0 else 0.0,
        _node_frame(nodes, tokens, known),
        _edge_frame(edges, config.share),
    )


def in_order(saes: Sequence[SAE]) -> list[SAE]:
    """SAEs as the model comes to their hooks.

    Raises:
        ConfigError: two SAEs of one hook.
    """
    hooks = [sae.info.hook for sae in saes]
    if len(set(hooks)) < len(hooks):
        twice = next(hook for hook in hooks if hooks.count(hook) > 1)
        raise ConfigError(
            f"a path takes one SAE per hook, and {hooks.count(twice)} read {twice}; name one with --sae"
        )
    return sorted(saes, key=lambda sae: depth(sae.info.hook))


_WITHIN = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
"""Hooks of a block, as the model comes to them."""


def depth(hook: str) -> tuple[int, int]:
    """Where a hook lies: its block, and within that.

    Raises:
        ConfigError: it is not known where.
    """
    layer, name = layer_of(hook), hook.rsplit(".", 1)[-1]
    if layer is None or name not in _WITHIN:
        raise ConfigError(
            f"where {hook} lies in the model is not known; a path takes SAEs of {', '.join(_WITHIN)}"
        )
    return layer, _WITHIN.index(name)


def one_per_hook(saes: Sequence[SAE], known: KnownFeatures) -> list[SAE]:
    """Of SAEs that read one hook, the one with most explanations, else the one whose sparsity is in the middle."""
    by_hook: dict[str, list[SAE]] = {}
    for sae in sorted(saes, key=lambda sae: (sae.info.k or 0, sae.info.sae_id)):
        by_hook.setdefault(sae.info.hook, []).append(sae)

    def explained(sae: SAE) -> int:
        return sum(isinstance(text, str) for text in known.of(sae.info.sae_id)["explanation"].tolist())

    return [max([own[len(own) // 2], *own], key=explained) for own in by_hook.values()]


def _strongest(saes: Sequence[SAE], given: Mapping[str, Attributions], config: PathConfig) -> list[_Node]:
    """By attribution, whatever its sign, until they hold their share."""
    all_nodes = [
        _Node(sae, int(p), int(f), float(a), float(w))
        for sae in saes
        for own in (given[sae.info.sae_id],)
        for p, f, a, w in zip(own.position, own.feature, own.activation, own.attribution, strict=True)
        if w != 0
    ]
    all_nodes.sort(key=lambda n: -abs(n.attribution))
    held = np.cumsum([abs(n.attribution) for n in all_nodes])
    n = int(np.searchsorted(held, config.share * held[-1])) + 1 if len(held) else 0
    return all_nodes[: min(n, config.max_nodes)]


_Link = tuple[_Node, _Node, float]


def _edges(subject: Subject, saes: Sequence[SAE], tokens: Tokens, nodes: Sequence[_Node]) -> Iterator[_Link]:
    """From every node to every node of a later hook; the values of one SAE are differentiated together."""
    size = max(1, _ROW_TOKENS // len(tokens))
    for i, sae in enumerate(saes):
        earlier = [n for n in nodes if n.sae in saes[:i]]
        own = [n for n in nodes if n.sae is sae]
        for start in range(0, len(own) if earlier else 0, size):
            yield from _edges_of(subject, tokens, earlier, own[start : start + size])


def _edges_of(
    subject: Subject, tokens: Tokens, earlier: Sequence[_Node], later: Sequence[_Node]
) -> Iterator[_Link]:
    hooks = list(dict.fromkeys(n.sae.info.hook for n in earlier))
    wanted = [(n.position, n.feature) for n in later]
    slopes = value_slopes(subject, tokens.ids, later[0].sae, wanted, hooks)
    for a in earlier:
        direction = feature_directions(a.sae, [a.feature])[0]
        adds = a.activation * (slopes[a.sae.info.hook][:, a.position] @ direction.to(subject.device))
        for b, added in zip(later, adds.tolist(), strict=True):
            if added != 0:
                yield a, b, added * b.attribution / b.activation


def _node_frame(nodes: Sequence[_Node], tokens: Tokens, known: KnownFeatures) -> pd.DataFrame:
    rows = [
        {
            "layer": layer_of(n.sae.info.hook), "position": n.position, "token": tokens.strings[n.position],
            "feature": n.name, "activation": n.activation, "attribution": n.attribution,
            **known.of(n.sae.info.sae_id).reindex([n.feature]).iloc[0].to_dict(),
        }
        for n in nodes
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=None if rows else list(NODES)).reindex(columns=list(NODES))
    return frame.sort_values(["layer", "position", "attribution"], kind="stable").reset_index(drop=True)


def _edge_frame(edges: Sequence[_Link], share: float) -> pd.DataFrame:
    ordered = sorted(edges, key=lambda edge: -abs(edge[2]))
    held = np.cumsum([abs(weight) for _, _, weight in ordered])
    n = int(np.searchsorted(held, share * held[-1])) + 1 if len(held) else 0
    rows = [
        {"from_feature": a.name, "from_position": a.position, "to_feature": b.name, "to_position": b.position,
         "attribution": weight}
        for a, b, weight in ordered[:n]
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(EDGES))
