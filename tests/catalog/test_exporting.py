"""Exports, read back by readers written from the formats' schemas alone."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from safesail.catalog.config import ImportOptions
from safesail.catalog.exporting import ExportFormat, export_catalog
from safesail.catalog.importing import import_catalog
from safesail.cli.main import cli
from safesail.errors import ConfigError, DataError, NotFoundError
from safesail.store.connection import open_writer
from tests.catalog.toy import SAE, TEXTS


def read_neuronpedia(folder: Path, kind: str) -> list[dict[str, object]]:
    """A reader by the schema: v1/<modelId>/<sourceId>/<kind>/batch-N.jsonl.gz, one object a line."""
    found: list[dict[str, object]] = []
    for path in sorted((folder / "v1").glob(f"*/*/{kind}/batch-*.jsonl.gz")):
        model, source = path.parts[-4], path.parts[-3]
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            row = json.loads(line)
            assert (row["modelId"], row["layer"]) == (model, source)
            assert isinstance(row["index"], str)
            found.append(row)
    return found


def test_neuronpedias_layout_is_read_back(store: Path, tmp_path: Path) -> None:
    report = export_catalog(store, tmp_path / "np", "neuronpedia")
    assert (report.explanations, report.left_out) == (4, {"failed": 1})
    explanations = read_neuronpedia(tmp_path / "np", "explanations")
    assert {row["index"]: row["description"] for row in explanations} == {str(i): t for i, t in TEXTS.items()}
    assert set(explanations[0]) == {
        "id", "modelId", "layer", "index", "authorId", "description", "typeName", "explanationModelName", "notes",
        "embedding"}  # fmt: skip
    assert read_neuronpedia(tmp_path / "np", "features")[0]["frac_nonzero"] == 0.1
    strongest = read_neuronpedia(tmp_path / "np", "activations")[0]
    assert (strongest["values"], strongest["maxValue"], strongest["maxValueTokenIndex"]) == (
        [0.0, 3.0, 1.0],
        3.0,
        1,
    )


def test_neuronpedias_layout_is_imported_again_by_ourselves(store: Path, tmp_path: Path) -> None:
    export_catalog(store, tmp_path / "np", "neuronpedia")
    assert len(NeuronpediaImporter(tmp_path / "np/v1/toy/2-toy-l2").rows["Activation"]) == 3
    report = import_catalog(tmp_path / "b.duckdb", tmp_path / "np", ImportOptions(name="back"))
    # feature 0's two windows have the same tokens, and the layout has no other name for a window
    assert (report.format, report.rows["explanations"], report.rows["exemplars"]) == ("neuronpedia", 4, 2)
    assert report.fault("repeated window") == 1


REQUIRED = {
    "SourceRelease": {"name", "description", "creatorName", "creatorId"},
    "Model": {"id", "creatorId", "layers", "neuronsPerLayer", "owner"},
    "SourceSet": {"modelId", "name", "description", "creatorName", "creatorId"},
    "Source": {"id", "modelId", "setName", "creatorId"},
    "Neuron": {"modelId", "layer", "index"},
    "Explanation": {"id", "modelId", "layer", "index", "description", "authorId"},
    "Activation": {"id", "tokens", "index", "layer", "modelId", "maxValue", "maxValueTokenIndex", "minValue", "values",
                   "creatorId"},
}  # fmt: skip
"""Columns of Neuronpedia's tables (prisma schema) that are not null and have no default of the database's own."""


class NeuronpediaImporter:
    """As Neuronpedia's import does it: metadata first, then batches in the order of a listing, columns by first line,
    rows refused that lack what a table needs or refer to what is not there, known keys passed over."""

    def __init__(self, folder: Path) -> None:
        self.rows: dict[str, dict[tuple[str, ...], dict[str, object]]] = {table: {} for table in REQUIRED}
        for file, table in (("release", "SourceRelease"), ("model", "Model"), ("sourceset", "SourceSet"),
                            ("source", "Source")):  # fmt: skip
            self.insert(table, (folder / f"{file}.jsonl").read_text())
        for kind, table in (
            ("features", "Neuron"),
            ("explanations", "Explanation"),
            ("activations", "Activation"),
        ):
            for path in sorted((folder / kind).glob("*.jsonl.gz"), key=str):
                self.insert(table, gzip.decompress(path.read_bytes()).decode())

    def insert(self, table: str, content: str) -> None:
        lines = [json.loads(line) for line in content.strip().split("\n")]
        columns = set(lines[0])
        for line in lines:
            assert set(line) == columns, f"{table}: a column that the first line lacks would be lost"
            row = {name: cell for name, cell in line.items() if name in columns}
            assert not (missing := {n for n in REQUIRED[table] if row.get(n) is None}), (
                f"{table} lacks {missing}"
            )
            assert row.get("frac_nonzero", 0) is not None, "not null in their table"
            self.refers(table, row)
            key = {"Neuron": ("modelId", "layer", "index"), "Model": ("id",), "SourceRelease": ("name",),
                   "SourceSet": ("modelId", "name"), "Source": ("modelId", "id")}.get(table, ("id",))  # fmt: skip
            self.rows[table].setdefault(tuple(str(row[name]) for name in key), row)

    def refers(self, table: str, row: dict[str, object]) -> None:
        if table in ("Explanation", "Activation"):
            assert tuple(str(row[n]) for n in ("modelId", "layer", "index")) in self.rows["Neuron"]
        if table == "Neuron":
            assert (row["modelId"], row["layer"]) in self.rows["Source"]
        if table == "Explanation":
            known = {None, "gpt-4o-mini"}  # of its configuration
            assert row["explanationModelName"] in known and row["typeName"] in {None, "oai_token-act-pair"}


def test_neuronpedias_own_importer_takes_it_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    sae, n = "gpt2-small/3-res", 2500
    with open_writer(path) as db:
        db.execute("INSERT INTO subject_models VALUES ('gpt2-small', NULL, 768, 12)")
        db.execute(
            "INSERT INTO saes VALUES (?, 1, 'gpt2-small', 3, 'blocks.3.hook_resid_pre', 768, 24576, 'standard',"
            " NULL, NULL, 'x')", [sae],
        )  # fmt: skip
        db.execute(
            "INSERT INTO features (sae_id, feature, density) SELECT ?, i, i / 1e5 FROM range(?) t(i)",
            [sae, n],
        )
        for by in ("gpt-4o-mini / oai_token-act-pair", "lexical (built-in)"):
            db.execute(
                "INSERT INTO explanations (explanation_id, sae_id, feature, text, explainer, origin)"
                " SELECT concat(left(?, 2), i), ?, i, concat('about ', i), ?, 'run' FROM range(?) t(i)",
                [by, sae, by, n],
            )
    export_catalog(path, tmp_path / "np", "neuronpedia")
    folder = tmp_path / "np/v1/gpt2-small/3-res"
    taken = NeuronpediaImporter(folder)
    assert {table: len(rows) for table, rows in taken.rows.items()} == {
        "SourceRelease": 1, "Model": 1, "SourceSet": 1, "Source": 1, "Neuron": n, "Explanation": 2 * n,
        "Activation": 0}  # fmt: skip
    first = [str(row["index"]) for row in read_neuronpedia(tmp_path / "np", "features")]
    assert first == sorted(map(str, range(n))), "cut in the text order of the index"
    back = import_catalog(tmp_path / "back.duckdb", tmp_path / "np", ImportOptions(name="back"))
    assert (back.rows["explanations"], back.faults) == (2 * n, ())
    with open_writer(tmp_path / "back.duckdb") as db:
        assert {row[0] for row in db.execute("SELECT DISTINCT explainer FROM explanations").fetchall()} == {
            "gpt-4o-mini / oai_token-act-pair", "lexical (built-in)"}  # fmt: skip


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_plain_tables_hold_failures_too(store: Path, tmp_path: Path, form: ExportFormat) -> None:
    out = tmp_path / f"out.{form}"
    assert export_catalog(store, out, form).explanations == 5
    if form == "csv":
        found = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
        assert [row["tags"] for row in found] == ["smuggling", "violence;insult", "", "illegal_goods", ""]
        assert found[3]["score"] == ""
    else:
        found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert (found[0]["score"], found[3]["score"], found[4]["error"]) == (
            0.6,
            None,
            "UnparsableAnswerError",
        )
    assert [row["text"] or None for row in found] == [*TEXTS.values(), None]


def test_safe_sails_format_names_what_it_cannot_hold(store: Path, tmp_path: Path) -> None:
    report = export_catalog(store, tmp_path / "db.json", "safe-sail")
    assert (report.explanations, report.left_out) == (4, {"failed": 1})
    assert json.loads((tmp_path / "db.json").read_text())["2_1"] == {
        "explanation": TEXTS[1], "correlation_score": 0.4, "tag_list": ["violence", "insult"]}  # fmt: skip
    with open_writer(store) as db:
        db.execute("INSERT INTO saes SELECT 'twin', 99, model_id, layer, hook, d_in, d_sae, architecture, k, sha256,"
                   " source FROM saes")  # fmt: skip
        db.execute("INSERT INTO features (sae_id, feature) VALUES ('twin', 1)")
        db.execute("INSERT INTO explanations (explanation_id, sae_id, feature, text, explainer, origin)"
                   " VALUES ('t1', 'twin', 1, 'x', 'w', 'theirs'), ('t2', 'twin', 1, 'y', 'w', 'theirs')")  # fmt: skip
    with pytest.raises(ConfigError, match="are both of layer 2"):
        export_catalog(store, tmp_path / "two.json", "safe-sail")
    report = export_catalog(store, tmp_path / "theirs.json", "safe-sail", origin="theirs")
    assert report.left_out == {"further explanation of a feature": 1}
    with open_writer(store) as db:
        db.execute("UPDATE saes SET layer = NULL WHERE sae_id = ?", [SAE])
    with pytest.raises(ConfigError, match="has no layer"):
        export_catalog(store, tmp_path / "none.json", "safe-sail", origin="run")
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_overwritten_and_nothing_empty_is_written(store: Path, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export_catalog(store, tmp_path / "there.csv", "csv")
    with pytest.raises(NotFoundError, match="no explanation from 'nobody' in 'en'"):
        export_catalog(store, tmp_path / "none.csv", "csv", origin="nobody")
    assert not (tmp_path / "none.csv").exists()
    with pytest.raises(
        NotFoundError, match="no explanation in 'fr'; there are some in en: name one with --lang"
    ):
        export_catalog(store, tmp_path / "none.csv", "csv", lang="fr")
    with pytest.raises(
        ConfigError, match=r"the format neuronpedia is a folder .*np\.json is named like one file"
    ):
        export_catalog(store, tmp_path / "np.json", "neuronpedia")
    with pytest.raises(DataError, match=r"cannot write /proc/out\.csv") as caught:
        export_catalog(store, Path("/proc/out.csv"), "csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_a_csv_file_is_run_by_a_spreadsheet(store: Path, tmp_path: Path, start: str) -> None:
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = ? WHERE feature = 0", [f"{start}HYPERLINK(1)"])
        db.execute("UPDATE scores SET value = -0.5 WHERE feature = 0")
    export_catalog(store, tmp_path / "out.csv", "csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        row = next(csv.DictReader(stream))
    assert (row["text"], row["score"]) == (f"'{start.replace(chr(13), chr(10))}HYPERLINK(1)", "-0.5")
    query = ["catalog", "query", "SELECT explanation FROM catalog LIMIT 1", "--csv", "--store", str(store)]
    assert f"'{start.strip()}" in CliRunner().invoke(cli, query).output
