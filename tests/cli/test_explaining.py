"""What `explain`, `score` and `ledger` say: which features, what stopped a run, and what was paid for."""

import re
from pathlib import Path
from typing import Any

import pytest

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig, ExemplarConfig
from safesail.autointerp.ranking import FeatureChoice
from safesail.autointerp.run import explain_store
from safesail.cli.main import cli
from safesail.errors import BudgetExceededError, ConfigError, NotFoundError
from safesail.llm.budget import parse_budget
from safesail.store.connection import open_reader, open_writer
from safesail.store.sql import rows, value
from tests.cli.test_commands import run, run_json
from tests.loopback import chat, serving
from tests.pipeline.conftest import Made


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Path:
    """A store in which nothing is explained yet."""
    copy = tmp_path / "store.duckdb"
    copy.write_bytes((made.out / "safesail.duckdb").read_bytes())
    with open_writer(copy) as db:
        for table in ("llm_calls", "explanations", "scores"):
            db.execute(f"DELETE FROM {table}")
    return copy


def explain(store: Path, *arguments: str | int | Path, budget: str = "1M") -> Any:
    return run("explain", "--budget", budget, "--store", store, "--quiet", *arguments).stdout


def explained(store: Path) -> set[int]:
    with open_reader(store) as db:
        return {r[0] for r in rows(db, "SELECT DISTINCT feature FROM explanations WHERE error IS NULL")}


def second_selection(store: Path, sae_id: str) -> tuple[str, str]:
    """A newer selection, of one concept alone; returns the ids of both, the older first."""
    with open_writer(store) as db:
        (old,) = (r[0] for r in rows(db, "SELECT selection_id FROM selections WHERE sae_id = ?", [sae_id]))
        for table, change in (
            ("selections", "'newer' AS selection_id, 'other' AS concept_set"),
            ("sae_scores", "'newer' AS selection_id"),
            ("feature_concepts", "'newer' AS selection_id"),
        ):
            db.execute(
                f"INSERT INTO {table} SELECT * REPLACE ({change}) FROM {table} WHERE selection_id = ?", [old]
            )
        db.execute(
            "DELETE FROM feature_concepts WHERE selection_id = 'newer' AND concept_id <> 'violence.market'"
        )
    return old, "newer"


def candidates(store: Path, selection: str) -> set[int]:
    with open_reader(store) as db:
        of = "SELECT DISTINCT feature FROM feature_concepts WHERE candidate AND selection_id = ?"
        return {r[0] for r in rows(db, of, [selection])}


def test_the_active_selection_is_named_and_chosen_by_its_id_or_its_concepts(made: Made, store: Path) -> None:
    old, newer = second_selection(store, made.summary.sae_id)
    said = explain(store)
    assert "candidates of selection newer (2 concepts of violence)" in said
    assert "the newest of 2; choose by --selection or --concepts" in said
    assert explained(store) <= candidates(store, newer)
    assert f"selection {old[:8]} (2 concepts of violence)\n" in explain(store, "--selection", old[:6])
    assert f"selection {old[:8]} " in explain(store, "--concepts", made.file.parent / "concepts.yaml")
    with pytest.raises(NotFoundError, match=rf"no such selection of .*; there are newer .*; {old[:8]} "):
        explain(store, "--selection", "zzz")


def test_domains_and_concepts_narrow_what_a_selection_nominated(store: Path) -> None:
    explain(store, "--concept", "violence.knife")
    knives = explained(store)
    with open_reader(store) as db:
        of = "SELECT DISTINCT feature FROM feature_concepts WHERE candidate AND concept_id = 'violence.knife'"
        assert knives and knives <= {r[0] for r in rows(db, of)}
    assert "candidates of selection" in explain(store, "--domain", "violence")
    with pytest.raises(ConfigError, match=r"no concept 'violence.knive' .*did you mean 'violence.knife'?"):
        explain(store, "--concept", "violence.knive")
    with pytest.raises(ConfigError, match=r"no domain 'violense' .*did you mean 'violence'?"):
        explain(store, "--domain", "violense")
    with open_writer(store) as db:
        db.execute("UPDATE feature_concepts SET candidate = false WHERE concept_id = 'violence.market'")
    with pytest.raises(
        ConfigError, match=r"nominates no feature of .* for violence.market; choose by --densest or"
    ):
        explain(store, "--concept", "violence.market")


