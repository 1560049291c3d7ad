"""What every subject model must do: causal language models and text encoders pass the same tests."""

from typing import Any

import pytest
import torch
from torch import Tensor

from safesail.errors import ConfigError, SubjectError
from safesail.subject.encoder import TextEncoder
from safesail.subject.head import head_logits
from safesail.subject.protocol import Intervention, Subject
from safesail.subject.rows import mean_loss

SHORT, LONG = [6, 9, 7], [8, 5, 10, 11, 6]
PADDED = torch.tensor([[*SHORT, 0, 0], LONG])
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post")


def hook(block: int, site: str = "resid_post") -> str:
    return f"blocks.{block}.hook_{site}"


def last(subject: Subject) -> str:
    return hook(subject.info.n_layers - 1)


def zeros(x: Tensor, positions: Tensor) -> Tensor:
    return torch.zeros_like(x)


def same(x: Tensor, positions: Tensor) -> Tensor:
    return x


def result(subject: Subject, **wanted: Any) -> Tensor:
    """The last thing that the model computes: logits, or an encoder's last block."""
    if isinstance(subject, TextEncoder):
        return subject.run(PADDED, attention_mask=MASK, capture=[last(subject)], **wanted).activations[
            last(subject)
        ]
    logits = subject.run(PADDED, attention_mask=MASK, logits=True, **wanted).logits
    assert logits is not None
    return logits


def test_every_model_is_a_subject(subject: Subject) -> None:
    assert isinstance(subject, Subject)
    assert subject.device == "cpu"


@pytest.mark.parametrize("site", SITES)
def test_activations_come_at_every_site_and_depth(subject: Subject, site: str) -> None:
    hooks = [hook(i, site) for i in range(subject.info.n_layers)]
    seen = subject.run(PADDED, capture=hooks, attention_mask=MASK).activations
    assert list(seen) == hooks
    for x in seen.values():
        assert x.shape == (2, 5, subject.info.d_model)
        assert x.dtype == torch.float32
    assert not torch.equal(seen[hooks[0]], seen[hooks[-1]])


def test_padding_is_not_attended_to_and_gives_zeros(subject: Subject) -> None:
    both = subject.run(PADDED, capture=[last(subject)], attention_mask=MASK).activations[last(subject)]
    alone = subject.run(torch.tensor([SHORT]), capture=[last(subject)]).activations[last(subject)]
    torch.testing.assert_close(both[0, :3], alone[0], atol=2e-5, rtol=1e-4)
    assert (both[0, 3:] == 0).all()
    assert (both[1] != 0).any(dim=1).all()


@pytest.mark.parametrize("site", SITES)
def test_an_edit_that_changes_nothing_changes_nothing_to_the_last_bit(subject: Subject, site: str) -> None:
    edited = result(subject, interventions=[Intervention(hook(1, site), same)])
    assert (edited - result(subject)).abs().max() == 0


@pytest.mark.parametrize("site", SITES)
def test_zeroing_a_hook_changes_the_result(subject: Subject, site: str) -> None:
    edited = result(subject, interventions=[Intervention(hook(1, site), zeros)])
    assert (edited - result(subject)).abs().max() > 0.01


def test_edits_at_one_hook_are_made_in_order_and_are_in_what_is_captured(subject: Subject) -> None:
    def two(x: Tensor, positions: Tensor) -> Tensor:
        return torch.full_like(x, 2)

    def plus_position(x: Tensor, positions: Tensor) -> Tensor:
        return x + positions.unsqueeze(-1)

    edits = [Intervention(hook(1), two), Intervention(hook(1), plus_position)]
    wanted = [hook(1), hook(2, "resid_pre")]
    seen = subject.run(PADDED, capture=wanted, attention_mask=MASK, interventions=edits).activations
    expected = torch.tensor([[2.0, 3, 4, 0, 0], [2, 3, 4, 5, 6]])
    for x in seen.values():
        torch.testing.assert_close(x, expected.unsqueeze(-1).expand_as(x), atol=0, rtol=0)


def test_an_edit_may_write_into_what_it_is_given_and_reaches_neither_special_tokens_nor_padding(
    subject: Subject,
) -> None:
    positions_seen: list[Tensor] = []

    def shout(x: Tensor, positions: Tensor) -> Tensor:
        positions_seen.append(positions)
        x[0] = 7
        return x

    kept = [
        subject.run(PADDED, attention_mask=MASK, keep_block=1, interventions=edits).state
        for edits in ([], [Intervention(hook(1), shout)])
    ]
    assert kept[0] is not None
    assert kept[1] is not None
    first = len(subject.prefix)
    assert positions_seen[0].tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]]
    assert (kept[1].residual[0, first : first + 3] == 7).all()
    before, after = kept[0].residual.clone(), kept[1].residual.clone()
    before[0, first : first + 3] = after[0, first : first + 3] = 0
    assert torch.equal(before, after)


