import subprocess
import sys

import pytest

from safesail.errors import SubjectError
from safesail.sae.directory import Candidate, candidate, read_directory, releases_for
from safesail.subject.aliases import load_aliases


def test_llama_has_all_of_llama_scope() -> None:
    found = releases_for("llama")
    scope = [c for c in found if c.release.startswith("llama_scope")]
    assert len(scope) == 6 * 32
    assert Candidate("llama_scope_lxm_8x", "l12m_8x", 12, 32_768, "blocks.12.hook_mlp_out", 50.0) in found
    assert {c.layer for c in scope} == set(range(32))


def test_models_without_published_saes() -> None:
    assert releases_for("smollm2") == []
    assert releases_for("qwen") == []


@pytest.mark.parametrize(
    ("release", "sae_id", "layer", "width", "hook"),
    [
        ("gpt2-small-res-jb", "blocks.8.hook_resid_pre", 8, None, "blocks.8.hook_resid_pre"),
        (
            "gpt2-small-res-jb-feature-splitting",
            "blocks.8.hook_resid_pre_12288",
            8,
            12_288,
            "blocks.8.hook_resid_pre",
        ),
        ("gpt2-small-mlp-out-v5-32k", "blocks.6.hook_mlp_out", 6, 32_768, "blocks.6.hook_mlp_out"),
        (
            "saebench_gemma-2-2b_width-2pow14_date-0107",
            "blocks.12.hook_resid_post__trainer_3",
            12,
            16_384,
            "blocks.12.hook_resid_post",
        ),
        (
            "gemma-scope-2b-pt-res",
            "layer_12/width_16k/average_l0_82",
            12,
            16_384,
            "blocks.12.hook_resid_post",
        ),
        ("gemma-scope-2b-pt-mlp", "layer_0/width_65k/average_l0_12", 0, 65_536, "blocks.0.hook_mlp_out"),
        ("gemma-scope-9b-pt-res", "layer_9/width_1m/average_l0_19", 9, 1_048_576, "blocks.9.hook_resid_post"),
        ("gemma-scope-2b-pt-att", "layer_3/width_16k/average_l0_9", 3, 16_384, None),
        ("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6", None, 4_096, None),
        ("gemma-scope-2-4b-pt-mlp-all", "layer_25_width_262k_l0_big", 25, 262_144, "blocks.25.hook_mlp_out"),
        ("qwen-scope-3.5-27b-w80k-l50", "layer32", 32, 81_920, "blocks.32.hook_resid_post"),
        (
            "qwen2.5-7b-instruct-andyrdt",
            "resid_post_layer_15_trainer_1",
            15,
            None,
            "blocks.15.hook_resid_post",
        ),
        ("llama_scope_r1_distill", "l16r_400m_slimpajama", 16, None, "blocks.16.hook_resid_post"),
        ("mwhanna-qwen3-4b-transcoders", "layer_18", 18, None, None),
        ("nobody", "nothing known", None, None, None),
    ],
)
def test_layer_width_and_hook_are_read_out_of_names(
    release: str, sae_id: str, layer: int | None, width: int | None, hook: str | None
) -> None:
    assert candidate(release, {"id": sae_id}) == Candidate(release, sae_id, layer, width, hook, None)


def test_every_listed_release_is_in_the_directory_and_every_one_is_listed() -> None:
    listed = {release for alias in load_aliases().values() for release in alias.releases}
    assert listed == set(read_directory())


def test_a_stray_entry_does_not_count_as_an_sae() -> None:
    stray = [c for c in releases_for("gpt2") if c.release == "gpt2-small-res_scefr-ajt"]
    assert [c.layer for c in stray] == [2, 6]


def test_a_name_that_is_no_alias() -> None:
    with pytest.raises(SubjectError, match="did you mean llama"):
        releases_for("lama")


def test_reading_it_imports_neither_sae_lens_nor_torch() -> None:
    code = (
        "import sys; from safesail.sae.directory import releases_for; releases_for('llama'); "
        "assert not {'sae_lens', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
