"""A real, tiny subject model and SAEs in SAELens' format with weights planted by hand."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safesail.concepts.read import pair_id
from safesail.domain.records import Concept, ConceptPair
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject

WORDS = re.findall(
    r"\S+", "the a man dog saw took red blue bomb gun cake hat big old new in park house said ran , ."
)
D_MODEL, N_CTX = 64, 32
HOOK = "blocks.0.hook_resid_pre"
"""Here a token's activations are its embedding, whatever stands before it: a feature can be planted exactly."""


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, whose tokens are words."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    vocabulary = {word: i for i, word in enumerate(["<s>", "<unk>", *WORDS])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>").save_pretrained(
        folder
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=D_MODEL, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=N_CTX, bos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def subject(model_dir: Path) -> Subject:
    """The model in `model_dir`."""
    return load_subject(ModelConfig(str(model_dir)))


@pytest.fixture(scope="session")
def embedding(subject: Subject) -> Callable[[str], torch.Tensor]:
    """The activations at `HOOK` of one word."""

    def of(word: str) -> torch.Tensor:
        ids = torch.tensor([subject.tokenize(word)])
        return subject.run(ids, capture=[HOOK]).activations[HOOK][0, 0].clone()

    return of


@pytest.fixture
def make_sae(
    tmp_path: Path, subject: Subject, embedding: Callable[[str], torch.Tensor]
) -> Callable[..., SAE]:
    """Builds a ReLU SAE with one feature a word of `detects` and `noise` random features."""

    def make(
        name: str,
        detects: tuple[str, ...] = (),
        noise: int = 0,
        dead: int = 4,
        hook: str = HOOK,
        d_in: int = D_MODEL,
    ) -> SAE:
        # "bomb+cake" is one feature, strong on the first word and weaker on the second.
        rows = [
            sum((embedding(w) * 0.7**i for i, w in enumerate(d.split("+"))), torch.zeros(d_in))
            for d in detects
        ]
        generator = torch.Generator().manual_seed(len(name))
        w_enc = torch.cat(
            [
                torch.stack([row / row.norm() for row in rows]) if rows else torch.zeros(0, d_in),
                torch.randn(noise, d_in, generator=generator),
                torch.zeros(dead, d_in),
            ]
        )
        # A planted feature fires on its own word alone: other words' embeddings are far from its direction.
        b_enc = torch.cat([torch.tensor([-0.4 * float(r.norm()) for r in rows]), torch.zeros(noise + dead)])
        folder = tmp_path / name
        folder.mkdir()
        weights = {
            "W_enc": w_enc.T.contiguous(),
            "b_enc": b_enc,
            "W_dec": w_enc.clone(),
            "b_dec": torch.zeros(d_in),
        }
        save_file(weights, folder / "sae_weights.safetensors")
        metadata = {"hook_name": hook, "model_name": "tiny", "sae_lens_version": "6.54.12"}
        config = {
            "architecture": "standard", "d_in": d_in, "d_sae": len(w_enc), "dtype": "float32", "device": "cpu",
            "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
            "metadata": metadata,
        }  # fmt: skip
        (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
        return open_sae(str(folder), model=None)

    return make


def concept(
    concept_id: str, sides: list[tuple[str, str]], *, lang: str = "en", form: str = "statement"
) -> Concept:
    """A concept of (pos, neg) texts; its domain is the id's first part."""
    pairs = tuple(ConceptPair(pair_id(concept_id, lang, p, n), lang, form, p, n) for p, n in sides)
    domain = concept_id.split(".")[0]
    return Concept(concept_id, domain, None, concept_id, "a test concept", pairs)


def swap_word(word: str, other: str, n: int, seed: int = 0) -> list[tuple[str, str]]:
    """`n` different pairs of texts that differ in one word."""
    rng = np.random.default_rng(seed)
    plain = [w for w in WORDS if w not in ("bomb", "gun", "cake", "hat", "dog", "man")]
    texts: dict[tuple[str, ...], None] = {}
    while len(texts) < n:
        texts[tuple(rng.choice(plain, int(rng.integers(3, 7))))] = None
    return [(" ".join([*t, word]), " ".join([*t, other])) for t in texts]


@pytest.fixture
def concepts() -> tuple[Concept, ...]:
    """Two dangerous words and one ordinary one, each against another word."""
    return (
        concept("violence.bomb", swap_word("bomb", "cake", 12, 1)),
        concept("terror.gun", swap_word("gun", "hat", 12, 2)),
        concept("ordinary.dog", swap_word("dog", "man", 12, 3)),
    )
