"""Edits by features: how they are named, which tokens they reach, and what the model then says."""

import pytest
import torch

import safesail
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError
from safesail.intervene.edits import FeatureEdit, continuations, parse_change
from safesail.sae.attribution import attribute, attribute_to, feature_target, token_target
from safesail.sae.edit import add, edit_features
from safesail.sae.protocol import SAE
from safesail.store.effects import FeatureSize
from safesail.subject.protocol import Subject
from tests.pipeline.conftest import Made

Loaded = tuple[Subject, list[SAE]]
SIZE = FeatureSize(density=0.1, mean=0.25, maximum=3.0)
F = FeatureId("tiny", 1)


@pytest.mark.parametrize(
    ("text", "becomes"),
    [("ablate", [0.0, 0.0]), ("mean", [0.25, 0.25]), ("scale:2", [0.0, 4.0]), ("add:-1", [-1.0, 1.0]),
     ("clamp:5", [5.0, 5.0]), ("steer:2", [6.0, 8.0])],
)  # fmt: skip
def test_changes_by_name(text: str, becomes: list[float]) -> None:
    assert parse_change(text, F, SIZE)(torch.tensor([0.0, 2.0])).tolist() == becomes


@pytest.mark.parametrize(
    ("text", "says"),
    [("scale:nan", "'nan' is not a finite number"), ("steer:inf", "'inf' is not a finite number"),
     ("scale:", "'nothing' is not a finite number"), ("double", "'double' is no change of a feature"),
     ("twice:2", "there are ablate, mean, scale:X")],
)  # fmt: skip
def test_no_change_is_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_change(text, F, SIZE)
    with pytest.raises(ConfigError, match="steer needs to know how strongly tiny#1 fires"):
        parse_change("steer:2", F, None)


def last_logits(loaded: Loaded, ids: list[int], edit: FeatureEdit | None, n_prompt: int) -> torch.Tensor:
    subject, saes = loaded
    edits = [] if edit is None else edit.interventions(saes, n_prompt)
    logits = subject.run(torch.tensor([ids]), logits=True, interventions=edits).logits
    assert logits is not None
    return logits[0, 1:]


def test_prompt_and_answer_apart_firing_tokens_and_several_features(loaded: Loaded) -> None:
    subject, (sae,) = loaded
    ids, name = subject.tokenize("the knife and the river"), sae.info.sae_id
    n_prompt = 8
    changes = {FeatureId(name, j): add(3.0) for j in (3, 5)}
    clean = last_logits(loaded, ids, None, n_prompt)
    prompt, answer, whole = (
        last_logits(loaded, ids, FeatureEdit(changes, part=part), n_prompt)
        for part in ("prompt", "answer", "all")
    )
    assert (prompt[0] - clean[0]).abs().max() > 1e-3
    assert torch.equal(answer[:n_prompt], clean[:n_prompt])
    assert (answer[n_prompt:] - clean[n_prompt:]).abs().max() > 1e-3
    assert torch.equal(prompt[:n_prompt], whole[:n_prompt])
    x = subject.run(torch.tensor([ids]), capture=[sae.info.hook]).activations[sae.info.hook][0]
    fires = (sae.encode(x).dense(0, len(ids))[:, [3]] > 0).any(dim=1)
    first = int(torch.nonzero(fires)[0])
    where = FeatureEdit({FeatureId(name, 3): add(3.0)}, where="firing")
    firing = last_logits(loaded, ids, where, n_prompt)
    assert torch.equal(firing[:first], clean[:first])
    assert (firing[first] - clean[first]).abs().max() > 1e-3
    same = FeatureEdit({FeatureId(name, j): parse_change("scale:1", F, None) for j in range(40)})
    assert (last_logits(loaded, ids, same, n_prompt) - clean).abs().max() == 0


