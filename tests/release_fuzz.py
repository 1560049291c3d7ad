"""Random damage and forgery of a release, and what must hold of the one that reads it.

Each case changes one thing in a copy of a release: a cell, a row, a column, the bytes of a file, the folder, or the
manifest; a forger makes the manifest agree. The verdict of `verify_release` is held against that of the rules below,
which say in Python, row by row, what the format's own rules say in SQL. What is refused is refused with one clean line.
What is accepted is sound by these rules, and goes into an empty store and out again the same, row by row.
"""

import hashlib
import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safesail.catalog.config import ImportOptions, ReleaseOptions
from safesail.catalog.format import KEYS, REQUIRED, TABLES
from safesail.catalog.importing import import_catalog
from safesail.catalog.release import build_release
from safesail.catalog.verify import verify_release
from safesail.domain.text import clean_text
from safesail.errors import SafeSailError

Tables = dict[str, list[dict[str, Any]]]
MANIFEST = "manifest.json"
NUMBERS: list[Any] = [
    -1, 0, 1, 2, 3, 5, 99, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63), 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf,
    -math.inf, 1 + 1e-12, 1.0000001,
]  # fmt: skip
TEXTS: list[Any] = [
    "",
    " ",
    "other",
    "test",
    "train",
    "toy-l2",
    "e1",
    "x" * 5_000,
    "\x1b[2J\x00",
    "\u202e",
    "../../etc/passwd",
    "熊",
]
JSONS: list[Any] = [
    None, True, -1, 0, 1, 2, 7, 2**31, 2**62, 0.5, -0.5, "", "1", "toy", "other", [], ["a"], {}, {"a": 1}, "a" * 64,
    "\x1b[2J", "../x",
]  # fmt: skip
FREE = {
    ("name",), ("version",), ("code_version",), ("licence",), ("sensitivity",), ("redacted",), ("min_score",),
    ("subject_models", 0, "fingerprint"), ("subject_models", 0, "d_model"), ("subject_models", 0, "n_layers"),
    ("saes", 0, "hook"), ("saes", 0, "d_in"), ("saes", 0, "architecture"), ("saes", 0, "k"), ("saes", 0, "sha256"),
    ("saes", 0, "source"), ("saes", 0, "d_sae"), ("saes", 0, "layer"),
}  # fmt: skip
"""What a manifest may say another way and still be true to the tables, as far as its ranges go."""


