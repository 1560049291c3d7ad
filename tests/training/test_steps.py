import copy

import pytest
import torch
from torch import Tensor

from safesail.training.config import FamilyConfig, SaePlan, TextConfig, TrainConfig
from safesail.training.steps import Trainee, rate

HOOK = "blocks.1.hook_mlp_out"
PLAN = SaePlan(sae_id="tiny", hook=HOOK, k=1, d_sae=8)


def config(lr: float = 0.01, auxk: float = 1 / 32, dead_after: int = 10**6) -> TrainConfig:
    return TrainConfig(
        model="tiny",
        families=(FamilyConfig(hook=HOOK, ks=(1,), widths=(8,)),),
        texts=(TextConfig(source="a.txt"),),
        n_tokens=1000,
        lr=lr,
        auxk_coefficient=auxk,
        dead_after_tokens=dead_after,
    )


def planted(n: int, seed: int) -> Tensor:
    """Tokens that are a positive multiple of one of four orthogonal directions."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(4, (n,), generator=generator)
    strength = 1 + torch.rand(n, 1, generator=generator)
    return torch.eye(4, 6)[which] * strength * 2


def test_planted_directions_are_found() -> None:
    trainee = Trainee.start(PLAN, 6, config())
    losses = [trainee.learn(list(planted(3200, i).split(64)), (0.1, 0.2)) for i in range(12)]
    assert losses[-1] < 0.02 * losses[0]
    found = (trainee.weights.w_dec.detach()[:, :4] > 0.95).any(dim=0)
    assert found.all()
    torch.testing.assert_close(trainee.weights.w_dec.norm(dim=1), torch.ones(8))
    assert trainee.tokens_seen == 12 * 3200


def test_one_seed_one_result() -> None:
    def train(seed: int) -> Tensor:
        trainee = Trainee.start(PLAN, 6, config().model_copy(update={"seed": seed}))
        trainee.learn(list(planted(640, 0).split(64)), (0.0, 1.0))
        return trainee.weights.w_dec.detach()

    torch.testing.assert_close(train(0), train(0), atol=0, rtol=0)
    assert not torch.allclose(train(0), train(1))


def test_a_restored_trainee_goes_on_as_if_nothing_had_been() -> None:
    whole = Trainee.start(PLAN, 6, config())
    whole.learn(list(planted(640, 0).split(64)), (0.1, 0.2))
    state = copy.deepcopy(whole.state())
    whole.learn(list(planted(640, 1).split(64)), (0.2, 0.3))
    resumed = Trainee.start(PLAN, 6, config())
    resumed.restore(state)
    resumed.learn(list(planted(640, 1).split(64)), (0.2, 0.3))
    assert resumed.tokens_seen == whole.tokens_seen == 1280
    for name, tensor in whole.weights.tensors().items():
        torch.testing.assert_close(resumed.weights.tensors()[name], tensor, atol=0, rtol=0)


def test_auxk_trains_features_that_never_win_and_without_it_they_stay() -> None:
    moved: list[int] = []
    for auxk in (0.0, 1.0):
        trainee = Trainee.start(PLAN, 6, config(auxk=auxk, dead_after=128))
        with torch.no_grad():
            trainee.weights.b_enc[0] = 50.0  # feature 0 is the strongest on every token
        before = trainee.weights.w_dec.detach().clone()
        trainee.learn(list(planted(1280, 0).split(64)), (0.1, 0.2))
        change = (trainee.weights.w_dec.detach() - before).abs().sum(dim=1)
        moved.append(int((change[1:] > 1e-4).sum()))
    assert moved[0] == 0
    assert moved[1] >= 3


def test_no_batches_no_step() -> None:
    trainee = Trainee.start(PLAN, 6, config())
    assert trainee.learn([], (0.0, 1.0)) == 0.0
    assert trainee.tokens_seen == 0


@pytest.mark.parametrize(
    ("done", "expected"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (0.8, 1.0), (0.9, 0.5), (1.0, 0.0)],
)
def test_the_rate_rises_stays_and_falls(done: float, expected: float) -> None:
    assert rate(done, 0.1, 0.2) == pytest.approx(expected)


def test_the_rate_without_warmup_and_decay_is_level() -> None:
    assert rate(0.0, 0.0, 0.0) == rate(1.0, 0.0, 0.0) == 1.0
