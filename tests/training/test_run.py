import json
from pathlib import Path
from typing import Any

import pytest
import torch

from safesail.errors import ConfigError, DataError, SaeError
from safesail.sae.load import open_sae
from safesail.subject.protocol import Subject
from safesail.training.config import TrainConfig
from safesail.training.run import CHECKPOINT, learn, run_training, takes_part
from safesail.training.texts import held_out_texts, source_name, train_texts

TEXT = "the cat sat on a mat and he ran off to see her new red hat by an old sea wall"
WORDS = TEXT.split()


@pytest.fixture
def config(tiny_dir: Path, tmp_path: Path) -> TrainConfig:
    """Three SAEs at two hooks, a few thousand tokens: one block of them is 600 tokens."""
    generator = torch.Generator().manual_seed(0)
    lines = [
        json.dumps(
            {"text": " ".join(WORDS[i] for i in torch.randint(len(WORDS), (12,), generator=generator))}
        )
        for _ in range(160)
    ]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text("\n".join(lines[:100]), encoding="utf-8")
    # Ten of these stand in the first file too.
    (tmp_path / "texts" / "b.jsonl").write_text("\n".join(lines[90:]), encoding="utf-8")
    return TrainConfig.read(
        {
            "model": str(tiny_dir),
            "families": [
                {"hook": "blocks.1.hook_mlp_out", "ks": [2, 8], "widths": [48]},
                {"hook": "blocks.2.hook_mlp_out", "ks": [4], "widths": [48], "share": 0.5},
            ],
            "texts": [
                {"source": str(tmp_path / "texts" / "a.jsonl")},
                {"source": str(tmp_path / "texts" / "b.jsonl"), "max_tokens": 1200},
            ],
            "n_tokens": 3000,
            "n_ctx": 24,
            "block_tokens": 600,
            "batch_tokens": 64,
            "eval_tokens": 800,
            "eval_loss_tokens": 200,
            "lr": 0.01,
        },
        "test",
    )


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    return TrainConfig.read(config.model_dump() | values, "test")


def test_a_family_is_trained_measured_and_written(config: TrainConfig, tiny: Subject, tmp_path: Path) -> None:
    out = tmp_path / "saes"
    trained = run_training(config, out=out, quiet=True)
    assert [t.plan.sae_id for t in trained] == ["tiny-l1-mlp-k2", "tiny-l1-mlp-k8", "tiny-l2-mlp-k4"]
    assert sorted(path.name for path in out.iterdir()) == [t.plan.sae_id for t in trained]
    few, many, _ = trained
    assert few.figures.l0 <= 2
    assert 0 < few.figures.frac_variance_explained < many.figures.frac_variance_explained < 1
    # Half of the tokens at the deeper hook, whole batches of 64 only.
    assert 0 < trained[2].tokens_seen < 0.7 * few.tokens_seen
    sae = open_sae(str(many.path), model=tiny.info)
    assert (sae.info.k, sae.info.hook) == (8, "blocks.1.hook_mlp_out")
    row = many.summary()
    assert row["sae"] == "tiny-l1-mlp-k8"
    assert row["EV"] == many.figures.frac_variance_explained


def test_what_is_written_names_texts_and_figures_but_no_place(config: TrainConfig, tmp_path: Path) -> None:
    trained = run_training(config, out=tmp_path / "saes", quiet=True)[0]
    card = (trained.path / "README.md").read_text(encoding="utf-8")
    settings = json.loads((trained.path / "cfg.json").read_text(encoding="utf-8"))
    assert "| texts/a.jsonl |" in card
    assert (
        f"| fraction of variance explained, about the mean | {trained.figures.frac_variance_explained:.4f} |"
        in card
    )
    assert settings["metadata"]["training_tokens"] == trained.tokens_seen
    assert settings["metadata"]["texts"] == ["texts/a.jsonl", "texts/b.jsonl"]
    assert len(settings["metadata"]["normalisation"]["mean"]) == 32
    deep = (trained.path.parent / "tiny-l2-mlp-k4" / "README.md").read_text(encoding="utf-8")
    assert "(from a share of 0.5 of the texts below)" in deep
    assert "from a share" not in card
    for text in (card, json.dumps(settings)):
        assert str(tmp_path) not in text
        assert "/tmp" not in text


