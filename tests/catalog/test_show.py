"""One feature, and the whole in numbers."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from safesail.catalog.api import catalog_stats, show
from safesail.catalog.show import highlight, render_feature
from safesail.cli.main import cli
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, DataError, NotFoundError
from safesail.store.connection import open_writer
from tests.catalog.toy import SAE, TEXTS

WHOLE = f"""\
toy-l2#1  toy, blocks.2.hook_mlp_out, topk, 16 features
density 0.1, mean 1.5, maximum 3, q999 2.9, over 100 tokens
top tokens: 'the'  'smuggled'
tags: violence (concepts), insult (explainer)
concept: violence.insult.slur, alone in 80% of 20 pairs (10% on the other side)
shown to do something: not shown
  steered on neutral text, log-odds of what follows it: +0.10 (other features +0.05), q 0.600, at 4.0 x its maximum, \
cost 0.09 nats per token

{TEXTS[1]}
  by writer, run
  score (segment): 0.400 [0.300, 0.500], chance 0.050

0.50 [train] They smuggled people"""


def test_everything_that_is_known_is_printed(store: Path) -> None:
    assert render_feature(show(store, FeatureId(SAE, 1))).plain == WHOLE


def test_a_release_shows_the_same_feature(store: Path, release: Path) -> None:
    ours, theirs = show(store, FeatureId(SAE, 0)), show(release, FeatureId(SAE, 0))
    assert [e.text for e in ours.explanations] == [e.text for e in theirs.explanations]
    assert [w.activations for w in theirs.windows] == [w.activations for w in ours.windows]
    assert [w.activations for w in ours.windows] == [(0.0, 3.0, 1.0), (0.0, 2.5, 0.0)]
    assert show(store, FeatureId(SAE, 0), n_windows=1).windows == ours.windows[:1]


def test_failures_masks_and_undefined_scores_are_said(store: Path) -> None:
    assert "failed: UnparsableAnswerError: no JSON" in render_feature(show(store, FeatureId(SAE, 4))).plain
    assert "undefined, true activity is constant" in render_feature(show(store, FeatureId(SAE, 3))).plain
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = NULL, masked = true WHERE feature = 1")
        db.execute(
            "UPDATE features SET density = NULL, mean = NULL, maximum = NULL, q999 = NULL, n_tokens = NULL"
        )
    text = render_feature(show(store, FeatureId(SAE, 1))).plain
    assert "\nmasked\n" in text
    assert "no statistics" in text


def test_highlighting_is_in_proportion_and_harmless() -> None:
    text = highlight(("a", "b\x1b[31m", "\n", "c"), (0.0, 1.0, 0.0, 2.0), 2.0)
    assert text.plain == "ab [31m⏎c"
    styles = {text.plain[s.start : s.end]: str(s.style) for s in text.spans if s.style}
    assert styles == {"b [31m": "black on rgb(255,198,100)", "c": "black on rgb(255,140,0)"}
    long = highlight(tuple("x" * 100), (*[0.0] * 50, 1.0, *[0.0] * 49), 1.0)
    assert long.plain == "…" + "x" * 49 + "…"


def test_marks_survive_a_pipe_and_long_explanations_are_cut(store: Path) -> None:
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = ? WHERE feature = 0", ["long " * 100])
    command = ["catalog", "show", f"{SAE}#0", "--store", str(store)]
    printed = CliRunner().invoke(cli, command).output
    assert "They «smuggled» «people»" in printed
    assert "long " * 60 + "… (--full shows 500 characters)" in printed.replace("\n", " ").replace("  ", " ")
    assert "…" not in CliRunner().invoke(cli, [*command, "--full"]).output


def test_no_line_is_broken_in_a_pipe(store: Path) -> None:
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = ? WHERE feature = 0", ["long words " * 90])
    out = CliRunner().invoke(cli, ["catalog", "show", f"{SAE}#0", "--full", "--store", str(store)]).output
    assert ("long words " * 90).strip() in [line.strip() for line in out.splitlines()]


def test_pieces_of_one_character_are_shown_as_that_character(store: Path) -> None:
    with open_writer(store) as db:
        db.execute(r"UPDATE windows SET tokens = ['在\xe4', '\xb8', '\x80'] WHERE window_id = 0")
    (window, _) = show(store, FeatureId(SAE, 0)).windows
    assert (window.tokens, window.activations) == (("在一",), (3.0,))


def test_an_unknown_feature_says_what_there_is(store: Path) -> None:
    with pytest.raises(NotFoundError, match="no feature other#1; its SAEs are toy-l2"):
        show(store, FeatureId("other", 1))


def test_stats_by_hand(store: Path, tmp_path: Path) -> None:
    stats = catalog_stats(store, plot=tmp_path / "plots" / "scores.png")
    figures = stats.saes[SAE]
    assert (figures.features, figures.explained, figures.failed, figures.scored, figures.undefined) == (
        16,
        4,
        1,
        3,
        1,
    )
    assert (figures.mean, figures.median) == (pytest.approx(0.4), pytest.approx(0.4))
    # of 0.2, 0.4, 0.6 by linear interpolation
    assert (figures.q10, figures.q90) == (pytest.approx(0.24), pytest.approx(0.56))
    assert figures.chance == pytest.approx(0.05)
    assert stats.layers == {2: figures}
    assert {domain: f.features for domain, f in stats.domains.items()} == {"illegal_goods": 2, "violence": 1}
    assert stats.domains["illegal_goods"].scored == 1
    assert stats.tags == {"illegal_goods": 1, "insult": 1, "smuggling": 1, "violence": 1}
    assert (tmp_path / "plots" / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_of_scores_has_a_title_a_dot_per_score_and_counted_names(
    store: Path, tmp_path: Path
) -> None:
    catalog_stats(store, plot=tmp_path / "scores.svg")
    drawn = (tmp_path / "scores.svg").read_text()
    for text in (
        "Scores of 3 explanations",
        "by layer",
        "by domain",
        "2 (3)",
        "illegal_goods (1)",
        "violence (1)",
    ):
        assert f"<!-- {text} -->" in drawn, text
    dots = re.findall(r"PathCollection_\d+.*?</g>\s*</g>", drawn, re.DOTALL)
    assert [part.count("<use ") for part in dots] == [3, 1, 1]
    with pytest.raises(
        ConfigError, match=r"st.foo: a plot is written as \.png, \.svg, \.pdf; name such a file"
    ):
        catalog_stats(store, plot=tmp_path / "st.foo")
    with pytest.raises(DataError, match=r"cannot write /proc/scores.png"):
        catalog_stats(store, plot=Path("/proc/scores.png"))


def test_tags_outside_the_taxonomy_stand_for_themselves(store: Path) -> None:
    with open_writer(store) as db:
        db.execute("INSERT INTO tags VALUES (?, 2, 'baking', 'theirs', NULL)", [SAE])
    assert catalog_stats(store).domains["baking"].features == 1


def test_without_scores_there_is_no_plot(store: Path, tmp_path: Path) -> None:
    with open_writer(store) as db:
        db.execute("DELETE FROM scores")
    with pytest.raises(NotFoundError, match="no score to plot"):
        catalog_stats(store, plot=tmp_path / "scores.png")
    assert catalog_stats(store).saes[SAE].mean is None