@dataclass
class Case:
    """One copy of a release, and what is changed in it."""

    folder: Path
    draw: random.Random
    kind: str = ""
    judged: bool = True
    """Whether the rules below can judge it: not where bytes are no Parquet or no JSON any more."""

    @classmethod
    def of(cls, release: Path, folder: Path, seed: int) -> "Case":
        """The case of a seed, made."""
        shutil.copytree(release, folder)
        case = cls(folder, random.Random(seed))
        kinds: dict[str, Callable[[], None]] = {
            "cell": case.cell, "row": case.row, "column": case.column, "bytes": case.bytes, "forged bytes": case.forged,
            "folder": case.files, "manifest": case.manifest, "manifest's bytes": case.manifest_bytes, "same": case.same,
        }  # fmt: skip
        (case.kind,) = case.draw.choices(list(kinds), (38, 10, 8, 6, 8, 5, 18, 4, 3))
        kinds[case.kind]()
        return case

    def cell(self) -> None:
        """One to three cells of a table get odd values."""
        table = self.draw.choice(list(TABLES))
        rows = self.read(table)
        for _ in range(self.draw.choice((1, 1, 1, 2, 3)) if rows else 0):
            name = self.draw.choice(TABLES[table].names)
            self.draw.choice(rows)[name] = self.value(TABLES[table].field(name).type)
        self.write(table, rows)

    def value(self, kind: Any) -> Any:
        """A value of a column's type, mostly odd."""
        if self.draw.random() < 0.15:
            return None
        if pa.types.is_list(kind):
            return [self.value(kind.value_type) for _ in range(self.draw.choice((0, 1, 3, 3)))]
        if pa.types.is_boolean(kind):
            return self.draw.random() < 0.5
        if pa.types.is_string(kind):
            return self.draw.choice(TEXTS)
        number = self.draw.choice(NUMBERS)
        if pa.types.is_floating(kind):
            return float(number)
        bits = kind.bit_width - 1
        return max(-(2**bits), min(2**bits - 1, int(number))) if math.isfinite(number) else 0

    def row(self) -> None:
        """A row is taken out, put in twice, or put in with another's cell."""
        table = self.draw.choice(list(TABLES))
        rows = self.read(table)
        with suppress(IndexError):
            i, other = self.draw.randrange(len(rows)), self.draw.choice(rows)
            match self.draw.choice(("out", "twice", "mixed", "order")):
                case "out":
                    rows.pop(i)
                case "twice":
                    rows.append(other)
                case "mixed":
                    name = self.draw.choice(TABLES[table].names)
                    rows[i] = rows[i] | {name: other[name]}
                case _:
                    self.draw.shuffle(rows)
        self.write(table, rows)

    def column(self) -> None:
        """Columns that the format does not have, or of other types."""
        table = self.draw.choice(list(TABLES))
        whole = pa.Table.from_pylist(self.read(table), TABLES[table])
        i = self.draw.randrange(whole.num_columns)
        name, cells = whole.schema.names[i], whole.column(i)
        match self.draw.choice(("drop", "rename", "text", "add", "twice", "order", "null")):
            case "drop":
                whole = whole.remove_column(i)
            case "rename":
                whole = whole.rename_columns(
                    [*whole.schema.names[:i], f"{name}\x1b", *whole.schema.names[i + 1 :]]
                )
            case "text":
                whole = whole.set_column(
                    i, name, pa.array([repr(c) for c in cells.to_pylist()], pa.large_string())
                )
            case "add":
                whole = whole.append_column("more", pa.nulls(len(whole), pa.int8()))
            case "twice":
                whole = whole.append_column(name, cells)
            case "order":
                whole = whole.select([*whole.schema.names[i:], *whole.schema.names[:i]])
            case _:
                whole = whole.set_column(i, name, pa.nulls(len(whole), pa.null()))
        pq.write_table(whole, self.folder / f"{table}.parquet")
        self.reseal(f"{table}.parquet")

    def bytes(self) -> None:
        """A file is not what it was, and the manifest says what it was."""
        path = self.folder / self.draw.choice([f"{t}.parquet" for t in TABLES] + ["README.md"])
        self.spoil(path)

    def forged(self) -> None:
        """The same, and the manifest agrees."""
        table = self.draw.choice(list(TABLES))
        path = self.folder / f"{table}.parquet"
        self.spoil(path)
        self.reseal(path.name)

    def spoil(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        match self.draw.choice(("flip", "flip", "flip", "cut", "empty", "other", "more")):
            case "flip":
                for _ in range(self.draw.choice((1, 2, 8))):
                    content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
            case "cut":
                del content[self.draw.randrange(len(content)) :]
            case "empty":
                content.clear()
            case "other":
                content[:] = (self.folder / f"{self.draw.choice(list(TABLES))}.parquet").read_bytes()
            case _:
                content += self.draw.randbytes(9)
        path.write_bytes(content)

    def files(self) -> None:
        """The folder holds something else, or less."""
        path = self.folder / self.draw.choice([f"{t}.parquet" for t in TABLES] + ["README.md", MANIFEST])
        match self.draw.choice(("missing", "link", "folder", "more", "hidden")):
            case "missing":
                path.unlink()
            case "link":
                path.rename(self.folder.parent / f"{self.folder.name}-{path.name}")
                path.symlink_to(self.folder.parent / f"{self.folder.name}-{path.name}")
            case "folder":
                path.unlink()
                path.mkdir()
            case "more":
                (self.folder / "more.parquet").write_bytes(b"x")
            case _:
                (self.folder / ".gitattributes").write_bytes(b"x")
                self.kind = "same"
        self.judged = self.kind == "same"

    def manifest(self) -> None:
        """A value of the manifest, at any depth, becomes another one; a key goes or comes."""
        content = json.loads((self.folder / MANIFEST).read_text())
        inner: Any = content
        path: list[Any] = []
        while True:
            key = self.draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            path.append(key)
            if not isinstance(inner[key], dict | list) or not inner[key] or self.draw.random() < 0.1:
                break
            inner = inner[key]
        odd = self.draw.choice(JSONS)
        self.judged = False
        match self.draw.choice(("change", "change", "change", "change", "remove", "add")):
            case "remove":
                del inner[path[-1]]
            case "add":
                inner.update({"more": odd}) if isinstance(inner, dict) else inner.append(odd)
            case _:
                self.judged = type(odd) is type(inner[path[-1]]) and odd == inner[path[-1]]
                inner[path[-1]] = odd
                self.kind = "manifest's free words" if tuple(path) in FREE else self.kind
        (self.folder / MANIFEST).write_text(json.dumps(content))

    def manifest_bytes(self) -> None:
        """The manifest is no JSON, or no manifest."""
        self.spoil(self.folder / MANIFEST)
        self.judged = False

    def same(self) -> None:
        """Written otherwise, and the same: other compression, other order of rows."""
        table = self.draw.choice(list(TABLES))
        rows = self.read(table)
        self.draw.shuffle(rows)
        codec = self.draw.choice(("none", "snappy", "gzip", "zstd"))
        pq.write_table(
            pa.Table.from_pylist(rows, TABLES[table]), self.folder / f"{table}.parquet",
            compression=codec, row_group_size=self.draw.choice((1, 2, 1000)),
        )  # fmt: skip
        self.reseal(f"{table}.parquet")

    def read(self, table: str) -> list[dict[str, Any]]:
        """A table's rows."""
        return pq.read_table(self.folder / f"{table}.parquet").to_pylist()

    def write(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Rows in the place of a table's, and the manifest agrees with the file; its counts stay."""
        pq.write_table(pa.Table.from_pylist(rows, TABLES[table]), self.folder / f"{table}.parquet")
        self.reseal(f"{table}.parquet")

    def reseal(self, name: str) -> None:
        """Sums, sizes and rows of a file as a forger would write them."""
        path, manifest = self.folder / name, json.loads((self.folder / MANIFEST).read_text())
        entry = manifest["files"][name]
        entry |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        with suppress(Exception), path.open("rb") as stream:  # whatever a spoilt file does to its reader
            entry["rows"] = pq.ParquetFile(stream).metadata.num_rows
        (self.folder / MANIFEST).write_text(json.dumps(manifest))


@dataclass
class Outcome:
    """What became of the releases."""

    kinds: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    accepted: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    """By class."""

    tracebacks: list[str] = field(default_factory=list[str])
    """Whatever else was raised, or a message of more than one clean line."""

    unsound: list[str] = field(default_factory=list[str])
    """Accepted, though a rule is broken."""

    too_strict: list[str] = field(default_factory=list[str])
    """Refused, though no rule is broken."""

    changed: list[str] = field(default_factory=list[str])
    """Accepted, and another catalog after the way through a store."""

    round_trips: int = 0
    """Accepted ones that went through a store."""

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.tracebacks or self.unsound or self.too_strict or self.changed)


def fuzz(release: Path, folder: Path, seed: int, cases: range, *, round_trip_every: int = 1) -> Outcome:
    """Change a release once per case, each time from the start, and hold the verdicts against the rules.

    Args:
        release: A sound one, of few rows.
        folder: For the copies.
        seed: With the number of a case, all that the case is.
        cases: Their numbers.
        round_trip_every: Of so many accepted ones one goes through a store, which takes longest.
    """
    outcome = Outcome()
    original = _tables(release)
    for i in cases:
        case = Case.of(release, folder / str(i), seed * 1_000_003 + i)
        outcome.kinds[case.kind] += 1
        round_trip = outcome.accepted.total() % round_trip_every == 0
        _judge(case, original, outcome, f"{case.kind} {seed}/{i}", round_trip=round_trip)
        shutil.rmtree(case.folder)
    return outcome


def _judge(case: Case, original: Tables, outcome: Outcome, name: str, *, round_trip: bool) -> None:
    try:
        verify_release(case.folder)
    except SafeSailError as error:
        _judge_refusal(case, outcome, name, error)
    except Exception as error:  # noqa: BLE001 - the fuzz reports whatever is raised
        outcome.tracebacks.append(f"{name}: {error!r}")
    else:
        outcome.accepted[case.kind] += 1
        if (broken := _fault_of(case.folder)) is not None:
            outcome.unsound.append(f"{name}: {broken}")
        elif not case.judged and case.kind != "manifest's free words":
            outcome.unsound.append(f"{name}: a change that no rule allows")
        elif case.kind in ("bytes", "same") and not _equal(_tables(case.folder), original):
            outcome.changed.append(name)
        elif round_trip and not _same_through_a_store(case.folder, outcome):
            outcome.changed.append(f"{name}: on the way through a store")


def _judge_refusal(case: Case, outcome: Outcome, name: str, error: SafeSailError) -> None:
    outcome.refused[case.kind] += 1
    outcome.errors[type(error).__name__] += 1
    said = str(error)
    if clean_text(said) != said or "\n" in said or len(said) > 1000:
        outcome.tracebacks.append(f"{name}: not one clean line: {error!r}")
    if case.judged and case.kind in ("cell", "row", "same") and _fault_of(case.folder) is None:
        outcome.too_strict.append(f"{name}: {said}")


def _same_through_a_store(release: Path, outcome: Outcome) -> bool:
    outcome.round_trips += 1
    return _equal(_numbered(_through_a_store(release)), _numbered(_tables(release)))


def _numbered(tables: Tables) -> Tables:
    """Without the numbers that give rows an order, which a store gives anew."""
    order = {"tags": "position", "explanations": "ordinal", "scores": "ordinal", "exemplars": "rank"}
    return {
        t: [{n: v for n, v in row.items() if n != order.get(t)} for row in rows] for t, rows in tables.items()
    }


def _through_a_store(release: Path) -> Tables:
    """The tables of the release that a store gives, in which this one alone is."""
    store, out = release.with_suffix(".duckdb"), release.with_suffix(".out")
    manifest = json.loads((release / MANIFEST).read_text())
    try:
        import_catalog(store, release, ImportOptions(name=manifest["name"]))
        build_release(store, out, ReleaseOptions(name=manifest["name"], exemplars=100))
        return _tables(out)
    finally:
        store.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)


