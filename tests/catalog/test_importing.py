"""Other people's catalogs: real ones, and faulty ones."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from safesail.catalog.api import open_catalog
from safesail.catalog.config import ColumnMap, ImportOptions, ReleaseOptions
from safesail.catalog.download import download
from safesail.catalog.exporting import export_catalog
from safesail.catalog.gather import Gathered, ImportReport
from safesail.catalog.importers.delphi import balanced_accuracy
from safesail.catalog.importers.neuronpedia import layer_of_source
from safesail.catalog.importing import Format, detect, import_catalog
from safesail.catalog.release import build_release
from safesail.catalog.verify import verify_release
from safesail.domain.ids import FeatureId
from safesail.domain.records import SubjectInfo
from safesail.errors import ConfigError, DataError, FingerprintError, NotFoundError, SafeSailError
from safesail.store.connection import open_reader, open_writer
from safesail.store.imports import add_tables, begin_import
from safesail.store.registry import register_sae, register_subject
from safesail.store.sql import rows

QWEN: dict[str, Any] = {
    "model": "Qwen2.5-3B-Instruct",
    "sae": "safe-sail-{source}",
    "hook": "blocks.{layer}.hook_mlp_out",
    "d_in": 2048,
    "d_sae": 20480,
}


def bring(
    tmp_path: Path, source: Path, name: str = "theirs", form: Format | None = None, **options: Any
) -> ImportReport:
    return import_catalog(tmp_path / "s.duckdb", source, ImportOptions(name=name, **options), form=form)


def dump(store: Path) -> dict[str, list[Any]]:
    with open_reader(store) as db:
        names = ("saes", "features", "explanations", "tags", "scores", "activations", "windows", "imports")
        return {name: rows(db, f"SELECT * FROM {name} ORDER BY ALL") for name in names}


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False))
    return path


def entry(
    text: str | None = "a text", score: float | None = 0.5, tags: list[str] | None = None
) -> dict[str, Any]:
    return {"explanation": text, "correlation_score": score, "tag_list": tags or []}


@pytest.mark.shared
def test_safe_sails_database_goes_in_out_and_round_and_is_the_same(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "catalogs/safe_sail_qwen2.5_3b/en_db.json"
    report = bring(tmp_path, source, name="safe-sail", **QWEN)
    assert report.format == "safe-sail"
    assert (report.rows["features"], report.rows["explanations"], report.rows["scores"]) == (4700, 4700, 4700)
    assert {f.kind: f.n for f in report.faults} == {
        "control characters": 1, "empty": 13, "masked": 1144, "masked in part": 5}  # fmt: skip
    before = dump(tmp_path / "s.duckdb")
    again = bring(tmp_path, source, name="safe-sail", **QWEN)
    assert set(again.new.values()) == {0}
    assert dump(tmp_path / "s.duckdb") == before

    build_release(tmp_path / "s.duckdb", tmp_path / "r.zip", ReleaseOptions(name="safe-sail"))
    assert verify_release(tmp_path / "r.zip").counts.tagged == 1758
    folder = download(str(tmp_path / "r.zip"), tmp_path / "r", quiet=True)
    import_catalog(tmp_path / "empty.duckdb", folder, ImportOptions(name="safe-sail"))
    for store in ("s.duckdb", "empty.duckdb", "r"):
        out = tmp_path / f"{store}.json"
        export_catalog(tmp_path / store, out, "safe-sail")
        assert out.read_bytes() == source.read_bytes()

    with open_catalog(tmp_path / "empty.duckdb") as catalog:
        stats = catalog.stats()
    assert stats.tags == {"politics": 1144, "violence": 582, "pornography": 309, "terror": 63}
    assert {layer: f.features for layer, f in stats.layers.items()} == {
        0: 1343,
        8: 1350,
        17: 843,
        26: 772,
        35: 392,
    }
    assert stats.domains["politics"].explained == 0, "all of them are masked by their source"


@pytest.mark.shared
def test_saedashboards_batch(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "catalogs/saedashboard_neuronpedia_batch"
    report = bring(tmp_path, source)
    assert (report.format, report.rows["features"], report.new["exemplars"]) == ("saedashboard", 2, 20)
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        shown = catalog.show(FeatureId("gpt2-small/0-res-jb", 0))
    assert (shown.density, shown.layer) == (0.0002, 0)
    assert "brigade" in "".join(shown.windows[0].tokens)
    assert max(shown.windows[0].activations) == pytest.approx(2.214, abs=1e-3)
    assert {window.split for window in shown.windows} == {"train"}
    before = dump(tmp_path / "s.duckdb")
    assert set(bring(tmp_path, source).new.values()) == {0}
    assert dump(tmp_path / "s.duckdb") == before


@pytest.mark.shared
def test_delphis_files(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "catalogs/delphi_feature_labels"
    report = bring(tmp_path, source, model="gemma-3-4b-it")
    assert (report.format, report.rows["explanations"]) == ("delphi", 1)
    labels = source / "feature_labels_layer_20.excerpt.json"
    report = bring(
        tmp_path, labels, name="labels", model="gemma-3-4b-it", hook="language_model.layers.20.mlp"
    )
    assert (report.format, report.rows["explanations"]) == ("delphi-labels", 12)
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        found = catalog.query('SELECT layer, "index", explanation FROM catalog ORDER BY ALL')
    assert found["layer"].tolist() == [12] + [20] * 12
    assert found["explanation"].tolist()[2].startswith("Addresses and coordinates: Postal addresses")


@pytest.mark.shared
@pytest.mark.parametrize("layer", [10, 20])
def test_axbenchs_concepts_by_their_references(shared_dir: Path, tmp_path: Path, layer: int) -> None:
    source = shared_dir / f"catalogs/axbench_concepts/concept500__prod_2b_l{layer}_v1__metadata.jsonl"
    report = bring(tmp_path, source, columns=ColumnMap(text="concept", ref="ref"))
    assert (report.rows["explanations"], report.faults) == (500, ())
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        found = catalog.query("SELECT DISTINCT sae_id, layer FROM catalog")
    assert found.values.tolist() == [[f"gemma-2-2b/{layer}-gemmascope-res-16k", layer]]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("model", "features", "explanations", "faults"),
    [
        ("gemma-2-2b", 214, 246, {"no feature named": 1, "no text": 26, "repeated": 197}),
        ("pythia-70m-deduped", 276, 276, {"no feature named": 1, "repeated": 1}),
    ],
)
def test_feature_circuits_annotations(
    shared_dir: Path, tmp_path: Path, model: str, features: int, explanations: int, faults: dict[str, int]
) -> None:
    source = shared_dir / f"catalogs/feature_circuits_annotations/{model}.jsonl"
    report = bring(tmp_path, source, model=model, columns=ColumnMap(text="Annotation", ref="Name"))
    assert (report.rows["features"], report.rows["explanations"]) == (features, explanations)
    assert {f.kind: f.n for f in report.faults} == faults
    # a line of the file is a row, or a fault that says why not
    assert explanations + sum(faults.values()) == len(source.read_text().splitlines())


def test_language_pairs_masks_and_repeats_are_kept_and_counted(tmp_path: Path) -> None:
    en = {
        "3_1": entry("mail", 0.5, ["violence", "terror"]),
        "3_2": entry("***"),
        "3_3": entry(""),
        "3_03": entry("x"),
    }
    cn = {"3_1": entry("邮件", 0.5, ["terror", "violence"]), "3_9": entry("只有中文", 0.4)}
    write_json(tmp_path / "db/en_db.json", en)
    write_json(tmp_path / "db/cn_db.json", cn)
    report = bring(tmp_path, tmp_path / "db", model="m")
    assert {f.kind: f.n for f in report.faults} == {
        "masked": 1, "empty": 1, "in one language only": 4, "languages disagree": 1}  # fmt: skip
    assert report.rows["features"] == 4, "3_3 and 3_03 are one feature"
    with open_reader(tmp_path / "s.duckdb") as db:
        assert rows(db, "SELECT lang, count(*) FROM explanations GROUP BY 1 ORDER BY 1") == [
            ("en", 4),
            ("zh", 2),
        ]
        shown = dict(rows(db, 'SELECT "index", explanation FROM catalog ORDER BY 1'))
    assert (shown[1], shown[9]) == ("mail", "只有中文")
    export_catalog(tmp_path / "s.duckdb", tmp_path / "zh.json", "safe-sail", lang="zh")
    assert json.loads((tmp_path / "zh.json").read_text())["3_9"]["explanation"] == "只有中文"


NEURONPEDIA = {
    # as in the real export, the batches of explanations are cut in another order than those of features
    "features/batch-0": [{"modelId": "m", "layer": "4-res", "index": "2", "frac_nonzero": 0.25, "maxActApprox": 3.0},
                         {"modelId": "m", "layer": "4-res", "index": "10", "frac_nonzero": 0.5, "maxActApprox": 1.0}],
    "explanations/batch-0": [{"id": "x", "modelId": "m", "layer": "4-res", "index": "10", "description": "ten",
                              "typeName": "oai", "explanationModelName": "gpt"}],
    "explanations/batch-1": [{"id": "y", "modelId": "m", "layer": "4-res", "index": "2", "description": "two"}],
    "activations/batch-0": [{"modelId": "m", "layer": "4-res", "index": "10", "tokens": ["a", "b"],
                             "values": [0.0, 1.5]}],
}  # fmt: skip


def write_neuronpedia(folder: Path, content: dict[str, list[dict[str, Any]]]) -> Path:
    for name, lines in content.items():
        path = folder / "v1/m/4-res" / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    return folder


def test_neuronpedias_export_is_joined_by_identity(tmp_path: Path) -> None:
    report = bring(tmp_path, write_neuronpedia(tmp_path / "np", NEURONPEDIA))
    assert (report.format, report.rows["explanations"]) == ("neuronpedia", 2)
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        ten, two = (catalog.show(FeatureId("m/4-res", index)) for index in (10, 2))
    assert (ten.explanations[0].text, ten.explanations[0].explainer, ten.density) == ("ten", "gpt / oai", 0.5)
    assert (two.explanations[0].text, two.explanations[0].explainer, two.density) == (
        "two",
        "not stated",
        0.25,
    )
    assert ten.windows[0].activations == (0.0, 1.5)
    assert (ten.layer, ten.hook) == (4, "not stated")


def test_a_features_windows_may_lie_in_two_batches_and_come_once(tmp_path: Path) -> None:
    gathered = Gathered(ImportOptions(name="x"))
    feature = FeatureId(gathered.sae("4-res", layer=4, model="m"), 1)
    gathered.feature(feature)
    gathered.exemplar(feature, ["a", "b"], [0.0, 2.0])
    gathered.exemplar(feature, ["a", "b"], [0.0, 2.0])
    gathered.exemplar(feature, ["silent"], [0.0])
    first = gathered.take()
    gathered.exemplar(feature, ["c"], [1.0])
    assert {f.kind: f.n for f in gathered.faults()} == {"repeated window": 1}
    with open_writer(tmp_path / "s.duckdb") as db:
        register_subject(db, SubjectInfo("m"))
        register_sae(db, gathered.saes["m/4-res"])
        second = gathered.take()
        for expected in (1, 0):
            begin_import(db)
            for batch in (first, second):
                assert add_tables(db, batch, ("features", "exemplars"))["exemplars"] == expected
        found = rows(
            db, "SELECT maximum, tokens, positions, activations FROM exemplars ORDER BY maximum DESC"
        )
    assert found == [(2.0, ["a", "b"], [1], [2.0]), (1.0, ["c"], [0], [1.0])]


def test_delphis_scores_are_accuracies_and_its_failed_calls_are_counted(tmp_path: Path) -> None:
    write_json(tmp_path / "d/explanations/layers.3.mlp_latent7.txt", "cats")
    predictions = [{"activating": True, "prediction": True}] * 3 + [{"activating": True, "prediction": False}]
    predictions += [{"activating": False, "prediction": False}, {"activating": False, "prediction": None}]
    write_json(tmp_path / "d/scores/detection/layers.3.mlp_latent7.txt", predictions)
    write_json(tmp_path / "d/scores/detection/layers.3.mlp_latent8.txt", predictions)
    report = bring(tmp_path, tmp_path / "d", model="m")
    assert {f.kind: f.n for f in report.faults} == {"prediction failed": 1, "score without explanation": 1}
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        (score,) = catalog.show(FeatureId("m/layers.3.mlp", 7)).explanations[0].scores
    # hits: 3 of 4 active windows, 1 of 1 silent one
    assert (score.value, score.balanced_accuracy) == (None, pytest.approx((0.75 + 1.0) / 2))
    assert score.reason == "the scorer classifies windows; see balanced_accuracy"
    assert balanced_accuracy([(True, True)]) is None


def test_csv_with_a_map_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(
        "feature,label,r,domains,where\n"
        '5,"knives, guns",0.4,violence;weapons,a\n'
        "6,tax,nan,,a\n7,,0.1,,a\nx,lost,0.1,,a\n8,law,high,,b\n"
    )
    columns = ColumnMap(index="feature", text="label", score="r", tags="domains", sae="where")
    report = bring(tmp_path, path, model="m", hook="blocks.3.hook_mlp_out", columns=columns)
    assert {f.kind: f.n for f in report.faults} == {
        "no text": 1, "no feature named": 1, "not a number": 1, "score outside [-1, 1]": 1}  # fmt: skip
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        found = catalog.query(
            'SELECT sae_id, "index", explanation, score, tags, layer FROM catalog ORDER BY 1, 2'
        )
    assert found["sae_id"].tolist() == ["m/a", "m/a", "m/b"]
    assert list(found["tags"][0]) == ["violence", "weapons"]
    assert found["score"].tolist()[0] == 0.4
    assert found["score"].isna().tolist() == [False, True, True]
    assert set(found["layer"]) == {3}


def test_two_catalogs_of_one_sae_merge_by_feature_and_keep_both(tmp_path: Path) -> None:
    a = write_json(tmp_path / "a.json", {"3_1": entry("guns", 0.5, ["violence"])})
    b = write_json(tmp_path / "b.json", {"3_1": entry("weapons", 0.6, ["terror"]), "3_2": entry("guns")})
    shared: dict[str, Any] = {
        "model": "m",
        "sae": "s-{layer}",
        "hook": "blocks.{layer}.hook_mlp_out",
        "d_sae": 100,
    }
    bring(tmp_path, a, name="ours", **shared)
    report = bring(tmp_path, b, name="theirs", **shared)
    assert (report.new["features"], report.new["explanations"]) == (1, 2)
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        shown = catalog.show(FeatureId("s-3", 1))
    assert [(e.text, e.origin, e.scores[0].value) for e in shown.explanations] == [
        ("weapons", "theirs", 0.6), ("guns", "ours", 0.5)]  # fmt: skip
    assert [(t.tag, t.source) for t in shown.tags] == [("violence", "ours"), ("terror", "theirs")]


def test_a_second_origin_of_the_same_catalog_has_all_of_it(tmp_path: Path) -> None:
    content = {"3_1": entry("guns", 0.5, ["violence"]), "3_2": entry("***", 0.4), "3_3": entry("", None)}
    source = write_json(tmp_path / "a.json", content)
    for name in ("first", "second"):
        assert bring(tmp_path, source, name=name, model="m").new["explanations"] == 3
        export_catalog(tmp_path / "s.duckdb", tmp_path / f"{name}.json", "safe-sail", origin=name)
        assert json.loads((tmp_path / f"{name}.json").read_text()) == content
    assert set(bring(tmp_path, source, name="first", model="m").new.values()) == {0}


def test_what_an_earlier_version_imported_is_not_brought_in_twice(tmp_path: Path) -> None:
    source = write_json(tmp_path / "a.json", {"3_1": entry("guns", 0.5)})
    bring(tmp_path, source, model="m")
    with open_writer(tmp_path / "s.duckdb") as db:
        db.execute("UPDATE explanations SET explanation_id = 'old'")
        db.execute("UPDATE scores SET explanation_id = 'old'")
    assert set(bring(tmp_path, source, model="m").new.values()) == {0}


def test_tokens_of_a_byte_alphabet_are_read_as_text(tmp_path: Path) -> None:
    rows_of = {name: [dict(row) for row in lines] for name, lines in NEURONPEDIA.items()}
    rows_of["activations/batch-0"][0] |= {
        "tokens": ["ä¸", "Ģ", "Ġcat", "âĢĲ"],
        "values": [1.0, 2.0, 0.0, 0.5],
    }
    bring(tmp_path, write_neuronpedia(tmp_path / "np", rows_of))
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        (window,) = catalog.show(FeatureId("m/4-res", 10)).windows
    assert (window.tokens, window.activations) == (("一", " cat", "‐"), (2.0, 0.0, 0.5))


def test_a_template_for_names_fills_in_names_only(tmp_path: Path) -> None:
    source = write_json(tmp_path / "a.json", {"3_1": entry("guns")})
    for template in ("{model.__class__}", "{0}", "{nobody}"):
        with pytest.raises(ConfigError, match=r"may hold \{model\}, \{source\}, \{layer\}, not \{"):
            bring(tmp_path, source, model="m", sae=template)


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        ({"d_sae": 50}, {"3_50": entry()}, "cannot belong to SAE 's-3' of width 50, such as index 50"),
        ({"d_sae": 60}, {"3_1": entry()}, "has d_sae 50, the one at hand 60"),
        ({"hook": "blocks.3.hook_resid_post"}, {"3_1": entry()}, "has hook 'blocks.3.hook_mlp_out'"),
        ({"model": "other"}, {"3_1": entry()}, "has model_id 'm', the one at hand 'other'"),
        ({}, {"3_999": entry(), "3_1": entry("new")}, "of width 50, such as index 999"),
    ],
)
def test_what_belongs_to_another_sae_is_refused_and_changes_nothing(
    tmp_path: Path, options: dict[str, Any], content: dict[str, Any], message: str
) -> None:
    base: dict[str, Any] = {
        "model": "m",
        "sae": "s-{layer}",
        "hook": "blocks.{layer}.hook_mlp_out",
        "d_sae": 50,
    }
    bring(tmp_path, write_json(tmp_path / "a.json", {"3_1": entry("guns")}), name="ours", **base)
    before = dump(tmp_path / "s.duckdb")
    given = {**base, "d_sae": None, **options}
    with pytest.raises(FingerprintError, match=message):
        bring(tmp_path, write_json(tmp_path / "b.json", content), name="theirs", **given)
    assert dump(tmp_path / "s.duckdb") == before


def test_another_model_under_the_same_name_is_refused(release: Path, store: Path, tmp_path: Path) -> None:
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["subject_models"][0]["fingerprint"] = "0" * 64
    (release / "manifest.json").write_text(json.dumps(manifest))
    before = dump(store)
    with pytest.raises(FingerprintError, match="'toy' has fingerprint"):
        import_catalog(store, release, ImportOptions(name="theirs"))
    assert dump(store) == before


def test_a_harvested_sae_keeps_its_own_statistics_and_windows(release: Path, store: Path) -> None:
    before = dump(store)
    report = import_catalog(store, release, ImportOptions(name="toy"))
    assert {name: n for name, n in report.new.items() if n} == {"tags": 4}, (
        "the same tags, from the catalog `toy`"
    )
    after = dump(store)
    assert all(
        after[name] == before[name]
        for name in ("features", "windows", "activations", "explanations", "scores")
    )


HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "NaN": ("x.json", b'{"3_1": {"explanation": "a", "correlation_score": NaN, "tag_list": []}}', "NaN"),
    "infinity": ("x.json", b'{"3_1": {"explanation": "a", "correlation_score": 1e999, "tag_list": []}}', "too large"),
    "huge integer": ("x.json",
        b'{"3_1": {"explanation": "a", "correlation_score": ' + b"9" * 400 + b"}}", "too large"),
    "huge index": ("x.json",
        b'{"3_99999999999": {"explanation": "a", "correlation_score": 1, "tag_list": []}}', "format"),
    "key twice": ("x.json", b'{"3_1": {"correlation_score": 1}, "3_1": {}}', "'3_1' is there twice"),
    "wrong shape": ("x.json",
        b'{"3_1": {"correlation_score": 1, "explanation": ["a"], "tag_list": []}}', "explanation must be text"),
    "missing field": ("x.json", b'{"3_1": {"correlation_score": 1}}', "explanation is missing"),
    "tags no list": (
        "x.json", b'{"3_1": {"explanation": "a", "correlation_score": 1, "tag_list": "violence"}}',
        "tag_list must be a list"),
    "score as text": (
        "x.json", b'{"3_1": {"explanation": "a", "correlation_score": "1", "tag_list": []}}',
        "correlation_score must be a number"),
    "boolean score": (
        "x.json", b'{"3_1": {"explanation": "a", "correlation_score": true, "tag_list": []}}',
        "correlation_score must be a number"),
    "half a character": (
        "x.json", b'{"3_1": {"explanation": "a \\ud800 b", "correlation_score": 1, "tag_list": []}}',
        r"explanation cannot be taken: not valid Unicode: half a character \(U\+D800\) at offset 2"),
    "half a character in a line": (
        "x.jsonl", b'{"text": "a \\udfff", "index": 1}\n', r"line 1: cells\.text cannot be taken: not valid"),
    "overlong text": (
        "x.json", b'{"3_1": {"explanation": "' + b"a" * 20_001 + b'", "correlation_score": 1, "tag_list": []}}',
        "20,001 characters; at most 20,000 are taken"),
    "nested": ("x.json", b'{"3_1": ' + b"[" * 100_000, "nested too deeply"),
    "no JSON": ("x.json", b"PK\x03\x04", "not sound JSON"),
    "not UTF-8": ("x.json", b'{"3_1": "\xff"}', "not UTF-8"),
    "lists for lines": ("x.jsonl", b"[1]\n", "must be an object"),
    "line no JSON": ("x.jsonl", b'{"text": "a", "index": 1}\n{oops\n', "line 2 is not sound JSON"),
    "column missing": ("x.jsonl", b'{"label": "a", "index": 1}\n', "no column 'text'"),
    "ragged CSV": ("x.csv", b"index,text\n1,a,b\n", "line 2 has not 2 cells"),
    "CSV column twice": ("x.csv", b"index,index,text\n1,2,a\n", "names a column twice"),
    "broken quote": ("x.csv", b'index,text\n1,"a\n', "not sound CSV"),
    "broken gzip": ("x.jsonl.gz", b"\x1f\x8b\x08nonsense", "cannot be read"),
    "gzip bomb": ("x.jsonl.gz", gzip.compress(b" " * 300_000_000), "too long, or the file unpacks"),
    "batch no list": ("x.json",
        b'{"model_id": "m", "layer": 1, "sae_set": "s", "features": 5}', "features must be a list"),
    "feature no index": (
        "x.json", b'{"model_id": "m", "layer": 1, "sae_set": "s", "features": [{}]}',
        r"features\.0\.feature_index is missing"),
    "uneven window": (
        "x.json", b'{"model_id": "m", "layer": 1, "sae_set": "s", "features": [{"feature_index": 1,'
        b' "activations": [{"tokens": ["a"], "values": []}]}]}', "has 1 tokens but 0 values"),
    "label no object": ("x.json", b'{"1": {"explanation": {"label": "a"}}, "x": 3}', "not the number of a latent"),
    "unknown": ("x.json", b'{"hello": "world"}', "no format that is known"),
    "unknown file": ("x.exe", b"MZ", "no format that is known"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_with_one_line_and_leave_no_store(case: str, tmp_path: Path) -> None:
    name, content, message = HOSTILE[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SafeSailError, match=message) as caught:
        bring(tmp_path, path, model="m", hook="blocks.1.hook_mlp_out")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]


NEURONPEDIA_FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "index text": ("explanations/batch-0", {"index": "x"}, "index must be a number"),
    "no model": ("explanations/batch-0", {"modelId": None}, "modelId must be text"),
    "other model": ("explanations/batch-0", {"modelId": "z"}, "is about 'z', not 'm'"),
    "density": ("features/batch-0", {"frac_nonzero": 7}, "frac_nonzero must lie"),
    "description": ("explanations/batch-0", {"description": 3}, "description must be text"),
    "uneven": ("activations/batch-0", {"values": [1.0]}, "2 tokens but 1 values"),
    "token no text": ("activations/batch-0", {"tokens": [1, 2]}, "tokens.0 must be text"),
}


@pytest.mark.parametrize("case", NEURONPEDIA_FAULTS)
def test_faulty_neuronpedia_rows_are_refused(case: str, tmp_path: Path) -> None:
    batch, change, message = NEURONPEDIA_FAULTS[case]
    content = {name: [dict(row) for row in lines] for name, lines in NEURONPEDIA.items()}
    content[batch][0] |= change
    with pytest.raises(DataError, match=message):
        bring(tmp_path, write_neuronpedia(tmp_path / "np", content), model="m")
    assert not (tmp_path / "s.duckdb").exists()


def test_what_a_catalog_does_not_say_must_be_said(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"3_1": entry()})
    with pytest.raises(ConfigError, match="name it with --model"):
        bring(tmp_path, path)
    write_json(tmp_path / "d/explanations/layers.3.mlp_latent7.txt", "cats")
    with pytest.raises(ConfigError, match="name it with --model"):
        bring(tmp_path, tmp_path / "d")
    with pytest.raises(ConfigError, match="name it with --hook"):
        bring(tmp_path, write_json(tmp_path / "l.json", {"1": {"explanation": {"label": "a"}}}), model="m")
    (tmp_path / "t.jsonl").write_text('{"text": "a", "index": 1}\n')
    with pytest.raises(ConfigError, match="name it with --model"):
        bring(tmp_path, tmp_path / "t.jsonl")
    with pytest.raises(NotFoundError, match="nothing at"):
        bring(tmp_path, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no format that is known"):
        detect(tmp_path / "empty")


def test_layers_in_the_names_of_sources() -> None:
    assert [layer_of_source(s) for s in ("10-gemmascope-res-16k", "resid_5", "embed")] == [10, 5, None]
