"""Every stage that runs a model, on a device that is not the CPU: the same results, few waits, few bytes.

`tests/pretend_device.py` says what the pretend device can and cannot tell.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from safesail.domain.records import Concept, ConceptPair
from safesail.errors import ConfigError, DeviceMemoryError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.sae.checkpoint import EncoderOnly
from safesail.sae.checkpoint_config import CheckpointConfig
from safesail.sae.edit import edit_features, reconstruct, scale
from safesail.sae.encode import encode_rows
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.sae.save import save_sae, topk_config
from safesail.selection.config import SelectionConfig
from safesail.selection.run import run_selection, selection_id
from safesail.store.connection import open_writer
from safesail.store.sql import rows
from safesail.subject.device import memory_faults
from safesail.subject.encoder import TextEncoder
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.minilm import is_installed, weights_folder
from safesail.subject.protocol import Subject
from safesail.subject.rows import mean_loss
from safesail.training.config import TrainConfig
from safesail.training.run import run_training
from tests import pretend_device
from tests.harvest.conftest import TEXTS, write_texts
from tests.tiny_model import D_MODEL, write_tiny_encoder, write_tiny_gpt2, write_tiny_model

D_SAE, K, N_CTX = 96, 5, 16
CONFIG = HarvestConfig(n_ctx=N_CTX, shard_tokens=100, batch_tokens=80)
HOOKS = ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_post", "blocks.2.hook_mlp_out")
MOST_WAITS = 3
MOST_BYTES = 12
"""Per nonzero, on their way to the host."""


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[str]:
    pretend_device.install()
    yield pretend_device.NAME
    pretend_device.LOG.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("other")


@pytest.fixture(scope="module")
def tiny_dir(folder: Path) -> Path:
    return write_tiny_model(folder / "tiny")


@pytest.fixture(scope="module")
def subjects(tiny_dir: Path, device: str) -> tuple[Subject, Subject]:
    """The same model on the CPU and on the device."""
    return load_subject(ModelConfig(str(tiny_dir), "cpu")), load_subject(ModelConfig(str(tiny_dir), device))


def topk(folder: Path, subject: Subject, number: int, hook: str, *, decoder: bool = True) -> SAE:
    path = folder / f"topk{number}"
    if not path.exists():
        generator = torch.Generator().manual_seed(number)
        w_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
        weights = {"W_enc": w_dec.T.contiguous(), "W_dec": w_dec, "b_enc": torch.zeros(D_SAE),
                   "b_dec": torch.zeros(D_MODEL)}  # fmt: skip
        meta = {"hook_name": hook, "model_name": "tiny", "sae_lens_version": "6.54.12"}
        save_sae(path, weights, topk_config(D_MODEL, D_SAE, K, meta))
    return open_sae(str(path), model=subject.info, device=subject.device, decoder=decoder)


def jumprelu(subject: Subject, number: int, hook: str, theta: float) -> SAE:
    """Of the paper's own kind: an encoder alone, whose number of active features varies."""
    generator = torch.Generator().manual_seed(number)
    weights = {
        "pre_encoder_bias._bias_reference": torch.zeros(D_MODEL),
        "encoder.weight": torch.nn.functional.normalize(
            torch.randn(D_MODEL, D_SAE, generator=generator), dim=0
        ),
        "encoder.bias": torch.zeros(D_SAE),
        "encoder.theta": torch.full((D_SAE,), theta),
    }
    sae = topk_info(hook, number)
    config = CheckpointConfig(hook=hook, architecture="jumprelu")
    return EncoderOnly({name: w.to(subject.device) for name, w in weights.items()}, config, sae)


def topk_info(hook: str, number: int) -> Any:
    from safesail.domain.records import SaeInfo

    return SaeInfo(f"jump{number}", "tiny", hook, D_MODEL, D_SAE, "jumprelu", f"{number}" * 64, "made")


def mixed(folder: Path, subject: Subject, n: int) -> list[SAE]:
    """SAEs of both kinds, at all hooks by turns."""
    hooks = itertools.cycle(HOOKS)
    return [
        topk(folder, subject, i, next(hooks)) if i % 2 == 0 else jumprelu(subject, i, next(hooks), 2.0)
        for i in range(n)
    ]


def both(make: Callable[[Subject], Any], subjects: tuple[Subject, Subject]) -> tuple[Any, Any]:
    here, there = (make(subject) for subject in subjects)
    return here, there


