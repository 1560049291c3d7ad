"""The public face in Python, offered by `import safesail`: a loaded model, an open catalog, the stages as functions.

Stages take the path of a store first; their settings are keywords, by the names in the stage's `config.py`.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from safesail.catalog.api import Catalog
from safesail.catalog.api import open_catalog as open_source_catalog
from safesail.loaded import LoadedModel

if TYPE_CHECKING:
    from safesail.autointerp.report import RunReport
    from safesail.catalog.format import Manifest
    from safesail.intervene.run import InterveneReport
    from safesail.pipeline.summary import Summary


def load(
    model: str,
    saes: Sequence[str],
    *,
    catalog: str | Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> LoadedModel:
    """Load a subject model with SAEs.

    Args:
        model: Alias, directory or hub id.
        saes: Folders (patterns allowed), checkpoints, `release/id`.
        catalog: A store or a release that knows their features.
        device: As torch names it, or `auto`.
        dtype: Number format of the model: float32, tf32, bfloat16 or float16.

    Raises:
        SubjectError, SaeError: one of them cannot be loaded, or they do not fit.
        FingerprintError: the catalog's SAE of that name has other weights.
    """
    from safesail.diagnose.known import read_known
    from safesail.sae.load import open_saes
    from safesail.subject.loading import ModelConfig, load_subject

    subject = load_subject(ModelConfig(model, device, dtype))
    opened = open_saes(saes, subject)
    source = None if catalog is None else Path(catalog)
    return LoadedModel(subject, opened, read_known(source, [sae.info for sae in opened]), source)


def diagnose(
    prompt: str, model: str, saes: Sequence[str], *, catalog: str | Path | None = None, **settings: Any
) -> pd.DataFrame:
    """Which features fire on a prompt: `load(...).diagnose(prompt).fired`, for a single question.

    Returns:
        One row per token and feature: position, token, role (template, prompt, answer), start and end (characters),
        sae, layer, feature, value, normalised, share_higher (of the harvest's tokens), explanation, score,
        chance_score, above_chance, beyond_lookup, tags.

    Raises:
        SafeSailError: as `load` and `LoadedModel.diagnose`.
    """
    return load(model, saes, catalog=catalog).diagnose(prompt, **settings).fired


@contextmanager
def open_catalog(path: str | Path, *, memory: str = "4GB") -> Generator[Catalog, None, None]:
    """A store or a release, read-only: `query(sql)`, `features()`, `search(text)`, `show("sae#851")`, `stats()`.

    Raises:
        NotFoundError: nothing there.
        DataError: it is damaged, or another process writes to it.
    """
    with open_source_catalog(Path(path), memory=memory) as catalog:
        yield catalog


def explain(
    store: str | Path,
    *,
    budget: str,
    explainer: str | None = "lexical",
    simulator: str | None = None,
    sae: str | None = None,
    n_features: int = 100,
    **settings: Any,
) -> "RunReport":
    """Explain features of an SAE and score the explanations, within a budget.

    Args:
        store: With a harvest and a selection.
        budget: Hard cap on what is newly spent: `10k`, `200calls`, `unlimited`.
        explainer: `lexical`, or a model's name at OPENAI_BASE_URL; None: only score explanations that exist.
        simulator: The same, or `embedding`; None: the explainer.
        sae: None: the best that a selection found.
        n_features: At most so many.
        settings: Of `safesail.autointerp.config.AutointerpConfig`.

    Raises:
        SafeSailError: as `safesail.autointerp.run.explain_store`.
    """
    from safesail.autointerp.clients import ChatSettings
    from safesail.autointerp.config import AutointerpConfig
    from safesail.autointerp.ranking import FeatureChoice
    from safesail.autointerp.run import explain_store, score_store
    from safesail.llm.budget import parse_budget

    config = AutointerpConfig.read(settings, "explain")
    writer = explainer or simulator or "lexical"
    chat = ChatSettings(writer, simulator or writer, parse_budget(budget))
    act = score_store if explainer is None else explain_store
    return act(Path(store), FeatureChoice(sae, n_features), chat, config, quiet=True)


def score(store: str | Path, *, budget: str, **options: Any) -> "RunReport":
    """Score explanations that exist, with another simulator or method; options as in `explain`."""
    return explain(store, budget=budget, explainer=None, **options)


def measure_effects(
    model: LoadedModel, store: str | Path, features: Sequence[str], **settings: Any
) -> "InterveneReport":
    """Measure what features do, beside what any such push does, into the table `effects` of a store.

    Args:
        model: With the features' SAEs.
        store: With a harvest of them.
        features: `sae#index`.
        settings: Of `safesail.intervene.config.InterveneConfig`.

    Raises:
        SafeSailError: as `safesail.intervene.run.run_interventions`.
    """
    from safesail.domain.ids import parse_feature
    from safesail.intervene.config import InterveneConfig
    from safesail.intervene.run import run_interventions
    from safesail.store.connection import open_writer

    config = InterveneConfig.read(settings, "measure_effects")
    named = [parse_feature(name) for name in features]
    with open_writer(Path(store)) as db:
        return run_interventions(db, model.subject, model.saes, named, config, quiet=True)


def release(store: str | Path, out: str | Path, **options: Any) -> "Manifest":
    """Write the catalog of a store to `out` (a folder or a .zip); options of `ReleaseOptions`, `name` among them.

    Raises:
        SafeSailError: as `safesail.catalog.release.build_release`.
    """
    from safesail.catalog.config import ReleaseOptions
    from safesail.catalog.release import build_release

    return build_release(Path(store), Path(out), ReleaseOptions.read(options, "release"))


def download(source: str, out: str | Path) -> Path:
    """Get a release from a path, a zip, an https address or `hf:ORG/NAME[@REVISION]`, verified; says where it is.

    Raises:
        DataError: it cannot be fetched, or is damaged.
    """
    from safesail.catalog.download import download as fetch_release

    return fetch_release(source, Path(out), quiet=True)


def run(pipeline: str | Path, out: str | Path | None = None) -> "Summary":
    """Run a whole pipeline: a YAML file, or the name of one that comes with Safe-SAIL.

    Raises:
        SafeSailError: as its stages; what is finished is kept.
    """
    from safesail.pipeline.config import find_pipeline
    from safesail.pipeline.run import run_pipeline

    return run_pipeline(find_pipeline(str(pipeline)), out=None if out is None else Path(out), quiet=True)
