"""Delphi's result folders, and files of labels made from them.

`explanations/<hook>_latent<i>.txt` holds one JSON string; `scores/<scorer>/<hook>_latent<i>.txt` a list of
`{activating, prediction, correct, probability, ...}`, one a window. Delphi's scorers classify windows: that is an
accuracy, not a correlation, and is stored as such.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.catalog.gather import Gathered
from safesail.catalog.reading import parse_json, read_json
from safesail.domain.ids import FeatureId, layer_of
from safesail.errors import ConfigError, DataError

_FILE = re.compile(r"^(?P<hook>.+)_latent(?P<index>\d{1,9})\.txt$")
NOT_A_CORRELATION = "the scorer classifies windows; see balanced_accuracy"


def fits(source: Path) -> bool:
    """Does a folder look like this format?"""
    return source.is_dir() and any(source.rglob("explanations/*_latent*.txt"))


def fits_labels(content: Any) -> bool:
    """Does a JSON document look like a file of labels?"""
    if not isinstance(content, dict) or not content:
        return False
    key, entry = next(iter(content.items()))
    return key.isdigit() and isinstance(entry, dict) and isinstance(entry.get("explanation"), dict)


def read(source: Path, into: Gathered) -> None:
    """A result folder with its explanations and scores.

    Raises:
        ConfigError: the options do not name the subject model.
        DataError: a file that is not in this format.
    """
    model = _model(source, into)
    ids: dict[FeatureId, str] = {}
    for path in sorted(source.rglob("explanations/*.txt")):
        feature = _feature(path, model, into)
        text = read_json(path)
        if not isinstance(text, str | None):
            raise DataError(f"{path} must hold one text")
        into.feature(feature)
        if (explanation_id := into.explanation(feature, text)) is not None:
            ids[feature] = explanation_id
    if not ids:
        raise DataError(f"{source} holds no explanations/<hook>_latent<number>.txt")
    for path in sorted(source.rglob("scores/*/*.txt")):
        feature = _feature(path, model, into)
        if feature not in ids:
            into.fault("score without explanation", str(feature))
            continue
        _read_scores(path, (feature, ids[feature]), into)


def read_labels(source: Path, into: Gathered) -> None:
    """A file `"<latent>" -> {explanation: {label, description}}` of one SAE.

    Raises:
        ConfigError: the options do not name the subject model and the hook.
        DataError: not in this format.
    """
    model = _model(source, into)
    if into.options.hook is None:
        raise ConfigError(f"{source} does not say which hook it is about; name it with --hook")
    hook = into.options.hook
    sae_id = into.sae(hook, layer=layer_of(hook), model=model)
    content: Any = read_json(source)
    for key, entry in content.items():
        parts = entry.get("explanation") if isinstance(entry, dict) else None
        if not key.isdigit() or len(key) > 9 or not isinstance(parts, dict):
            raise DataError(f"{source}: {key[:40]!r} is not a latent with an explanation")
        texts = [parts[name] for name in ("label", "description") if isinstance(parts.get(name), str)]
        feature = FeatureId(sae_id, int(key))
        into.feature(feature)
        into.explanation(feature, ": ".join(texts) or None)


def _model(source: Path, into: Gathered) -> str:
    if into.options.model is None:
        raise ConfigError(f"{source} does not say which model it explains; name it with --model")
    return into.options.model


def _feature(path: Path, model: str, into: Gathered) -> FeatureId:
    found = _FILE.match(path.name)
    if not found:
        raise DataError(f"{path} is not named <hook>_latent<number>.txt")
    hook = found["hook"]
    sae_id = into.sae(hook, layer=layer_of(hook), model=model, hook=hook)
    return FeatureId(sae_id, int(found["index"]))


def _read_scores(path: Path, place: tuple[FeatureId, str], into: Gathered) -> None:
    feature, explanation_id = place
    content = parse_json(path.read_bytes(), str(path))
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise DataError(f"{path} must hold a list of predictions")
    answered = [(bool(p["activating"]), bool(p["prediction"])) for p in content
                if isinstance(p.get("activating"), bool) and p.get("prediction") is not None]  # fmt: skip
    for _ in range(len(content) - len(answered)):
        into.fault("prediction failed", f"{feature} {path.parent.name}")
    into.score(
        feature, explanation_id, None, method=f"delphi {path.parent.name}", reason=NOT_A_CORRELATION,
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
