from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safesail.errors import SubjectError
from safesail.subject.gguf import convert, unpermute
from tests.tiny_model import D_MODEL, N_LAYERS

HEADS, KV_HEADS = 4, 2
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def permute(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to attn_q and attn_k, written out row by row."""
    head = weight.shape[0] // n_heads
    rows = [
        weight[h * head + half * (head // 2) + i]
        for h in range(n_heads)
        for i in range(head // 2)
        for half in (0, 1)
    ]
    return np.stack(rows)


def test_unpermute_by_hand() -> None:
    # One head of four rows: llama.cpp's order 0, 2, 1, 3 interleaves the halves (0, 1) and (2, 3).
    weight = np.array([[0.0], [2.0], [1.0], [3.0]], dtype=np.float32)
    assert unpermute(weight, 1).ravel().tolist() == [0, 1, 2, 3]


def test_unpermute_undoes_the_permutation() -> None:
    weight = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    np.testing.assert_array_equal(unpermute(permute(weight, 3), 3), weight)


@pytest.fixture
def tiny_gguf(tiny_dir: Path, tmp_path: Path) -> Path:
    """The tiny model as llama.cpp's converter would write it, weights in float32."""
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    write_settings(writer, float(model.config.rms_norm_eps))
    write_tokenizer(writer, tiny_dir)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for layer in range(N_LAYERS):
        for part, name in PARTS.items():
            weight = state[f"model.layers.{layer}.{name}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(part)
            weight = permute(weight, heads) if heads else weight
            writer.add_tensor(f"blk.{layer}.{part}.weight", np.ascontiguousarray(weight))
    finish(writer)
    return tmp_path / "tiny.gguf"


def write_settings(writer: gguf.GGUFWriter, rms_norm_eps: float) -> None:
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(rms_norm_eps)


def write_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(1)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_model_survives_the_way_through_gguf(tiny_gguf: Path, tiny_dir: Path, tmp_path: Path) -> None:
    convert(tiny_gguf, tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.tensor([[0, 17, 93, 200, 41]])
    with torch.no_grad():
        torch.testing.assert_close(after(ids).logits, before(ids).logits, atol=1e-5, rtol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    expected = AutoTokenizer.from_pretrained(tiny_dir).encode("he said: é", add_special_tokens=False)
    assert tokenizer.encode("he said: é") == expected
    assert tokenizer.encode("<s>") == [tokenizer.bos_token_id] == [0]


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    finish(gguf.GGUFWriter(tmp_path / "other.gguf", "mamba"))
    with pytest.raises(SubjectError, match=r"other\.gguf: only Llama models with a byte-level BPE"):
        convert(tmp_path / "other.gguf", tmp_path / "out")


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GIF89a" * 100)
    with pytest.raises(SubjectError, match=r"x\.gguf is not a readable GGUF file"):
        convert(tmp_path / "x.gguf", tmp_path / "out")