@pytest.mark.parametrize("block", [0, 1])
def test_going_on_from_a_kept_residual_is_the_whole_pass(subject: Subject, block: int) -> None:
    edits = [Intervention(hook(block + 1, "mlp_out"), zeros), Intervention(hook(block), same)]
    later = [hook(block), hook(block + 1, "attn_out"), last(subject)]
    logits = not isinstance(subject, TextEncoder)
    state = subject.run(PADDED, attention_mask=MASK, keep_block=block).state
    assert state is not None
    for interventions in ([], edits):
        whole = subject.run(
            PADDED, attention_mask=MASK, capture=later, interventions=interventions, logits=logits
        )
        again = subject.resume(state, capture=later, interventions=interventions, logits=logits)
        for name in later:
            assert torch.equal(whole.activations[name], again.activations[name]), name
        if logits:
            assert whole.logits is not None
            assert again.logits is not None
            assert (whole.logits - again.logits).abs().max() == 0


def test_going_on_skips_the_blocks_before(subject: Subject) -> None:
    state = subject.run(PADDED, attention_mask=MASK, keep_block=1).state
    assert state is not None
    subject.resume(state, capture=[last(subject)])  # the first time it is held against the whole pass
    inner: Any = subject
    ran: list[int] = []
    for number, block in enumerate(inner._model.blocks):

        def note(*_: object, number: int = number) -> None:
            ran.append(number)

        next(block.children()).register_forward_hook(note)
    subject.resume(state, capture=[last(subject)])
    assert set(ran) == set(range(2, subject.info.n_layers))


def test_a_hook_before_the_kept_residual_is_refused(subject: Subject) -> None:
    state = subject.run(PADDED, attention_mask=MASK, keep_block=1).state
    assert state is not None
    for early in (hook(1, "mlp_out"), hook(0)):
        with pytest.raises(ConfigError, match=f"{early} lies before the residual kept after block 1"):
            subject.resume(state, capture=[early])
    with pytest.raises(ConfigError, match="no block 99 to keep the residual after"):
        subject.run(PADDED, keep_block=99)


def test_an_unknown_hook_names_near_ones(subject: Subject) -> None:
    with pytest.raises(
        ConfigError, match=r"no hook 'blocks.1.hook_mlp_ou'; near names: .*blocks.1.hook_mlp_out"
    ):
        subject.run(PADDED, capture=["blocks.1.hook_mlp_ou"])
    with pytest.raises(ConfigError, match=r"no hook 'blocks\.99\.hook_mlp_out'"):
        subject.run(PADDED, interventions=[Intervention("blocks.99.hook_mlp_out", zeros)])


def test_padding_on_the_left_and_rows_too_long_are_refused(subject: Subject) -> None:
    with pytest.raises(ValueError, match="padding must be on the right"):
        subject.run(PADDED, capture=[hook(1)], attention_mask=MASK.flip(1))
    long = torch.full((1, subject.n_ctx_max + 1), 5)
    with pytest.raises(ValueError, match=f"rows of {subject.n_ctx_max + 1} tokens"):
        subject.run(long, capture=[hook(1)])
    subject.run(long[:, 1:], capture=[hook(1)])


def test_an_edit_that_loses_tokens_is_refused(subject: Subject) -> None:
    with pytest.raises(ValueError, match="an edit made"):
        result(subject, interventions=[Intervention(hook(1), lambda x, positions: x[:, 1:])])


def test_loss_is_the_mean_over_tokens_each_given_those_before(causal: Subject) -> None:
    total = 0.0
    for row in (SHORT, LONG):
        logits = causal.run(torch.tensor([row]), logits=True).logits
        assert logits is not None
        assert logits.shape[:2] == (1, len(row) + 1)
        total += torch.nn.functional.cross_entropy(logits[0, :-1], torch.tensor(row), reduction="sum").item()
    assert mean_loss(causal, [SHORT, LONG]) == pytest.approx(total / 8, rel=1e-5)
    assert mean_loss(causal, [SHORT, LONG], [Intervention(hook(1), same)]) == mean_loss(causal, [SHORT, LONG])
    zeroed = mean_loss(causal, [SHORT, LONG], [Intervention(hook(1), zeros)])
    assert abs(zeroed - mean_loss(causal, [SHORT, LONG])) > 0.01


def likeliest(causal: Subject, row: list[int], n: int, edits: list[Intervention]) -> list[int]:
    """Greedy generation without a cache: the whole row again for every token."""
    whole = list(row)
    for _ in range(n):
        logits = causal.run(torch.tensor([whole]), logits=True, interventions=edits).logits
        assert logits is not None
        whole.append(int(logits[0, -1].argmax()))
    return whole[len(row) :]


