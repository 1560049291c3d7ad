"""Delphi's result folders, and files of labels made from them.

`explanations/<hook>_latent<i>.txt` holds one JSON string; `scores/<scorer>/<hook>_latent<i>.txt` a list of
`{activating, prediction, correct, probability, ...}`, one per window. Delphi's scorers classify windows: that is an
accuracy, not a correlation, and is stored as such.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.catalog.gather import Gathered
from safesail.catalog.importers.rows import FileRow, Text, files_of, parse_index
from safesail.catalog.reading import read_json
from safesail.domain.ids import FeatureId, layer_of
from safesail.errors import ConfigError, DataError

FOLDER = "**/explanations/*_latent*.txt"
NO_CORRELATION = "the scorer classifies windows; see balanced_accuracy"
_FILE = re.compile(r"^(?P<hook>.+)_latent(?P<index>\d{1,9})\.txt$")


class ExplanationFile(FileRow):
    """The text in a file of explanations/."""

    text: Text | None


class Prediction(FileRow):
    """What a scorer said of one window."""

    activating: bool | None = None
    prediction: bool | int | None = None


class ScoreFile(FileRow):
    """All windows in a file of scores/."""

    windows: list[Prediction]


class Label(FileRow):
    """An explanation in a file of labels."""

    label: Text | None = None
    description: Text | None = None


class LabelEntry(FileRow):
    """One latent in a file of labels."""

    explanation: Label


def fits_labels(content: Any) -> bool:
    """Does a JSON document look like a file of labels?"""
    key, entry = next(iter(content.items()), ("", None)) if isinstance(content, dict) else ("", None)
    return key.isdigit() and isinstance(entry, dict) and isinstance(entry.get("explanation"), dict)


def read(source: Path, into: Gathered) -> None:
    """A result folder with its explanations and scores.

    Raises:
        ConfigError: the options do not name the subject model.
        DataError: a file that is not in this format.
    """
    ids: dict[FeatureId, str] = {}
    for path in files_of(source, FOLDER):
        feature = _feature(path, into)
        text = ExplanationFile.read({"text": read_json(path)}, str(path)).text
        into.feature(feature)
        if (explanation_id := into.explanation(feature, text)) is not None:
            ids[feature] = explanation_id
    for path in sorted(source.glob("**/scores/*/*.txt")):
        feature = _feature(path, into)
        if feature in ids:
            _add_score(path, feature, ids[feature], into)
        else:
            into.fault("score without explanation", str(feature))


def read_labels(source: Path, into: Gathered) -> None:
    """A file `"<latent>" -> {explanation: {label, description}}` of one SAE.

    Raises:
        ConfigError: the options do not name the subject model and the hook.
        DataError: not in this format.
    """
    hook = into.options.hook
    if hook is None:
        raise ConfigError(f"{source} does not say which hook it is about; name it with --hook")
    sae_id = into.sae(hook, layer=layer_of(hook), model=into.model_of(str(source)))
    content: Any = read_json(source)
    for key, entry in content.items():
        index = parse_index(key)
        if index is None:
            raise DataError(f"{source}: {key[:40]!r} is not the number of a latent")
        parts = LabelEntry.read(entry, f"{source}: {key}").explanation
        feature = FeatureId(sae_id, index)
        into.feature(feature)
        into.explanation(feature, ": ".join(t for t in (parts.label, parts.description) if t) or None)


def _feature(path: Path, into: Gathered) -> FeatureId:
    match = _FILE.match(path.name)
    if match is None:
        raise DataError(f"{path} is not named <hook>_latent<number>.txt")
    hook, model = match["hook"], into.model_of(str(path))
    return FeatureId(into.sae(hook, layer=layer_of(hook), model=model, hook=hook), int(match["index"]))


def _add_score(path: Path, feature: FeatureId, explanation_id: str, into: Gathered) -> None:
    windows = ScoreFile.read({"windows": read_json(path)}, str(path)).windows
    answered = [
        (w.activating, bool(w.prediction))
        for w in windows
        if w.activating is not None and w.prediction is not None
    ]
    for _ in range(len(windows) - len(answered)):
        into.fault("prediction failed", f"{feature} {path.parent.name}")
    into.score(
        feature, explanation_id, None, method=f"delphi {path.parent.name}", reason=NO_CORRELATION,
        balanced_accuracy=balanced_accuracy(answered), n_windows=len(answered), n_units=len(answered),
    )  # fmt: skip


def balanced_accuracy(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Mean of the hit rates on active and on silent windows; None where one kind is missing.

    Args:
        pairs: (truth, prediction) of every window.
    """
    rates: list[float] = []
    for truth in (True, False):
        hits = [prediction == truth for real, prediction in pairs if real == truth]
        if not hits:
            return None
        rates.append(sum(hits) / len(hits))
    return sum(rates) / 2
