"""Rows through a subject model and its SAEs: what one pass gives is what each row alone gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from safesail.errors import SubjectError
from safesail.sae.encode import encode_rows, run_rows
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.subject.causal import CausalModel
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from tests.tiny_model import D_MODEL, write_tiny_encoder, write_tiny_model

ROWS = [[8, 5, 10], [11], [6, 7, 9, 12, 5]]
HOOKS = ["blocks.1.hook_mlp_out", "blocks.0.hook_resid_post"]


@pytest.fixture(scope="module", params=[write_tiny_model, write_tiny_encoder])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load_subject(ModelConfig(str(request.param(tmp_path_factory.mktemp("m") / "m")), device="cpu"))


@pytest.fixture
def saes(write_sae: Callable[..., Path]) -> list[SAE]:
    made: list[SAE] = []
    for number, hook in enumerate(HOOKS):
        generator = torch.Generator().manual_seed(number)
        w_dec = torch.nn.functional.normalize(torch.randn(20, D_MODEL, generator=generator), dim=1)
        folder = write_sae(
            f"sae{number}", d_in=D_MODEL, W_enc=w_dec.T.contiguous(), W_dec=w_dec, b_dec=torch.zeros(D_MODEL),
            metadata={"hook_name": hook, "model_name": "tiny", "sae_lens_version": "6.54.12"},
        )  # fmt: skip
        made.append(open_sae(str(folder), model=None))
    return made


def alone(subject: Subject, row: list[int], hook: str) -> Tensor:
    return subject.run(torch.tensor([row]), capture=[hook]).activations[hook][0]


@pytest.mark.parametrize("prefix", [(), (9, 6)])
def test_columns_are_those_of_each_row_alone(
    subject: Subject, saes: list[SAE], prefix: tuple[int, ...]
) -> None:
    encoded = encode_rows(subject, saes, ROWS, prefix=prefix)
    assert encoded.n_tokens == 9
    assert list(encoded.by_sae) == ["sae0", "sae1"]
    for sae in saes:
        expected: dict[tuple[int, int, int], float] = {}
        for number, row in enumerate(ROWS):
            x = alone(subject, [*prefix, *row], sae.info.hook)[len(prefix) :]
            acts = sae.encode(x)
            keys = zip(acts.token.tolist(), acts.feature.tolist(), strict=True)
            expected |= {(number, *key): v for key, v in zip(keys, acts.value.tolist(), strict=True)}
        found = encoded.by_sae[sae.info.sae_id]
        keys = list(zip(found.row.tolist(), found.position.tolist(), found.feature.tolist(), strict=True))
        assert keys == sorted(expected)
        np.testing.assert_allclose(found.value, [expected[key] for key in keys], rtol=1e-4, atol=1e-5)
        assert {c.dtype for c in (found.row, found.position, found.feature)} == {np.dtype(np.int32)}
        assert found.squared_error is None
    assert encoded.spreads == {}


def test_errors_and_spreads_are_those_of_all_tokens(subject: Subject, saes: list[SAE]) -> None:
    encoded = encode_rows(subject, saes, [np.array(row, np.int32) for row in ROWS], measure=True)
    for sae in saes:
        x = torch.cat([alone(subject, row, sae.info.hook) for row in ROWS])
        error = (x - sae.decode(sae.encode(x))).square().sum().item()
        assert encoded.by_sae[sae.info.sae_id].squared_error == pytest.approx(error, rel=1e-4)
        spread = encoded.spreads[sae.info.hook]
        assert spread.about_mean == pytest.approx((x - x.mean(dim=0)).square().sum().item(), rel=1e-4)
        assert (spread + spread).n == 2 * 9


def test_activations_without_saes(subject: Subject) -> None:
    ran = run_rows(subject, ROWS, HOOKS, prefix=(9,))
    assert ran.row.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert ran.position.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]
    for hook in HOOKS:
        expected = torch.cat([alone(subject, [9, *row], hook)[1:] for row in ROWS])
        torch.testing.assert_close(ran.by_hook[hook], expected, atol=2e-5, rtol=1e-4)


def test_numbers_that_are_not_finite_name_the_row_and_only_where_it_counts(tmp_path: Path) -> None:
    model = load_subject(ModelConfig(str(write_tiny_model(tmp_path / "m")), device="cpu"))
    assert isinstance(model, CausalModel)
    embeddings = model._model.model.get_submodule("model.embed_tokens")  # pyright: ignore[reportPrivateUsage]
    with torch.no_grad():
        embeddings.weight[77] = torch.nan  # pyright: ignore[reportIndexIssue, reportArgumentType]
    hook = "blocks.0.hook_resid_pre"
    with pytest.raises(
        SubjectError, match=r"not finite at blocks\.0\.hook_resid_pre \(text 2\); run it in float32"
    ):
        run_rows(model, [[5], [6, 7], [8, 77]], [hook], name_row="text {}".format)
    run_rows(model, [[5], [6, 7]], [hook], prefix=(77,))
