"""Subject models small enough to be built in a test: three layers with random weights.

In the causal ones every byte is a token, and so is "he"; in the encoder a token is a word of `WORDS`.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

D_MODEL, N_LAYERS, N_CTX = 32, 3, 64


WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "and", "slept"]


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """The directory of a Llama; the same seed gives the same weights."""
    config = LlamaConfig(
        vocab_size=_byte_tokenizer(folder),
        hidden_size=D_MODEL,
        intermediate_size=48,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=N_CTX,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    return _write(folder, LlamaForCausalLM, config, seed)


def write_tiny_gpt2(folder: Path, seed: int = 0) -> Path:
    """The directory of a GPT-2."""
    config = GPT2Config(
        vocab_size=_byte_tokenizer(folder), n_positions=N_CTX, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=4,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return _write(folder, GPT2LMHeadModel, config, seed)


def write_tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """The directory of a BERT without a language head."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=D_MODEL, intermediate_size=48, num_hidden_layers=N_LAYERS,
        num_attention_heads=4, max_position_embeddings=N_CTX,
    )  # fmt: skip
    return _write(folder, BertModel, config, seed)


def _byte_tokenizer(folder: Path) -> int:
    """Write a tokenizer into `folder`; the size of its vocabulary."""
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet, "he"])}
    inner = Tokenizer(BPE(vocabulary, [("h", "e")]))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = ByteLevelDecoder()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return len(vocabulary)


def _write(folder: Path, kind: type[PreTrainedModel], config: object, seed: int) -> Path:
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = kind(config)  # pyright: ignore[reportArgumentType]
    torch.set_rng_state(generator_state)
    # Larger than the usual start, so that layers differ clearly.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    model.save_pretrained(folder)
    return folder
