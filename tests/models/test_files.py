"""Model files that are incomplete, damaged or unsafe are refused by name."""

import json
import logging

import pytest
import torch

from families import tiny
from model_files import change_config, change_weights, refusal
from patchpoint.errors import ModelError, UnsupportedFamily
from patchpoint.models.load import load
from words import word_tokenizer


def test_gpt2_without_tokenizer_files_gets_no_empty_tokenizer(tmp_path):
    tiny("gpt2").save_pretrained(tmp_path)
    assert "no tokenizer" in refusal(ModelError, tmp_path)


def test_missing_weights_are_never_invented(saved):
    change_weights(saved, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    message = refusal(ModelError, saved)
    assert "lacks weights of LlamaForCausalLM: model.layers.1.mlp.up_proj.weight" in message


def test_a_body_without_unembedding_lacks_weights(saved, llama):
    llama.model.save_pretrained(saved)
    assert "lm_head.weight" in refusal(ModelError, saved)


def test_weights_of_another_shape(saved):
    change_weights(saved, lambda weights: weights.update({"model.norm.weight": torch.ones(5)}))
    assert "model.norm.weight [5], not [32]" in refusal(ModelError, saved)


def test_weights_without_use_are_logged(saved, caplog):
    change_weights(saved, lambda weights: weights.update({"model.extra.weight": torch.ones(5)}))
    with caplog.at_level(logging.WARNING, "patchpoint"):
        load(saved, device="cpu")
    assert "model.extra.weight" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_weights_are_named(saved, value):
    def spoil(weights):
        weights["model.layers.2.self_attn.q_proj.weight"][3, 4] = value

    change_weights(saved, spoil)
    assert "model.layers.2.self_attn.q_proj.weight has NaN or Inf" in refusal(ModelError, saved)


def test_weights_too_large_for_the_dtype_are_named(saved):
    change_weights(saved, lambda weights: weights["model.norm.weight"].fill_(1e6))
    load(saved, device="cpu")
    assert "model.norm.weight has NaN or Inf values as float16" in refusal(ModelError, saved, dtype="float16")


@pytest.mark.parametrize("kept", [0, 7, 100, 5000])
def test_truncated_safetensors(saved, kept):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert f"cannot read model folder {str(saved)!r}" in refusal(ModelError, saved)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot read"),
        ("[]", "not an object"),
        ("{}", "no model_type"),
        ('{"model_type": ["llama"]}', "no model_type"),
    ],
)
def test_bad_config(saved, text, said):
    (saved / "config.json").write_text(text)
    assert said in refusal(ModelError, saved)


def test_missing_config_and_weights(saved, tmp_path):
    (saved / "model.safetensors").unlink()
    assert "no weights (*.safetensors)" in refusal(ModelError, saved)
    (saved / "config.json").unlink()
    assert "no config.json" in refusal(ModelError, saved)
    assert "no model" in refusal(ModelError, tmp_path / "nowhere")


def test_config_of_other_sizes(saved):
    change_config(saved, num_hidden_layers=4)
    assert "lacks weights" in refusal(ModelError, saved)


def test_config_with_nonsense_sizes(saved):
    change_config(saved, num_attention_heads="many")
    assert "cannot read" in refusal(ModelError, saved)


def test_shards_must_be_safetensors_and_there(saved, llama):
    (saved / "model.safetensors").unlink()
    llama.save_pretrained(saved, max_shard_size="20KB")
    assert len(list(saved.glob("model-*.safetensors"))) > 1
    assert load(saved, device="cpu").fingerprint == load(llama, tokenizer=word_tokenizer()).fingerprint
    path = saved / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = sorted(index["weight_map"])[0]
    path.write_text(json.dumps(index | {"weight_map": index["weight_map"] | {first: "evil.bin"}}))
    assert "'evil.bin', which is no safetensors file" in refusal(ModelError, saved)
    path.write_text(json.dumps(index))
    next(saved.glob("model-*.safetensors")).unlink()
    assert "no safetensors file there" in refusal(ModelError, saved)


def test_pickled_weights_only_when_allowed(saved, llama):
    (saved / "model.safetensors").unlink()
    torch.save(llama.state_dict(), saved / "pytorch_model.bin")
    assert "allow_pickle=True" in refusal(ModelError, saved)
    model = load(saved, device="cpu", allow_pickle=True)
    assert model.fingerprint == load(llama, tokenizer=word_tokenizer()).fingerprint


def test_code_inside_a_pickle_never_runs(saved, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (saved / "model.safetensors").unlink()
    torch.save({"x": Payload()}, saved / "pytorch_model.bin")
    refusal(ModelError, saved)
    refusal(ModelError, saved, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model_type", ["llama", "strange"])
def test_code_beside_a_model_never_runs(saved, tmp_path, model_type):
    (saved / "modeling_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    names = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "modeling_x.X")
    change_config(saved, auto_map=names, model_type=model_type)
    if model_type == "llama":
        load(saved, device="cpu")
    else:
        assert "no adapter for model type 'strange'" in refusal(UnsupportedFamily, saved)
    assert not (tmp_path / "ran").exists()


def test_a_corrupt_tokenizer(saved):
    (saved / "tokenizer.json").write_text("{")
    assert "cannot read the tokenizer of model folder" in refusal(ModelError, saved)


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    assert "give its folder" in refusal(ModelError, path)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"nonsense")
    assert "is no GGUF file" in refusal(ModelError, path)
    path.write_bytes(b"GGUF" + bytes(40))
    assert "cannot read GGUF file" in refusal(ModelError, path)
