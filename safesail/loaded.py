"""A subject model with SAEs, ready for prompts."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from safesail.domain.pieces import joined_text
from safesail.errors import ConfigError

if TYPE_CHECKING:
    from safesail.diagnose.compare import Comparison
    from safesail.diagnose.known import KnownFeatures
    from safesail.diagnose.run import Diagnosis
    from safesail.domain.ids import FeatureId
    from safesail.intervene.edits import FeatureEdit, Part, Where
    from safesail.sae.protocol import SAE
    from safesail.store.effects import FeatureSize
    from safesail.subject.protocol import Subject

ATTRIBUTION_COLUMNS = ("position", "token", "feature", "activation", "attribution", "explanation")
"""Of what `LoadedModel.attribute` gives."""

COLUMNS = ("position", "token", "sae", "layer", "feature", "value", "normalised", "explanation", "score")
"""Of what `LoadedModel.features` gives."""


@dataclass(frozen=True)
class LoadedModel:
    """A subject model with SAEs, and what a catalog knows of their features. Made by `load`."""

    subject: "Subject"
    saes: "Sequence[SAE]"
    known: "KnownFeatures"
    """What the catalog says of their features; nothing without one."""

    catalog: Path | None = None
    _edits: "list[FeatureEdit]" = field(
        default_factory=list["FeatureEdit"], init=False, repr=False, compare=False
    )

    def features(self, prompt: str) -> pd.DataFrame:
        """Which features fire on a prompt, and how strongly: one row per token and feature.

        Returns:
            position, token, sae, layer, feature (`sae#index`), value (raw activation), normalised (value / Q(0.999)
            of the feature over its harvest), explanation, score; what is not known is missing.

        Raises:
            ConfigError: no token, or more than the model takes.
        """
        return self._diagnose(prompt, corpus=None).fired.reindex(columns=list(COLUMNS))

    def diagnose(self, prompt: str, **settings: Any) -> "Diagnosis":
        """What fires on a prompt, beside the corpus and what is not explained.

        Args:
            prompt: The text.
            settings: Of `safesail.diagnose.config.DiagnoseConfig`: chat, generate, target.

        Returns:
            `.fired` (a DataFrame), `.strongest()`, `.unexplained`, `.answer`, `.path`, `.tokens`.

        Raises:
            ConfigError: no token, more than the model takes, or a wrong setting.
        """
        return self._diagnose(prompt, corpus=self.catalog, **settings)

    def compare(self, first: Sequence[str], second: Sequence[str], **settings: Any) -> "Comparison":
        """Which features fire more on the prompts of one set than on those of the other.

        Args:
            first: Prompts.
            second: Others.
            settings: Of `safesail.diagnose.config.CompareConfig`: chat, translations, level, draws, seed.

        Raises:
            ConfigError: a set is empty, a prompt cannot be taken, or a wrong setting.
        """
        from safesail.diagnose.config import CompareConfig
        from safesail.diagnose.run import compare_prompts

        config = CompareConfig.read(settings, "compare")
        return compare_prompts(self.subject, self.saes, (first, second), config, known=self.known)

    def _diagnose(self, prompt: str, *, corpus: Path | None, **settings: Any) -> "Diagnosis":
        from safesail.diagnose.config import DiagnoseConfig
        from safesail.diagnose.run import diagnose_prompt

        config = DiagnoseConfig.read(settings, "diagnose")
        return diagnose_prompt(self.subject, self.saes, prompt, config, known=self.known, corpus=corpus)

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
        edit = FeatureEdit(
            {f: parse_change(text, f, self._size(f)) for f, text in named.items()}, where, part
        )
        edit.interventions(self.saes, 0)  # refuses what cannot be
        self._edits.append(edit)
        try:
            yield
        finally:
            self._edits.remove(edit)

    def generate(self, prompt: str, *, max_tokens: int = 40, temperature: float = 0.0, seed: int = 0) -> str:
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
        return joined_text(self.subject.token_strings(new))

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
        from safesail.sae.attribution import attribute, attribute_to, token_target

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
                              "explanation": self.known.of(sae_id)["explanation"].reindex(of.feature).to_numpy(),
                              "feature": [f"{sae_id}#{i}" for i in of.feature],
                              "activation": of.activation, "attribution": of.attribution})
                for sae_id, of in given.items()
            ],
            ignore_index=True,
        )  # fmt: skip
        ordered = frame.sort_values("attribution", key=abs, ascending=False)
        return ordered.reindex(columns=list(ATTRIBUTION_COLUMNS)).reset_index(drop=True)

    def _size(self, feature: "FeatureId") -> "FeatureSize | None":
        """How strongly a feature fires, as the catalog knows."""
        from safesail.store.effects import FeatureSize

        rows = self.known.of(feature.sae_id).reindex([feature.index])[["density", "mean", "maximum"]].dropna()
        if rows.empty:
            return None
        density, mean, maximum = (float(cell) for cell in rows.iloc[0])
        return FeatureSize(density, density * mean, maximum)
