"""Records refuse what cannot be."""

import pytest

from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Window

FEATURE = FeatureId("sae", 3)
WINDOW = Window("d", 0, (5, 6), ("a", " b"), "train")


def test_an_exemplar_has_one_activation_a_token() -> None:
    assert Exemplar(FEATURE, WINDOW, (0.0, 1.5), "active", 1).activations == (0.0, 1.5)
    with pytest.raises(ValueError, match="sae#3: 2 tokens but 1 activations"):
        Exemplar(FEATURE, WINDOW, (1.5,), "active", 1)
