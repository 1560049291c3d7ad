"""Domains and their leaves: which tags belong together."""

from functools import cache
from typing import Literal

from safesail.domain.config import Config
from safesail.errors import ConfigError
from safesail.resources import resource_dir


class Taxonomy(Config):
    """The tree of tags: domains, each with its leaves."""

    version: Literal[1] = 1
    domains: dict[str, tuple[str, ...]]
    """Leaves by domain, in order."""

    paper: frozenset[str] = frozenset()
    """Domains of the Safe-SAIL paper (arXiv 2509.18127); the others are ours."""

    controls: frozenset[str] = frozenset()
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

    def explained_tags(self) -> tuple[str, ...]:
        """Tags that an explanation may carry: the leaves of all domains but the controls."""
        return tuple(leaf for d, leaves in self.domains.items() if d not in self.controls for leaf in leaves)

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


@cache
def taxonomy() -> Taxonomy:
    """Safe-SAIL's own taxonomy, `data/taxonomy.yaml`."""
    return Taxonomy.from_yaml(resource_dir("data") / "taxonomy.yaml")
