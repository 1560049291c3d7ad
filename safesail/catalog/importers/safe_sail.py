"""Safe-SAIL's released database: `"{layer}_{index}" -> {explanation, correlation_score, tag_list}`."""

import re
from pathlib import Path
from typing import Any

from safesail.catalog.gather import Gathered
from safesail.catalog.reading import read_json
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, DataError

METHOD = "correlation"
"""The file says `correlation_score` and no more."""

_KEY = re.compile(r"^(\d{1,4})_(\d{1,9})$")
_FIELDS = {"explanation", "correlation_score", "tag_list"}
_LANGUAGES = {"cn": "zh"}


def fits(content: Any) -> bool:
    """Does a JSON document look like this format?"""
    if not isinstance(content, dict) or not content:
        return False
    key, entry = next(iter(content.items()))
    return bool(_KEY.match(key)) and isinstance(entry, dict) and "correlation_score" in entry


def read(source: Path, into: Gathered) -> None:
    """One file, or a folder with one `<lang>_db.json` a language.

    Raises:
        ConfigError: the options do not name the subject model.
        DataError: not in this format.
    """
    model = into.options.model
    if model is None:
        raise ConfigError(f"{source} does not say which model it explains; name it with --model")
    files = [source] if source.is_file() else sorted(source.glob("*_db.json"), reverse=True)
    files.sort(key=lambda path: not path.name.startswith("en"))
    if not files:
        raise DataError(f"{source} holds no *_db.json")
    first: dict[str, Any] = {}
    for path in files:
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(f"{path} must be an object")
        for key, entry in content.items():
            _read_entry(f"{path}: {key!r}", (key, entry), (model, _language(path, into)), into)
        _compare(first, content, into)
        first = first or content


def _language(path: Path, into: Gathered) -> str:
    prefix = path.name.split("_db")[0]
    stated = _LANGUAGES.get(prefix, prefix) if path.name.endswith("_db.json") and len(prefix) == 2 else "en"
    return into.options.lang or stated


def _read_entry(where: str, item: tuple[str, Any], source: tuple[str, str], into: Gathered) -> None:
    (key, entry), (model, lang) = item, source
    found = _KEY.match(key)
    if not found or not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise DataError(f"{where} is not `layer_index` with {', '.join(sorted(_FIELDS))}")
    text, score, tags = entry["explanation"], entry["correlation_score"], entry["tag_list"]
    if (
        not isinstance(text, str | None)
        or isinstance(score, bool)
        or not isinstance(score, int | float | None)
    ):
        raise DataError(f"{where}: explanation must be text or null, correlation_score a number or null")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise DataError(f"{where}: tag_list must be a list of texts")
    layer = int(found[1])
    feature = FeatureId(into.sae(f"l{layer}", layer=layer, model=model), int(found[2]))
    into.feature(feature)
    explanation_id = into.explanation(feature, text, lang=lang)
    if explanation_id is not None:
        reason = {"reason": "the source has no score"} if score is None else {}
        into.score(feature, explanation_id, None if score is None else float(score), method=METHOD, **reason)
    if len(set(tags)) != len(tags):
        into.fault("repeated tag", where)
    into.tags(feature, tags)


def _compare(first: dict[str, Any], other: dict[str, Any], into: Gathered) -> None:
    """Two languages of one database should agree but for the text."""
    if not first:
        return
    for key in sorted(set(first) ^ set(other)):
        into.fault("in one language only", key)
    for key in sorted(set(first) & set(other)):
        if any(first[key][name] != other[key][name] for name in ("correlation_score", "tag_list")):
            into.fault("languages disagree", key)
