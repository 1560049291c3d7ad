"""The public face in Python, offered by `import safesail`: a loaded model, an open catalog, the stages as functions.

Stages take the path of a store first; their settings are keywords, by the names in the stage's `config.py`.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from safesail.catalog.api import Catalog
from safesail.catalog.api import open_catalog as open_source_catalog
from safesail.errors import ConfigError, FingerprintError

if TYPE_CHECKING:
    from safesail.autointerp.report import RunReport
    from safesail.catalog.format import Manifest
    from safesail.domain.ids import FeatureId
    from safesail.intervene.edits import FeatureEdit, Part, Where
    from safesail.intervene.run import InterveneReport
    from safesail.pipeline.summary import Summary
    from safesail.sae.protocol import SAE
    from safesail.store.effects import FeatureSize
    from safesail.subject.protocol import Subject

_KNOWN = """SELECT c.sae_id AS sae, c."index", f.q999, f.density, f.mean, f.maximum, c.explanation, c.score
            FROM catalog c JOIN features f ON f.sae_id = c.sae_id AND f.feature = c."index" """

COLUMNS = ("position", "token", "sae", "layer", "feature", "value", "normalised", "explanation", "score")
"""Of what `LoadedModel.features` gives."""

ATTRIBUTION_COLUMNS = ("position", "token", "feature", "activation", "attribution", "explanation")
"""Of what `LoadedModel.attribute` gives."""


@dataclass(frozen=True)
class LoadedModel:
    """A subject model with SAEs, and what a catalog knows of their features. Made by `load`."""

    subject: "Subject"
    saes: "Sequence[SAE]"
    known: pd.DataFrame
    """By feature: 0.999 quantile (q999), density, mean, maximum, explanation, score; empty without a catalog."""

    _edits: "list[FeatureEdit]" = field(default_factory=list["FeatureEdit"], init=False, repr=False, compare=False)

    def features(self, prompt: str) -> pd.DataFrame:
        """Which features fire on a prompt, and how strongly: one row per token and feature.

        Returns:
            position, token, sae, layer, feature (`sae#index`), value (raw activation), normalised (value / Q(0.999)
            of the feature over its harvest), explanation, score; what is not known is missing.

        Raises:
            ConfigError: no token, or more than the model takes.
        """
        from safesail.domain.ids import layer_of
        from safesail.sae.encode import encode_rows

        ids = self.subject.tokenize(prompt)
        if not 0 < len(ids) <= self.subject.n_ctx_max:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens; from 1 to {self.subject.n_ctx_max} are taken"
            )
        encoded = encode_rows(self.subject, self.saes, [ids])
        tokens = self.subject.token_strings(ids)
        frames = [
            pd.DataFrame(
                {
                    "position": fired.position,
                    "token": [tokens[p] for p in fired.position],
                    "sae": sae.info.sae_id,
                    "layer": layer_of(sae.info.hook),
                    "index": fired.feature,
                    "value": fired.value,
                }
            )
            for sae in self.saes
            for fired in (encoded.by_sae[sae.info.sae_id],)
        ]
        frame = pd.concat(frames, ignore_index=True).merge(self.known, how="left", on=["sae", "index"])
        frame["feature"] = frame["sae"] + "#" + frame["index"].astype(str)
        frame["normalised"] = frame["value"] / frame["q999"]
        strongest_first = frame.sort_values("value", ascending=False).sort_values("position", kind="stable")
        return strongest_first.reindex(columns=list(COLUMNS)).reset_index(drop=True)


    @contextmanager
    def intervene(
        self, changes: Mapping[str, str], *, where: "Where" = "everywhere", part: "Part" = "all"
    ) -> Generator[None, None, None]:
        """Within the block, `generate` edits features; blocks may lie within each other.

        Args:
            changes: By feature (`sae#index`): `ablate`, `scale:2`, `add:3`, `clamp:5`; with a catalog also `mean` (of
                the feature over all tokens) and `steer:4` (stronger by 4 times its maximum).
            where: On every token, or where the feature fires (`firing`).
            part: Of a text that is continued: `all`, `prompt` or `answer`.

        Raises:
            ConfigError: no such feature or change.
            SaeError: an SAE without a decoder.
        """
        from safesail.domain.ids import parse_feature
        from safesail.intervene.edits import FeatureEdit, parse_change

        named = {parse_feature(name): text for name, text in changes.items()}
        edit = FeatureEdit({f: parse_change(text, f, self._size(f)) for f, text in named.items()}, where, part)
        edit.interventions(self.saes, 0)  # refuses what cannot be
        self._edits.append(edit)
        try:
            yield
        finally:
            self._edits.remove(edit)

    def generate(
        self, prompt: str, *, max_tokens: int = 40, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """What the model says after a prompt; within `intervene`, with the edits.

        Args:
            prompt: Text without special tokens.
            max_tokens: At most so many.
            temperature: 0 takes the likeliest token.
            seed: Of the draws.

        Raises:
            ConfigError: an empty prompt, or one that leaves no room.
            SubjectError: a model without a language head.
        """
        from safesail.intervene.edits import check_prompt

        ids = self.subject.tokenize(prompt)
        check_prompt(self.subject, ids, max_tokens)
        edits = [i for edit in self._edits for i in edit.interventions(self.saes, len(ids))]
        (new,) = self.subject.generate(
            [ids], max_tokens=max_tokens, interventions=edits, temperature=temperature, seed=seed
        )
        return "".join(self.subject.token_strings(new))

    def attribute(self, prompt: str, target: str) -> pd.DataFrame:
        """Which features a prediction rests on: gradient x activation, in one backward pass.

        Args:
            prompt: Text.
            target: The next token, as text whose first token counts (`" Rome"`), or a later feature (`sae#index`).

        Returns:
            position, token, feature, activation, attribution (what it adds to the token's log-odds, or to the later
            feature's activation, to first order), explanation; the largest first.

        Raises:
            ConfigError: no token, or more than the model takes.
            SaeError: an SAE without a decoder.
            SubjectError: a model without a language head.
        """
        from safesail.domain.ids import parse_feature
        from safesail.intervene.attribution import attribute, attribute_to, token_target

        ids, names = self.subject.tokenize(prompt), {sae.info.sae_id for sae in self.saes}
        if target.rpartition("#")[0] in names:
            given = attribute_to(self.subject, self.saes, ids, parse_feature(target))
        else:
            wanted = self.subject.tokenize(target)
            if not wanted:
                raise ConfigError("an empty target; name a token such as ' Rome', or a feature")
            given = attribute(self.subject, self.saes, ids, token_target(wanted[0]))
        tokens = self.subject.token_strings(ids)
        frame = pd.concat(
            [
                pd.DataFrame({"position": of.position, "token": [tokens[p] for p in of.position], "sae": sae_id,
                              "index": of.feature, "activation": of.activation, "attribution": of.attribution})
                for sae_id, of in given.items()
            ],
            ignore_index=True,
        ).merge(self.known[["sae", "index", "explanation"]], how="left", on=["sae", "index"])  # fmt: skip
        frame["feature"] = frame["sae"] + "#" + frame["index"].astype(str)
        ordered = frame.sort_values("attribution", key=abs, ascending=False)
        return ordered.reindex(columns=list(ATTRIBUTION_COLUMNS)).reset_index(drop=True)

    def _size(self, feature: "FeatureId") -> "FeatureSize | None":
        """How strongly a feature fires, as the catalog knows."""
        from safesail.store.effects import FeatureSize

        rows = self.known[(self.known["sae"] == feature.sae_id) & (self.known["index"] == feature.index)]
        rows = rows[["density", "mean", "maximum"]].dropna()
        if rows.empty:
            return None
        density, mean, maximum = (float(cell) for cell in rows.iloc[0])
        return FeatureSize(density, density * mean, maximum)


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
    from safesail.sae.load import open_saes
    from safesail.subject.loading import ModelConfig, load_subject

    subject = load_subject(ModelConfig(model, device, dtype))
    opened = open_saes(saes, subject)
    known = pd.DataFrame(
        {name: [] for name in ("sae", "index", "q999", "density", "mean", "maximum", "explanation", "score")}
    ).astype({"sae": str, "index": int})
    if catalog is not None:
        with open_catalog(catalog) as opened_catalog:
            stored = opened_catalog.query("SELECT sae_id, sha256 FROM saes")
            known = opened_catalog.query(_KNOWN)
        weights = {str(sae_id): sha256 for sae_id, sha256 in zip(stored.sae_id, stored.sha256, strict=True)}
        for sae in opened:
            if weights.get(sae.info.sae_id) not in (None, sae.info.sha256):
                raise FingerprintError(f"{catalog} knows another SAE by the name {sae.info.sae_id}")
            if sae.info.sae_id not in weights:  # the same weights are the same SAE, whatever it is called
                twins = [name for name, sha256 in weights.items() if sha256 == sae.info.sha256]
                known = known.replace({"sae": dict.fromkeys(twins[:1], sae.info.sae_id)})
    return LoadedModel(subject, opened, known)


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


def intervene(
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

    config = InterveneConfig.read(settings, "intervene")
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
