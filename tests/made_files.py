"""A tiny model as a GGUF file, and a wheel around it."""

import json
import zipfile

import gguf
import numpy as np

MEMBER = "made_model/made.gguf"


def interleaved(weight, n_heads):
    """Rows of a query or key projection in GGUF's order, rotation pairs side by side."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path, hf, tokenizer):
    """A tiny Llama and its byte-level tokenizer as GGUF, float32."""
    config = hf.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = backend["model"]["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocab, key=vocab.get))
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(vocab) - 1))
    writer.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in hf.state_dict().items():
        weight = tensor.numpy().astype(np.float32)
        kind = name.split(".")[-2]
        weight = interleaved(weight, heads[kind]) if kind in heads else weight
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder, content):
    """A wheel that pip accepts, with one file in it."""
    files = {
        MEMBER: content,
        "made_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: made-model\nVersion: 1.0\n"
        b"Requires-Dist: no-such-package-anywhere\n",
        "made_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
        "made_model-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "made_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
