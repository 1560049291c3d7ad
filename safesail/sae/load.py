"""Opening an SAE, wherever it lies, and refusing what does not fit."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safesail.domain.records import SaeInfo, SubjectInfo
from safesail.errors import SaeError
from safesail.sae.checkpoint_config import CheckpointSource
from safesail.sae.folders import check_here, check_settings
from safesail.sae.protocol import SAE
from safesail.sae.settings import CONFIG, WEIGHTS, may_be_release, read_settings
from safesail.subject.device import memory_faults
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from safesail.subject.sizes import ModelSizes


def open_sae(spec: str, *, model: SubjectInfo | None, device: str = "cpu", decoder: bool = True) -> SAE:
    """Load one SAE: a folder in SAELens' format, a Safe-SAIL checkpoint (`.pt`), or `release/id`.

    Args:
        spec: As `find_saes` gives it.
        model: The subject model it must fit; None checks nothing against a model.
        device: torch device.
        decoder: False leaves out weights that encoding does not read, where that can be told.

    Raises:
        SaeError: it is missing, damaged, or does not fit the subject model.
    """
    path = Path(spec)
    if path.suffix == ".pt":
        from safesail.sae.checkpoint import open_checkpoint

        sae: SAE = open_checkpoint(path, model=model, device=device)
    else:
        sae = _open_saelens(spec, model, device, decoder=decoder)
    if model is not None:
        made_for = (read_settings(path) or {}).get("metadata", {}).get("model_name")
        settings = {"d_in": sae.info.d_in, "metadata": {"hook_name": sae.info.hook, "model_name": made_for}}
        check_settings(sae.info.sae_id, settings, ModelSizes(model.model_id, model.d_model, model.n_layers))
    return sae


def _open_saelens(spec: str, model: SubjectInfo | None, device: str, *, decoder: bool) -> SAE:
    from safesail.sae.saelens import SaeLensWrapped
    from safesail.sae.weights import check_weights, weights_sha256

    path = Path(spec)
    local = path.is_dir()
    if local:
        inner: Any = _from_folder(path)
    elif path.exists() or not may_be_release(spec):
        raise SaeError(f"no SAE at {spec}: not a folder with {CONFIG}, a .pt file or release/id")
    else:
        inner = _from_hub(spec)
    weights = dict(inner.state_dict())
    check_weights(weights, spec)
    info = _info(path.resolve().name if local else spec, inner.cfg, model, weights_sha256(weights))
    with memory_faults(device):
        return SaeLensWrapped(inner, info, device=device, decoder=decoder)


def _info(name: str, config: Any, model: SubjectInfo | None, sha256: str) -> SaeInfo:
    architecture = str(config.architecture())
    if "transcoder" in architecture:
        raise SaeError(f"{name} is a {architecture}, which writes to another place than it reads; use an SAE")
    if config.reshape_activations != "none":
        raise SaeError(f"{name} reads attention heads one by one (hook_z), which is not supported")
    if not config.metadata.hook_name:
        raise SaeError(f"{name}: its {CONFIG} names no hook point; add metadata.hook_name")
    k = getattr(config, "k", None)
    if k is not None and not 1 <= k <= config.d_sae:
        raise SaeError(f"{name}: k = {k} of {config.d_sae} features cannot be; correct k in its {CONFIG}")
    return SaeInfo(
        sae_id=name,
        model_id=model.model_id if model is not None else str(config.metadata.model_name or "unknown"),
        hook=str(config.metadata.hook_name),
        d_in=int(config.d_in),
        d_sae=int(config.d_sae),
        architecture=architecture,
        sha256=sha256,
        source=name,
        k=k,
    )


def _from_folder(path: Path) -> Any:
    from sae_lens import SAE as SaeLensSae
    from safetensors import SafetensorError

    read_settings(path)
    try:
        return SaeLensSae.load_from_disk(path, device="cpu", dtype="float32")
    except SafetensorError as error:
        raise SaeError(
            f"cannot load SAE {path}: {WEIGHTS} is damaged ({_line(error)}); copy or download it again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise SaeError(f"cannot load SAE {path}: {_line(error)}") from error


def _from_hub(spec: str) -> Any:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from sae_lens import SAE as SaeLensSae
    from safetensors import SafetensorError

    release, _, sae_id = spec.partition("/")
    try:
        with _silent_hub():
            return SaeLensSae.from_pretrained(release, sae_id, device="cpu")
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


def load_with_saes(
    model: ModelConfig, specs: Sequence[str], *, decoders: bool = True, quiet: bool = True
) -> tuple[Subject, list[SAE]]:
    """Load a subject model, and SAEs of it as `open_saes` does.

    Raises:
        ConfigError: nothing matches, two SAEs have one name, or the device cannot be used here.
        SubjectError: the model cannot be fetched or loaded.
        SaeError: an SAE is damaged or does not fit the subject model.
    """
    subject = load_subject(model, quiet=quiet)
    return subject, open_saes(specs, subject, decoders=decoders)


def open_saes(
    specs: Sequence[str | CheckpointSource], subject: Subject, *, decoders: bool = True
) -> list[SAE]:
    """Load SAEs to the model's device: folders (patterns allowed), checkpoints, or `release/id` of SAELens' directory.

    Args:
        specs: Which.
        subject: The model whose activations they read.
        decoders: False leaves out weights that encoding does not read.

    Raises:
        ConfigError: nothing matches, or two SAEs have one name.
        SaeError: an SAE is damaged or does not fit the subject model, or a checkpoint has not been fetched yet.
    """
    info, device = subject.info, subject.device
    checked = check_here(specs, ModelSizes(info.model_id, info.d_model, info.n_layers))
    saes = [open_sae(spec, model=info, device=device, decoder=decoders) for spec in checked]
    sources = [spec for spec in specs if not isinstance(spec, str)]
    return saes + [_open_source(source, info, device) for source in sources]


def _open_source(source: CheckpointSource, model: SubjectInfo, device: str) -> SAE:
    from safesail.sae.checkpoint import open_checkpoint

    sae = open_checkpoint(Path(source.path), model=model, device=device, config=source.settings)
    if (sae.info.d_in, sae.info.d_sae) != (source.d_in, source.d_sae):
        raise SaeError(
            f"{source.path} is {sae.info.d_in} x {sae.info.d_sae}, not {source.d_in} x {source.d_sae}; correct d_in "
            "and d_sae in the pipeline's file"
        )
    return sae
