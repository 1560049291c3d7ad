from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from safesail.domain.records import Concept, ConceptPair
from safesail.errors import ConfigError, FingerprintError, NotFoundError, SaeError
from safesail.sae.protocol import SAE, SparseActs
from safesail.selection.config import SelectionConfig
from safesail.selection.run import run_selection, selection_id
from safesail.store.connection import Db
from safesail.store.selection import (
    best_sae,
    candidate_features,
    latest_selection,
    ranked_saes,
    read_scores,
    readouts,
)
from safesail.store.sql import rows, value
from safesail.subject.causal import CausalModel
from safesail.subject.protocol import Subject
from tests.selection.conftest import concept, swap_word

CONFIG = SelectionConfig(draws=50)
MakeSae = Callable[..., SAE]


def figure(db: Db, sae_id: str, measure: str, scope: str = "all", scope_id: str = "all") -> float | None:
    found = read_scores(db, latest_selection(db, sae_id), scope=scope)
    return next(row.value for row in found if row.measure == measure and row.scope_id == scope_id)


def noting(names: list[str], sae: SAE) -> Callable[[torch.Tensor], SparseActs]:
    """The SAE's own `encode`, which also notes that it was used."""
    encode = sae.encode

    def encode_and_note(x: torch.Tensor) -> SparseActs:
        names.append(sae.info.sae_id)
        return encode(x)

    return encode_and_note