def harvested(
    subject: Subject, saes: list[SAE], text: Path, store: Path, **settings: Any
) -> dict[Any, float]:
    """(SAE, feature, token) to value."""
    with open_writer(store) as db:
        job = HarvestJob(subject, saes, [str(text)], CONFIG.model_copy(update=settings))
        run_harvest(db, job, quiet=True)
        sql = "SELECT sae_id, feature, token, value FROM activations JOIN saes USING (sae_key)"
        return {(s, f, t): v for s, f, t, v in rows(db, sql)}


def assert_same(here: dict[Any, float], there: dict[Any, float]) -> None:
    """At least 99.99 % of the keys, and values to 1e-5 of the largest."""
    assert len(here.keys() & there.keys()) >= 0.9999 * len(here.keys() | there.keys()) > 1000
    largest = max(here.values())
    assert max(abs(here[key] - there[key]) for key in here.keys() & there.keys()) <= 1e-5 * largest


def test_mixing_devices_is_refused_as_cuda_does(device: str) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=device).mul(torch.ones(3))
    with pytest.raises((RuntimeError, TypeError)):
        torch.ones(3, device=device).numpy()


@pytest.mark.parametrize("write", [write_tiny_model, write_tiny_gpt2, write_tiny_encoder])
def test_a_harvest_is_that_of_the_cpu(
    write: Callable[[Path], Path], folder: Path, device: str, tmp_path: Path
) -> None:
    path = str(write(tmp_path / "model"))
    text = write_texts(tmp_path / "t.jsonl", [*TEXTS, *("the cat sat on a mat " * i for i in range(1, 30))])
    stored = []
    for name in ("cpu", device):
        subject = load_subject(ModelConfig(path, name))
        saes = mixed(folder, subject, 4)
        stored.append(harvested(subject, saes, text, tmp_path / f"{name}.duckdb"))
    assert_same(*stored)


@pytest.mark.parametrize("n_saes", [1, 32])
def test_a_batch_waits_three_times_and_sends_twelve_bytes_per_nonzero(
    n_saes: int, folder: Path, subjects: tuple[Subject, Subject]
) -> None:
    there = subjects[1]
    saes = mixed(folder, there, n_saes)
    batch = [there.tokenize(text)[: 2 * N_CTX] for text in TEXTS * 4]
    encode_rows(there, saes, batch)  # a hook is tried, and an SAE's slots become known
    pretend_device.LOG.clear()
    encoded = encode_rows(there, saes, batch)
    waits = list(pretend_device.LOG)
    assert len(waits) <= MOST_WAITS, pretend_device.table()
    sent = [event for event in waits if event.kind == "to host"]
    n_nonzeros = sum(len(columns.value) for columns in encoded.by_sae.values())
    assert n_nonzeros > 100 * n_saes
    assert sum(event.n_bytes for event in sent) <= MOST_BYTES * n_nonzeros
    assert [(event.dtype, len(event.shape)) for event in sent] == [("int32", 1)]  # nothing dense


def test_measuring_takes_no_more_waits(folder: Path, subjects: tuple[Subject, Subject]) -> None:
    batch = [subjects[0].tokenize(text)[:N_CTX] for text in TEXTS]
    here, there = both(lambda s: encode_rows(s, mixed(folder, s, 6), batch, measure=True), subjects)
    for sae_id, columns in here.by_sae.items():
        assert there.by_sae[sae_id].squared_error == (
            None if columns.squared_error is None else pytest.approx(columns.squared_error, rel=1e-5)
        )
    for hook, spread in here.spreads.items():
        assert there.spreads[hook].about_mean == pytest.approx(spread.about_mean, rel=1e-5)
    saes = mixed(folder, subjects[1], 6)
    encode_rows(subjects[1], saes, batch, measure=True)
    pretend_device.LOG.clear()
    encode_rows(subjects[1], saes, batch, measure=True)
    assert len(pretend_device.LOG) <= MOST_WAITS, pretend_device.table()