def test_with_and_without_from_one_seed(loaded: Loaded) -> None:
    subject, saes = loaded
    edit = FeatureEdit({FeatureId(saes[0].info.sae_id, 3): add(40.0)})
    prompt = "the knife and"
    edits = edit.interventions(saes, len(subject.tokenize(prompt)))
    options = {"max_tokens": 8, "temperature": 0.7, "seed": 5}
    clean, edited = continuations(subject, prompt, edits, max_tokens=8, temperature=0.7, seed=5)
    assert continuations(subject, prompt, edits, **options) == (clean, edited)  # pyright: ignore[reportArgumentType]
    assert clean.text != edited.text
    assert clean.perplexity is not None and clean.perplexity > 1
    with pytest.raises(ConfigError, match="the prompt has 0 tokens"):
        continuations(subject, "", edits, max_tokens=8, temperature=0, seed=0)


def test_attribution_is_what_an_ablation_takes_away_to_first_order(loaded: Loaded) -> None:
    subject, (sae,) = loaded
    ids = subject.tokenize("the knife and the river near")
    target = token_target(ids[0])
    given = attribute(subject, [sae], ids, target)[sae.info.sae_id]
    x = subject.run(torch.tensor([ids]), capture=[sae.info.hook]).activations[sae.info.hook][0]
    acts = sae.encode(x)
    assert given.position.tolist() == acts.token.tolist() and given.feature.tolist() == acts.feature.tolist()

    def value(change: float, j: int) -> float:
        edit = edit_features(sae, {j: lambda f: f * (1 + change)})
        logits = subject.run(torch.tensor([ids]), logits=True, interventions=[edit]).logits
        assert logits is not None
        return float(target({}, logits))

    totals = given.by_feature()
    for j in sorted(totals, key=lambda j: -abs(totals[j]))[:4]:
        slope = (value(0.01, j) - value(-0.01, j)) / 0.02
        assert slope == pytest.approx(totals[j], rel=0.05, abs=1e-3)
    with pytest.raises(ConfigError, match="the text has 0 tokens"):
        attribute(subject, [sae], [], target)


def test_attribution_to_a_later_feature(made: Made, loaded: Loaded) -> None:
    from safesail.sae.load import open_sae

    subject, _ = loaded
    early, late = (
        open_sae(str(made.file.parent / "saes" / f"tiny-l{layer}"), model=subject.info) for layer in (0, 1)
    )
    ids = subject.tokenize("the knife and the river near")
    x = subject.run(torch.tensor([ids]), capture=[late.info.hook]).activations[late.info.hook]
    feature = int(late.encode(x[0]).feature[0])
    target = feature_target(late, feature)
    given = attribute_to(subject, [early, late], ids, FeatureId(late.info.sae_id, feature))
    assert set(given) == {early.info.sae_id}
    totals = given[early.info.sae_id].by_feature()
    j = max(totals, key=lambda j: abs(totals[j]))

    def value(change: float) -> float:
        edit = edit_features(early, {j: lambda f: f * (1 + change)})
        ran = subject.run(torch.tensor([ids]), capture=[late.info.hook], interventions=[edit])
        return float(target(ran.activations, torch.empty(0)))

    assert (value(1e-3) - value(-1e-3)) / 2e-3 == pytest.approx(totals[j], rel=0.1, abs=1e-3)


def test_in_python(made: Made) -> None:
    folder = made.file.parent
    model = safesail.load(
        str(folder / "tiny"), [str(folder / "saes" / "*")], catalog=made.out / "safesail.duckdb"
    )
    feature = f"{made.summary.sae_id}#3"
    plain = model.generate("the knife and", max_tokens=6)
    with model.intervene({feature: "add:60"}):
        assert model.generate("the knife and", max_tokens=6) != plain
        with (
            pytest.raises(ConfigError, match="is not a finite number"),
            model.intervene({feature: "scale:nan"}),
        ):
            pass
    assert model.generate("the knife and", max_tokens=6) == plain
    with model.intervene({feature: "scale:1"}), model.intervene({feature: "ablate"}, part="answer"):
        model.generate("the knife and", max_tokens=2)
    frame = model.attribute("the knife and the", " r")
    assert list(frame.columns) == ["position", "token", "feature", "activation", "attribution", "explanation"]
    sizes = [abs(float(a)) for a in frame["attribution"]]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    with (
        pytest.raises(ConfigError, match="no SAE 'nothing' is loaded"),
        model.intervene({"nothing#1": "ablate"}),
    ):
        pass