def _tables(release: Path) -> Tables:
    return {table: pq.read_table(release / f"{table}.parquet").to_pylist() for table in TABLES}


def _equal(a: Tables, b: Tables) -> bool:
    return all(sorted(map(repr, a[t])) == sorted(map(repr, b[t])) for t in TABLES)


# The rules once more, in another language and by another hand


def _fault_of(release: Path) -> str | None:
    """Which rule of the format the tables break, or the manifest's counts; None: none."""
    try:
        tables, manifest = _tables(release), json.loads((release / MANIFEST).read_text())
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"cannot be read: {error!r}"[:200]
    for table, schema in TABLES.items():
        given = pq.read_schema(release / f"{table}.parquet")
        if _columns(given) != _columns(schema):
            return f"{table}: other columns"
        for number, row in enumerate(tables[table]):
            if broken := _broken_row(table, row):
                return f"{table} row {number}: {broken}"
        keys = [tuple(row[name] for name in KEYS[table]) for row in tables[table]]
        if len(set(keys)) != len(keys):
            return f"{table}: a key twice"
    return _broken_reference(tables, manifest) or _broken_count(tables, manifest)


def _columns(schema: Any) -> list[tuple[str, str]]:
    """Names and types, whatever a list calls its items."""
    return [(column.name, str(column.type).replace("element: ", "item: ")) for column in schema]