def test_a_batch_with_more_nonzeros_than_slots_is_encoded_again(subjects: tuple[Subject, Subject]) -> None:
    here, there = subjects
    loud, hook = [here.tokenize(text)[:N_CTX] for text in TEXTS], HOOKS[0]
    sae = jumprelu(there, 9, hook, 1.0)

    def per_token(token: int) -> int:
        return len(encode_rows(here, [jumprelu(here, 9, hook, 1.0)], [[token]]).by_sae["jump9"].value)

    quiet = [[min(range(5, 100), key=per_token)]] * 16
    few = encode_rows(there, [sae], quiet).by_sae["jump9"]
    pretend_device.LOG.clear()
    many = encode_rows(there, [sae], loud).by_sae["jump9"]
    waits = len(pretend_device.LOG)
    expected = encode_rows(here, [jumprelu(here, 9, hook, 1.0)], loud).by_sae["jump9"]
    assert len(few.value) / 16 < len(many.value) / sum(map(len, loud)) / 1.3
    for column in ("row", "position", "feature"):
        assert getattr(many, column).tolist() == getattr(expected, column).tolist()
    assert np.allclose(many.value, expected.value, atol=1e-4)
    assert waits > MOST_WAITS
    pretend_device.LOG.clear()
    encode_rows(there, [sae], loud)
    assert len(pretend_device.LOG) <= MOST_WAITS


def test_numbers_that_are_not_finite_are_named(tiny_dir: Path, device: str) -> None:
    from safesail.errors import SubjectError

    broken = load_subject(ModelConfig(str(tiny_dir), device))
    weights: Any = broken
    weights._model.model.get_input_embeddings().weight.data[40] = torch.inf
    with pytest.raises(SubjectError, match=r"not finite at blocks.0.hook_mlp_out \(row 1\)"):
        encode_rows(broken, [jumprelu(broken, 1, HOOKS[0], 1.0)], [[5, 6], [7, 40, 8]])


def concepts() -> list[Concept]:
    sides = [(f"{text} bomb", f"{text} cake") for text in TEXTS if len(text) < 55]
    pairs = tuple(ConceptPair(f"p{i}", "en", "statement", p, n) for i, (p, n) in enumerate(sides))
    return [Concept("violence.bomb", "violence", None, "bomb", "a bomb", pairs)]


def test_a_selection_is_that_of_the_cpu(
    folder: Path, subjects: tuple[Subject, Subject], tmp_path: Path
) -> None:
    figures = []
    for name, subject in zip(("here", "there"), subjects, strict=True):
        with open_writer(tmp_path / f"{name}.duckdb") as db:
            saes = mixed(folder, subject, 3)
            run_selection(db, subject, saes, concepts(), SelectionConfig(draws=20), quiet=True)
            figures.append(
                rows(db, "SELECT sae_id, measure, scope_id, value FROM sae_scores ORDER BY ALL")
                + rows(db, "SELECT sae_id, 'l0 and fvu', l0, fvu FROM selections ORDER BY ALL")
                + rows(db, "SELECT sae_id, concept_id, feature, frequency FROM feature_concepts ORDER BY ALL")
            )
    assert len(figures[0]) > 20
    for one, other in zip(*figures, strict=True):
        assert [*other] == [pytest.approx(v, rel=1e-4) if isinstance(v, float) else v for v in one]


def trained_on(
    device: str, tiny_dir: Path, text: Path, out: Path
) -> tuple[dict[str, float | None], torch.Tensor]:
    """Figures and decoder [d_sae, d_in] of a family trained on `device`; made to run in a process of its own."""
    pretend_device.install()
    config = TrainConfig.read(
        {"model": str(tiny_dir), "texts": [{"source": str(text)}], "n_tokens": 1200, "n_ctx": 24,
         "families": [{"hook": HOOKS[0], "ks": [4], "widths": [48]}], "block_tokens": 400, "batch_tokens": 64,
         "eval_tokens": 400, "eval_loss_tokens": 100, "device": device, "dead_after_tokens": 200, "lr": 1e-3},
        "test",
    )  # fmt: skip
    trained = run_training(config, out=out, quiet=True)[0]
    decoder = open_sae(str(trained.path), model=None).decoder
    assert decoder is not None
    named = ("frac_variance_explained", "l0", "ce_clean", "ce_zero", "ce_spliced")
    return {name: getattr(trained.figures, name) for name in named}, decoder


def test_a_family_trained_there_is_the_one_trained_here(tiny_dir: Path, device: str, tmp_path: Path) -> None:
    text = write_texts(tmp_path / "t.jsonl", [f"{number}. {text}" for number in range(8) for text in TEXTS])
    # Autograd counts devices once, at the first backward pass of a process, which an earlier test may have made.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        trained = [
            fresh.submit(trained_on, name, tiny_dir, text, tmp_path / name).result()
            for name in (device, "cpu")
        ]
    (there, decoder_there), (here, decoder_here) = trained
    assert there == {name: pytest.approx(value, rel=1e-3) for name, value in here.items()}
    assert (decoder_here - decoder_there).abs().max() < 1e-3


