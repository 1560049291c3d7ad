"""Turn a quantised Llama GGUF file into a Hugging Face directory. Knows nothing of where the file came from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from jaxtyping import Float32
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import PreTrainedTokenizerFast

from safesail.errors import SubjectError

_CONTROL = 3
"""Token type of control tokens such as `<|im_start|>` (llama.h, `LLAMA_TOKEN_TYPE_CONTROL`)."""

_BLOCK_NAMES = {
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
_TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def convert(gguf: Path, out: Path) -> None:
    """Write config, weights (float32, exact), tokenizer and chat template of `gguf` into the folder `out`.

    Only byte-level BPE Llama models with tied embeddings, which is what the `smollm2` file is.

    Raises:
        SubjectError: the file is not such a GGUF, or is damaged.
    """
    reader = _open(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields.get("general.architecture") != "llama" or fields.get("tokenizer.ggml.model") != "gpt2":
        raise SubjectError(f"{gguf.name}: only Llama models with a byte-level BPE tokenizer can be converted")
    out.mkdir(parents=True, exist_ok=True)
    config = _config(fields)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _tokenizer(fields).save_pretrained(out)
    save_file(dict(_weights(reader, config)), out / "model.safetensors", metadata={"format": "pt"})


def unpermute(
    weight: Float32[np.ndarray, "rows d_model"], n_heads: int
) -> Float32[np.ndarray, "rows d_model"]:
    """Undo llama.cpp's order of the rows of attn_q and attn_k, which interleaves the two halves of a head.

    `n_heads` is the number of heads stacked in `rows` (key heads for attn_k).
    """
    rows, d_model = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, d_model).swapaxes(1, 2).reshape(rows, d_model)


def _open(gguf: Path) -> GGUFReader:
    try:
        return GGUFReader(gguf)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise SubjectError(f"{gguf.name} is not a readable GGUF file ({error}); fetch it again") from error


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "max_position_embeddings": fields["llama.context_length"],
        "vocab_size": fields["llama.vocab_size"],
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        # GGUF keeps the float32 nearest to 1e-5.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }


def _tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = ByteLevelDecoder()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        chat_template=fields.get("tokenizer.chat_template"),
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )


def _weights(reader: GGUFReader, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        # GGUF names the fastest axis first; `dequantize` already gives rows, then columns.
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name in _TOP_NAMES:
            yield _TOP_NAMES[tensor.name], values
            continue
        _, layer, part, _ = tensor.name.split(".")
        if part in heads:
            values = np.ascontiguousarray(unpermute(values, heads[part]))
        yield f"model.layers.{layer}.{_BLOCK_NAMES[part]}.weight", values
