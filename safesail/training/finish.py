"""From trained weights to measured, published SAEs."""

import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesail.sae.load import open_sae
from safesail.sae.save import save_sae, topk_config
from safesail.subject.aliases import resolve
from safesail.subject.protocol import Subject
from safesail.training.card import render_card
from safesail.training.config import SaePlan, TrainConfig
from safesail.training.evaluate import Figures, measure
from safesail.training.family import Normaliser
from safesail.training.steps import Trainee
from safesail.training.texts import Texts, held_out_texts


@dataclass(frozen=True)
class TrainedSae:
    """An SAE that a run has written."""

    plan: SaePlan
    path: Path
    tokens_seen: int
    figures: Figures

    def summary(self) -> dict[str, Any]:
        """One row for people: figures on held-out texts by name."""
        return {
            "sae": self.plan.sae_id,
            "hook": self.plan.hook,
            "k": self.plan.k,
            "features": self.plan.d_sae,
            "tokens": self.tokens_seen,
            "EV": self.figures.frac_variance_explained,
            "L0": self.figures.l0,
            "dead": self.figures.dead_share,
            "CE recovered": self.figures.ce_recovered,
            "folder": str(self.path),
        }


def finish(
    config: TrainConfig,
    subject: Subject,
    texts: Texts,
    trainees: Sequence[Trainee],
    normalisers: Mapping[str, Normaliser],
    out: Path,
) -> list[TrainedSae]:
    """Fold the normalisation in, measure the SAEs as they come back from disk, and write them with their cards.

    Raises:
        SaeError: `out` cannot be written.
        ConfigError: no held-out text.
    """
    held_out = held_out_texts(config, subject.tokenize)
    half = config.storage == "float16"
    alias = resolve(config.model)
    base_model = Path(config.model).name if alias is None else alias.hub_id
    metadata = {
        "model_name": base_model,
        "model_fingerprint": subject.info.fingerprint,
        "texts": [t.source for t in texts.tallies if t.n_tokens],
    }
    folded = [normalisers[t.plan.hook].fold(t.weights).saelens() for t in trainees]
    settings = [_settings(config, t, normalisers[t.plan.hook], metadata) for t in trainees]
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / t.plan.sae_id for t in trainees]
        for folder, weights, cfg in zip(folders, folded, settings, strict=True):
            save_sae(folder, weights, cfg, half=half)
        saes = [open_sae(str(folder), model=subject.info, device=subject.device) for folder in folders]
    figures = measure(subject, saes, held_out.windows, loss_tokens=config.eval_loss_tokens)
    for trainee, weights, cfg, measured in zip(trainees, folded, settings, figures, strict=True):
        card = render_card(
            trainee,
            config,
            measured,
            texts.tallies,
            base_model=base_model,
            fingerprint=subject.info.fingerprint,
        )
        save_sae(out / trainee.plan.sae_id, weights, cfg, half=half, readme=card, replace=True)
    return [
        TrainedSae(t.plan, out / t.plan.sae_id, t.tokens_seen, measured)
        for t, measured in zip(trainees, figures, strict=True)
    ]


def _settings(
    config: TrainConfig, trainee: Trainee, normaliser: Normaliser, known: Mapping[str, Any]
) -> dict[str, Any]:
    """SAELens' cfg.json of one SAE."""
    plan = trainee.plan
    metadata = {
        "hook_name": plan.hook,
        **known,
        "prepend_bos": True,
        "context_size": config.n_ctx + 1,
        "training_tokens": trainee.tokens_seen,
        "seed": config.seed,
        # Folded into the weights; kept so that the folding can be undone.
        "normalisation": {
            "scale": normaliser.scale,
            "mean": [float(f"{value:.6g}") for value in normaliser.mean.tolist()],
        },
        "trained_with": f"safesail {importlib.metadata.version('safesail')}",
        "sae_lens_version": importlib.metadata.version("sae_lens"),
    }
    return topk_config(len(normaliser.mean), plan.d_sae, plan.k, metadata)
