"""Putting a release on the Hugging Face hub: said before it is done, private unless asked, its token kept nowhere."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesail.catalog.format import MANIFEST, release_digest
from safesail.catalog.transfer import check_address
from safesail.catalog.verify import verify_release
from safesail.errors import ConfigError, DataError, NotFoundError

_TARGET = re.compile(r"^hf:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)$")


@dataclass(frozen=True)
class PushPlan:
    """What a push would send, and where to."""

    repo: str
    private: bool
    digest: str
    """SHA-256 that names the release."""

    files: tuple[tuple[str, int], ...]
    """Names and bytes."""

    licences: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size in self.files)


def plan_push(folder: Path, target: str, *, public: bool = False) -> PushPlan:
    """What `push` would do; nothing is asked of anybody.

    Args:
        folder: The release's folder.
        target: `hf:organisation/name`, a data set.
        public: Everybody may see it.

    Raises:
        ConfigError: another kind of target, or the release is zipped.
        DataError: the release is damaged.
    """
    named = _TARGET.match(target)
    if named is None or ".." in target:
        raise ConfigError(f"{target!r} is not hf:organisation/name")
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder; a release is pushed as a folder, so that others can read its tables"
        )
    manifest = verify_release(folder)
    files = tuple((name, (folder / name).stat().st_size) for name in (MANIFEST, *sorted(manifest.files)))
    licences = (manifest.licence, *(sae.licence for sae in manifest.weights))
    return PushPlan(
        named["repo"], not public, release_digest(manifest), files, tuple(dict.fromkeys(licences))
    )


def push(plan: PushPlan, folder: Path, *, quiet: bool = False) -> str:
    """Send the release; returns the address of the commit.

    The token is the hub's own (HF_TOKEN, or what `hf auth login` keeps); it is handed to the hub and to nobody else.

    Raises:
        ConfigError: the data set is there and has another visibility than planned.
        NotFoundError: no token, or one that may not write there.
        DataError: the hub cannot be reached, or refuses.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars, get_token

    token = get_token()
    if token is None:
        raise NotFoundError("no token for the Hugging Face hub; set HF_TOKEN to one that may write")
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint is not None:
        check_address(endpoint)
    if quiet:
        disable_progress_bars()
    try:
        return _push(HfApi(endpoint=endpoint, token=token), plan, folder)
    except (
        HfHubHTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        httpx2.HTTPError,
        ValueError,
    ) as error:
        said = " ".join(str(error).split()).replace(token, "***")[:300]
        raise DataError(f"hf:{plan.repo} was not pushed: {said or type(error).__name__}") from None


def _push(hub: Any, plan: PushPlan, folder: Path) -> str:
    hub.create_repo(plan.repo, repo_type="dataset", private=plan.private, exist_ok=True)
    repository = hub.repo_info(plan.repo, repo_type="dataset")
    if bool(repository.private) != plan.private:
        now, wanted = ("private", "public") if repository.private else ("public", "private")
        raise ConfigError(
            f"hf:{plan.repo} is {now}, not {wanted}; change that on the hub, or choose another name"
            + ("" if repository.private else ", or say --public")
        )
    done = hub.upload_folder(
        repo_id=plan.repo, repo_type="dataset", folder_path=folder,
        allow_patterns=[name for name, _ in plan.files],
        # What an earlier version held and this one does not must not stay.
        delete_patterns=["*.parquet", "saes/*"],
        commit_message=f"Safe-SAIL catalog release {plan.digest[:12]}",
    )  # fmt: skip
    return str(done.commit_url)
