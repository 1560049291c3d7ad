"""Domains, their leaves, and which tags go together."""

from pathlib import Path

import pytest

from safesail.concepts.taxonomy import Taxonomy, taxonomy
from safesail.errors import ConfigError

PAPER = {
    "politics": ("political_figure", "political_event", "ideology", "cult"),
    "pornography": ("sexual_behaviour", "sexual_abuse", "sexual_health", "intimate_relationship"),
    "terror": ("terrorism", "religious_oppression", "extremist_activities", "weapons"),
    "violence": ("insult", "physical_violence", "criminal_offence", "cybersecurity", "conflict_incident"),
}


def test_the_papers_domains_and_leaves_are_there_and_ours_beside_them() -> None:
    tree = taxonomy()
    assert {name: tree.domains[name] for name in PAPER} == PAPER
    assert tree.paper == set(PAPER)
    assert len(tree.domains) > len(PAPER)
    assert set(tree.explained_tags()) >= {leaf for leaves in PAPER.values() for leaf in leaves}
    assert not set(tree.explained_tags()) & set(tree.domains["ordinary"])
    leaves = [leaf for found in tree.domains.values() for leaf in found]
    assert len(set(leaves)) == len(leaves), "a leaf has one domain"


def test_domains_of_tags() -> None:
    tree = taxonomy()
    assert [tree.domain_of(tag) for tag in ("terror", "weapons", "terror.weapons.gun", "pie")] == [
        "terror", "terror", "terror", None]  # fmt: skip
    assert tree.tags_of("terror") == ("terror", *PAPER["terror"])


@pytest.mark.parametrize("content", ["domains: [a, b]", "domains: {a: b}", "domains: {a: [1]}", "{}"])
def test_a_faulty_taxonomy_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"t\.yaml: domains"):
        Taxonomy.from_yaml(tmp_path / "t.yaml")
