from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from safesail.domain.records import Concept
from safesail.errors import DataError
from safesail.sae.protocol import SAE
from safesail.selection.batches import cut_chunks, tokenize_pairs
from safesail.selection.config import SelectionConfig
from safesail.selection.parts import part_name
from safesail.selection.run import run_selection, selection_id
from safesail.store.connection import open_writer
from safesail.subject.protocol import Subject
from tests.selection_kills import Moment, Setup, contents, select_alone

IN_SECOND_CHUNK = Moment("safesail.subject.causal", "CausalModel.run", 6)
"""After one token to check the SAEs, and four batches of the first chunk."""


@pytest.fixture
def setup(
    model_dir: Path, tmp_path: Path, make_sae: Callable[..., SAE], concepts: tuple[Concept, ...]
) -> Setup:
    """Two SAEs, three chunks of one concept each, and one of a concept without pairs."""
    make_sae("one", detects=("bomb", "dog"), noise=10)
    make_sae("three", noise=20, hook="blocks.1.hook_mlp_out")
    empty = Concept("violence.nothing", "violence", None, "n", "no pair", ())
    return Setup(
        model=str(model_dir),
        saes=(str(tmp_path / "one"), str(tmp_path / "three")),
        concepts=(*concepts, empty),
        config=SelectionConfig(draws=50, batch_tokens=48),
        chunk_pairs=12,
    )


@pytest.mark.parametrize(
    ("moment", "finished", "least", "most"),
    [
        (Moment("os", "fsync", 3), 0, 0.5, 0.8),  # half-way in writing the second chunk's first part
        (Moment("os", "fsync", 4), 0, 0.5, 0.8),  # one SAE is a chunk ahead of the other
        (Moment("safesail.store.selection", "insert", 5), 0, 0.0, 0.0),  # writing the first SAE's figures
        (
            Moment("shutil", "rmtree", 2),
            2,
            0.0,
            0.0,
        ),  # all is written, and the last SAE's parts are still there
    ],
)
def test_a_killed_selection_goes_on_as_if_nothing_had_happened(
    setup: Setup, tmp_path: Path, moment: Moment, finished: int, least: float, most: float
) -> None:
    whole = select_alone(setup, tmp_path / "whole.duckdb")
    store = tmp_path / "store.duckdb"
    select_alone(setup, store, kill=moment)
    assert Path(f"{store}.selection").is_dir()
    # What was found of an SAE is no figure until all of it is.
    assert len(contents(store)["selections"]) == finished
    assert bool(contents(store)["sae_scores"]) == bool(contents(store)["feature_concepts"]) == bool(finished)
    again = select_alone(setup, store)
    assert whole is not None
    assert again is not None
    assert least <= again / whole <= most
    assert contents(store) == contents(tmp_path / "whole.duckdb")
    assert not Path(f"{store}.selection").exists()
    assert not Path(f"{tmp_path / 'whole.duckdb'}.selection").exists()


def test_other_settings_and_another_sae_take_nothing_from_a_killed_selection(
    setup: Setup, tmp_path: Path
) -> None:
    other = replace(setup, config=setup.config.model_copy(update={"min_lift": 0.5, "draws": 40}))
    for kind in (setup, other):
        select_alone(kind, tmp_path / f"{kind.config.draws}.duckdb")
    one, whole = tmp_path / "one.duckdb", tmp_path / "50.duckdb"
    select_alone(replace(setup, saes=setup.saes[:1]), one)
    store = tmp_path / "store.duckdb"
    select_alone(replace(setup, saes=setup.saes[:1]), store, kill=IN_SECOND_CHUNK)
    everything = select_alone(other, store)
    assert contents(store) == contents(tmp_path / "40.duckdb")
    # The second SAE has nothing yet: the model sees all texts once more, the first SAE only what it lacks.
    assert select_alone(setup, store) == everything
    found, left = contents(store), contents(tmp_path / "40.duckdb")
    for table in ("selections", "sae_scores", "feature_concepts"):
        assert [row for row in found[table] if row not in left[table]] == contents(whole)[table]


