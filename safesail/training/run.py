"""A training run: texts in, a folder of SAEs out. Resumes where a killed run stopped."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from safesail.errors import DataError, SaeError
from safesail.files import whole_file
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from safesail.training.buffer import Window, block_activations, blocks_of, shuffled, shuffled_batches
from safesail.training.config import FamilyConfig, TrainConfig
from safesail.training.family import Normaliser
from safesail.training.finish import TrainedSae, finish
from safesail.training.steps import Trainee
from safesail.training.texts import Texts, train_texts

CHECKPOINT = ".training.ckpt"
"""File of an unfinished run in the folder of its SAEs."""

_NOT_TRAINING = {"eval_tokens", "eval_loss_tokens", "threads", "storage", "device"}
"""Settings that may differ between a run and its resumption."""


@dataclass(frozen=True)
class Progress:
    """SAEs in training and how far they are."""

    trainees: list[Trainee]
    normalisers: dict[str, Normaliser]
    """By hook; fitted on the first block that the hook's SAEs see."""

    next_block: int


def run_training(config: TrainConfig, *, out: Path, quiet: bool) -> list[TrainedSae]:
    """Train every SAE of `config` in one pass of the subject model, measure them, and write them to `out`.

    Each becomes a folder `out/<sae_id>` in SAELens' format with a model card. A run that was killed goes
    on at its last finished block when called again with the same settings, with the same result.

    Raises:
        SubjectError: the subject model is not here.
        ConfigError: a hook that the model does not have, or not enough text.
        SaeError: `out` holds one of the SAEs already, or cannot be written.
        DataError: `out` holds an unfinished run with other settings, texts or subject model.
    """
    checkpoint = out / CHECKPOINT
    for plan in () if checkpoint.is_file() else config.plans():
        if (out / plan.sae_id).exists():
            raise SaeError(f"{out / plan.sae_id} exists already; choose another folder, or delete it")
    where = ModelConfig(config.model, config.device, config.dtype, config.threads)
    subject = load_subject(where, quiet=quiet)
    for family in config.families:
        subject.check_hook(family.hook)
    texts = train_texts(config, subject.tokenize)
    progress = learn(config, subject, texts, checkpoint=checkpoint, quiet=quiet)
    trained = finish(config, subject, texts, progress.trainees, progress.normalisers, out)
    checkpoint.unlink()
    return trained


def learn(config: TrainConfig, subject: Subject, texts: Texts, *, checkpoint: Path, quiet: bool) -> Progress:
    """Train all SAEs, one block of activations after another; `checkpoint` is written after each block.

    Raises:
        DataError: `checkpoint` is damaged, or of a run with other settings, texts or subject model.
    """
    blocks = blocks_of(shuffled(texts.windows, config.seed), config.block_tokens)
    identity = _identity(config, subject, texts)
    d_in = subject.info.d_model
    assert d_in is not None, "a model that is loaded knows its sizes"
    progress = Progress([Trainee.start(plan, d_in, config, subject.device) for plan in config.plans()], {}, 0)
    if checkpoint.is_file():
        progress = _restore(progress, checkpoint, identity)
    with tqdm(total=texts.n_tokens, unit="tok", unit_scale=True, disable=quiet, desc="train") as bar:
        bar.update(sum(len(w) for block in blocks[: progress.next_block] for w in block))
        for i in range(progress.next_block, len(blocks)):
            active = [family for family in config.families if takes_part(i, family.share)]
            losses = _learn_block(config, subject, progress, (i, len(blocks)), blocks[i], active)
            progress = Progress(progress.trainees, progress.normalisers, i + 1)
            _save(progress, checkpoint, identity)
            bar.update(sum(map(len, blocks[i])))
            bar.set_postfix_str(" ".join(f"{loss:.3f}" for loss in losses))
    return progress


def takes_part(block: int, share: float) -> bool:
    """Whether a family trained on `share` of the tokens sees this block; always the first one."""
    return ceil((block + 1) * share) > ceil(block * share)


def _learn_block(
    config: TrainConfig,
    subject: Subject,
    progress: Progress,
    position: tuple[int, int],
    windows: Sequence[Window],
    families: Sequence[FamilyConfig],
) -> list[float]:
    """Mean loss of each SAE that took part; `position` = (block, number of blocks)."""
    block, n_blocks = position
    hooks = list(dict.fromkeys(family.hook for family in families))
    activations = block_activations(subject, windows, hooks) if hooks else {}
    losses: list[float] = []
    for hook in hooks:
        raw = activations.pop(hook)
        if hook not in progress.normalisers:
            progress.normalisers[hook] = Normaliser.fit(raw)
        x = progress.normalisers[hook].apply(raw)
        batches = list(shuffled_batches(x, config.batch_tokens, config.passes, config.seed + block))
        span = (block / n_blocks, (block + 1) / n_blocks)
        losses += [t.learn(batches, span) for t in progress.trainees if t.plan.hook == hook]
    return losses


def _identity(config: TrainConfig, subject: Subject, texts: Texts) -> str:
    parts = [
        config.model_dump(mode="json", exclude=_NOT_TRAINING),
        subject.info.fingerprint,
        [tally.sha256 for tally in texts.tallies],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _save(progress: Progress, checkpoint: Path, identity: str) -> None:
    state = {
        "identity": identity,
        "next_block": progress.next_block,
        "normalisers": {hook: (n.mean, n.scale) for hook, n in progress.normalisers.items()},
        "trainees": [trainee.state() for trainee in progress.trainees],
    }
    with whole_file(checkpoint) as partial:
        torch.save(state, partial)


def _restore(progress: Progress, checkpoint: Path, identity: str) -> Progress:
    try:
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu")
        known = state["identity"]
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{checkpoint} is damaged ({type(error).__name__}); delete it to start again"
        ) from error
    if known != identity:
        raise DataError(
            f"{checkpoint} belongs to a run with other settings, texts or subject model; "
            "choose another folder, or delete it to start again"
        )
    for trainee, saved in zip(progress.trainees, state["trainees"], strict=True):
        trainee.restore(saved)
    normalisers = {
        hook: Normaliser(mean.to(progress.trainees[0].weights.b_dec.device), scale)
        for hook, (mean, scale) in state["normalisers"].items()
    }
    return Progress(progress.trainees, normalisers, state["next_block"])