def test_features_are_explained_by_name_without_any_selection(
    made: Made, store: Path, tmp_path: Path
) -> None:
    sae_id = made.summary.sae_id
    with open_writer(store) as db:
        for table in ("selections", "sae_scores", "feature_concepts"):
            db.execute(f"DELETE FROM {table}")
        dense = [r[0] for r in rows(
            db, "SELECT feature FROM features WHERE sae_id = ? ORDER BY density DESC, feature LIMIT 3", [sae_id]
        )]  # fmt: skip
    with pytest.raises(NotFoundError, match=r"no selection in the store"):
        explain(store)
    explain(store, "--feature", f"{sae_id}#{dense[0]}")
    assert explained(store) == {dense[0]}
    listed = tmp_path / "features.txt"
    listed.write_text(f"# mine\n{sae_id}#{dense[1]}\n")
    explain(store, "--features", listed)
    assert explained(store) == set(dense[:2])
    assert "3 features that fire on most tokens" in explain(store, "--densest", 3, "--sae", sae_id)
    assert explained(store) == set(dense)
    with pytest.raises(
        NotFoundError, match=rf"there is no {sae_id}#999999: the features of {sae_id} are 0 to \d+$"
    ):
        explain(store, "--feature", f"{sae_id}#999999")
    with pytest.raises(ConfigError, match=r"one SAE is explained at a time"):
        explain(store, "--feature", "other#1", "--feature", f"{sae_id}#1")


def test_features_names_which_and_limit_how_many(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither candidates nor a file; how many is said by --limit"):
        explain(store, "--features", 5)
    explain(store, "--limit", 1)
    assert len(explained(store)) == 1


def test_explain_without_a_harvest_or_with_one_under_way_says_so(store: Path) -> None:
    with open_writer(store) as db:
        db.execute("UPDATE harvests SET finished = false")
    with pytest.raises(
        NotFoundError, match=r"the harvest of tiny-l. is not finished; run the same `safesail harvest`"
    ):
        explain(store)
    with open_writer(store) as db:
        db.execute("DELETE FROM harvest_saes")
    with pytest.raises(
        NotFoundError, match=r"tiny-l. has no harvest in this store; run `safesail harvest` first"
    ):
        explain(store, "--dry-run")


def test_a_budget_that_can_do_nothing_is_an_error(store: Path) -> None:
    with pytest.raises(
        BudgetExceededError,
        match=r"finishes no feature of tiny-l.: .* are left; a feature costs about .* tokens",
    ):
        explain(store, budget="10")
    with open_reader(store) as db:
        assert value(db, "SELECT count(*) FROM llm_calls") == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--weight", "violense=2"), "no domain to weigh 'violense' in this store; did you mean 'violence'?"),
        (("--weight", "violence"), "write DOMAIN=NUMBER"),
        (("--explainer", "lexicall"), "no model 'lexicall'; did you mean 'lexical'?"),
        (("--simulator", "embeding"), "no model 'embeding'; did you mean 'embedding'?"),
    ],
)
def test_a_name_that_is_nearly_right_is_refused(store: Path, arguments: tuple[str, ...], error: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(error)):
        explain(store, *arguments)


def test_new_and_old_are_told_apart_and_the_reserve_that_stopped_it_is_named(store: Path) -> None:
    report = run_json("explain", "--budget", "1M", "--store", store, "--quiet", "--limit", 1)
    assert (report["paid"], report["stopped_by"]) == (1, None)
    n = report["tokens"]
    said = explain(store, budget=str(n))  # enough for the tokens of one more, and not for its worst case
    assert "\n0 new tokens (features paid for: 0, from the cache: 1)\n" in said
    assert re.search(
        r"ended before \d+ more \(.*\b(the next call may cost|are left; a feature costs about)\b", said
    )


