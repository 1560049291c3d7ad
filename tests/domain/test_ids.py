"""Names: features, layers, texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.domain.ids import FeatureId, content_id, layer_of, parse_feature
from safesail.errors import ConfigError


@given(st.text(min_size=1), st.integers(0, 10**9 - 1))
def test_a_printed_feature_reads_back(sae_id: str, index: int) -> None:
    feature = FeatureId(sae_id, index)
    assert parse_feature(str(feature)) == feature


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sae",
        "sae#",
        "#3",
        "sae#-1",
        "sae#1.5",
        "sae# 1",
        "sae#²",
        "sae#٣",
        "sae#1\n",
        "sae#" + "9" * 5000,
    ],
)
def test_what_is_no_feature_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a feature; write SAE#INDEX"):
        parse_feature(text)


def test_features_sort_by_sae_then_number() -> None:
    a, b, c = FeatureId("a", 10), FeatureId("a", 9), FeatureId("b", 1)
    assert sorted([c, a, b]) == [b, a, c]


def test_a_negative_index_is_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match=">= 0, got -1"):
        FeatureId("a", -1)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.14.hook_mlp_out", 14),
        ("model.layers.7.mlp", 7),
        ("transformer.h.3", 3),
        ("blocks.0.attn.hook_z", 0),
        ("hook_embed", None),
        ("myblocks.5.x", None),
        ("blocks.x.hook", None),
        ("", None),
    ],
)
def test_layer_of_a_hook(hook: str, layer: int | None) -> None:
    assert layer_of(hook) == layer


def test_content_id_is_the_head_of_the_sha256() -> None:
    assert content_id("abc") == "ba7816bf8f01cfea"
    assert content_id("é") != content_id("e\u0301")
    assert len(content_id("\ud800")) == 16
