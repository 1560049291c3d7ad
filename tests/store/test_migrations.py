"""Migrations: whole or not at all, once, in order."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from safesail.cli.main import cli
from safesail.errors import SchemaVersionError
from safesail.store.connection import Db, open_reader, open_writer
from safesail.store.migrations import MIGRATIONS, Migration, migrate, migration
from safesail.store.sql import Row, rows, value


@contextmanager
def one_more(step: Migration) -> Generator[None, None, None]:
    """A version of Safe-SAIL with one more migration."""
    migration(step)
    try:
        yield
    finally:
        MIGRATIONS.remove(step)


def tables(db: Db) -> set[str]:
    return {r[0] for r in rows(db, "SELECT table_name FROM duckdb_tables()")}


def m900_adds(db: Db) -> None:
    db.execute("CREATE TABLE added (a INTEGER)")
    db.execute("INSERT INTO added VALUES (7)")


def m901_breaks_off(db: Db) -> None:
    db.execute("CREATE TABLE half (a INTEGER)")
    raise KeyboardInterrupt


def test_migrating_twice_changes_nothing(db: Db) -> None:
    before = tables(db)
    migrate(db)
    assert tables(db) == before
    assert rows(db, "SELECT applied FROM schema_version") == [(step.__name__,) for step in MIGRATIONS]


def test_a_half_done_migration_leaves_nothing(db: Db) -> None:
    before = tables(db), rows(db, "FROM schema_version")
    with one_more(m900_adds), one_more(m901_breaks_off), pytest.raises(KeyboardInterrupt):
        migrate(db)
    assert (tables(db), rows(db, "FROM schema_version")) == before
    with one_more(m900_adds):
        migrate(db)
        assert value(db, "SELECT a FROM added") == 7


def test_an_older_store_is_read_after_it_was_migrated(tmp_path: Path) -> None:
    path = tmp_path / "store.duckdb"
    with open_writer(path):
        pass
    with one_more(m900_adds):
        with (
            pytest.raises(SchemaVersionError, match=r"lacks m900_adds.*safesail migrate --store"),
            open_reader(path),
        ):
            pass
        done = CliRunner().invoke(cli, ["migrate", "--store", str(path)], catch_exceptions=False)
        assert done.stdout == f"{path} is up to date\n"
        with open_reader(path) as db:
            assert value(db, "SELECT a FROM added") == 7
    with pytest.raises(SchemaVersionError, match=r"m900_adds.*upgrade safesail"), open_reader(path):
        pass


FILL = """
    INSERT INTO subject_models VALUES ('m', 'f', 8, 2);
    INSERT INTO saes VALUES
        ('a', 1, 'm', 0, 'h', 8, 9, 'topk', 2, 's', 'x'), ('b', 2, 'm', 1, 'h', 8, 9, 'topk', 2, 't', 'x');
    INSERT INTO harvests VALUES (1, 'one', 'm', 'f', '{}', 64, true);
    INSERT INTO harvest_saes VALUES (1, 1), (2, 1);
    INSERT INTO windows SELECT 1, i, concat('d', i), 0, 'train', [i], ['t'] FROM range(3) t(i);
    INSERT INTO activations_f32 VALUES (1, 3, 70, 0, 2.5), (1, 3, 64, 0, 1.5), (1, 4, 4 * 192 + 2, 192, 1.5);
    INSERT INTO activations_u8 VALUES (2, 3, 3 * 192 + 131, 192, 255);
    INSERT INTO activation_scales VALUES (2, 3, 8.0);
    INSERT INTO features SELECT s, f, 1, 192, 1, 0.5, 1, 1, 1, 1, 1, ['t']
        FROM (VALUES ('a'), ('b')) t(s), range(9) r(f);
    INSERT INTO explanations BY NAME
        SELECT concat(s, f, v) AS explanation_id, s AS sae_id, f AS feature, concat('text ', v) AS text,
               'e' AS explainer, 'run' AS origin
        FROM (VALUES ('a'), ('b')) t(s), range(2, 5) r(f), (VALUES (1), (2)) u(v) ORDER BY v, f, s;
    INSERT INTO scores BY NAME
        SELECT explanation_id, sae_id, feature, 'segment' AS method, 'sim' AS simulator, 0.25 AS value, 0 AS chance
        FROM explanations;
    INSERT INTO sae_scores SELECT 's', 'a', 'all', 'all', m, 0.5, NULL, NULL, NULL, NULL, 4, NULL
        FROM (VALUES ('isolation'), ('isolation_t'), ('i_cdf')) t(m);
    INSERT INTO tags VALUES ('a', 3, 'x', 'explainer', 2), ('a', 3, 'y', 'explainer', 1), ('a', 3, 'x', 'person', 0);
