"""SAEDashboard's batches for Neuronpedia: statistics, top tokens and windows of features, without explanations."""

from pathlib import Path
from typing import Any

from safesail.catalog.gather import Gathered
from safesail.catalog.importers.neuronpedia import MAX_EXEMPLARS
from safesail.catalog.reading import read_json
from safesail.domain.ids import FeatureId
from safesail.errors import DataError

_FIELDS = {"model_id", "layer", "sae_set", "features"}


def fits(content: Any) -> bool:
    """Does a JSON document look like this format?"""
    return isinstance(content, dict) and set(content) >= _FIELDS


def read(source: Path, into: Gathered) -> None:
    """One batch, or a folder of `batch-N.json`.

    Raises:
        DataError: not in this format, or about another model than the options say.
    """
    files = [source] if source.is_file() else sorted(source.glob("batch-*.json"))
    if not files:
        raise DataError(f"{source} holds no batch-*.json")
    for path in files:
        content = read_json(path)
        if not fits(content) or not isinstance(content["features"], list):
            raise DataError(f"{path} is not an SAEDashboard batch: it needs {', '.join(sorted(_FIELDS))}")
        model, layer = str(content["model_id"]), content["layer"]
        if into.options.model not in (None, model):
            raise DataError(f"{path} is about {model!r}, not {into.options.model!r}")
        if not str(layer).isdigit():
            raise DataError(f"{path}: layer must be a number")
        sae_id = into.sae(f"{layer}-{content['sae_set']}", layer=int(layer), model=model)
        for number, entry in enumerate(content["features"]):
            _read_feature(f"{path}: features[{number}]", sae_id, entry, into)


def _read_feature(where: str, sae_id: str, entry: Any, into: Gathered) -> None:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("feature_index"), int)
        or entry["feature_index"] < 0
    ):
        raise DataError(f"{where} has no feature_index")
    windows, density = entry.get("activations", []), entry.get("frac_nonzero")
    if not isinstance(density, int | float) or not 0 <= density <= 1:
        into.fault("no density", where)
        density = None
    feature = FeatureId(sae_id, entry["feature_index"])
    if not isinstance(windows, list):
        raise DataError(f"{where}: activations must be a list")
    checked = [_window(f"{where}.activations[{n}]", window) for n, window in enumerate(windows)]
    seen: set[str] = set()
    ranked: list[tuple[list[str], list[float]]] = []
    for tokens, values in sorted(checked, key=lambda pair: -max(pair[1], default=0.0)):
        text = "".join(tokens)
        if text in seen:
            into.fault("repeated window", where)
        else:
            seen.add(text)
            ranked.append((tokens, values))
    maximum = max((max(values, default=0.0) for _, values in ranked), default=None)
    into.feature(feature, density=density, maximum=maximum)
    for rank, (tokens, values) in enumerate(ranked[:MAX_EXEMPLARS], start=1):
        into.exemplar(feature, rank, tokens, values)


def _window(where: str, window: Any) -> tuple[list[str], list[float]]:
    tokens = window.get("tokens") if isinstance(window, dict) else None
    values = window.get("values") if isinstance(window, dict) else None
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise DataError(f"{where} has not one value a token")
    if not all(isinstance(t, str) for t in tokens) or not all(isinstance(v, int | float) for v in values):
        raise DataError(f"{where}: tokens must be texts, and values numbers")
    return tokens, [float(v) for v in values]
