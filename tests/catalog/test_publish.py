"""Releases with SAEs, pushed to a hub on loopback and got back from there by somebody else."""

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from safesail.catalog.config import ImportOptions, ReleaseOptions
from safesail.catalog.download import download
from safesail.catalog.importing import import_catalog
from safesail.catalog.release import build_release
from safesail.catalog.verify import verify_release
from safesail.errors import ConfigError, DataError, FingerprintError
from safesail.sae.save import save_sae, topk_config
from safesail.sae.stored import stored_sha256
from safesail.store.connection import open_reader, open_writer
from safesail.store.sql import one
from tests.catalog.toy import SAE, fill
from tests.hub import Hub, hub
from tests.tiny_model import D_MODEL, write_tiny_model

TOKEN = "hf_verysecrettoken"
D_SAE = 16


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    """A folder with the SAE that the toy catalog is about, and one that it is not."""
    for name, seed in ((SAE, 0), ("another", 1)):
        generator = torch.Generator().manual_seed(seed)
        w_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
        weights = {"W_enc": w_dec.T.contiguous(), "b_enc": torch.zeros(D_SAE), "W_dec": w_dec,
                   "b_dec": torch.zeros(D_MODEL)}  # fmt: skip
        about = {"hook_name": "blocks.2.hook_mlp_out", "model_name": "toy",
                 "sae_lens_version": importlib.metadata.version("sae_lens")}  # fmt: skip
        card = "---\nlicense: apache-2.0\n---\n# card\n" if name == SAE else None
        save_sae(tmp_path / "saes" / name, weights, topk_config(D_MODEL, D_SAE, 4, about), readme=card)
    return tmp_path / "saes"


@pytest.fixture
def stored(tmp_path: Path, sae: Path) -> Path:
    """The toy catalog of that SAE."""
    path = tmp_path / "toy.duckdb"
    with open_writer(path) as db:
        fill(db)
        sha256 = stored_sha256(sae / SAE / "sae_weights.safetensors")
        db.execute("UPDATE saes SET sha256 = ?, d_in = ?", [sha256, D_MODEL])
    return path


def command(hub: Hub, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home / "hf"), "SAFESAIL_CACHE": str(home / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    line = [sys.executable, "-m", "safesail", "catalog", *map(str, arguments), "--quiet"]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=240, check=False)


def files_with(token: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def test_pushed_got_back_verified_loaded_and_used(stored: Path, sae: Path, tmp_path: Path) -> None:
    release = ["release", tmp_path / "out", "--name", "toy", "--store", stored, "--with-saes", sae / "*",
               "--push", "hf:me/toy"]  # fmt: skip
    with hub(TOKEN) as running:
        said = command(running, tmp_path, *release)
        assert said.returncode == 0, said.stderr
        assert "its owners" in said.stdout and "apache-2.0" in said.stdout
        assert "nothing was sent" in said.stderr and running.asked == []
        done = command(running, tmp_path, *release, "--yes")
        assert done.returncode == 0, done.stderr
        assert running.private == {"me/toy": True}
        names = {
            path.relative_to(tmp_path / "out").as_posix()
            for path in (tmp_path / "out").rglob("*")
            if path.is_file()
        }
        assert set(running.files["me/toy"]) == names | {".gitattributes"}
        assert f"saes/{SAE}/sae_weights.safetensors" in names and not any("another" in name for name in names)
        got = command(running, tmp_path / "them", "download", "hf:me/toy", "--into", tmp_path / "them.duckdb",
                      "--out", tmp_path / "theirs")  # fmt: skip
        assert got.returncode == 0, got.stderr
        assert {who for _, path, who in running.asked if path.startswith("/blobs/")} == {None}
    assert not files_with(TOKEN, tmp_path), "the token is kept nowhere"
    assert TOKEN not in said.stdout + said.stderr + done.stdout + done.stderr + got.stdout + got.stderr
    assert not any(TOKEN.encode() in content for content in running.files["me/toy"].values())
    theirs = tmp_path / "theirs"
    assert verify_release(theirs).weights[0].licence == "apache-2.0"
    assert (theirs / "manifest.json").read_bytes() == (tmp_path / "out/manifest.json").read_bytes()

    import safesail

    model = safesail.load(
        str(write_tiny_model(tmp_path / "tiny")), [str(theirs / "saes")], catalog=theirs, device="cpu"
    )
    fired = model.features("he and she")
    assert set(fired["sae"]) == {SAE}
    assert "Recipes for apple pie" in set(fired["explanation"])
    imported = safesail.load(
        str(tmp_path / "tiny"), [str(theirs / "saes")], catalog=tmp_path / "them.duckdb", device="cpu"
    )
    diagnosed = imported.diagnose("he and she").fired
    assert "Recipes for apple pie" in set(diagnosed["explanation"])


def test_a_public_set_is_not_taken_for_a_private_one_and_old_tables_go(stored: Path, tmp_path: Path) -> None:
    release = [
        "release",
        tmp_path / "out",
        "--name",
        "toy",
        "--store",
        stored,
        "--push",
        "hf:me/toy",
        "--yes",
    ]
    with hub(TOKEN) as running:
        running.files["me/toy"] = {"old.parquet": b"x", "saes/gone/cfg.json": b"{}", "notes.txt": b"mine"}
        running.private["me/toy"] = False
        refused = command(running, tmp_path, *release)
        assert refused.returncode == 1
        assert refused.stderr == (
            "error: hf:me/toy is public, not private; change that on the hub, or choose another name, or say --public\n"
        )
        assert len(running.files["me/toy"]) == 3
        assert command(running, tmp_path, *release, "--public").returncode == 0
        assert not {"old.parquet", "saes/gone/cfg.json"} & set(running.files["me/toy"])
        assert "notes.txt" in running.files["me/toy"]
        running.token = "another"
        denied = command(running, tmp_path, *release, "--public")
    assert denied.returncode == 1
    assert denied.stderr.startswith("error: hf:me/toy was not pushed: ") and TOKEN not in denied.stderr


def test_what_may_not_go_along(stored: Path, sae: Path, tmp_path: Path) -> None:
    def build(out: str, **options: object) -> None:
        build_release(stored, tmp_path / out, ReleaseOptions.read({"name": "toy", **options}, "test"))

    with pytest.raises(
        ConfigError, match=r"no SAE in \S+another has the weights that the catalog is about \(toy-l2\)"
    ):
        build("a", saes=(str(sae / "another"),))
    (sae / SAE / "README.md").unlink()
    with pytest.raises(ConfigError, match="states no licence; name it with --sae-licence"):
        build("b", saes=(str(sae),))
    build("c", saes=(str(sae),), sae_licence="MIT")
    assert [w.licence for w in verify_release(tmp_path / "c").weights] == ["MIT"]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"saes", "c"}, (
        "nothing half is left"
    )