def test_generation_is_the_likeliest_token_again_and_again_with_the_same_edits(causal: Subject) -> None:
    def later_only(x: Tensor, positions: Tensor) -> Tensor:
        return torch.where((positions >= 4).unsqueeze(-1), -2 * x, x)

    plain = causal.generate([SHORT, LONG, SHORT], max_tokens=8)
    for edits in ([], [Intervention(hook(1, "mlp_out"), later_only), Intervention(hook(0), later_only)]):
        new = causal.generate([SHORT, LONG, SHORT], max_tokens=8, interventions=edits)
        assert new[0] == new[2]
        for row, found in zip((SHORT, LONG), new, strict=False):
            assert found == likeliest(causal, row, 8, edits)[: len(found)]
    assert new != plain


def test_drawn_tokens_depend_on_the_seed_alone(causal: Subject) -> None:
    drawn = [causal.generate([LONG], max_tokens=12, temperature=5.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_encoder_has_no_logits_and_generates_nothing(encoder: TextEncoder) -> None:
    for ask in (
        lambda: encoder.run(PADDED, logits=True),
        lambda: encoder.generate([SHORT], max_tokens=1),
        lambda: mean_loss(encoder, [SHORT]),
    ):
        with pytest.raises(SubjectError, match="is a text encoder: it has no language head"):
            ask()


@pytest.mark.parametrize("block", [0, 1])
def test_going_on_after_a_kept_prefix_is_the_whole_pass(causal: Subject, block: int) -> None:
    rows = torch.tensor([LONG, [7, 9, 11, 5, 8]])

    def late(x: Tensor, positions: Tensor) -> Tensor:
        return torch.where((positions >= 3)[..., None], x + positions[..., None], x)

    edits = [Intervention(hook(block + 1, "mlp_out"), late)]
    state = causal.run(rows, keep_block=block, keep_prefix=3).state
    assert state is not None
    whole = causal.run(rows, capture=[last(causal)], interventions=edits).activations[last(causal)]
    for copies in (1, 3):
        again = causal.resume(state.repeat(copies), capture=[last(causal)], interventions=edits)
        after = again.activations[last(causal)]
        assert after.shape == (2 * copies, 2, causal.info.d_model)
        torch.testing.assert_close(after, whole[:, 3:].repeat(copies, 1, 1), atol=1e-5, rtol=1e-5)


def test_a_prefix_is_kept_of_rows_of_one_length_only(causal: Subject, encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="a prefix is kept with a block, of rows of one length"):
        causal.run(PADDED, attention_mask=MASK, keep_block=1, keep_prefix=2)
    with pytest.raises(ValueError, match="of a causal model"):
        encoder.run(PADDED, keep_block=1, keep_prefix=2)


def test_the_head_alone_gives_the_models_own_logits(causal: Subject) -> None:
    ran = causal.run(torch.tensor([LONG]), capture=[last(causal)], logits=True)
    assert ran.logits is not None
    logits = head_logits(causal, ran.activations[last(causal)][0])
    assert (logits - ran.logits[0, 1:]).abs().max() == 0


def test_an_encoder_has_no_head(encoder: TextEncoder) -> None:
    with pytest.raises(SubjectError, match="is a text encoder: it has no language head"):
        head_logits(encoder, torch.zeros(1, encoder.info.d_model))
    with pytest.raises(SubjectError, match="is a text encoder"):
        encoder.differentiate(torch.tensor([SHORT]), [hook(1)], lambda activations, logits: logits.sum())


def test_gradients_are_those_of_small_changes(causal: Subject) -> None:
    rows = torch.tensor([LONG])

    def target(activations: Any, logits: Tensor) -> Tensor:
        return logits[0, -1, 7]

    at, gradients = causal.differentiate(rows, [hook(0, "mlp_out"), hook(1)], target)
    clean = causal.run(rows, capture=[hook(0, "mlp_out")]).activations[hook(0, "mlp_out")]
    assert torch.equal(at[hook(0, "mlp_out")], clean)
    direction = torch.nn.functional.normalize(
        torch.randn(causal.info.d_model, generator=torch.Generator().manual_seed(0)), dim=0
    )
    for name, gradient in gradients.items():

        def moved(step: float, name: str = name) -> float:
            def edit(x: Tensor, positions: Tensor) -> Tensor:
                return torch.where((positions == 2)[..., None], x + step * direction, x)

            logits = causal.run(rows, logits=True, interventions=[Intervention(name, edit)]).logits
            assert logits is not None
            return float(logits[0, -1, 7])

        slope = (moved(0.01) - moved(-0.01)) / 0.02
        assert slope == pytest.approx(float(gradient[0, 2] @ direction), rel=0.05, abs=1e-3)
