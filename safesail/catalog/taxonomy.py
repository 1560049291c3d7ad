"""Domains and their leaves: which tags belong together."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safesail.domain.config import load_yaml
from safesail.errors import ConfigError
from safesail.resources import resource_dir


@dataclass(frozen=True)
class Taxonomy:
    """The tree of tags: domains, each with its leaves."""

    domains: dict[str, tuple[str, ...]]
    """Leaves by domain, in order."""

    paper: frozenset[str]
    """Domains of the Safe-SAIL paper (arXiv 2509.18127); the others are ours."""

    controls: frozenset[str]
    """Ordinary domains, which are there to be told apart from the others."""

    def domain_of(self, tag: str) -> str | None:
        """The domain of a tag: itself, its leaf's, or the first part of `domain.leaf.name`; None if unknown."""
        if (first := tag.split(".", 1)[0]) in self.domains:
            return first
        return next((domain for domain, leaves in self.domains.items() if tag in leaves), None)

    def tags_of(self, domain: str) -> tuple[str, ...]:
        """The domain's own tag and those of its leaves.

        Raises:
            ConfigError: no such domain.
        """
        if domain not in self.domains:
            raise ConfigError(f"no domain {domain!r}; there are {', '.join(self.domains)}")
        return (domain, *self.domains[domain])

    def check_tag(self, tag: str) -> str:
        """`tag`, if it is a domain or a leaf.

        Raises:
            ConfigError: it is neither.
        """
        if tag not in self.domains and not any(tag in leaves for leaves in self.domains.values()):
            raise ConfigError(
                f"no tag {tag!r} in the taxonomy; domains are {', '.join(self.domains)}, each with its leaves"
            )
        return tag


def read_taxonomy(path: Path) -> Taxonomy:
    """Read a taxonomy file.

    Raises:
        ConfigError: the file is missing or not a taxonomy.
    """
    content = load_yaml(path)
    domains: Any = content.get("domains")
    if not isinstance(domains, dict) or not all(
        isinstance(name, str) and isinstance(leaves, list) and all(isinstance(leaf, str) for leaf in leaves)
        for name, leaves in domains.items()
    ):
        raise ConfigError(f"{path}: domains must map each domain to a list of leaves")
    return Taxonomy(
        {str(name): tuple(leaves) for name, leaves in domains.items()},
        frozenset(content.get("paper", ())),
        frozenset(content.get("controls", ())),
    )


@cache
def taxonomy() -> Taxonomy:
    """Safe-SAIL's own taxonomy, `data/taxonomy.yaml`."""
    return read_taxonomy(resource_dir("data") / "taxonomy.yaml")
