"""Which subject model, where it runs, and how it is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesail.errors import ConfigError, SubjectError
from safesail.resources import cache_dir
from safesail.subject.fetch import fetch
from safesail.subject.fingerprint import fingerprint
from safesail.subject.protocol import Subject
from safesail.subject.sizes import is_encoder


@dataclass(frozen=True)
class ModelConfig:
    """The subject model and where it runs."""

    model: str
    """An alias, a local Hugging Face directory, or a hub id; a text encoder (`minilm`) or a causal language model."""

    device: str = "auto"
    dtype: str = "float32"
    """float32, bfloat16 or float16; tf32: float32 whose products on CUDA have 10 bits of mantissa, the SAEs' too.
    bfloat16 is many times slower than float32 on most CPUs."""

    threads: int | None = None
    """CPU threads torch may use; None leaves torch's own choice."""


def load_subject(config: ModelConfig, *, quiet: bool = True) -> Subject:
    """Fetch the model where it is not here yet, and load it.

    Raises:
        ConfigError: the device cannot be used here.
        SubjectError: it cannot be fetched or loaded, or needs code of its own.
    """
    device = choose_device(config.device)
    path = fetch(config.model, cache=cache_dir(), quiet=quiet)
    kind = _class_of(path)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from safesail.subject.device import memory_faults

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        options = {
            "dtype": _number_format(config.dtype, device),
            "number_format": config.dtype,
            "device": device,
            "local_files_only": True,
            "trust_remote_code": False,  # a folder's own code is never run
        }
        with memory_faults(device):
            return kind.load(path, tokenizer, config.model, fingerprint(path), options)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        if "trust_remote_code" in str(error):
            reason = (
                "it needs Python code of its own, which is never run; use a model that transformers knows"
            )
        if "ignore_mismatched_sizes" in str(error):
            reason = "its weights have other shapes than its config.json says; fetch the model again"
        raise SubjectError(f"cannot load model {config.model!r} from {path}: {reason}") from error


def _class_of(path: Path) -> Any:
    """The class that runs the model in a directory."""
    if is_encoder(path):
        from safesail.subject.encoder import TextEncoder

        return TextEncoder
    from safesail.subject.causal import CausalModel

    return CausalModel


def choose_device(name: str) -> str:
    """`auto` becomes CUDA where it is here, else the CPU (MPS lacks float64); any other name is taken as it is.

    Raises:
        ConfigError: torch cannot use that device on this machine.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"torch cannot use device {name!r} on this machine; use auto, cpu, or cuda where there is a CUDA GPU"
        ) from error
    try:
        torch.empty(0, device=name, dtype=torch.float64)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device {name!r} has no float64, in which sums are made; use cpu, or cuda where there is a CUDA GPU"
        ) from error
    return name


def _number_format(name: str, device: str) -> Any:
    """The torch dtype; sets how float32 products are made on CUDA, for the whole process.

    Raises:
        ConfigError: TF32 where there is none.
    """
    import torch

    cuda = torch.device(device).type == "cuda"
    if name == "tf32" and not cuda:
        raise ConfigError(f"dtype tf32 needs a CUDA GPU, not {device}; use float32")
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    return torch.float32 if name == "tf32" else getattr(torch, name)