def test_an_sae_is_not_run_again_on_chunks_that_it_has(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.harvest_kills_child import load

    monkeypatch.setattr("safesail.selection.batches._CHUNK_PAIRS", setup.chunk_pairs)
    store = tmp_path / "store.duckdb"
    select_alone(replace(setup, saes=setup.saes[:1]), store, kill=IN_SECOND_CHUNK)
    subject, saes = load(setup.model, setup.saes)
    n_tokens = dict.fromkeys((sae.info.sae_id for sae in saes), 0)
    for sae in saes:
        encode, name = sae.encode, sae.info.sae_id

        def counted(x: object, encode: Callable[..., object] = encode, name: str = name) -> object:
            n_tokens[name] += len(x)  # pyright: ignore[reportArgumentType]
            return encode(x)

        monkeypatch.setattr(sae, "encode", counted)
    with open_writer(store) as db:
        result = run_selection(db, subject, saes, setup.concepts, setup.config, quiet=True)
    assert n_tokens["three"] == result.n_tokens
    assert 0.5 < n_tokens["one"] / result.n_tokens < 0.8


def test_in_another_order_a_killed_selection_ends_the_same(setup: Setup, tmp_path: Path) -> None:
    setup = replace(setup, chunk_pairs=24)
    turned = replace(setup, concepts=setup.concepts[::-1])
    select_alone(turned, tmp_path / "whole.duckdb")
    store = tmp_path / "store.duckdb"
    select_alone(setup, store, kill=Moment("os", "fsync", 3))
    select_alone(turned, store)
    assert contents(store) == contents(tmp_path / "whole.duckdb")
    assert not Path(f"{store}.selection").exists()


def test_a_parts_name_tells_all_that_can_change_its_last_digit(
    subject: Subject, concepts: tuple[Concept, ...]
) -> None:
    def names(some: Sequence[Concept], batch_tokens: int = 48) -> tuple[str, ...]:
        config = SelectionConfig(batch_tokens=batch_tokens)
        pairs = tokenize_pairs(some, subject.tokenize, subject.n_ctx_max, config)
        return tuple(part_name(chunk, some) for chunk in cut_chunks(pairs, config.batch_tokens))

    renamed = (replace(concepts[0], concept_id="violence.other"), *concepts[1:])
    turned = (replace(concepts[0], pairs=concepts[0].pairs[::-1]), *concepts[1:])
    found = {names(concepts), names(concepts, 96), names(concepts[::-1]), names(renamed), names(turned)}
    assert len(found) == 5
    assert names(concepts) in found


def test_a_killed_selection_with_a_quantile_starts_anew(setup: Setup, tmp_path: Path) -> None:
    setup = replace(setup, config=setup.config.model_copy(update={"activity_quantile": 0.5}))
    whole = select_alone(setup, tmp_path / "whole.duckdb")
    store = tmp_path / "store.duckdb"
    select_alone(setup, store, kill=Moment("os", "fsync", 3))
    assert select_alone(setup, store) == whole
    assert contents(store) == contents(tmp_path / "whole.duckdb")


def test_a_broken_part_is_named(
    setup: Setup, tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.harvest_kills_child import load

    monkeypatch.setattr("safesail.selection.batches._CHUNK_PAIRS", setup.chunk_pairs)
    store = tmp_path / "store.duckdb"
    select_alone(setup, store, kill=IN_SECOND_CHUNK)
    subject, (one, *_) = load(setup.model, setup.saes)
    folder = Path(f"{store}.selection") / selection_id(subject.info, one, setup.concepts, setup.config)
    (part,) = folder.glob("*.npz")
    part.write_bytes(part.read_bytes()[:1000])
    with open_writer(store) as db, pytest.raises(DataError, match=r"\.npz is missing or broken .* remove"):
        run_selection(db, subject, [one], setup.concepts, setup.config, quiet=True)
    part.unlink()
    with open_writer(store) as db:
        assert run_selection(db, subject, [one], setup.concepts, setup.config, quiet=True).best == "one"