def test_the_loss_with_replaced_and_edited_activations_is_that_of_the_cpu(
    folder: Path, subjects: tuple[Subject, Subject]
) -> None:
    text = [subjects[0].tokenize(text)[:40] for text in TEXTS]

    def losses(subject: Subject) -> list[float]:
        sae = topk(folder, subject, 0, HOOKS[0])
        edits = [None, reconstruct(sae), edit_features(sae, {3: scale(4.0), 7: scale(0.0)})]
        return [mean_loss(subject, text, [] if edit is None else [edit]) for edit in edits]

    here, there = both(losses, subjects)
    assert len({round(loss, 3) for loss in here}) == 3
    assert there == pytest.approx(here, abs=1e-5)


def test_generated_tokens_are_those_of_the_cpu(subjects: tuple[Subject, Subject]) -> None:
    def generate(subject: Subject) -> list[list[int]]:
        return subject.generate([[9, 8, 7], [5]], max_tokens=6, temperature=0.7, seed=3)

    here, there = both(generate, subjects)
    assert here == there


@pytest.mark.skipif(not is_installed(), reason="needs the extra `embedding`")
def test_minilm_gives_the_same_vectors(device: str) -> None:
    texts = ["a bomb", "a cake", "weather by the sea, and a longer sentence"]
    vectors: list[NDArray[np.float32]] = []
    for name in ("cpu", device):
        encoder = load_subject(ModelConfig(str(weights_folder()), name))
        assert isinstance(encoder, TextEncoder)
        vectors.append(encoder.embed(texts, max_tokens=64))
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-5


def test_decoders_stay_away_where_nothing_is_decoded(folder: Path, subjects: tuple[Subject, Subject]) -> None:
    here = subjects[0]
    whole, encoder = (topk(folder, here, 0, HOOKS[0], decoder=decoder) for decoder in (True, False))
    x = torch.randn(30, D_MODEL, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole.encode(x).value, encoder.encode(x).value)
    inner: Any = encoder
    held = sum(p.numel() for p in inner._inner.parameters())
    assert held == D_MODEL * D_SAE + D_SAE + D_MODEL
    assert encoder.decoder is None and whole.info == encoder.info


# --- number formats --------------------------------------------------------------------------------------------------


def test_another_number_format_is_another_harvest_and_is_not_mixed_in(
    tiny_dir: Path, folder: Path, tmp_path: Path
) -> None:
    text = write_texts(tmp_path / "t.jsonl", [*TEXTS, *(f"filler number {i}" for i in range(60))])
    exact, half = (
        load_subject(ModelConfig(str(tiny_dir), "cpu", dtype)) for dtype in ("float32", "bfloat16")
    )
    jobs = [HarvestJob(s, [topk(folder, s, 0, HOOKS[0])], [str(text)], CONFIG) for s in (exact, half)]
    assert jobs[0].harvest_id != jobs[1].harvest_id
    broken = text.read_text()
    text.write_text(broken + "{broken\n")
    with open_writer(tmp_path / "store.duckdb") as db:
        with pytest.raises(ConfigError, match="not readable"):
            run_harvest(db, jobs[1], quiet=True)
        text.write_text(broken)
        with pytest.raises(
            ConfigError, match=r"with other settings \(dtype bfloat16, now float32\); use another"
        ):
            run_harvest(db, jobs[0], quiet=True)
        assert run_harvest(db, jobs[1], quiet=True).new_tokens > 0
    ids = {
        selection_id(s.info, topk(folder, s, 0, HOOKS[0]), concepts(), SelectionConfig())
        for s in (exact, half)
    }
    assert len(ids) == 2
    assert replace(half.info, dtype="float32") == exact.info


def test_tf32_is_refused_where_there_is_none(tiny_dir: Path) -> None:
    with pytest.raises(ConfigError, match="tf32 needs a CUDA GPU, not cpu; use float32"):
        load_subject(ModelConfig(str(tiny_dir), "cpu", "tf32"))


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_that_runs_out_is_one_line_and_other_errors_are_themselves() -> None:
    with (
        pytest.raises(DeviceMemoryError, match=r"^out of memory on cpu: lower the tokens per batch"),
        memory_faults("cpu"),
    ):
        torch.empty(1 << 55)
    with pytest.raises(DeviceMemoryError, match="out of memory on cuda:1"), memory_faults("cuda:1"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(RuntimeError, match="shapes") as other, memory_faults("cpu"):
        torch.ones(2, 3).matmul(torch.ones(2, 3))
    assert not isinstance(other.value, DeviceMemoryError)
