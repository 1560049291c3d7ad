"""Whether an SAE that a catalog describes is one at hand: joined where that is proven, apart, with the reason, else.

What proves it: the SHA-256 of the weights, or SAELens' directory, where the SAE at hand was loaded by SAELens under the
name that the directory ties to the catalog's. A name, a layer or a width proves nothing. Densities that disagree
disprove what a directory says: labels of another SAE are a known trap.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from safesail.catalog.sources import neuronpedia_saes
from safesail.domain.records import SaeRecord
from safesail.domain.undefined import Undefined
from safesail.metrics.correlation import pearson, ranks
from safesail.store.connection import Db, open_writer
from safesail.store.identities import densities, harvested_saes, join_saes, sae_aliases, stored_saes
from safesail.store.sql import transaction

MIN_FEATURES = 100
"""Fewer densities tell nothing."""

DISAGREE = 0.3
"""Rank correlation of densities whose 95 % interval lies below this is not that of one SAE on two texts."""

SAID = "said by the user"


@dataclass(frozen=True)
class Identity:
    """What became of an SAE that a catalog describes."""

    sae_id: str
    """Its name in the store."""

    same_as: str | None
    """The SAE at hand that it is, or, apart, that it might be taken for."""

    joined: bool
    why: str


@dataclass(frozen=True)
class Evidence:
    """What speaks for or against two SAEs being one."""

    proven: bool
    why: str


def place_sae(db: Db, theirs: SaeRecord) -> Identity:
    """Where a release's SAE belongs in the store: to one with the same weights, under its own name, or apart."""
    known = stored_saes(db)
    named = next((sae for sae in known if sae.sae_id == theirs.sae_id), None)
    aliases = sae_aliases(db)
    if named is None and theirs.sha256 is None and theirs.sae_id in aliases:
        ours = aliases[theirs.sae_id].sae_id
        return Identity(ours, ours, joined=True, why="joined before")
    if theirs.sha256 is None:
        return Identity(theirs.sae_id, None, joined=False, why="its weights are not known")
    if named is not None and named.sha256 not in (None, theirs.sha256):
        twin = f"{theirs.sae_id}@{theirs.sha256[:12]}"
        why = (
            f"the store's {theirs.sae_id} has the weights {named.sha256[:12]}, this one {theirs.sha256[:12]}"
        )
        return Identity(twin, None, joined=False, why=why)
    if named is None:
        for sae in known:
            if sae.sha256 == theirs.sha256 and sae.hook == theirs.hook:
                return Identity(sae.sae_id, sae.sae_id, joined=True, why=_same_weights(theirs))
    return Identity(theirs.sae_id, None, joined=False, why="the store has no other of these weights")


def _same_weights(sae: SaeRecord) -> str:
    return f"the weights' SHA-256 is {str(sae.sha256)[:12]} for both"


def compare_saes(theirs: SaeRecord, ours: SaeRecord) -> Evidence:
    """What names and weights say of a described SAE and one whose weights were seen. Pure."""
    if theirs.sha256 is not None and ours.sha256 is not None:
        if theirs.sha256 == ours.sha256 and theirs.hook == ours.hook:
            return Evidence(True, _same_weights(ours))
        where = "" if theirs.sha256 != ours.sha256 else ", read at another hook"
        return Evidence(False, f"weights {theirs.sha256[:12]} and {ours.sha256[:12]}{where}")
    tied = {f"{sae.release}/{sae.sae_id}" for sae in neuronpedia_saes().get(theirs.sae_id, [])}
    if ours.sae_id in tied and ours.source == ours.sae_id and ours.sha256 is not None:
        return Evidence(True, f"SAELens' directory ties {ours.sae_id} to {theirs.sae_id}")
    if tied:
        return Evidence(
            False, f"SAELens' directory ties it to {sorted(tied)[0]}, which is not the SAE at hand"
        )
    return Evidence(False, "nothing but layer and width speaks for it")


def weigh(theirs: list[float], ours: list[float]) -> tuple[str, bool] | None:
    """Do two lists of densities, feature by feature, look like those of one SAE on two texts? Pure.

    Returns:
        What is seen, and whether they agree; None where there are too few, or one list is constant.
    """
    if len(theirs) < MIN_FEATURES:
        return None
    compared = pearson(ranks(np.array(theirs)), ranks(np.array(ours)))
    if isinstance(compared, Undefined):
        return None
    # Fisher's transformation, with the variance of a rank correlation (Fieller, Hartley and Pearson 1957).
    high = float(np.tanh(np.arctanh(min(compared, 0.999999)) + 1.96 * np.sqrt(1.06 / (len(theirs) - 3))))
    return f"rank correlation of densities {compared:.2f} over {len(theirs):,} features", high >= DISAGREE


def join_proven(store: Path) -> list[Identity]:
    """Join every imported SAE with the one at hand that it is proven to be; say of the others why not.

    Raises:
        StoreLockedError: a stage is writing to the store.
    """
    with open_writer(store) as db:
        own = harvested_saes(db)
        described = [sae for sae in stored_saes(db) if sae.sae_id not in own]
        told: list[Identity] = []
        for theirs in described:
            at_hand = [
                sae for sae in stored_saes(db) if sae.sae_id != theirs.sae_id and sae.sha256 is not None
            ]
            if theirs.sha256 is None and at_hand:
                with transaction(db):
                    told.append(_settle(db, theirs, at_hand))
        return told


def join_as_said(store: Path, theirs: str, ours: str) -> Identity:
    """Join two SAEs because the user says that they are one.

    Raises:
        NotFoundError: the store has not both.
        ConfigError: the densities, or the indices, say otherwise.
    """
    with open_writer(store) as db, transaction(db):
        seen = weigh(*map(list, densities(db, theirs, ours)))
        if seen is not None and not seen[1]:
            return Identity(theirs, ours, joined=False, why=f"said to be one, but {seen[0]}")
        why = SAID if seen is None else f"{SAID}; {seen[0]}"
        join_saes(db, theirs, ours, why)
        return Identity(theirs, ours, joined=True, why=why)


def _settle(db: Db, theirs: SaeRecord, at_hand: list[SaeRecord]) -> Identity:
    compared = [(ours, compare_saes(theirs, ours)) for ours in at_hand]
    for ours, evidence in compared:
        if evidence.proven:
            seen = weigh(*map(list, densities(db, theirs.sae_id, ours.sae_id)))
            if seen is not None and not seen[1]:
                why = f"{evidence.why}, but {seen[0]}: the labels may be another SAE's"
                return Identity(theirs.sae_id, ours.sae_id, joined=False, why=why)
            why = evidence.why if seen is None else f"{evidence.why}; {seen[0]}"
            join_saes(db, theirs.sae_id, ours.sae_id, why)
            return Identity(theirs.sae_id, ours.sae_id, joined=True, why=why)
    like = [(ours, said) for ours, said in compared if _looks_like(theirs, ours)]
    if like:
        return Identity(theirs.sae_id, like[0][0].sae_id, joined=False, why=like[0][1].why)
    return Identity(
        theirs.sae_id, None, joined=False, why="no SAE of this store sits at its layer with its width"
    )


def _looks_like(theirs: SaeRecord, ours: SaeRecord) -> bool:
    same_width = theirs.d_sae is None or ours.d_sae is None or theirs.d_sae == ours.d_sae
    return same_width and (theirs.layer is None or ours.layer is None or theirs.layer == ours.layer)
