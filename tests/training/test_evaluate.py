import numpy as np
import pytest
import torch
from torch import Tensor

from safesail.domain.records import SaeInfo
from safesail.sae.encode import SparseColumns, Spread
from safesail.sae.protocol import SparseActs
from safesail.subject.protocol import Subject
from safesail.subject.rows import mean_loss
from safesail.training.evaluate import Accumulator, Figures, measure

HOOK = "blocks.1.hook_mlp_out"
WINDOWS = [(10, 20, 30, 40), (50, 60), (70, 80, 90)]


class Axes:
    """An SAE whose features are the axes and their opposites: `kept` of them are copied, the rest lost."""

    def __init__(self, d_in: int, kept: int) -> None:
        self.decoder = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
        self.info = SaeInfo("axes", "tiny", HOOK, d_in, 2 * d_in, "relu", "0" * 64, "test")
        self._kept = kept

    def encode(self, x: Tensor, slots: int | None = None) -> SparseActs:
        both = torch.cat([x, -x], dim=1).relu()
        lost = torch.arange(x.shape[1]) >= self._kept
        return SparseActs.above_zero(both * ~torch.cat([lost, lost]))

    def decode(self, acts: SparseActs) -> Tensor:
        return acts.dense(0, acts.n_tokens) @ self.decoder


def taken_in(total: Accumulator, x: Tensor, sae: Axes) -> None:
    acts = sae.encode(x)
    error = (x - sae.decode(acts)).square().sum().item()
    row, feature = acts.token.numpy().astype(np.int32), acts.feature.numpy().astype(np.int32)
    total.add(
        SparseColumns(row, row, feature, acts.value.numpy(), error, 0.0),
        Spread.read(len(x), Spread.sums(x).numpy()),
    )


def test_figures_by_hand() -> None:
    total = Accumulator(4)
    taken_in(total, torch.tensor([[1.0, 3.0], [3.0, -3.0]]), Axes(2, kept=1))
    taken_in(total, torch.tensor([[2.0, 0.0]]), Axes(2, kept=1))
    # Mean (2, 0): sum of squared distances (1 + 9) + (1 + 9) + 0 = 20. Lost: 9 + 9 + 0 = 18.
    got = total.figures((1.0, 3.0, 2.0), 9)
    assert got.frac_variance_explained == pytest.approx(1 - 18 / 20)
    assert (got.l0, got.dead_share, got.n_tokens) == (1, 3 / 4, 3)
    assert (got.ce_clean, got.ce_zero, got.ce_spliced, got.n_loss_tokens) == (1.0, 3.0, 2.0, 9)


def test_a_lossless_sae_recovers_everything(tiny: Subject) -> None:
    (figures,) = measure(tiny, [Axes(32, kept=32)], WINDOWS, loss_tokens=9)
    assert figures.frac_variance_explained == pytest.approx(1, abs=1e-6)
    assert figures.l0 == 32
    assert figures.n_tokens == figures.n_loss_tokens == 9
    assert figures.ce_spliced == pytest.approx(figures.ce_clean, abs=1e-5)
    assert figures.ce_zero != pytest.approx(figures.ce_clean, abs=1e-3)
    assert figures.ce_recovered is None or figures.ce_recovered == pytest.approx(1, abs=1e-2)


def test_an_sae_that_loses_everything_is_zero_ablation(tiny: Subject) -> None:
    (figures,) = measure(tiny, [Axes(32, kept=0)], WINDOWS, loss_tokens=4)
    assert figures.frac_variance_explained <= 0
    assert (figures.l0, figures.dead_share) == (0, 1)
    assert figures.ce_spliced == pytest.approx(figures.ce_zero, abs=1e-5)
    assert figures.n_loss_tokens == 4


def test_mean_loss_weighs_tokens_not_windows(tiny: Subject) -> None:
    losses = [mean_loss(tiny, [window]) * len(window) for window in WINDOWS]
    assert mean_loss(tiny, WINDOWS) == pytest.approx(sum(losses) / 9, rel=1e-5)


def figures(clean: float, zero: float, spliced: float) -> Figures:
    return Figures(0.5, 8.0, 0.1, 100, clean, zero, spliced, 10)


def test_ce_recovered_by_hand() -> None:
    assert figures(3.0, 5.0, 3.5).ce_recovered == pytest.approx(0.75)
    assert figures(3.0, 5.0, 6.0).ce_recovered == pytest.approx(-0.5)
    assert figures(3.0, 3.0, 3.5).ce_recovered is None
    assert figures(3.0, 2.9, 3.5).ce_recovered is None
