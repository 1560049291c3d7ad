import pytest
import torch
from torch import Tensor

from safesail.training import family
from safesail.training.family import Normaliser, TopKWeights


def random_weights(d_in: int = 5, d_sae: int = 12, seed: int = 0) -> TopKWeights:
    generator = torch.Generator().manual_seed(seed)
    start = family.initial(d_in, d_sae, generator)
    return TopKWeights(
        start.w_enc + 0.1 * torch.randn(d_in, d_sae, generator=generator),
        torch.randn(d_sae, generator=generator) * 0.1,
        start.w_dec,
        torch.randn(d_in, generator=generator) * 0.1,
    )


def test_encode_and_decode_by_hand() -> None:
    weights = TopKWeights(
        w_enc=torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
        b_enc=torch.tensor([0.5, 0.0, 0.0]),
        w_dec=torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]),
        b_dec=torch.tensor([1.0, 1.0]),
    )
    x = torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    # x - b_dec = (2, 1) and (-1, -1).
    pre = family.pre_activations(weights, x)
    assert pre.tolist() == [[2.5, 1.0, -2.0], [-0.5, -1.0, 1.0]]
    acts = family.top_k(pre, 2)
    # The second token's two largest are 1 and -0.5; the negative one becomes 0.
    assert sorted(acts.value[0].tolist()) == [1.0, 2.5]
    assert sorted(acts.value[1].tolist()) == [0.0, 1.0]
    assert family.decode(weights, acts).tolist() == [[3.5, 2.0], [0.0, 1.0]]


def test_sparse_decode_equals_the_dense_product_with_its_gradients() -> None:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))

    def gradients(dense: bool) -> tuple[Tensor, list[Tensor]]:
        weights = random_weights()
        for tensor in weights.tensors().values():
            tensor.requires_grad_()
        if dense:
            pre = (x - weights.b_dec) @ weights.w_enc + weights.b_enc
            kept = pre.topk(3, dim=1)
            z = torch.zeros_like(pre).scatter(1, kept.indices, kept.values.relu())
            x_hat = z @ weights.w_dec + weights.b_dec
        else:
            x_hat = family.decode(weights, family.top_k(family.pre_activations(weights, x), 3))
        loss = family.reconstruction_loss(x, x_hat)
        loss.backward()
        return loss, [t.grad for t in weights.tensors().values() if t.grad is not None]

    loss, found = gradients(dense=False)
    expected_loss, expected = gradients(dense=True)
    torch.testing.assert_close(loss, expected_loss)
    assert len(found) == 4
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


def test_normalised_activations_have_mean_zero_and_power_d_in() -> None:
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * 7 + 3
    y = Normaliser.fit(x).apply(x)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    assert y.pow(2).sum(dim=1).mean().item() == pytest.approx(6, rel=1e-5)


def test_folding_gives_an_sae_of_raw_activations_that_does_the_same() -> None:
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(3)) * 4 + 2
    normaliser, weights = Normaliser.fit(x), random_weights()
    y = normaliser.apply(x)
    inside = family.top_k(family.pre_activations(weights, y), 3)
    folded = normaliser.fold(weights)
    outside = family.top_k(family.pre_activations(folded, x), 3)
    assert (inside.index == outside.index).all()
    torch.testing.assert_close(outside.value * normaliser.scale, inside.value, atol=1e-5, rtol=1e-4)
    expected = family.decode(weights, inside) / normaliser.scale + normaliser.mean
    torch.testing.assert_close(family.decode(folded, outside), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded.w_dec.norm(dim=1), torch.ones(12))


@pytest.mark.parametrize("x", [torch.ones(5, 3), torch.ones(1, 3)])
def test_activations_that_do_not_vary_cannot_be_normalised(x: Tensor) -> None:
    with pytest.raises(ValueError, match="do not vary"):
        Normaliser.fit(x)


def test_auxk_is_zero_without_dead_features_and_one_for_dead_ones_that_say_nothing() -> None:
    weights = random_weights()
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    pre = family.pre_activations(weights, x)
    none = torch.zeros(12, dtype=torch.bool)
    assert family.auxk_loss(weights, pre, x, none).item() == 0
    some = none.clone()
    some[:3] = True
    # All dead pre-activations negative: they rebuild nothing, so that the whole error is left.
    assert family.auxk_loss(weights, -pre.abs(), x, some).item() == pytest.approx(1)
    assert family.auxk_loss(weights, pre, torch.zeros_like(x), some).item() == 0


def test_auxk_moves_dead_features_only() -> None:
    weights = random_weights()
    for tensor in weights.tensors().values():
        tensor.requires_grad_()
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    dead = torch.zeros(12, dtype=torch.bool)
    dead[[2, 7]] = True
    family.auxk_loss(weights, family.pre_activations(weights, x), x, dead).backward()
    assert weights.w_dec.grad is not None
    moved = weights.w_dec.grad.abs().sum(dim=1) > 0
    assert moved.nonzero().flatten().tolist() == [2, 7]


def test_the_gradient_along_a_row_is_taken_out() -> None:
    w_dec = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    gradient = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    family.project_gradient(w_dec, gradient)
    # Row 2: 1 * 0.6 along (0.6, 0.8) leaves (1 - 0.36, -0.48).
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 4.0], [0.64, -0.48]]))


def test_rows_become_unit_rows() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    family.unit_rows(rows)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
