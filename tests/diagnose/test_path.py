"""What a prediction rests on: attributions against exact ablation, edges against differences, and what is refused."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from safesail.diagnose.config import DiagnoseConfig, PathConfig
from safesail.diagnose.known import KnownFeatures
from safesail.diagnose.path import EDGES, NODES, PredictionPath, depth, next_token, one_per_hook, trace
from safesail.diagnose.report import render
from safesail.diagnose.run import diagnose_prompt
from safesail.diagnose.tokens import Tokens, read_prompt
from safesail.domain.ids import parse_feature
from safesail.errors import ConfigError
from safesail.sae.attribution import token_target
from safesail.sae.edit import feature_directions
from safesail.sae.encode import encode_rows
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Intervention, Subject
from tests.harvest.conftest import saes as saes
from tests.harvest.conftest import subject as subject

NOTHING = KnownFeatures({})
ALL = PathConfig(max_nodes=500, share=1.0)


@pytest.fixture(scope="module")
def tokens(subject: Subject) -> Tokens:
    return read_prompt(subject, "the heron waits")


@pytest.fixture(scope="module")
def path(subject: Subject, saes: list[SAE], tokens: Tokens) -> PredictionPath:
    return trace(subject, saes, tokens, next_token(subject, tokens.ids), ALL, known=NOTHING)


def pushed(sae: SAE, position: int, feature: int, by: float) -> Intervention:
    def edit(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return x + by * feature_directions(sae, [feature])[0] * (positions == position)[..., None]

    return Intervention(sae.info.hook, edit)


def log_odds(subject: Subject, tokens: Tokens, target: int, edits: Sequence[Intervention]) -> float:
    logits = subject.run(torch.tensor([tokens.ids]), logits=True, interventions=edits).logits
    assert logits is not None
    return float(token_target(target)({}, logits))


def test_nodes_are_what_a_small_ablation_changes(
    subject: Subject, saes: list[SAE], tokens: Tokens, path: PredictionPath
) -> None:
    assert tuple(path.nodes.columns) == NODES
    target = next_token(subject, tokens.ids)
    known = {sae.info.sae_id: sae for sae in saes}
    base = log_odds(subject, tokens, target, [])
    for row in path.strongest_first().head(12).to_dict("records"):
        named = parse_feature(row["feature"])
        step = 0.02 * row["activation"]
        edit = pushed(known[named.sae_id], row["position"], named.index, -step)
        changed = (log_odds(subject, tokens, target, [edit]) - base) / -0.02
        assert row["attribution"] == pytest.approx(changed, rel=0.15, abs=2e-4)
    assert path.kept == pytest.approx(1.0)
    assert path.total == pytest.approx(path.nodes["attribution"].sum(), abs=1e-5)


def test_edges_are_what_the_earlier_feature_changes_of_the_later_one(
    subject: Subject, saes: list[SAE], tokens: Tokens, path: PredictionPath
) -> None:
    assert tuple(path.edges.columns) == EDGES
    assert len(path.edges) > 10
    early, late = saes
    nodes = {(r["feature"], r["position"]): r for r in path.nodes.to_dict("records")}

    def value(feature: int, position: int, edits: Sequence[Intervention]) -> float:
        x = subject.run(torch.tensor([tokens.ids]), capture=[late.info.hook], interventions=edits)
        acts = late.encode(x.activations[late.info.hook][0, position : position + 1])
        return float(acts.value[acts.feature == feature].sum())

    for edge in path.edges.head(8).to_dict("records"):
        source, goal = (
            nodes[edge["from_feature"], edge["from_position"]],
            nodes[edge["to_feature"], edge["to_position"]],
        )
        assert edge["from_position"] <= edge["to_position"]
        feature, step = parse_feature(edge["to_feature"]).index, 0.02 * source["activation"]
        edit = pushed(early, edge["from_position"], parse_feature(edge["from_feature"]).index, step)
        added = (value(feature, goal["position"], [edit]) - value(feature, goal["position"], [])) / 0.02
        assert edge["attribution"] == pytest.approx(
            added * goal["attribution"] / goal["activation"], rel=0.15, abs=2e-4
        )


def test_pruning_keeps_the_strongest(
    subject: Subject, saes: list[SAE], tokens: Tokens, path: PredictionPath
) -> None:
    target = next_token(subject, tokens.ids)
    few = trace(subject, saes, tokens, target, PathConfig(max_nodes=5, share=1.0), known=NOTHING)
    half = trace(subject, saes, tokens, target, PathConfig(max_nodes=500, share=0.5), known=NOTHING)
    ordered = path.strongest_first()["attribution"].abs().to_numpy()
    assert np.allclose(few.strongest_first()["attribution"].abs(), ordered[:5])
    assert half.kept >= 0.5
    assert (half.kept - ordered[len(half.nodes) - 1] / ordered.sum()) < 0.5
    assert few.kept == pytest.approx(ordered[:5].sum() / ordered.sum(), rel=1e-4)


def test_every_value_fired_and_the_target_is_the_likeliest(
    subject: Subject, saes: list[SAE], tokens: Tokens, path: PredictionPath
) -> None:
    encoded = encode_rows(subject, saes, [list(tokens.ids)])
    fired = {
        (f"{name}#{f}", int(p)): float(v)
        for name, c in encoded.by_sae.items()
        for p, f, v in zip(c.position, c.feature, c.value, strict=True)
    }
    for row in path.nodes.to_dict("records"):
        assert row["activation"] == pytest.approx(fired[row["feature"], row["position"]], rel=1e-5)
    (generated,) = subject.generate([tokens.ids], max_tokens=1)
    if generated:
        assert next_token(subject, tokens.ids) == generated[0]


def test_two_saes_of_one_hook_are_refused_or_one_is_chosen(
    subject: Subject, saes: list[SAE], tokens: Tokens
) -> None:
    with pytest.raises(ConfigError, match=r"a path takes one SAE per hook, and 2 read blocks.0.hook_mlp_out"):
        trace(subject, [saes[0], saes[0]], tokens, 5, ALL, known=NOTHING)
    assert one_per_hook([*saes, *saes], NOTHING) == saes


def test_hooks_are_ordered_as_the_model_comes_to_them() -> None:
    hooks = ["10.hook_resid_mid", "2.hook_resid_post", "10.hook_attn_out", "2.hook_mlp_out"]
    ordered = sorted((f"blocks.{hook}" for hook in hooks), key=depth)
    assert [hook.removeprefix("blocks.") for hook in ordered] == [hooks[i] for i in (3, 1, 2, 0)]
    with pytest.raises(ConfigError, match=r"where blocks.1.attn.hook_z lies in the model is not known"):
        depth("blocks.1.attn.hook_z")


def test_a_report_draws_it(subject: Subject, saes: list[SAE]) -> None:
    diagnosis = diagnose_prompt(
        subject, saes, "the <b> heron", DiagnoseConfig(target=" waits"), known=NOTHING
    )
    assert diagnosis.path is not None
    assert diagnosis.path.target == subject.token_strings(subject.tokenize(" waits"))[0]
    document = render(diagnosis, "tiny")
    assert document.count("<circle") == len(diagnosis.path.nodes)
    assert "<b>" not in document.split("<svg", 1)[1]