def test_a_zip_with_saes_and_what_is_not_as_the_manifest_says(
    stored: Path, sae: Path, tmp_path: Path
) -> None:
    options = ReleaseOptions(name="toy", saes=(str(sae),))
    build_release(stored, tmp_path / "r.zip", options)
    folder = download(str(tmp_path / "r.zip"), tmp_path / "r", quiet=True)
    assert (folder / f"saes/{SAE}/cfg.json").is_file()
    (folder / "saes/extra").mkdir()
    with pytest.raises(DataError, match="saes/extra is not in the manifest"):
        verify_release(folder)
    (folder / "saes/extra").rmdir()
    weights = folder / f"saes/{SAE}/sae_weights.safetensors"
    other = (sae / "another/sae_weights.safetensors").read_bytes()
    weights.write_bytes(other)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][f"saes/{SAE}/sae_weights.safetensors"] |= {
        "sha256": hashlib.sha256(other).hexdigest(), "bytes": len(other)}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FingerprintError, match="has other weights than SAE 'toy-l2'"):
        verify_release(folder)
    weights.unlink()
    weights.symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="must be a plain file"):
        verify_release(folder)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("manifest.json", (folder / "manifest.json").read_bytes())
        archive.writestr("saes/../../x/cfg.json", "{}")
    with pytest.raises(DataError, match="plain file names"):
        download(str(tmp_path / "evil.zip"), tmp_path / "e", quiet=True)


def test_where_explanations_came_from_travels_with_them(stored: Path, tmp_path: Path) -> None:
    report = {"provenance": {"source": "safe-sail:x", "licence": "MIT", "page": "https://example.org/a|b",
                             "address": "https://example.org/"}}  # fmt: skip
    with open_writer(stored) as db:
        db.execute("INSERT INTO imports VALUES ('them', 'table', 'x', now(), ?)", [json.dumps(report)])
        db.execute("UPDATE explanations SET origin = 'them' WHERE feature = 0")
    manifest = build_release(stored, tmp_path / "one", ReleaseOptions(name="toy"))
    assert manifest.provenance["them"]["licence"] == "MIT"
    card = (tmp_path / "one/README.md").read_text()
    assert (
        "| them | 1 | MIT | https://example.org/a b |" in card and "| segment | guesser | 3 | 1 | 0 |" in card
    )
    import_catalog(tmp_path / "e.duckdb", tmp_path / "one", ImportOptions(name="toy"))
    build_release(tmp_path / "e.duckdb", tmp_path / "two", ReleaseOptions(name="toy"))
    for name in ("manifest.json", "README.md"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    with open_reader(tmp_path / "e.duckdb") as db:
        assert one(db, "SELECT count(*) FROM imports") == (2,)
