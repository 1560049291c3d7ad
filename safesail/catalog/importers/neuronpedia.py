"""Neuronpedia's export: `<modelId>/<sourceId>/{features,activations,explanations}/batch-N.jsonl.gz`.

Rows of one feature may lie in batches of different numbers, so they are joined by identity, never by batch.
"""

import re
from pathlib import Path
from typing import Any

from safesail.catalog.gather import Gathered
from safesail.catalog.reading import read_jsonl
from safesail.domain.ids import FeatureId
from safesail.errors import DataError

KINDS = ("features", "explanations", "activations")
_LAYER = re.compile(r"^(\d+)-|_(\d+)$")
MAX_EXEMPLARS = 20


def fits(source: Path) -> bool:
    """Does a folder look like this format?"""
    return source.is_dir() and any(source.rglob("explanations/batch-*.jsonl*"))


def layer_of_source(source: str) -> int | None:
    """The layer in a source id such as `10-gemmascope-res-16k` or `resid_5`; None where it has none."""
    found = _LAYER.search(source)
    return int(found[1] or found[2]) if found else None


def read(source: Path, into: Gathered) -> None:
    """All batches below `source`, features first.

    Raises:
        DataError: no batches, or a row that is not in this format.
    """
    for kind in KINDS:
        files = sorted(source.rglob(f"{kind}/batch-*.jsonl")) + sorted(
            source.rglob(f"{kind}/batch-*.jsonl.gz")
        )
        if kind == "explanations" and not files:
            raise DataError(f"{source} holds no explanations/batch-*.jsonl.gz")
        ranks: dict[FeatureId, int] = {}
        for path in files:
            for number, row in read_jsonl(path):
                where = f"{path} line {number}"
                feature = _feature(row, where, into)
                if kind == "activations":
                    ranks[feature] = ranks.get(feature, 0) + 1
                    _read_activation(row, where, (feature, ranks[feature]), into)
                else:
                    _READERS[kind](row, where, feature, into)


def _feature(row: dict[str, Any], where: str, into: Gathered) -> FeatureId:
    model, source, index = row.get("modelId"), row.get("layer"), row.get("index")
    if not isinstance(model, str) or not isinstance(source, str):
        raise DataError(f"{where}: modelId and layer must be texts")
    if not (
        isinstance(index, int | str)
        and str(index).isascii()
        and str(index).isdigit()
        and len(str(index)) < 10
    ):
        raise DataError(f"{where}: index must be a number, not {str(index)[:40]!r}")
    if into.options.model not in (None, model):
        raise DataError(f"{where}: the row is about {model!r}, not {into.options.model!r}")
    return FeatureId(into.sae(source, layer=layer_of_source(source), model=model), int(index))


def _read_feature(row: dict[str, Any], where: str, feature: FeatureId, into: Gathered) -> None:
    density = row.get("frac_nonzero")
    if not isinstance(density, int | float | None) or (density is not None and not 0 <= density <= 1):
        raise DataError(f"{where}: frac_nonzero must lie in [0, 1]")
    maximum = row.get("maxActApprox")
    top = row.get("pos_str")
    if top is not None and not (isinstance(top, list) and all(isinstance(token, str) for token in top)):
        raise DataError(f"{where}: pos_str must be a list of texts")
    into.feature(feature, density=density, maximum=maximum if isinstance(maximum, int | float) else None)


def _read_explanation(row: dict[str, Any], where: str, feature: FeatureId, into: Gathered) -> None:
    text = row.get("description")
    if not isinstance(text, str | None):
        raise DataError(f"{where}: description must be text")
    into.feature(feature)
    by = [str(row[name]) for name in ("explanationModelName", "typeName") if row.get(name)]
    into.explanation(feature, text, explainer=" / ".join(by) or None)


def _read_activation(row: dict[str, Any], where: str, place: tuple[FeatureId, int], into: Gathered) -> None:
    tokens, values = row.get("tokens"), row.get("values")
    if (
        not isinstance(tokens, list)
        or not isinstance(values, list)
        or not all(isinstance(token, str) for token in tokens)
        or not all(isinstance(number, int | float) for number in values)
    ):
        raise DataError(f"{where}: tokens must be texts, and values numbers")
    if len(tokens) != len(values):
        raise DataError(f"{where}: {len(tokens)} tokens but {len(values)} values")
    feature, rank = place
    into.feature(feature)
    if rank <= MAX_EXEMPLARS:
        into.exemplar(feature, rank, tokens, [float(number) for number in values])


_READERS = {"features": _read_feature, "explanations": _read_explanation}
