"""A real Llama whose embeddings are SAELens' synthetic activations and whose head reads some of their features.

Its blocks add nothing, so what each feature does is known: the planted ones make their ten tokens likelier, and the
others none more than any push does.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.synthetic import ActivationGenerator, FeatureDictionary, orthogonal_initializer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safesail.domain.ids import FeatureId
from safesail.intervene.config import InterveneConfig
from safesail.intervene.directions import null_features, with_nulls
from safesail.intervene.feature import FeatureTask, Neutral, measure_feature
from safesail.intervene.run import rank_effects
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.sae.save import save_sae, topk_config
from safesail.store.connection import Db
from safesail.store.effects import FeatureSize, MeasuredIn, Span, write_effects
from safesail.store.sql import rows
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject

HOOK = "blocks.0.hook_resid_post"
THRESHOLD, MAGNITUDE = 1.5, 4.0
SET = 10
PER_TOKEN = 3
CONFIG = InterveneConfig(
    n_texts=6,
    n_neutral=6,
    context=4,
    edited=2,
    n_null_features=8,
    n_random=2,
    set_size=SET,
    draws=100,
    strength=2.0,
)


@dataclass(frozen=True)
class PlantedWorld:
    """A model, an SAE of its features, and what they do."""

    subject: Subject
    sae: SAE
    fires: Any
    """[vocabulary, d_sae]: whether a feature fires on a token."""

    sets: dict[int, list[int]]
    """Token set of every feature; those below `n_planted` are what the head reads."""

    n_planted: int
    sizes: dict[int, FeatureSize]


def make_world(
    folder: Path,
    *,
    n_features: int,
    n_planted: int,
    d_model: int,
    vocabulary: int,
    strength: float,
    device: str = "cpu",
) -> PlantedWorld:
    """Build it, write it to `folder`, and load it."""
    torch.manual_seed(0)
    dictionary = FeatureDictionary(
        n_features, d_model, initializer=orthogonal_initializer(num_steps=30), seed=0
    )
    generator = ActivationGenerator(
        n_features, PER_TOKEN / n_features, std_firing_magnitudes=0.3, mean_firing_magnitudes=MAGNITUDE
    )
    with torch.no_grad():
        acts = generator.sample(vocabulary)
        directions = torch.nn.functional.normalize(dictionary.feature_vectors.detach(), dim=1)
        embeddings = acts @ directions
    rng = np.random.default_rng(0)
    order = rng.permutation(vocabulary)
    assert n_planted * SET < vocabulary // 2
    sets = {j: order[j * SET : (j + 1) * SET].tolist() for j in range(n_planted)}
    free = order[n_planted * SET :]
    sets |= {j: rng.choice(free, SET, replace=False).tolist() for j in range(n_planted, n_features)}
    head = 0.05 * torch.randn(vocabulary, d_model)
    for j in range(n_planted):
        head[sets[j]] += strength * directions[j]
    subject = _load(folder / "model", embeddings, head, device)
    sae = _sae(folder / "planted", directions, subject)
    values = acts.numpy()
    sizes = {
        j: FeatureSize(
            float((values[:, j] > 0).mean()), float(values[:, j].mean()), float(values[:, j].max())
        )
        for j in range(n_features)
        if (values[:, j] > 0).any()
    }
    return PlantedWorld(subject, sae, values > 0, sets, n_planted, sizes)


def _load(folder: Path, embeddings: torch.Tensor, head: torch.Tensor, device: str) -> Subject:
    vocabulary, d_model = embeddings.shape
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=d_model, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight.copy_(head)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(vocabulary)}
    inner = Tokenizer(WordLevel(words, unk_token="w2"))
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="w0", eos_token="w1", unk_token="w2"
    ).save_pretrained(folder)
    return load_subject(ModelConfig(str(folder), device))


def _sae(folder: Path, directions: torch.Tensor, subject: Subject) -> SAE:
    n, d_in = directions.shape
    meta = {"hook_name": HOOK, "model_name": "planted", "sae_lens_version": "6.54.12"}
    config = {**topk_config(d_in, n, 1, meta), "architecture": "standard"}
    del config["k"]
    weights = {
        "W_enc": directions.T.contiguous(), "W_dec": directions.contiguous(), "b_enc": torch.full((n,), -THRESHOLD),
        "b_dec": torch.zeros(d_in),
    }  # fmt: skip
    save_sae(folder, weights, json.loads(json.dumps(config)))
    return open_sae(str(folder), model=subject.info, device=subject.device)


def measured(
    world: PlantedWorld, features: list[int], db: Db, *, seed: int = 0
) -> dict[tuple[int, str], float]:
    """q of the planted sets' log-odds, by feature and condition (steered: on neutral text)."""
    rng = np.random.default_rng(seed)
    n_vocabulary = len(world.fires)

    def span(first: Callable[[], int]) -> Span:
        ids = rng.integers(2, n_vocabulary, CONFIG.context + CONFIG.edited + 1)
        ids[CONFIG.context] = first()
        return Span("d", tuple(ids.tolist()))

    neutral = Neutral.run(
        world.subject,
        HOOK,
        [span(lambda: int(rng.integers(2, n_vocabulary))) for _ in range(CONFIG.n_neutral)],
        CONFIG,
    )
    made = MeasuredIn("{}", "settings", 0, "model", "sae", "texts", "run")
    for j in features:
        tokens = np.flatnonzero(world.fires[2:, j]) + 2
        spans = [span(lambda tokens=tokens: int(rng.choice(tokens))) for _ in range(CONFIG.n_texts)]
        nulls = null_features(world.sae, j, world.sizes, CONFIG.n_null_features)
        directions = with_nulls(world.sae, j, nulls, n_random=CONFIG.n_random, seed=0)
        task = FeatureTask(
            j, world.sizes[j].maximum, spans, {"followers": world.sets[j]}, directions, len(nulls)
        )
        effects = measure_feature(world.subject, world.sae, task, neutral, CONFIG)
        write_effects(db, FeatureId("planted", j), made, effects)
    rank_effects(db, "planted", "settings")
    stored = rows(
        db,
        "SELECT feature, condition, q FROM effects WHERE measure = 'log_odds_followers' AND q IS NOT NULL"
        " AND (condition, texts) IN (('ablate', 'firing'), ('double', 'firing'), ('steer', 'neutral'))",
    )
    return {(int(j), str(condition)): float(q) for j, condition, q in stored}