def _broken_row(table: str, row: dict[str, Any]) -> str | None:
    numbers = [v for v in row.values() if isinstance(v, float)]
    if any(row[name] is None for name in REQUIRED[table]) or not all(map(math.isfinite, numbers)):
        return "an empty cell, or no number"
    checks: dict[str, Callable[[dict[str, Any]], bool]] = {
        "features": _sound_feature, "explanations": _sound_explanation, "tags": _sound_tag, "scores": _sound_score,
        "exemplars": _sound_exemplar, "concepts": _sound_concept, "feature_concepts": _sound_share,
        "effects": _sound_effect,
    }  # fmt: skip
    return None if checks[table](row) else repr(row)[:300]


def _within(row: dict[str, Any], least: float, most: float, *names: str) -> bool:
    return all(row[name] is None or least <= row[name] <= most for name in names)


def _sound_effect(row: dict[str, Any]) -> bool:
    p, q, gains = row["p"], row["q"], (row["gain_low"], row["gain_high"])
    return (
        _within(row, 0, 1, "p", "q")
        and _within(row, -1, 1, "expected")
        and _within(row, 0, math.inf, "n_texts", "strength")
        and (row["value"] is not None or row["reason"] is not None)
        and (p is None or None not in (row["null_value"], row["value"]))
        and (p is None or q is None or q >= p - 1e-9)
        and (None in gains or gains[0] <= gains[1])
        and all(v is not None and math.isfinite(v) for v in row["null_values"] or ())
        and None not in (row["tokens"] or ())
    )


