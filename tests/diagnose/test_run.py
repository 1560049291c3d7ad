"""A prompt through the model: equal to encoding it directly, beside what a store knows; sets against each other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safesail.diagnose.config import CompareConfig, DiagnoseConfig
from safesail.diagnose.firing import COLUMNS
from safesail.diagnose.known import KnownFeatures, read_known
from safesail.diagnose.run import Diagnosis, compare_prompts, diagnose_prompt, fired_shares
from safesail.diagnose.tokens import read_prompt
from safesail.domain.undefined import Undefined
from safesail.errors import ConfigError, FingerprintError
from safesail.sae.encode import encode_rows
from safesail.sae.load import load_with_saes
from safesail.sae.protocol import SAE
from safesail.store.connection import open_reader
from safesail.store.sql import rows
from safesail.subject.loading import ModelConfig
from safesail.subject.protocol import Subject
from tests.pipeline.conftest import Made
from tests.pipeline.conftest import made as made

PROMPT = "the knife and the river 熊"
NOTHING = KnownFeatures({})


@pytest.fixture(scope="module")
def loaded(made: Made) -> tuple[Subject, list[SAE]]:
    folder = made.file.parent
    return load_with_saes(ModelConfig(str(folder / "tiny")), [str(folder / "saes" / "*")])


@pytest.fixture(scope="module")
def store(made: Made) -> Path:
    return made.out / "safesail.duckdb"


@pytest.fixture(scope="module")
def diagnosis(loaded: tuple[Subject, list[SAE]], store: Path) -> Diagnosis:
    subject, saes = loaded
    known = read_known(store, [sae.info for sae in saes])
    return diagnose_prompt(subject, saes, PROMPT, DiagnoseConfig(), known=known, corpus=store)


def test_what_fires_is_what_encoding_gives(loaded: tuple[Subject, list[SAE]], diagnosis: Diagnosis) -> None:
    subject, saes = loaded
    fired = diagnosis.fired
    assert tuple(fired.columns) == COLUMNS
    encoded = encode_rows(subject, saes, [subject.tokenize(PROMPT)])
    expected = {
        (int(p), f"{sae_id}#{f}"): float(v)
        for sae_id, columns in encoded.by_sae.items()
        for p, f, v in zip(columns.position, columns.feature, columns.value, strict=True)
    }
    found = dict(zip(zip(fired["position"], fired["feature"], strict=True), fired["value"], strict=True))
    assert found == expected  # to the last bit
    strings = subject.token_strings(subject.tokenize(PROMPT))
    assert all(token == strings[p] for token, p in zip(fired["token"], fired["position"], strict=True))
    assert fired["position"].is_monotonic_increasing
    bear = fired.loc[fired["start"] == PROMPT.index("熊")]
    assert bear["position"].nunique() == 3
    assert set(bear["end"]) == {len(PROMPT)}


def test_what_a_store_knows_stands_beside_it(diagnosis: Diagnosis, store: Path) -> None:
    with open_reader(store) as db:
        known = {
            f"{sae_id}#{index}": (text, score)
            for sae_id, index, text, score in rows(
                db, 'SELECT sae_id, "index", explanation, score FROM catalog WHERE explanation IS NOT NULL'
            )
        }
        q999 = {f"{s}#{f}": q for s, f, q in rows(db, "SELECT sae_id, feature, q999 FROM features")}
    said = diagnosis.fired.dropna(subset=["explanation"])
    assert len(said) > 0
    assert {(f, e) for f, e in zip(said["feature"], said["explanation"], strict=True)} <= {
        (f, text) for f, (text, _) in known.items()
    }
    harvested = diagnosis.fired.dropna(subset=["normalised"])
    assert len(harvested) > 0
    for row in harvested.head(50).to_dict("records"):
        assert row["normalised"] == pytest.approx(row["value"] / q999[row["feature"]])
    shares = diagnosis.fired["share_higher"].dropna()
    assert len(shares) > 0 and shares.between(0, 1).all()


def test_without_a_catalog_nothing_is_known(loaded: tuple[Subject, list[SAE]]) -> None:
    found = diagnose_prompt(*loaded, PROMPT, DiagnoseConfig(), known=NOTHING)
    for name in ("explanation", "score", "normalised", "share_higher"):
        assert found.fired[name].isna().to_numpy().all()
    assert found.strongest(tagged=True).empty
    assert not found.strongest(tagged=False).empty
    assert all(u.n_explained == 0 and u.share_unexplained == 1.0 for u in found.unexplained)


def test_a_catalog_with_other_weights_is_refused(loaded: tuple[Subject, list[SAE]], store: Path) -> None:
    info = loaded[1][0].info
    with pytest.raises(FingerprintError, match="knows another SAE by the name"):
        read_known(store, [replace(info, sha256="0" * 64)])
    renamed = read_known(store, [replace(info, sae_id="called otherwise")])
    assert not renamed.of("called otherwise").empty


def test_what_is_not_explained(loaded: tuple[Subject, list[SAE]], diagnosis: Diagnosis) -> None:
    subject, saes = loaded
    for sae, own in zip(saes, diagnosis.unexplained, strict=True):
        fired = diagnosis.fired.loc[diagnosis.fired["sae"] == sae.info.sae_id]
        above = {
            f for f, a in zip(fired["feature"], fired["above_chance"], strict=True) if a is True or a == 1
        }
        assert (own.n_features, own.n_explained) == (fired["feature"].nunique(), len(above))
        row = [subject.tokenize(PROMPT)]
        encoded = encode_rows(subject, [sae], row, measure=True)
        spread = encoded.spreads[sae.info.hook]
        error = encoded.by_sae[sae.info.sae_id].squared_error
        assert error is not None
        assert own.variance_unexplained == pytest.approx(error / spread.about_mean)
    alone = diagnose_prompt(subject, saes, "x", DiagnoseConfig(), known=NOTHING)
    assert isinstance(alone.unexplained[0].variance_unexplained, Undefined)


def test_the_model_s_answer_is_diagnosed_too(loaded: tuple[Subject, list[SAE]]) -> None:
    subject, saes = loaded
    found = diagnose_prompt(subject, saes, "the knife", DiagnoseConfig(generate=5), known=NOTHING)
    (ids,) = subject.generate([subject.tokenize("the knife")], max_tokens=5)
    assert found.tokens.ids == (*subject.tokenize("the knife"), *ids)
    assert found.tokens.roles.count("answer") == len(ids)
    assert found.answer is not None
    assert set(found.fired["role"]) == {"prompt", "answer"}


def test_shares_do_not_depend_on_batches_and_padding(loaded: tuple[Subject, list[SAE]]) -> None:
    subject, saes = loaded
    texts = ["x", "the knife and the river", "he", "a market near the old garden, in winter"]
    prompts = [read_prompt(subject, text) for text in texts]
    alone = [fired_shares(subject, saes, prompts, n) for n in (1, 1_000)]
    for one, all_at_once in zip(*alone, strict=True):
        assert one.features.tolist() == all_at_once.features.tolist()
        assert np.array_equal(one.share, all_at_once.share)
    counts = alone[0][0].share[1] * len(prompts[1])
    assert np.allclose(counts, counts.round(), atol=1e-5)


def test_sets_that_differ_and_sets_that_do_not(loaded: tuple[Subject, list[SAE]]) -> None:
    subject, saes = loaded
    first = [f"the knife of number {i}" for i in range(8)]
    second = [f"MARKET? 熊 {i}" for i in range(8)]
    found = compare_prompts(subject, saes, (first, second), CompareConfig(), known=NOTHING)
    assert found.n_shown > 0 and found.reason is None
    best = found.features.to_dict("records")[0]
    assert best["q"] <= 0.1
    assert best["difference"] == pytest.approx(best["share_a"] - best["share_b"])
    assert found.features["p"].tolist() == sorted(found.features["p"].tolist())
    same = compare_prompts(subject, saes, (first[::2], first[1::2]), CompareConfig(), known=NOTHING)
    assert same.n_shown == 0


def test_two_prompts_have_differences_but_no_p(loaded: tuple[Subject, list[SAE]]) -> None:
    found = compare_prompts(*loaded, (["the knife"], ["the river"]), CompareConfig(), known=NOTHING)
    assert found.reason is not None and "2 ways only" in found.reason
    assert len(found.features) > 0
    assert found.features["p"].isna().to_numpy().all()


def test_translations_share_more_than_unrelated_prompts(loaded: tuple[Subject, list[SAE]]) -> None:
    subject, saes = loaded
    texts = [
        "the knife is here",
        "AND A MARKET 11 22",
        "熊 und 🐻 im Wald",
        "x y z x y z",
        "who? where? why?",
    ]
    near = [f"{text}!" for text in texts]
    config = CompareConfig(translations=True)
    found = compare_prompts(subject, saes, (texts, near), config, known=NOTHING)
    assert len(found.overlaps) == len(saes)
    for own in found.overlaps:
        assert isinstance(own.translations, float) and isinstance(own.unrelated, float)
        assert own.translations > 0.8 > own.unrelated
        assert isinstance(own.low, float) and own.low > 0
    with pytest.raises(ConfigError, match="5 prompts and 4 translations"):
        compare_prompts(subject, saes, (texts, near[:4]), config, known=NOTHING)


def test_a_prompt_of_a_set_that_cannot_be_taken_is_named(loaded: tuple[Subject, list[SAE]]) -> None:
    with pytest.raises(ConfigError, match=r"prompt 2 of the second set: the prompt has 99 tokens"):
        compare_prompts(*loaded, (["a"], ["b", "x" * 99]), CompareConfig(), known=NOTHING)


def test_frames_survive_json(diagnosis: Diagnosis) -> None:
    document = diagnosis.fired.to_json(orient="records")
    assert document is not None
    assert len(json.loads(document)) == len(diagnosis.fired)
