"""Activations of texts at some hooks, kept on disk: the subject model sees a text once, whatever is asked of it later.

Kept are raw activations in float32 (2.3 kB a token and hook at d_in 576), so that SAEs trained later need no model
either. What an SAE makes of a text is reduced to two figures a feature: its largest activation, and its mean.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from tqdm import tqdm

from safesail.files import whole_file
from safesail.sae.encode import run_rows
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length

BATCH_TOKENS = 1024


@dataclass(frozen=True)
class TextActs:
    """What the features of one SAE do on texts, in the order of the texts."""

    largest: csr_array
    """[n_texts, d_sae], over a text's tokens."""

    mean: csr_array
    """Likewise; a token on which the feature is silent counts as 0."""

    l0: float
    """Mean active features per token."""

    fvu: float
    """Fraction of variance unexplained about the mean."""


class ActivationCache:
    """Raw activations of token rows at a fixed list of hooks, in one folder."""

    def __init__(self, folder: Path, subject: Subject, hooks: Sequence[str]) -> None:
        """A folder of another model or other hooks is another folder: their names are in its name."""
        identity = json.dumps([subject.info.fingerprint, *hooks])
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:12]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._subject, self._hooks = subject, tuple(hooks)

    def fill(self, rows: Sequence[Sequence[int]], *, quiet: bool = False) -> None:
        """Run the subject model on the rows that are not there yet; a killed run goes on at its last batch."""
        known = {key for path in self._folder.glob("*.keys") for key in path.read_text().split()}
        distinct = {_key(row): list(row) for row in rows}
        missing = [row for key, row in distinct.items() if key not in known]
        batches = batches_by_length([len(row) for row in missing], BATCH_TOKENS)
        for batch in tqdm(batches, desc="activations", disable=quiet):
            self._run([missing[i] for i in batch])

    def _run(self, rows: Sequence[Sequence[int]]) -> None:
        ran = run_rows(self._subject, rows, self._hooks)
        keys = [_key(row) for row in rows]
        name = hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]
        starts = np.searchsorted(ran.row, np.arange(len(rows) + 1))
        arrays = {hook: x.float().cpu().numpy() for hook, x in ran.by_hook.items()}
        with whole_file(self._folder / f"{name}.npz") as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, starts=starts, **arrays)
        with whole_file(self._folder / f"{name}.keys") as partial:  # last: it says that the batch is there
            partial.write_text("\n".join(keys), encoding="utf-8")

    def texts(
        self, saes: Sequence[SAE], rows: Sequence[Sequence[int]], *, quiet: bool = False
    ) -> dict[str, TextActs]:
        """What each SAE makes of rows that are there, by `sae_id`; kept beside them, by the weights' digest."""
        wanted = {_key(row): None for row in rows}
        found: dict[str, TextActs] = {}
        for sae in tqdm(saes, desc="SAEs", disable=quiet):
            by_key, l0, fvu = self._encoded(sae, wanted)
            order = [by_key[_key(row)] for row in rows]
            largest, mean = (_stack(order, which, sae.info.d_sae) for which in (1, 2))
            found[sae.info.sae_id] = TextActs(largest, mean, l0, fvu)
        return found

    def _encoded(
        self, sae: SAE, wanted: Mapping[str, None]
    ) -> tuple[dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], float, float]:
        folder = self._folder / f"{sae.info.sae_id}-{(sae.info.sha256 or 'unknown')[:12]}"
        folder.mkdir(exist_ok=True)
        by_key: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        sums = np.zeros(4)
        total = np.zeros(sae.info.d_in)
        for path in sorted(self._folder.glob("*.keys")):
            keys = path.read_text().split()
            if not any(key in wanted for key in keys):
                continue
            own = folder / f"{path.stem}.npz"
            if not own.is_file():
                with np.load(path.with_suffix(".npz")) as raw:
                    columns = _encode(sae, raw[sae.info.hook], raw["starts"])
                with whole_file(own) as partial, partial.open("wb") as file:
                    np.savez(file, allow_pickle=False, **columns)
            with np.load(own) as kept:
                bounds = kept["bounds"]
                columns = [kept[name] for name in ("feature", "largest", "mean")]
                sums += kept["sums"]
                total += kept["total"]
            for i, key in enumerate(keys):
                feature, largest, mean = (column[bounds[i] : bounds[i + 1]] for column in columns)
                by_key[key] = (feature, largest, mean)
        n, active, error, squares = sums
        return by_key, float(active / n), float(error / (squares - total @ total / n))


@torch.inference_mode()
def _encode(sae: SAE, x: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """One batch: columns by text and feature, and sums for L0 and FVU."""
    tokens = torch.from_numpy(x)
    acts = sae.encode(tokens)
    error = (tokens - sae.decode(acts)).square().sum().double().item()
    lengths = np.diff(starts)
    n, d_sae = len(lengths), sae.info.d_sae
    text = np.repeat(np.arange(n), lengths)[acts.token.numpy()]
    cell, inverse = np.unique(text * d_sae + acts.feature.numpy(), return_inverse=True)
    largest, total = np.zeros(len(cell), np.float32), np.zeros(len(cell), np.float64)
    np.maximum.at(largest, inverse, acts.value.numpy())
    np.add.at(total, inverse, acts.value.numpy())
    wide = x.astype(np.float64)
    return {
        "bounds": np.searchsorted(cell // d_sae, np.arange(n + 1)),
        "feature": (cell % d_sae).astype(np.int32),
        "largest": largest,
        "mean": (total / lengths[cell // d_sae]).astype(np.float32),
        "sums": np.array([len(x), len(acts.value), error, np.square(wide).sum()]),
        "total": wide.sum(axis=0),
    }


def _stack(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], which: int, d_sae: int) -> csr_array:
    bounds = np.cumsum([0, *(len(row[0]) for row in rows)])
    feature, value = (np.concatenate([row[i] for row in rows]) for i in (0, which))
    return csr_array((value, feature, bounds), shape=(len(rows), d_sae))


def _key(row: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(row, np.int32).tobytes()).hexdigest()[:20]
