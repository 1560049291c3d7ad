"""What is wrong with a selection is one line that says what, where and what to do; the store keeps what it has."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from safesail.store.connection import open_reader
from safesail.store.sql import rows
from tests.pipeline.conftest import Made

PAIR = '{pos: "the knife is here", neg: "the spoon is here"}'
OTHER = '{pos: "the knife is there", neg: "the spoon is there"}'


def concept(*pairs: str, concept_id: str = "x.y") -> str:
    return f"  - {{id: {concept_id}, name: n, definition: d, pairs: [{', '.join(pairs)}]}}\n"


def concepts(*entries: str) -> str:
    return "domain: x\nlicence: MIT\nprovenance: me\nconcepts:\n" + "".join(entries)


def narrower(folder: Path) -> None:
    """Makes it an SAE of another model's width."""
    path = folder / "sae_weights.safetensors"
    wide = load_file(path)
    d_in = wide["b_dec"].numel() - 4
    save_file(
        {
            "W_enc": wide["W_enc"][:d_in].contiguous(), "W_dec": wide["W_dec"][:, :d_in].contiguous(),
            "b_enc": wide["b_enc"].clone(), "b_dec": torch.zeros(d_in),
        },
        path,
    )  # fmt: skip
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"d_in": d_in}))


def damaged(folder: Path) -> None:
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


GOOD = concepts(concept(PAIR, OTHER))
LONG = f'{{pos: "{"the knife " * 99}", neg: "{"the spoon " * 99}"}}'
Case = tuple[dict[str, str], str, Callable[[Path], None] | None, str]
CASES: dict[str, Case] = {
    "another d_in": (
        {}, GOOD, narrower, r"bad reads \d+ numbers per token, \S+tiny has \d+; use --model tiny",
    ),
    "one pair": (
        {}, concepts(concept(PAIR)), None, r"set\.yaml: concept x\.y has 1 pair\(s\); a contrast needs at least 2",
    ),
    "empty neg": (
        {}, concepts(concept(PAIR, '{pos: "a", neg: " "}')), None,
        r"set\.yaml: concept x\.y, pair 2: neg is empty; write the text",
    ),
    "duplicate ids": (
        {}, concepts(concept(PAIR, OTHER), concept(OTHER, PAIR)), None,
        r"set\.yaml: concept 'x\.y' is twice there; ids must be unique",
    ),
    "unknown model": ({"--model": "smolm2"}, GOOD, None, r"no model 'smolm2': .*did you mean smollm2\?"),
    "a hub SAE of another model": (  # said before it is looked for
        {"--sae": "llama_scope_lxm_8x/l0m_8x"}, GOOD, None,
        r"llama_scope_lxm_8x/l0m_8x reads 4096 numbers per token, \S+tiny has \d+; use --model llama",
    ),
    "damaged weights": (
        {}, GOOD, damaged, r"bad: sae_weights\.safetensors is damaged \(.*\); copy or download it again",
    ),
    "text too long": (
        {}, concepts(concept(PAIR, LONG)), None,
        r"concept x\.y, pos 'the knife .*': \d+ tokens, the subject model takes \d+; shorten it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_input_is_one_line_and_loses_nothing(made: Made, tmp_path: Path, case: str) -> None:
    changes, text, spoil, message = CASES[case]
    store = tmp_path / "store.duckdb"
    shutil.copy(made.out / "safesail.duckdb", store)
    before = counts(store)
    shutil.copytree(made.file.parent / "saes" / "tiny-l0", tmp_path / "bad")
    if spoil is not None:
        spoil(tmp_path / "bad")
    (tmp_path / "set.yaml").write_text(text, encoding="utf-8")
    options = {
        "--model": str(made.file.parent / "tiny"), "--sae": str(tmp_path / "bad"),
        "--concepts": str(tmp_path / "set.yaml"), "--store": str(store),
    } | changes  # fmt: skip
    code = "from safesail.cli.main import main; main()"
    arguments = [part for option in options.items() for part in option]
    done = subprocess.run(
        [sys.executable, "-c", code, "select-sae", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: .*{message}.*\n", done.stderr), done.stderr
    assert counts(store) == before


def counts(store: Path) -> list[tuple[object, ...]]:
    with open_reader(store) as db:
        return [
            *rows(db, "SELECT sae_id, selection_id FROM selections ORDER BY ALL"),
            *rows(db, "SELECT count(*), sum(value) FROM sae_scores"),
            *rows(db, "SELECT count(*) FROM concepts"),
            *rows(db, "SELECT sae_id FROM saes ORDER BY ALL"),
        ]