def test_the_commonest_failures_reason_is_printed(store: Path) -> None:
    with serving(lambda _: chat("I'm sorry, I can't help with that.")) as url:
        said = explain(store, "--explainer", "m", "--base-url", url)
    assert re.search(r"most failures \((\d+) of \1\): RefusedAnswerError: the model declined", said)


def test_a_run_says_what_it_paid_for_again_since_the_earlier_answer_was_bad(made: Made, store: Path) -> None:
    one = ("--explainer", "m", "--feature", f"{made.summary.sae_id}#{min(candidates_of(store))}")
    with serving(lambda _: chat('{"explanation": "a \\ud800 b"}')) as url:
        said = explain(store, *one, "--base-url", url)
        assert "asked and paid again" not in said
        assert "UnparsableAnswerError" in said
        assert "1 question was asked and paid again: the earlier answer was bad" in explain(
            store, *one, "--base-url", url
        )


def candidates_of(store: Path) -> set[int]:
    with open_reader(store) as db:
        return {r[0] for r in rows(db, "SELECT feature FROM feature_concepts WHERE candidate")}


def test_help_says_that_the_explainer_also_simulates() -> None:
    context = cli.make_context("safesail", ["explain"], resilient_parsing=True)
    command = cli.get_command(context, "explain")
    assert command is not None
    options = {p.name: getattr(p, "help", "") for p in command.params}
    assert "simulates too unless --simulator is named" in options["explainer"]


def test_the_ledger_has_dates_an_order_and_a_total(store: Path) -> None:
    explain(store)
    by_stage = run_json("ledger", "--store", store, "--by", "stage")
    assert [row["stage"] for row in by_stage] == ["explain", "simulate"]
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[end]) for row in by_stage for end in ("from", "to")
    )
    table = run("ledger", "--store", store, "--by", "stage").stdout.splitlines()
    assert table[0].split() == [
        "stage", "from", "tokens", "in", "tokens", "out", "calls", "failed", "seconds", "partly", "estimated", "to",
    ]  # fmt: skip
    assert table[-1].split()[0] == "total"
    assert f"{sum(row['calls'] for row in by_stage)}" in table[-1].split()


def scores(store: Path) -> list[tuple[Any, ...]]:
    with open_reader(store) as db:
        return rows(db, "SELECT * FROM scores ORDER BY ALL")


def shown(store: Path) -> list[tuple[Any, ...]]:
    with open_reader(store) as db:
        return rows(
            db, 'SELECT "index", explanation, score, score_low, chance_score FROM catalog ORDER BY ALL'
        )


def test_a_score_on_other_windows_stands_beside_the_first_and_the_headline_is_unchanged(
    made: Made, store: Path
) -> None:
    config = AutointerpConfig(test_exemplars=ExemplarConfig(n_active=3, n_random=3, n_hard=0))
    chat = ChatSettings("lexical", "lexical", parse_budget("unlimited"))
    report = explain_store(store, FeatureChoice(made.summary.sae_id), chat, config, quiet=True)
    assert len(report.scored) > 1
    first, before = scores(store), shown(store)
    run("score", "--scoring", "segment", "--budget", "1M", "--store", store, "--quiet", "--chance-every", 0)
    assert set(first) < set(scores(store))
    assert len(scores(store)) == 2 * len(first)
    assert shown(store) == before


def test_scoring_again_without_chance_lines_drops_none(store: Path) -> None:
    explain(store, "--chance-every", 1)
    before = shown(store)
    assert any(chance is not None for *_, chance in before)
    run("score", "--budget", "1M", "--store", store, "--quiet", "--chance-every", 0)
    assert shown(store) == before