def _sound_feature(row: dict[str, Any]) -> bool:
    top, n, active, density = row["maximum"], row["n_tokens"], row["n_active"], row["density"]
    known = [row[q] for q in ("q90", "q99") if row[q] is not None]
    ascending = len(known) < 2 or known[0] <= known[1]
    below = all(
        row[q] is None or top is None or row[q] <= top * (1 + 1e-6) for q in ("q90", "q99", "q999", "mean")
    )
    counted = None in (n, active) or active <= n
    true = None in (n, active, density) or abs(density * n - active) <= 1e-9 * n
    return (
        _within(row, 0, math.inf, "index", "n_tokens", "n_active", "mean", "maximum", "q90", "q99", "q999")
        and _within(row, 0, 1, "density") and ascending and below and counted and true
        and not (row["redacted"] and row["top_tokens"] is not None) and None not in (row["top_tokens"] or ())
    )  # fmt: skip


def _sound_explanation(row: dict[str, Any]) -> bool:
    text, error = row["text"], row["error"]
    return (
        _within(row, 0, 1, "confidence") and _within(row, 0, math.inf, "ordinal")
        and not (row["masked"] and text is not None) and (text is None or error is None)
        and (text is not None or error is not None or row["masked"])
    )  # fmt: skip


def _sound_tag(row: dict[str, Any]) -> bool:
    return bool(row["tag"].strip(" ")) and row["position"] >= 1 and _within(row, 1, 3, "severity")


def _sound_score(row: dict[str, Any]) -> bool:
    low, high = row["low"], row["high"]
    return (
        _within(row, -1, 1, "value", "low", "high", "chance") and _within(row, 0, 1, "auc", "balanced_accuracy")
        and _within(row, 0, math.inf, "n_units", "n_windows", "tokens", "ordinal")
        and any(row[name] is not None for name in ("value", "reason", "error")) and (None in (low, high) or low <= high)
    )  # fmt: skip


