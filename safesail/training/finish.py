"""From trained weights to measured, published SAEs."""

import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from safesail.errors import SaeError
from safesail.sae.load import open_sae
from safesail.sae.save import save_sae, topk_config
from safesail.subject.aliases import resolve
from safesail.subject.protocol import Subject
from safesail.training.card import CardFacts, render_card
from safesail.training.config import TrainConfig
from safesail.training.evaluate import Figures, measure
from safesail.training.family import Normaliser
from safesail.training.steps import Trainee
from safesail.training.texts import Texts, held_out_texts


@dataclass(frozen=True)
class TrainedSae:
    """An SAE that a run has written."""

    sae_id: str
    path: Path
    hook: str
    k: int
    d_sae: int
    tokens_seen: int
    figures: Figures

    def summary(self) -> dict[str, Any]:
        """One row for people: figures on held-out texts by name."""
        return {
            "sae": self.sae_id,
            "hook": self.hook,
            "k": self.k,
            "features": self.d_sae,
            "tokens": self.tokens_seen,
            "EV": self.figures.frac_variance_explained,
            "L0": self.figures.l0,
            "dead": self.figures.dead_share,
            "CE recovered": self.figures.ce_recovered,
            "folder": str(self.path),
        }


def check_free(config: TrainConfig, out: Path) -> None:
    """Refuse to train what is there already.

    Raises:
        SaeError: `out` holds an SAE of one of the names.
    """
    for plan in config.plans():
        if (out / plan.sae_id).exists():
            raise SaeError(f"{out / plan.sae_id} exists already; choose another folder, or delete it")


def finish(
    config: TrainConfig,
    subject: Subject,
    texts: Texts,
    trainees: Sequence[Trainee],
    normalisers: Mapping[str, Normaliser],
    out: Path,
) -> list[TrainedSae]:
    """Fold the normalisation in, measure the SAEs as they are stored, and write them with their cards.

    Raises:
        SaeError: `out` cannot be written.
        ConfigError: no held-out text.
    """
    held_out = held_out_texts(config, subject)
    half = config.storage == "float16"
    folded = [normalisers[t.plan.hook].fold(t.weights) for t in trainees]
    weights = [{"W_enc": w.w_enc, "b_enc": w.b_enc, "W_dec": w.w_dec, "b_dec": w.b_dec} for w in folded]
    configs = [_sae_config(config, t, normalisers[t.plan.hook], subject, texts) for t in trainees]
    figures = _measure(config, subject, trainees, weights, configs, held_out)
    facts = [_facts(config, subject, texts, t) for t in trainees]
    trained: list[TrainedSae] = []
    for i, trainee in enumerate(trainees):
        plan = trainee.plan
        card = render_card(plan, config, facts[i], figures[i])
        save_sae(out / plan.sae_id, weights[i], configs[i], half=half, readme=card, replace=True)
        trained.append(
            TrainedSae(
                plan.sae_id, out / plan.sae_id, plan.hook, plan.k, plan.d_sae, trainee.tokens_seen, figures[i]
            )
        )
    return trained


def _measure(
    config: TrainConfig,
    subject: Subject,
    trainees: Sequence[Trainee],
    weights: Sequence[Mapping[str, Tensor]],
    configs: Sequence[Mapping[str, Any]],
    held_out: Texts,
) -> list[Figures]:
    """Figures of the SAEs as they come back from disk, in the precision they are stored in."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / t.plan.sae_id for t in trainees]
        for folder, tensors, settings in zip(folders, weights, configs, strict=True):
            save_sae(folder, tensors, settings, half=config.storage == "float16")
        saes = [open_sae(str(folder), model=subject.info) for folder in folders]
    return measure(
        subject,
        saes,
        held_out.windows,
        block_tokens=config.block_tokens,
        loss_tokens=config.eval_loss_tokens,
    )


def _sae_config(
    config: TrainConfig, trainee: Trainee, normaliser: Normaliser, subject: Subject, texts: Texts
) -> dict[str, Any]:
    plan = trainee.plan
    metadata = {
        "hook_name": plan.hook,
        "model_name": _base_model(config.model),
        "model_fingerprint": subject.info.fingerprint,
        "prepend_bos": True,
        "context_size": config.n_ctx + 1,
        "training_tokens": trainee.tokens_seen,
        "texts": [t.source for t in texts.tallies if t.n_tokens],
        "seed": config.seed,
        # Folded into the weights; kept so that the folding can be undone.
        "normalisation": {
            "scale": normaliser.scale,
            "mean": [float(f"{value:.6g}") for value in normaliser.mean.tolist()],
        },
        "trained_with": f"safesail {importlib.metadata.version('safesail')}",
        "sae_lens_version": importlib.metadata.version("sae_lens"),
    }
    return topk_config(subject.info.d_model, plan.d_sae, plan.k, metadata)


def _facts(config: TrainConfig, subject: Subject, texts: Texts, trainee: Trainee) -> CardFacts:
    return CardFacts(
        base_model=_base_model(config.model),
        fingerprint=subject.info.fingerprint,
        trained=texts.tallies,
        tokens_seen=trainee.tokens_seen,
        share=next(family.share for family in config.families if family.hook == trainee.plan.hook),
        version=importlib.metadata.version("safesail"),
    )


def _base_model(model: str) -> str:
    """Hub id of an alias, else the name of the folder."""
    alias = resolve(model)
    return Path(model).name if alias is None else alias.hub_id
