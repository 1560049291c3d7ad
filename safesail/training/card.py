"""The model card of a trained SAE."""

import importlib.metadata
from collections.abc import Sequence

from safesail.training.config import TrainConfig
from safesail.training.evaluate import Figures
from safesail.training.steps import Trainee
from safesail.training.texts import SourceTally


def render_card(
    trainee: Trainee,
    config: TrainConfig,
    figures: Figures,
    texts: Sequence[SourceTally],
    *,
    base_model: str,
    fingerprint: str | None,
) -> str:
    """A README.md with front matter as the Hugging Face hub reads it. Names no path on this machine.

    Args:
        trainee: The SAE.
        config: Settings of the run.
        figures: Measured on held-out texts.
        texts: What was read of the `train` split, per source.
        base_model: Hub id, or folder's name, of the subject model.
        fingerprint: Of the subject model.
    """
    plan = trainee.plan
    rows = [
        f"| {t.source} | {t.n_documents:,} | {t.n_tokens:,} | `{t.sha256}` |" for t in texts if t.n_tokens
    ]
    return _CARD.format(
        sae_id=plan.sae_id,
        base_model=base_model,
        hook=plan.hook,
        d_sae=plan.d_sae,
        k=plan.k,
        figures="\n".join(f"| {name} | {value} |" for name, value in _figures(figures).items()),
        training="\n".join(f"- {line}" for line in _training(trainee, config, fingerprint)),
        texts="\n".join(rows),
    )


_CARD = """---
library_name: sae_lens
base_model: {base_model}
tags: [sparse-autoencoder, interpretability]
---

# {sae_id}

A TopK sparse autoencoder for `{hook}` of {base_model}: {d_sae:,} features, k = {k}.
`SAE.load_from_disk("{sae_id}")` of SAELens loads it, and so does Safe-SAIL.

## Figures on held-out documents

| figure | value |
|---|---|
{figures}

## Training

{training}

## Texts

Documents are split by a hash of their content, one part for training, one for the figures above. The digest is
the SHA-256 over the ids of the documents read, in order; an id is the first 16 hex digits of a text's SHA-256.

| source | documents | tokens | digest |
|---|---|---|---|
{texts}
"""


def _figures(figures: Figures) -> dict[str, str]:
    recovered = figures.ce_recovered
    losses = (figures.ce_clean, figures.ce_spliced, figures.ce_zero)
    return {
        "fraction of variance explained, about the mean": f"{figures.frac_variance_explained:.4f}",
        "L0, active features per token": f"{figures.l0:.2f}",
        f"dead features, which fire on none of {figures.n_tokens:,} tokens": f"{figures.dead_share:.2%}",
        "cross-entropy recovered, against zero ablation": (
            "undefined: zeroing the hook does no harm" if recovered is None else f"{recovered:.4f}"
        ),
        f"cross-entropy as it is / with the SAE / zeroed, nats per token, {figures.n_loss_tokens:,} tokens": (
            " / ".join(f"{loss:.4f}" for loss in losses)
        ),
    }


def _training(trainee: Trainee, config: TrainConfig, fingerprint: str | None) -> list[str]:
    passes = "once" if config.passes == 1 else f"{config.passes} times"
    share = next(family.share for family in config.families if family.hook == trainee.plan.hook)
    part = "" if share == 1 else f" (from a share of {share:g} of the texts below)"
    return [
        f"{trainee.tokens_seen:,} activations{part}, each used {passes}, from windows of up to {config.n_ctx} tokens; "
        "a BOS stands before each window, its own activations left out.",
        f"Loss: |x - x^|^2, plus {config.auxk_coefficient:g} times the AuxK loss on features silent for "
        f"{config.dead_after_tokens:,} tokens (Gao et al. 2024); decoder rows of unit length.",
        f"Adam, learning rate {config.lr:g}, {config.batch_tokens} tokens per step, warm-up over {config.warmup:.0%} "
        f"of the run, decay over the last {config.decay:.0%}; seed {config.seed}.",
        "Activations were centred and scaled in training; both are folded into the weights, which take raw "
        "activations.",
        f"Fingerprint of the subject model: `{fingerprint}`.",
        f"Made by Safe-SAIL {importlib.metadata.version('safesail')}.",
    ]
