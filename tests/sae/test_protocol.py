import torch

from safesail.sae.protocol import SparseActs


def test_gathered_by_hand() -> None:
    parts = [torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 4.0]])]
    acts = SparseActs.join(map(SparseActs.above_zero, parts), 3)
    assert acts.token.tolist() == [0, 2, 2]
    assert acts.feature.tolist() == [1, 0, 2]
    assert acts.value.tolist() == [2, 3, 4]
    assert (acts.n_tokens, acts.d_sae) == (3, 3)


def test_the_largest_by_hand() -> None:
    pre = torch.tensor([[0.5, 3.0, -1.0, 2.0], [-3.0, -1.0, 4.0, -2.0], [-1.0, -1.0, -1.0, -1.0]])
    acts = SparseActs.largest(pre, 2)
    assert acts.token.tolist() == [0, 0, 1]
    assert acts.feature.tolist() == [1, 3, 2]
    assert acts.value.tolist() == [3, 2, 4]
    assert (acts.n_tokens, acts.d_sae) == (3, 4)
    assert len(SparseActs.largest(pre, 9).value) == 4


def test_dense_gives_back_any_run_of_tokens() -> None:
    dense = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).relu()
    acts = SparseActs.join(map(SparseActs.above_zero, dense.split(16)), 7)
    torch.testing.assert_close(acts.dense(0, 50), dense)
    torch.testing.assert_close(acts.dense(13, 9), dense[13:22])


def test_no_tokens() -> None:
    acts = SparseActs.join([], 5)
    assert acts.n_tokens == 0
    assert acts.dense(0, 0).shape == (0, 5)