def test_planted_saes_rank_as_they_were_planted(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    saes = [
        make_sae("noise", noise=40),
        make_sae("half", detects=("bomb",), noise=4),
        make_sae("both", detects=("bomb", "gun"), noise=4),
        make_sae("ordinary", detects=("dog", "park")),
    ]
    result = run_selection(db, subject, saes, concepts, CONFIG, quiet=True)
    assert [r.sae.sae_id for r in result.ranked][:2] == ["both", "half"]
    assert result.best == "both" == best_sae(db)
    # Every q+ outdoes every negative by its word, its twin ties with them: 1, null (1 + 1/2) / 2.
    assert figure(db, "both", "detection") == 1.0
    assert figure(db, "both", "detection_above_null") == pytest.approx(
        0.25, abs=0.02
    )  # noise joins in some folds
    assert 0.4 < (figure(db, "ordinary", "detection") or 0) < 0.6
    assert figure(db, "ordinary", "detection", "domain", "ordinary") == 1.0
    chosen = [f for f in readouts(db, latest_selection(db, "both")) if f.rank == 1]  # noise may come after
    assert [(f.concept_id, f.feature, f.lift, f.auc_pairs, f.auc_wide) for f in chosen] == [
        ("terror.gun", 1, 1.0, 1.0, 1.0), ("violence.bomb", 0, 1.0, 1.0, 1.0)
    ]  # fmt: skip
    # By hand: both words are told apart in every pair; one of two; none.
    assert figure(db, "both", "pair_isolation") == 1.0
    assert figure(db, "ordinary", "pair_isolation") == 0.0
    assert figure(db, "ordinary", "pair_isolation", "domain", "ordinary") == 1.0
    assert figure(db, "both", "l0_t0.9", "concept", "terror.gun") == 1.0
    # d_sae is 2 + 4 + 4: one feature of ten in every pair of either concept, plus what noise adds.
    assert figure(db, "ordinary", "i_cdf") == 0.0
    assert figure(db, "ordinary", "i_cdf", "concept", "ordinary.dog") == pytest.approx(1 / 6)
    assert figure(db, "ordinary", "i_cdf_above_null", "concept", "ordinary.dog") == pytest.approx(1 / 12)
    assert figure(db, "ordinary", "i_cdf_p", "concept", "ordinary.dog") == pytest.approx(1 / 51)


def test_candidates_carry_their_concepts_and_leave_controls_out(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    sae = make_sae("all", detects=("gun", "dog", "bomb"))
    run_selection(db, subject, [sae], concepts, CONFIG, quiet=True)
    found = candidate_features(db, "all")
    assert [(c.feature, c.concept_ids) for c in found] == [(0, ("terror.gun",)), (2, ("violence.bomb",))]
    assert (found[0].frequency, found[0].swapped) == (1.0, 0.0)
    assert [c.feature for c in candidate_features(db, "all", domains=["ordinary"])] == [1]
    assert [c.feature for c in candidate_features(db, "all", limit=1)] == [0]


def test_l0_and_fvu_by_hand(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    sae = make_sae("some", detects=("bomb",), noise=8)
    result = run_selection(db, subject, [sae], concepts, CONFIG, quiet=True)
    texts = [side for c in concepts for p in c.pairs for side in (p.pos, p.neg)]
    hook = sae.info.hook
    x = torch.cat(
        [subject.run(torch.tensor([subject.tokenize(t)]), capture=[hook]).activations[hook][0] for t in texts]
    )
    acts = sae.encode(x)
    residual = (x - sae.decode(acts)).square().sum()
    spread = (x - x.mean(dim=0)).square().sum()
    assert result.n_tokens == len(x)
    assert result.ranked[0].sae.l0 == pytest.approx(len(acts.value) / len(x))
    assert result.ranked[0].sae.fvu == pytest.approx(float(residual / spread), rel=1e-4)


def test_one_concept_alone_has_a_readout_but_no_detection(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    saes = [make_sae("none", noise=2), make_sae("one", detects=("bomb",))]
    result = run_selection(db, subject, saes, concepts[:1], CONFIG, quiet=True)
    assert result.best == "one"  # by pair_isolation
    (row,) = (
        r for r in read_scores(db, latest_selection(db, "one"), scope="all") if r.measure == "detection"
    )
    assert (row.value, row.reason) == (None, "fewer than 16 texts of other concepts")
    (chosen,) = result.readouts
    assert (chosen.feature, chosen.auc_pairs, chosen.auc_wide) == (0, 1.0, None)


def test_in_one_domain_other_concepts_are_the_negatives(db: Db, subject: Subject, make_sae: MakeSae) -> None:
    words = (("bomb", "cake"), ("gun", "hat"), ("dog", "man"))
    one_domain = [concept(f"violence.{w}", swap_word(w, other, 12, i)) for i, (w, other) in enumerate(words)]
    run_selection(db, subject, [make_sae("one", detects=("bomb",))], one_domain, CONFIG, quiet=True)
    assert figure(db, "one", "detection", "concept", "violence.bomb") == 1.0


def test_batches_leave_no_trace(
    tmp_path: Path, db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    from safesail.store.connection import open_writer

    deep = make_sae("deep", noise=30, hook="blocks.1.hook_mlp_out")
    run_selection(db, subject, [deep], concepts, CONFIG, quiet=True)
    small = CONFIG.model_copy(update={"batch_tokens": 1})
    assert selection_id(subject.info, deep, concepts, small) == latest_selection(db, "deep")
    with open_writer(tmp_path / "other.duckdb") as other:
        run_selection(other, subject, [deep], concepts, small, quiet=True)
        sql = "SELECT scope_id, measure, value, low, high FROM sae_scores ORDER BY ALL"
        for one, two in zip(rows(db, sql), rows(other, sql), strict=True):
            assert one[:2] == two[:2]
            assert two[2:] == pytest.approx(one[2:])


def test_a_second_run_does_no_model_work_and_an_added_sae_only_its_own(
    db: Db,
    subject: Subject,
    make_sae: MakeSae,
    concepts: tuple[Concept, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = make_sae("one", detects=("bomb",)), make_sae("two", detects=("gun",))
    hooks: list[tuple[str, ...]] = []
    run = CausalModel.run

    def counted(self: CausalModel, *args: object, **kwargs: object) -> object:
        hooks.append(tuple(kwargs["capture"]))  # pyright: ignore[reportArgumentType]
        return run(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(CausalModel, "run", counted)
    first = run_selection(db, subject, [one], concepts, CONFIG, quiet=True)
    assert first.n_tokens > 0
    n_once = len(hooks)
    again = run_selection(db, subject, [one], concepts, CONFIG, quiet=True)
    assert len(hooks) == n_once
    assert (again.n_tokens, again.seconds["model"]) == (0, 0.0)
    assert again.table() == [row | {"new": False} for row in first.table()]
    encoded: list[str] = []
    for sae in (one, two):
        monkeypatch.setattr(sae, "encode", noting(encoded, sae))
    added = run_selection(db, subject, [one, two], concepts, CONFIG, quiet=True)
    assert set(encoded) == {"two"}
    assert {r.sae.sae_id: r.new for r in added.ranked} == {"one": False, "two": True}
    assert len(hooks) == 2 * n_once  # the pass is made once more, for the new SAE alone


def test_all_saes_of_all_hooks_share_one_pass(
    db: Db,
    subject: Subject,
    make_sae: MakeSae,
    concepts: tuple[Concept, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saes = [
        make_sae("a", noise=3),
        make_sae("bb", noise=3),
        make_sae("ccc", noise=3, hook="blocks.1.hook_mlp_out"),
    ]
    sizes: list[int] = []
    run = CausalModel.run

    def counted(self: CausalModel, ids: torch.Tensor, *args: object, **kwargs: object) -> object:
        sizes.append(len(ids))
        return run(self, ids, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(CausalModel, "run", counted)
    result = run_selection(db, subject, saes, concepts, CONFIG, quiet=True)
    assert sum(sizes[1:]) == 2 * 36  # after the probe of one token, each text of each pair once
    assert len(result.ranked) == 3


def test_other_settings_or_pairs_are_another_selection(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    sae = make_sae("one", detects=("bomb",))
    ids = {
        selection_id(subject.info, sae, concepts, CONFIG),
        selection_id(subject.info, sae, concepts[:2], CONFIG),
        selection_id(subject.info, sae, concepts, SelectionConfig(draws=51)),
    }
    assert len(ids) == 3
    assert selection_id(subject.info, sae, concepts[::-1], CONFIG) in ids
    run_selection(db, subject, [sae], concepts, CONFIG, quiet=True)
    run_selection(db, subject, [sae], concepts[:2], CONFIG, quiet=True)
    assert value(db, "SELECT count(*) FROM selections") == 2
    assert latest_selection(db, "one") == selection_id(subject.info, sae, concepts[:2], CONFIG)


def test_a_quantile_tells_strong_from_weak_firing(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    # The feature fires on both sides of every pair, but on q- more weakly: half of its activations.
    sae = make_sae("both-sides", detects=("bomb+cake",))
    run_selection(db, subject, [sae], concepts[:1], CONFIG, quiet=True)
    assert figure(db, "both-sides", "pair_isolation") == 0.0
    l0 = ranked_saes(db)[0].l0
    run_selection(
        db, subject, [sae], concepts[:1], CONFIG.model_copy(update={"activity_quantile": 0.5}), quiet=True
    )
    assert figure(db, "both-sides", "pair_isolation") == figure(db, "both-sides", "l0_t0.9") == 1.0
    assert ranked_saes(db)[0].l0 == l0  # L0 counts activity above zero all the same


def test_languages_and_forms_narrow_the_pairs(db: Db, subject: Subject, make_sae: MakeSae) -> None:
    mixed = Concept(
        "violence.bomb", "violence", None, "b", "b",
        tuple(
            ConceptPair(f"p{i}", lang, form, f"the bomb {i * 'big '}.", f"the cake {i * 'big '}.")
            for i, (lang, form) in enumerate([("en", "news"), ("en", "news"), ("zh", "news"), ("en", "request")])
        ),
    )  # fmt: skip
    sae = make_sae("one", detects=("bomb",))
    only = CONFIG.model_copy(update={"languages": ("en",), "forms": ("news",)})
    run_selection(db, subject, [sae], [mixed], only, quiet=True)
    assert rows(db, "SELECT DISTINCT n_pairs FROM sae_scores") == [(2,)]
    run_selection(db, subject, [sae], [mixed], CONFIG.model_copy(update={"languages": ("zh",)}), quiet=True)
    found = read_scores(db, latest_selection(db, "one"), scope="all")
    assert {(r.value, r.reason) for r in found} == {(None, "1 pairs; a contrast needs at least 2")}
    assert ranked_saes(db)[0].value is None


@pytest.mark.parametrize("text", ["the " * 40, " "])
def test_texts_that_do_not_fit_are_named(db: Db, subject: Subject, make_sae: MakeSae, text: str) -> None:
    bad = Concept("x.y", "x", None, "y", "y", (ConceptPair("p", "en", "news", "a bomb", text),) * 2)
    with pytest.raises(ConfigError) as caught:
        run_selection(db, subject, [make_sae("one")], [bad], CONFIG, quiet=True)
    wanted = "concept x.y, neg 'the the" if text.strip() else "the subject model sees no token in it"
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)
    if text.strip():
        assert "40 tokens, the subject model takes 31; shorten it" in str(caught.value)


def test_bad_saes_are_refused_before_any_work(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    with pytest.raises(SaeError, match=r"SAE 'wide' reads 32 numbers, blocks.0.hook_resid_pre of .* has 64"):
        run_selection(db, subject, [make_sae("wide", noise=2, d_in=32)], concepts, CONFIG, quiet=True)
    with pytest.raises(ConfigError, match=r"no hook 'blocks\.7\.hook_mlp_out'"):
        run_selection(
            db,
            subject,
            [make_sae("deep", noise=2, hook="blocks.7.hook_mlp_out")],
            concepts,
            CONFIG,
            quiet=True,
        )
    with pytest.raises(ConfigError, match="no SAE to select from"):
        run_selection(db, subject, [], concepts, CONFIG, quiet=True)
    one = make_sae("one")
    with pytest.raises(ConfigError, match="two SAEs are called 'one'"):
        run_selection(db, subject, [one, one], concepts, CONFIG, quiet=True)
    with pytest.raises(ConfigError, match="no pair is in the languages"):
        config = CONFIG.model_copy(update={"languages": ("fr",)})
        run_selection(db, subject, [one], concepts, config, quiet=True)
    assert value(db, "SELECT count(*) FROM selections") == 0


def test_other_weights_under_a_known_name_are_refused(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...], tmp_path: Path
) -> None:
    run_selection(db, subject, [make_sae("one", detects=("bomb",))], concepts, CONFIG, quiet=True)
    (tmp_path / "one").rename(tmp_path / "before")
    with pytest.raises(FingerprintError, match="'one'"):
        run_selection(db, subject, [make_sae("one", detects=("gun",))], concepts, CONFIG, quiet=True)


def test_an_empty_store_says_what_to_run(db: Db) -> None:
    with pytest.raises(NotFoundError, match="run `safesail select-sae` first"):
        best_sae(db)
    with pytest.raises(NotFoundError, match="no selection of 'x'"):
        candidate_features(db, "x")


def test_tables_for_people(
    db: Db, subject: Subject, make_sae: MakeSae, concepts: tuple[Concept, ...]
) -> None:
    result = run_selection(db, subject, [make_sae("one", detects=("bomb",))], concepts, CONFIG, quiet=True)
    (row,) = result.table()
    # One of two words detected for certain, the other not at all: (1 + 1/2) / 2; nulls 3/4 and 1/2.
    assert [row[k] for k in ("detection", "low", "high", "null")] == pytest.approx([0.75, 0.75, 0.75, 0.625])
    shown = ("sae", "layer", "hook", "pair_isolation", "l0_t0.5", "l0_t0.5_above_null", "candidates", "new")
    assert {k: row[k] for k in shown} == {
        "sae": "one", "layer": 0, "hook": "hook_resid_pre",
        "pair_isolation": 0.5, "l0_t0.5": 0.5, "l0_t0.5_above_null": row["l0_t0.5_above_null"],
        "candidates": 1, "new": True,
    }  # fmt: skip
    assert result.domain_table() == [{"sae": "one", "ordinary": 0.5, "terror": 0.5, "violence": 1.0}]
    assert result.readout_table() == [
        {"concept": "violence.bomb", "detection": 1.0, "features: lift, AUC on pairs": "#0 +1.00 1.00"}
    ]
    assert np.isfinite([result.seconds[k] for k in ("model", "encode", "contrast")]).all()
