from pathlib import Path
from typing import Any

import pytest

from safesail.errors import ConfigError
from safesail.resources import resource_dir
from safesail.training.config import TrainConfig


def read(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": "smollm2",
        "families": [{"hook": "blocks.14.hook_mlp_out", "ks": [8, 32]}],
        "texts": [{"source": "a.txt"}],
        "n_tokens": 1000,
    }
    return TrainConfig.read(values | changes, "test")


def test_names_say_model_layer_place_and_k() -> None:
    families = [
        {"hook": "blocks.14.hook_mlp_out", "ks": [8, 32]},
        {"hook": "blocks.3.hook_resid_post", "ks": [4], "widths": [64, 128]},
        {"hook": "blocks.3.ln1.hook_normalized", "ks": [4]},
    ]
    assert [plan.sae_id for plan in read(families=families).plans()] == [
        "smollm2-l14-mlp-k8",
        "smollm2-l14-mlp-k32",
        "smollm2-l3-res-d64-k4",
        "smollm2-l3-res-d128-k4",
        "smollm2-l3-hook_normalized-k4",
    ]


def test_a_directory_gives_its_name_not_its_place() -> None:
    assert read(model="/home/me/tiny").plans()[0].sae_id == "tiny-l14-mlp-k8"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": [{"hook": "blocks.1.hook_mlp_out", "ks": [64], "widths": [32]}]}, "k = 64 of .* exceeds a width"),
        ({"families": [{"hook": "blocks.1.hook_mlp_out", "ks": [4]}] * 2}, "two families have one hook"),
        ({"families": [{"hook": "hook_embed", "ks": [4]}]}, "names no layer"),
        ({"families": [{"hook": "blocks.1.hook_mlp_out", "ks": [4, 4]}]}, "two SAEs would get one name"),
        ({"families": []}, "families: .*at least 1 item"),
        ({"batch_tokens": 64, "block_tokens": 32}, "batch_tokens must not exceed block_tokens"),
        ({"n_tokens": 0}, "n_tokens: .*greater than 0"),
        ({"learning_rate": 1}, "learning_rate: Extra inputs"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(**changes)


def test_the_recipe_of_our_own_saes_is_readable_and_names_what_is_there() -> None:
    folder = resource_dir("data") / "saes"
    config = TrainConfig.from_yaml(folder / "recipe.yaml")
    assert {plan.sae_id for plan in config.plans()} == {p.parent.name for p in folder.glob("*/cfg.json")}
    assert len(config.plans()) == 9


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file at"):
        TrainConfig.from_yaml(tmp_path / "absent.yaml")


def test_the_next_suite_and_the_grid_fit_what_is_said_of_them() -> None:
    suite = TrainConfig.from_yaml(resource_dir("data") / "saes" / "suite.yaml")
    float16, d_in = 2, 576
    size = sum(2 * d_in * plan.d_sae * float16 for plan in suite.plans())
    assert size < 40e6
    assert {plan.hook.rpartition(".")[2] for plan in suite.plans()} == {"hook_resid_post", "hook_mlp_out"}
    grid = TrainConfig.from_yaml(Path(__file__).parents[1] / "benchmarks" / "sae_grid.yaml")
    assert len(grid.plans()) == 24
    assert len({(plan.hook, plan.k) for plan in grid.plans()}) == 24
