import json
import os
from pathlib import Path

import pytest

from safesail.errors import SubjectError
from safesail.subject.fingerprint import fingerprint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_weights_and_configuration_decide_and_other_files_do_not(model: Path, tmp_path: Path) -> None:
    memory = tmp_path / "cache" / "fingerprints.json"
    first = fingerprint(model, memory=memory)
    (model / "README.md").write_text("hello", encoding="utf-8")
    assert fingerprint(model, memory=memory) == first
    (model / "config.json").write_text('{"n": 12}', encoding="utf-8")
    second = fingerprint(model, memory=memory)
    (model / "model.safetensors").write_bytes(b"other weights")
    assert len({first, second, fingerprint(model, memory=memory)}) == 3


def test_a_copy_elsewhere_has_the_same(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert fingerprint(copy, memory=tmp_path / "a.json") == fingerprint(model, memory=tmp_path / "b.json")


def test_digests_are_remembered_until_a_file_changes(model: Path, tmp_path: Path) -> None:
    memory = tmp_path / "fingerprints.json"
    first = fingerprint(model, memory=memory)
    weights = model / "model.safetensors"
    before = weights.stat()
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Same size and time: the remembered digest stands in for reading the file.
    assert fingerprint(model, memory=memory) == first
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert fingerprint(model, memory=memory) != first


@pytest.mark.parametrize("content", ["not json", "[]"])
def test_a_damaged_memory_is_ignored(model: Path, tmp_path: Path, content: str) -> None:
    memory = tmp_path / "fingerprints.json"
    memory.write_text(content, encoding="utf-8")
    fingerprint(model, memory=memory)
    assert len(json.loads(memory.read_text(encoding="utf-8"))) == 2


def test_a_memory_that_cannot_be_written_does_no_harm(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert len(fingerprint(model, memory=tmp_path / "file" / "fingerprints.json")) == 64


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SubjectError, match="holds no model"):
        fingerprint(tmp_path)
