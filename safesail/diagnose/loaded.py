"""A subject model with SAEs, ready for prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from safesail.diagnose.compare import Comparison
    from safesail.diagnose.known import KnownFeatures
    from safesail.diagnose.run import Diagnosis
    from safesail.sae.protocol import SAE
    from safesail.subject.protocol import Subject

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
            settings: Of `safesail.diagnose.config.DiagnoseConfig`: chat, generate.

        Returns:
            `.fired` (a DataFrame), `.strongest()`, `.unexplained`, `.answer`, `.tokens`.

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