def _sound_exemplar(row: dict[str, Any]) -> bool:
    tokens, values = row["tokens"], row["activations"]
    if not 1 <= len(tokens) <= 65_536 or len(tokens) != len(values) or None in tokens:
        return False
    if any(v is None or not math.isfinite(v) or v < 0 for v in values) or row["maximum"] <= 0:
        return False
    close = abs(row["maximum"] - max(values)) <= 1e-6 * row["maximum"]
    return (
        close and row["rank"] >= 1 and row["start"] >= 0 and row["split"] in ("train", "calibration", "test")
    )


def _sound_concept(row: dict[str, Any]) -> bool:
    return all(row[name].strip(" ") for name in ("concept_id", "domain", "name"))


def _sound_share(row: dict[str, Any]) -> bool:
    shares = row["frequency"] + row["swapped"]
    return _within(row, 0, 1, "frequency", "swapped") and shares <= 1 + 1e-9 and row["n_pairs"] >= 1


def _broken_reference(tables: Tables, manifest: dict[str, Any]) -> str | None:
    saes = {sae["sae_id"]: sae for sae in manifest["saes"]}
    features = {(row["sae_id"], row["index"]): row for row in tables["features"]}
    explanations = {(r["explanation_id"], r["sae_id"], r["index"]) for r in tables["explanations"]}
    concepts = {row["concept_id"] for row in tables["concepts"]}
    for sae_id, index in features:
        layer = features[sae_id, index]["layer"]
        sae = saes.get(sae_id)
        if sae is None or (sae["d_sae"] is not None and index >= sae["d_sae"]) or layer != sae["layer"]:
            return f"feature {sae_id}#{index} of no SAE"
    for table in ("explanations", "tags", "exemplars", "feature_concepts", "effects"):
        for row in tables[table]:
            of = features.get((row["sae_id"], row["index"]))
            told = (
                table == "exemplars"
                or row.get("text") is not None
                or (table == "effects" and row["tokens"] is not None)
            )
            if of is None or (of["redacted"] and told):
                return f"{table}: of no feature, or a text of a redacted one"
    if any((r["explanation_id"], r["sae_id"], r["index"]) not in explanations for r in tables["scores"]):
        return "a score of no explanation"
    return (
        "no such concept"
        if any(r["concept_id"] not in concepts for r in tables["feature_concepts"])
        else None
    )


def _broken_count(tables: Tables, manifest: dict[str, Any]) -> str | None:
    """Counts that do not depend on which of several scores is the one that the catalog shows."""
    explained, counts = tables["explanations"], manifest["counts"]
    true = {
        "features": len(tables["features"]),
        "explained": len({(r["sae_id"], r["index"]) for r in explained if r["text"] is not None}),
        "masked": sum(r["masked"] for r in explained),
        "failed": sum(r["error"] is not None for r in explained),
        "tagged": len({(r["sae_id"], r["index"]) for r in tables["tags"]}),
    }
    values = [r["value"] for r in tables["scores"]]
    if len({r["explanation_id"] for r in tables["scores"]}) == len(values):
        true |= {"scored": sum(v is not None for v in values), "undefined": sum(v is None for v in values)}
    for name, number in true.items():
        if counts[name] != number:
            return f"counts.{name} is {counts[name]}, not {number}"
    if len({(r["method"], r["simulator"]) for r in tables["scores"]}) == 1:
        mean = [v for v in values if v is not None]
        if not math.isclose(
            counts["mean_score"] or 0.0, sum(mean) / len(mean) if mean else 0.0, rel_tol=1e-9
        ):
            return f"counts.mean_score is {counts['mean_score']}"
    origins = Counter(r["origin"] for r in explained)
    return None if manifest["origins"] == dict(origins) else "origins"
