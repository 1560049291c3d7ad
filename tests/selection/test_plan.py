import json
from pathlib import Path

import pytest

from safesail.errors import ConfigError, SaeError, SubjectError
from safesail.selection.plan import plan


def folder(path: Path, k: int = 32) -> Path:
    path.mkdir(parents=True)
    config = {"d_in": 576, "d_sae": 1000, "k": k, "metadata": {"hook_name": "blocks.14.hook_mlp_out"}}
    (path / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "sae_weights.safetensors").write_bytes(b"x" * 2_000_000)
    return path


def test_local_saes_by_their_configuration_alone(tmp_path: Path) -> None:
    folder(tmp_path / "one")
    folder(tmp_path / "two", k=64)
    model, one, two = plan("smollm2", [str(tmp_path / "*")], n_tokens=70_000)
    assert (one.name, one.kind, one.layer, one.width, one.l0) == ("one", "here", 14, 1000, 32)
    assert one.megabytes == pytest.approx(2.0, abs=0.01)
    assert two.l0 == 64
    # 2 * 576 * 1000 * 70,000 operations at 70e9 a second; the model: 24 * 576^2 * 15 layers * 70,000.
    assert one.seconds == pytest.approx(1.2, abs=0.05)
    assert (model.kind, model.layer) == ("model", 14)
    assert model.seconds == pytest.approx(119.4, abs=0.1)


def test_releases_of_llama_without_network() -> None:
    rows = plan("llama", ["llama_scope_lxm_8x/l1*m_8x"])
    assert [r.kind for r in rows[:2]] == ["model", "hub"]
    assert {r.layer for r in rows[1:]} == {1, *range(10, 20)}
    first = rows[1]
    assert first.width == 32768
    assert first.megabytes == pytest.approx(4 * (2 * 4096 * 32768 + 4096 + 32768) / 1e6, rel=1e-3)
    assert len(plan("llama", ["llama_scope_lxm_8x"])) == 33
    assert len(plan("llama")) > 150


def test_names_that_match_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="'smollm3'"):
        plan("smollm3")
    with pytest.raises(ConfigError, match="no SAE matches nothing/here"):
        plan("llama", ["nothing/here"])
    broken = folder(tmp_path / "broken")
    (broken / "cfg.json").write_text("{", encoding="utf-8")
    with pytest.raises(SaeError, match="is no JSON"):
        plan("smollm2", [str(broken)])
