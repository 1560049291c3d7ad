"""Opening an SAE, wherever it lies, and refusing what does not fit."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safesail.domain.ids import layer_of
from safesail.domain.records import SaeInfo, SubjectInfo
from safesail.errors import ConfigError, SaeError
from safesail.resources import expand
from safesail.sae.protocol import SAE
from safesail.sae.save import CONFIG, WEIGHTS
from safesail.subject.loading import choose_device
from safesail.subject.protocol import Subject


def find_saes(specs: Sequence[str]) -> list[str]:
    """Specs with patterns and folders of folders expanded, each once, in order of name within a spec.

    A spec is an SAE's folder, a folder of such folders, a pattern of either, a `.pt` checkpoint, or
    `release/id` of SAELens' directory. What matches nothing here is left out.
    """
    found: list[str] = []
    for spec in specs:
        base = Path(spec)
        paths = sorted(base.parent.glob(base.name)) if base.name else [base]
        if not paths and _may_be_release(spec):
            found.append(spec)
        for path in paths:
            if (path / CONFIG).is_file() or path.suffix == ".pt":
                found.append(str(path))
            elif path.is_dir():
                found += sorted(str(inner.parent) for inner in path.glob(f"*/{CONFIG}"))
                found += sorted(str(inner) for inner in path.glob("*.pt"))
    return list(dict.fromkeys(found))


def open_sae(spec: str, *, model: SubjectInfo | None, device: str = "cpu") -> SAE:
    """Load one SAE: a folder in SAELens' format, a Safe-SAIL checkpoint (`.pt`), or `release/id`.

    Args:
        spec: As `find_saes` gives it.
        model: The subject model it must fit; None checks nothing against a model.
        device: torch device.

    Raises:
        SaeError: it is missing, damaged, or does not fit the subject model.
    """
    path = Path(spec)
    if path.suffix == ".pt":
        from safesail.sae.checkpoint import open_checkpoint

        sae: SAE = open_checkpoint(path, model=model, device=device)
    else:
        sae = _open_saelens(spec, model, device)
    if model is not None:
        check_fit(sae.info, model)
    return sae


def check_fit(info: SaeInfo, model: SubjectInfo) -> None:
    """Refuse an SAE of another width, or of a layer that the subject model does not have.

    Raises:
        SaeError: it does not fit.
    """
    if info.d_in != model.d_model:
        raise SaeError(
            f"{info.sae_id} reads {info.d_in} numbers a token, {model.model_id} has {model.d_model}; "
            "it was made for another model"
        )
    layer = layer_of(info.hook)
    if layer is None or (model.n_layers is not None and layer >= model.n_layers):
        raise SaeError(
            f"{info.sae_id} sits at {info.hook}, which {model.model_id} with {model.n_layers} layers does not have"
        )


def _may_be_release(spec: str) -> bool:
    return "/" in spec and not any(c in spec for c in "*?[") and not spec.startswith((".", "/", "~"))


def _open_saelens(spec: str, model: SubjectInfo | None, device: str) -> SAE:
    from safesail.sae.saelens import SaeLensWrapped
    from safesail.sae.weights import check_weights, weights_sha256

    path = Path(spec)
    local = path.is_dir()
    if local:
        inner: Any = _from_folder(path, device)
    elif path.exists() or not _may_be_release(spec):
        raise SaeError(f"no SAE at {spec}: not a folder with {CONFIG}, a .pt file or release/id")
    else:
        inner = _from_hub(spec, device)
    weights = dict(inner.state_dict())
    check_weights(weights, spec)
    info = _info(path.resolve().name if local else spec, inner.cfg, model, weights_sha256(weights))
    return SaeLensWrapped(inner, info)


def _info(name: str, config: Any, model: SubjectInfo | None, sha256: str) -> SaeInfo:
    architecture = str(config.architecture())
    if "transcoder" in architecture:
        raise SaeError(f"{name} is a {architecture}, which writes to another place than it reads; use an SAE")
    if config.reshape_activations != "none":
        raise SaeError(f"{name} reads attention heads one by one (hook_z), which is not supported")
    if not config.metadata.hook_name:
        raise SaeError(f"{name}: its {CONFIG} names no hook point; add metadata.hook_name")
    return SaeInfo(
        sae_id=name,
        model_id=model.model_id if model is not None else str(config.metadata.model_name or "unknown"),
        hook=str(config.metadata.hook_name),
        d_in=int(config.d_in),
        d_sae=int(config.d_sae),
        architecture=architecture,
        sha256=sha256,
        source=name,
        k=getattr(config, "k", None),
    )


def _from_folder(path: Path, device: str) -> Any:
    from sae_lens import SAE as SaeLensSae
    from safetensors import SafetensorError

    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise SaeError(f"{path} is not an SAE folder: {name} is missing")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise SaeError(f"{path / CONFIG} must be a JSON object")
        return SaeLensSae.load_from_disk(path, device=device, dtype="float32")
    except SafetensorError as error:
        raise SaeError(
            f"cannot load SAE {path}: {WEIGHTS} is damaged ({_line(error)}); copy or download it again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise SaeError(f"cannot load SAE {path}: {_line(error)}") from error


def _from_hub(spec: str, device: str) -> Any:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from sae_lens import SAE as SaeLensSae
    from safetensors import SafetensorError

    release, _, sae_id = spec.partition("/")
    try:
        with _silent_hub():
            return SaeLensSae.from_pretrained(release, sae_id, device=device)
    except LocalEntryNotFoundError as error:
        raise SaeError(
            f"cannot load SAE {spec}: it is not on this machine and the Hugging Face hub cannot be reached; "
            "try again with a network, or name a folder"
        ) from error
    except (SafetensorError, HfHubHTTPError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise SaeError(f"cannot load SAE {spec}: {_line(error)}") from error


@contextmanager
def _silent_hub() -> Generator[None, None, None]:
    """Without the hub's line for every attempt: how it ended is in the error."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def open_saes(specs: Sequence[str], subject: Subject, *, device: str = "auto") -> list[SAE]:
    """Load SAEs: folders (patterns allowed), checkpoints, or `release/id` of SAELens' directory.

    Raises:
        ConfigError: nothing matches, or two SAEs have one name.
        SaeError: one of them is damaged or does not fit the subject model.
    """
    found = find_saes([expand(spec) for spec in specs])
    if not found:
        raise ConfigError(f"no SAE matches {', '.join(specs)}; name a folder with cfg.json, or release/id")
    saes = [open_sae(str(spec), model=subject.info, device=choose_device(device)) for spec in found]
    names = [sae.info.sae_id for sae in saes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two SAEs are called {twice[0]!r}; rename one folder")
    return saes
