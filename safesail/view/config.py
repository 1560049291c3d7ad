"""Settings of the viewer."""

from pydantic import Field

from safesail.catalog.search import By
from safesail.domain.config import Config

PORT = 8765


class ViewOptions(Config):
    """How a catalog is opened for pages."""

    port: int = Field(PORT, ge=0, le=65_535)
    """Of loopback; 0: any free one."""

    by: By | None = None
    """How searches go; None: by meaning too where the texts' vectors are there, or are soon made."""

    memory: str = "4GB"
    """Most memory of the database's own."""
