from pathlib import Path

import pytest

from safesail.errors import ConfigError
from safesail.selection.plot import draw
from safesail.selection.result import RankedSae, SelectionResult
from safesail.store.selection import ScoredSae, ScoreRow


def ranked(
    name: str,
    l0: float,
    value: float | None,
    *,
    fvu: float | None = 0.5,
    layer: int = 1,
    place: str = "hook_mlp_out",
) -> RankedSae:
    hook = f"blocks.{layer}.{place}"
    row = ScoreRow("all", "all", "detection", value, 0.1, 0.6, 0.15, value, 4, None)
    sae = ScoredSae(name, name, hook, layer, 8, int(l0), l0, fvu, value, 0.1, 0.6, 0.15)
    return RankedSae(sae, {"detection": row}, {}, {}, 0, new=True)


def test_the_figure_has_curves_axes_and_the_peak(tmp_path: Path) -> None:
    result = SelectionResult(
        (ranked("mid", 16, 0.5), ranked("low", 4, 0.2), ranked("other", 8, 0.3, layer=2, fvu=None),
         ranked("stream", 64, 0.4, layer=2, place="hook_resid_post"), ranked("none", 2, None)), (), 10, {},
    )  # fmt: skip
    draw(result, tmp_path / "deep" / "figure.svg")
    drawn = (tmp_path / "deep" / "figure.svg").read_text(encoding="utf-8")
    for text in (
        "blocks.1.hook_mlp_out, 8 features",
        "blocks.2.hook_mlp_out, 8 features",
        "L0 (mean active",
        "detection by sparsity, 4 SAEs",
        "detection by layer and hook",
        "hook_resid_post",
        "k 64",
        "best: mid",
    ):
        assert f"<!-- {text}" in drawn, text
    assert "<!-- low" not in drawn  # only the best SAE is named
    draw(result, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_and_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"written as \.png, \.svg"):
        draw(SelectionResult((ranked("a", 1, 0.2),), (), 1, {}), tmp_path / "figure.gif")
    with pytest.raises(ConfigError, match="no SAE has the figure 'pair_isolation'"):
        draw(SelectionResult((ranked("a", 1, None),), (), 1, {}), tmp_path / "figure.png")
