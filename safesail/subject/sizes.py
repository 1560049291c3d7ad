"""What config.json says of a subject model: read before its weights, without torch."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesail.domain.ids import layer_of
from safesail.errors import ConfigError, SubjectError
from safesail.resources import cache_dir
from safesail.subject.aliases import resolve
from safesail.subject.fetch import local_dir

_ENCODERS = frozenset(
    {
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "distilbert",
        "mpnet",
        "electra",
        "deberta-v2",
        "modernbert",
    }
)
"""Model types whose attention goes both ways; all others are run as causal language models."""

_USUAL_HOOKS = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_in", "hook_attn_out", "hook_mlp_in",
    "hook_mlp_out", "hook_in", "hook_out", "ln1.hook_normalized", "ln2.hook_normalized", "attn.hook_q", "attn.hook_k",
    "attn.hook_v", "attn.hook_z", "attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_result", "mlp.hook_pre",
    "mlp.hook_post", "mlp.hook_in", "mlp.hook_out",
)  # fmt: skip
"""Of a block; a model may have others."""

_SLIP = 0.9
"""Names at least this alike, of which one is usual, are one name and a slip in it."""


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a subject model; None where they are not known before it is fetched."""

    model_id: str
    d_model: int | None
    n_layers: int | None


def sizes_of(model: str) -> ModelSizes | None:
    """Sizes of an alias, a directory or a hub id; None for a hub id that is not on this machine.

    Raises:
        SubjectError: a directory that holds no complete model.
    """
    path = local_dir(model, cache_dir())
    if path is not None:
        config = read_config(path)
        inner = config.get("text_config")
        config = inner if isinstance(inner, dict) else config
        width = config.get("hidden_size", config.get("n_embd", config.get("dim")))
        depth = config.get("num_hidden_layers", config.get("n_layer", config.get("n_layers")))
        return ModelSizes(model, width, depth)
    alias = resolve(model)
    return None if alias is None else ModelSizes(model, alias.d_model, alias.n_layers)


def check_hook_name(hook: str, model: str) -> None:
    """Refuse a hook that the model cannot have, before it is loaded; once loaded, the model has the last word.

    Raises:
        ConfigError: no such layer, or a slip in a usual name.
        SubjectError: a directory that holds no complete model.
    """
    sizes, layer = sizes_of(model), layer_of(hook)
    if sizes is not None and sizes.n_layers is not None and layer is not None and layer >= sizes.n_layers:
        raise ConfigError(f"{model} has no hook {hook!r}: its layers are 0 to {sizes.n_layers - 1}")
    name = hook.removeprefix(f"blocks.{layer}.")
    near = difflib.get_close_matches(name, _USUAL_HOOKS, n=1, cutoff=_SLIP)
    if near and name not in _USUAL_HOOKS:
        raise ConfigError(f"{model} has no hook {hook!r}; did you mean {hook.removesuffix(name)}{near[0]}?")


def is_encoder(path: Path) -> bool:
    """Whether a directory holds a bidirectional text encoder."""
    config = read_config(path)
    causal = any("CausalLM" in name or "LMHead" in name for name in config.get("architectures") or ())
    return config.get("model_type") in _ENCODERS and not causal


def read_config(path: Path) -> dict[str, Any]:
    """A model directory's config.json.

    Raises:
        SubjectError: it is damaged.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SubjectError(
            f"{path / 'config.json'} cannot be read ({' '.join(str(error).split())[:100]})"
        ) from error
    if not isinstance(config, dict):
        raise SubjectError(f"{path / 'config.json'} must be a JSON object")
    return config
