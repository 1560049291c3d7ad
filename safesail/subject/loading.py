"""Which subject model, and where it runs."""

from dataclasses import dataclass

from safesail.resources import cache_dir
from safesail.subject.device import choose_device
from safesail.subject.fetch import fetch
from safesail.subject.model import SubjectModel


@dataclass(frozen=True)
class ModelConfig:
    """The subject model and where it runs."""

    model: str
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None

    def load(self, *, quiet: bool) -> SubjectModel:
        """Fetch the model where it is not here yet, and load it.

        Raises:
            SubjectError: it cannot be fetched or loaded.
        """
        fetch(self.model, cache=cache_dir(), quiet=quiet)
        return SubjectModel.load(
            self.model, device=choose_device(self.device), dtype=self.dtype, threads=self.threads
        )