"""


def contents(db: Db, views: Sequence[str]) -> dict[str, list[Row]]:
    """Every table's rows, and those of views, whatever the columns are called."""
    return {name: rows(db, f"FROM {name} ORDER BY ALL") for name in (*sorted(tables(db)), *views)}


def test_a_store_of_the_version_before_keeps_every_row_and_view(tmp_path: Path) -> None:
    path = tmp_path / "store.duckdb"
    before_it = "(SELECT sae_key, feature, token, value FROM activations)"
    views = ["catalog", "exemplars", "ledger", before_it]
    with duckdb.connect(path) as old:
        old.execute((Path(__file__).parent / "schema_m002.sql").read_text(encoding="utf-8"))
        old.execute(FILL)
        before = contents(old, views)
    assert len(before["catalog"]) == 18 and len(before["exemplars"]) == 3 and len(before[before_it]) == 4
    with pytest.raises(SchemaVersionError, match="lacks m003_names"), open_reader(path):
        pass
    with open_writer(path):
        pass
    with open_reader(path) as db:
        after = contents(db, views)
        version = after.pop("schema_version")
        assert len(before.pop("activation_bins")) == 0
        assert before.pop("schema_version") == version[:2]
        assert [r[4] for r in after.pop("sae_scores")] == ["i_cdf", "pair_isolation", "pair_isolation_t"]
        assert [r[4] for r in before.pop("sae_scores")] == ["i_cdf", "isolation", "isolation_t"]
        # The catalog names the simulator too; scores know of no run or settings, and none is lost.
        assert [(*r[:13], r[14]) for r in after.pop("catalog")] == before.pop("catalog")
        assert [(*r[:17], r[20]) for r in after["scores"]] == before.pop("scores")
        assert {(*r[17:20], *r[21:]) for r in after.pop("scores")} == {
            (None, None, "unknown", None, None, None)
        }
        for name in ("separations", "sae_aliases", "pools", "effects", "logit_lens", "intruder_scores"):
            assert after.pop(name) == []
        assert after == before
        assert shape(db) == newest_shape(tmp_path)


def test_activations_of_the_first_version_keep_their_tokens(tmp_path: Path) -> None:
    path = tmp_path / "store.duckdb"
    with duckdb.connect(path) as old:
        old.execute((Path(__file__).parent / "schema_m002.sql").read_text(encoding="utf-8"))
        old.execute("DROP VIEW exemplars; DROP VIEW activations")
        old.execute("DELETE FROM schema_version WHERE applied <> 'm001_tables_and_views'")
        for table in ("activations_f32", "activations_u8"):
            old.execute(f"ALTER TABLE {table} DROP COLUMN stride; ALTER TABLE {table} RENAME place TO token")
        old.execute("INSERT INTO harvests VALUES (1, 'one', 'm', 'f', '{}', 64, true)")
        old.execute("INSERT INTO harvest_saes VALUES (1, 1), (2, 1)")
        old.execute("INSERT INTO activations_f32 VALUES (1, 3, 70, 2.5), (1, 4, 2, 1.5)")
        old.execute("INSERT INTO activations_u8 VALUES (2, 3, 71, 255)")
        old.execute("INSERT INTO activation_scales VALUES (2, 3, 8.0)")
    with pytest.raises(SchemaVersionError, match="lacks m002_places"), open_reader(path):
        pass
    with open_writer(path):
        pass
    with open_reader(path) as db:
        assert rows(db, "SELECT sae_key, feature, token, value FROM activations ORDER BY ALL") == [
            (1, 3, 70, 2.5), (1, 4, 2, 1.5), (2, 3, 71, 8.0),
        ]  # fmt: skip
        assert rows(db, "SELECT DISTINCT stride FROM activations_f32") == [(0,)]


def shape(db: Db) -> dict[str, list[Row]]:
    """Names and types of the columns of every table and view."""
    of = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
    return {"columns": rows(db, of)}


def newest_shape(folder: Path) -> dict[str, list[Row]]:
    with open_writer(folder / "new.duckdb") as db:
        return shape(db)
