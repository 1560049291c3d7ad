from pathlib import Path

import pytest

from safesail.domain.ids import layer_of
from safesail.errors import ConfigError
from safesail.subject.aliases import load_aliases, resolve, unknown_model


def test_the_aliases_that_people_know() -> None:
    aliases = load_aliases()
    assert next(iter(aliases)) == "smollm2"
    assert aliases["smollm2"].hook == "blocks.14.hook_mlp_out"
    assert aliases["smollm2"].local_saes
    assert aliases["llama"].hub_id == "meta-llama/Llama-3.1-8B"
    assert "llama_scope_lxm_8x" in aliases["llama"].releases
    assert aliases["qwen"].hub_id == "Qwen/Qwen2.5-3B-Instruct"
    assert aliases["gemma"].hub_id == "google/gemma-2-2b"


def test_every_default_hook_is_a_layer_of_its_model() -> None:
    for alias in load_aliases().values():
        if alias.hook is not None and alias.n_layers is not None:
            layer = layer_of(alias.hook)
            assert layer is not None
            assert layer < alias.n_layers, alias.name


def test_no_release_belongs_to_two_models() -> None:
    releases = [release for alias in load_aliases().values() for release in alias.releases]
    assert len(releases) == len(set(releases))


def test_an_alias_is_found_by_name_and_by_hub_id() -> None:
    assert resolve("llama") == resolve("meta-llama/Llama-3.1-8B") == load_aliases()["llama"]
    assert resolve("/some/folder") is None


def test_an_unknown_name_hints_at_near_ones() -> None:
    assert "did you mean smollm2" in str(unknown_model("smolm2"))
    assert "`safesail models` lists the aliases" in str(unknown_model("zzzzzz"))


def test_a_wrong_setting_names_file_and_alias(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models:\n  mine:\n    hub_id: a/b\n    layers: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"models\.yaml: mine: layers: Extra inputs"):
        load_aliases(path)
    path.write_text("aliases: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="needs a mapping `models`"):
        load_aliases(path)


@pytest.mark.parametrize(
    ("name", "model", "settings"),
    [
        ("llama", "Llama", {
            "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8}),
        ("qwen", "Qwen2", {
            "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("gemma", "Gemma2", {
            "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}),
        ("smollm2", "Llama", {
            "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}),
    ],
)  # fmt: skip
def test_weights_are_as_many_as_the_architecture_has(
    name: str, model: str, settings: dict[str, int | bool]
) -> None:
    import torch
    import transformers

    with torch.device("meta"):  # shapes without numbers
        config = getattr(transformers, f"{model}Config")(**settings)
        built = getattr(transformers, f"{model}ForCausalLM")(config)
    alias = load_aliases()[name]
    assert (alias.n_layers, alias.d_model) == (settings["num_hidden_layers"], settings["hidden_size"])
    assert alias.parameters == sum(p.numel() for p in built.parameters())
    assert alias.layer_parameters == sum(p.numel() for p in built.model.layers[0].parameters())
