"""Which SAEs are one: joined where that is proven, apart, with the reason, where it is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from safesail.catalog.acquire import Order, acquire
from safesail.catalog.api import open_catalog
from safesail.catalog.config import ImportOptions, ReleaseOptions
from safesail.catalog.identity import compare_saes, join_as_said, join_proven, weigh
from safesail.catalog.importing import import_catalog
from safesail.catalog.release import build_release
from safesail.catalog.sources import sources_for
from safesail.cli.main import cli
from safesail.domain.ids import FeatureId
from safesail.domain.records import SaeRecord, SubjectInfo
from safesail.errors import ConfigError
from safesail.sae.stored import stored_sha256
from safesail.store.connection import open_writer
from safesail.store.identities import sae_aliases, stored_saes
from safesail.store.registry import register_sae, register_subject
from tests.bucket import SOURCE, neuronpedia, served
from tests.catalog.toy import SAE, fill

HUB = "gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical"
FIVE = {
    HUB: SOURCE,
    "llama_scope_lxr_32x/l1r_32x": "llama3.1-8b/1-llamascope-res-131k",
    "gpt2-small-res_sll-ajt/blocks.6.hook_resid_pre": "gpt2-small/6-res_sll-ajt",
    "gemma-scope-9b-pt-mlp-canonical/layer_41/width_16k/canonical": "gemma-2-9b/41-gemmascope-mlp-16k",
    "pythia-70m-deduped-res-sm/blocks.3.hook_resid_post": "pythia-70m-deduped/3-res-sm",
}


def hub_sae(sae_id: str = HUB, source: str | None = None, sha256: str | None = "b" * 64) -> SaeRecord:
    """As the store has an SAE that SAELens loaded."""
    return SaeRecord(sae_id, "gemma", "blocks.20.hook_resid_post", 2304, 16_384, "jumprelu", sha256,
                     source or sae_id)  # fmt: skip


def harvested(store: Path, sae: SaeRecord, densities: dict[int, float]) -> None:
    """A store that ran the SAE itself."""
    with open_writer(store) as db:
        register_subject(db, SubjectInfo("gemma", "f" * 64, 2304, 26))
        key = register_sae(db, sae)
        db.execute("INSERT INTO harvests VALUES (7, 'own', 'gemma', ?, '{}', 8, true)", ["f" * 64])
        db.execute("INSERT INTO harvest_saes VALUES (?, 7)", [key])
        for feature, density in densities.items():
            db.execute("INSERT INTO features (sae_id, feature, harvest_key, density) VALUES (?, ?, 7, ?)",
                       [sae.sae_id, feature, density])  # fmt: skip


def bring(store: Path, n: int = 300, **more: Any) -> Any:
    with served(neuronpedia(n, windows=1, **more)) as bucket:
        return acquire(
            Order(f"neuronpedia:{SOURCE}", store, None, ("features", "activations"), bucket.address)
        )


def theirs(n: int = 300) -> dict[int, float]:
    """The densities of the made source."""
    import random

    draw = random.Random(0)
    return {i: round(10 ** draw.uniform(-5, -1), 8) for i in range(n)}


@pytest.mark.parametrize("sae", FIVE)
def test_a_published_sae_s_source_is_found(sae: str) -> None:
    first = sources_for(sae)[0]
    assert (first.source, first.proven) == (f"neuronpedia:{FIVE[sae]}", True)
    shown = json.loads(CliRunner().invoke(cli, ["catalog", "sources", "--for", sae, "--json"]).stdout)
    assert shown[0]["source"] == f"neuronpedia:{FIVE[sae]}"


def test_what_a_folder_says_of_itself_proves_nothing_and_its_weights_do(tmp_path: Path) -> None:
    folder = Path("data/saes/smollm2-l14-mlp-k4")
    liar = tmp_path / "canonical"
    liar.mkdir()
    settings = json.loads((folder / "cfg.json").read_text())
    settings["metadata"]["neuronpedia_id"] = SOURCE
    (liar / "cfg.json").write_text(json.dumps(settings))
    (liar / "sae_weights.safetensors").write_bytes((folder / "sae_weights.safetensors").read_bytes())
    command = ["catalog", "sources", "--for", str(liar), "--json"]
    said = json.loads(CliRunner().invoke(cli, command).stdout)
    assert [(m["source"], m["proven"]) for m in said] == [
        (f"neuronpedia:{SOURCE}", False), ("axbench:gemma-2-2b", False)]  # fmt: skip
    assert "nothing proves it" in said[0]["why"]
    store = tmp_path / "s.duckdb"
    harvested(store, hub_sae(sha256=stored_sha256(liar / "sae_weights.safetensors")), {})
    found = json.loads(CliRunner().invoke(cli, [*command, "--store", str(store)]).stdout)
    assert (found[0]["source"], found[0]["proven"]) == (f"neuronpedia:{SOURCE}", True)
    assert f"the weights are those of {HUB}" in found[0]["why"]


def test_labels_of_the_sae_at_hand_are_joined_and_stay_joined(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    harvested(store, hub_sae(), {i: d * 1.1 for i, d in theirs().items()})
    (found,) = bring(store).identities
    assert (found.joined, found.same_as) == (True, HUB)
    assert (
        found.why.startswith("SAELens' directory ties") and "rank correlation of densities 1.00" in found.why
    )
    with open_catalog(store) as catalog:
        rows = catalog.query("SELECT DISTINCT sae_id FROM catalog")
        shown = catalog.show(FeatureId(HUB, 123))
        n = catalog.query("SELECT count(*) AS n FROM explanations")["n"].tolist()
    assert rows["sae_id"].tolist() == [HUB], "one SAE in the catalog"
    assert shown.density == pytest.approx(theirs()[123] * 1.1), "its own statistics stand"
    assert len(shown.explanations) == 2
    with open_writer(store) as db:
        assert sae_aliases(db)[SOURCE].sae_id == HUB
    again = bring(store, second=False)
    assert again.report is not None and again.report.new["explanations"] == 0, (
        "a second time nothing is doubled"
    )
    with open_catalog(store) as catalog:
        assert catalog.query("SELECT count(*) AS n FROM explanations")["n"].tolist() == n
        assert catalog.query("SELECT count(*) AS n FROM saes")["n"].tolist() == [1]


def test_labels_may_come_first_and_are_joined_later(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    assert bring(store).identities == ()
    harvested(store, hub_sae(), {})
    (found,) = join_proven(store)
    assert (found.joined, found.same_as) == (True, HUB)
    with open_catalog(store) as catalog:
        shown = catalog.show(FeatureId(HUB, 123))
    assert shown.density == theirs()[123], "where the SAE has no figures of its own, theirs are taken"
    assert join_proven(store) == []


APART: dict[str, tuple[SaeRecord, str]] = {
    "a folder of the same name": (hub_sae(HUB.rpartition("/")[2], "canonical"), "is not the SAE at hand"),
    "imported under the hub's name": (hub_sae(source="somebody"), "is not the SAE at hand"),
}


@pytest.mark.parametrize("case", APART)
def test_a_name_joins_nothing(case: str, tmp_path: Path) -> None:
    sae, message = APART[case]
    harvested(tmp_path / "s.duckdb", sae, theirs())
    (found,) = bring(tmp_path / "s.duckdb").identities
    assert (found.joined, found.same_as) == (False, sae.sae_id)
    assert message in found.why
    with open_writer(tmp_path / "s.duckdb") as db:
        assert {s.sae_id for s in stored_saes(db)} == {sae.sae_id, SOURCE}


def test_densities_that_disagree_keep_labels_apart_whatever_the_directory_says(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    turned = dict(zip(theirs(), reversed(theirs().values()), strict=True))
    harvested(store, hub_sae(), turned)
    (found,) = bring(store).identities
    assert not found.joined and "the labels may be another SAE's" in found.why
    said = join_as_said(store, SOURCE, HUB)
    assert not said.joined and "said to be one, but rank correlation of densities" in said.why


def test_the_user_may_say_so_but_not_beyond_the_width(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    bring(store)
    with open_writer(store) as db:
        register_sae(
            db, SaeRecord("mine", "gemma", "blocks.20.hook_resid_post", 8, 100, "topk", "c" * 64, "mine")
        )
    with pytest.raises(ConfigError, match="has the index 299, and mine only 100 features"):
        join_as_said(store, SOURCE, "mine")
    with open_writer(store) as db:
        db.execute("UPDATE saes SET d_sae = 1000 WHERE sae_id = 'mine'")
    shown = CliRunner().invoke(cli, ["catalog", "join", SOURCE, "mine", "--store", str(store)])
    assert shown.stdout == f"joined: {SOURCE} is mine (said by the user)\n"


def test_weights_tell_and_hooks_too() -> None:
    ours = hub_sae()
    assert compare_saes(hub_sae("x", "x"), ours).proven
    other_weights = compare_saes(hub_sae("x", "x", "c" * 64), ours)
    assert (other_weights.proven, other_weights.why) == (False, f"weights {'c' * 12} and {'b' * 12}")
    assert weigh([0.1] * 50, [0.1] * 50) is None, "too few"


def released(tmp_path: Path, sha256: str, sae_id: str = SAE) -> Path:
    """A release of the toy catalog, by somebody whose SAE has other weights or another name."""
    store = tmp_path / f"{sha256[:4]}-{sae_id}.duckdb"
    with open_writer(store) as db:
        fill(db)
        db.execute("UPDATE saes SET sha256 = ?", [sha256])
        for table in ("saes", "features", "explanations", "scores", "tags", "feature_concepts"):
            db.execute(f"UPDATE {table} SET sae_id = ?", [sae_id])
    build_release(store, tmp_path / f"{sha256[:4]}-{sae_id}", ReleaseOptions(name="theirs"))
    return tmp_path / f"{sha256[:4]}-{sae_id}"


def test_an_sae_with_the_same_name_and_other_weights_is_kept_apart(store: Path, tmp_path: Path) -> None:
    release = released(tmp_path, "d" * 64)
    report = import_catalog(store, release, ImportOptions(name="theirs"))
    (found,) = report.identities
    assert (found.sae_id, found.joined) == (f"{SAE}@{'d' * 12}", False)
    assert "aaaaaaaaaaaa, this one dddddddddddd" in found.why
    assert (report.new["features"], report.new["explanations"], report.new["scores"]) == (5, 5, 4)
    with open_catalog(store) as catalog:
        both = catalog.query('SELECT sae_id, explanation, score FROM catalog WHERE "index" = 0 ORDER BY 1')
    assert both["sae_id"].tolist() == [SAE, f"{SAE}@{'d' * 12}"]
    assert both["score"].tolist() == [0.6, 0.6], "each explanation has its own row and score"
    assert set(import_catalog(store, release, ImportOptions(name="theirs")).new.values()) == {0}


def test_the_same_weights_under_another_name_are_one_sae(store: Path, tmp_path: Path) -> None:
    report = import_catalog(store, released(tmp_path, "a" * 64, "renamed"), ImportOptions(name="theirs"))
    (found,) = report.identities
    assert (found.same_as, found.joined) == (SAE, True)
    assert found.why == "the weights' SHA-256 is aaaaaaaaaaaa for both"
    with open_writer(store) as db:
        assert [sae.sae_id for sae in stored_saes(db)] == [SAE]
        assert sae_aliases(db)["renamed"].sae_id == SAE