def test_a_killed_run_goes_on_with_the_same_result(
    config: TrainConfig, tiny: Subject, tmp_path: Path
) -> None:
    whole = run_training(config, out=tmp_path / "whole", quiet=True)
    # Killed in the third block: the subject model fails there.
    killed = tmp_path / "killed"
    texts = train_texts(config, tiny.tokenize)
    runs = 0
    run = tiny.run

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs > 2:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    tiny.run = failing  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with pytest.raises(KeyboardInterrupt):
            learn(config, tiny, texts, checkpoint=killed / CHECKPOINT, quiet=True)
    finally:
        del tiny.run
    assert [path.name for path in killed.iterdir()] == [CHECKPOINT]
    resumed = run_training(config, out=killed, quiet=True)
    assert not (killed / CHECKPOINT).exists()
    for first, second in zip(whole, resumed, strict=True):
        assert (first.path / "sae_weights.safetensors").read_bytes() == (
            second.path / "sae_weights.safetensors"
        ).read_bytes()
        assert first.figures == second.figures


def test_an_unfinished_run_with_other_settings_is_not_mixed_in(
    config: TrainConfig, tiny: Subject, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "saes" / CHECKPOINT
    learn(config, tiny, train_texts(config, tiny.tokenize), checkpoint=checkpoint, quiet=True)
    with pytest.raises(DataError, match="other settings, texts or subject model"):
        run_training(changed(config, lr=0.02), out=tmp_path / "saes", quiet=True)
    (tmp_path / "texts" / "b.jsonl").write_text('{"text": "another text"}', encoding="utf-8")
    with pytest.raises(DataError, match="other settings, texts or subject model"):
        run_training(config, out=tmp_path / "saes", quiet=True)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(DataError, match="is damaged"):
        run_training(config, out=tmp_path / "saes", quiet=True)


def test_an_sae_that_is_there_is_not_trained_again(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "saes" / "tiny-l1-mlp-k8").mkdir(parents=True)
    with pytest.raises(SaeError, match="tiny-l1-mlp-k8 exists already; choose another folder"):
        run_training(config, out=tmp_path / "saes", quiet=True)


def test_an_unknown_hook_is_found_before_any_work(config: TrainConfig, tmp_path: Path) -> None:
    wrong = changed(config, families=[{"hook": "blocks.1.hook_mlp_outt", "ks": [2], "widths": [48]}])
    with pytest.raises(ConfigError, match=r"no hook 'blocks\.1\.hook_mlp_outt'"):
        run_training(wrong, out=tmp_path / "saes", quiet=True)
    assert not (tmp_path / "saes").exists()


def test_too_little_text(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give \d+ tokens to train on, fewer than one batch of 500"):
        run_training(changed(config, n_tokens=100, batch_tokens=500), out=tmp_path / "saes", quiet=True)


def test_a_folder_that_cannot_be_written(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="cannot write"):
        run_training(config, out=tmp_path / "file", quiet=True)


def test_training_and_held_out_documents_are_apart_and_no_text_counts_twice(
    config: TrainConfig, tiny: Subject
) -> None:
    wide = changed(
        config,
        n_ctx=63,
        n_tokens=10**6,
        eval_tokens=10**6,
        texts=[dict(t) | {"max_tokens": None} for t in config.model_dump()["texts"]],
    )
    shown, held_out = train_texts(wide, tiny.tokenize), held_out_texts(wide, tiny.tokenize)
    assert len(set(shown.windows)) == len(shown.windows)
    assert not set(shown.windows) & set(held_out.windows)
    assert shown.n_tokens == sum(map(len, shown.windows))
    assert [t.source for t in shown.tallies] == ["texts/a.jsonl", "texts/b.jsonl"]


def test_sources_are_named_without_their_place(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("", encoding="utf-8")
    assert source_name(str(tmp_path / "set" / "a.txt")) == "set/a.txt"
    assert source_name(str(tmp_path / "set")) == "set"
    assert source_name("hf:org/name:test") == "hf:org/name:test"
    assert source_name("-") == "-"


def test_shares_of_blocks() -> None:
    assert [takes_part(i, 1.0) for i in range(4)] == [True] * 4
    assert [takes_part(i, 0.5) for i in range(6)] == [True, False] * 3
    for share in (0.1, 0.3, 0.77):
        assert takes_part(0, share)
        assert sum(takes_part(i, share) for i in range(1000)) == pytest.approx(1000 * share, abs=1)
