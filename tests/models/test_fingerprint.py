"""Fingerprints tell models and tokenizers apart, and nothing else."""

import pytest
import torch

from families import tiny
from made_tokenizers import SlowPairs, SlowPieces, byte_level
from patchpoint.models.load import load
from patchpoint.models.model import LoadedModel
from words import word_tokenizer


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
def test_r44_every_parameter_and_buffer_is_in_the_fingerprint(family):
    hf = tiny(family)
    hf.register_buffer("extra", torch.zeros(()))
    hf.register_buffer("scratch", torch.zeros(3), persistent=False)
    model = load(hf, tokenizer=word_tokenizer())
    first = model.fingerprint
    assert model.fingerprint == first
    for tensor in hf.state_dict().values():
        old = tensor.clone()
        last = tensor.view(-1)[-1:]
        last.copy_(~last if tensor.dtype == torch.bool else last + 0.125)
        assert model.fingerprint != first
        tensor.copy_(old)
    hf.scratch += 1
    assert model.fingerprint == first


def test_r44_shape_name_and_dtype_are_in_the_fingerprint(llama):
    model = load(llama, tokenizer=word_tokenizer())
    first = model.fingerprint
    norm = llama.model.norm.weight
    norm.data = norm.data.view(2, 16)
    assert model.fingerprint != first
    norm.data = norm.data.view(32)
    assert model.fingerprint == first
    llama.config.rms_norm_eps *= 2
    assert model.fingerprint != first


def test_the_fingerprint_does_not_depend_on_the_place(saved, tmp_path):
    first = load(saved, device="cpu").fingerprint
    saved.rename(tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere", device="cpu").fingerprint == first
    assert load(tmp_path / "elsewhere", device="cpu", dtype="bfloat16").fingerprint != first


def test_r55_tokenizer_fingerprints_tell_tokenizers_apart(llama):
    def fingerprint(tokenizer):
        return LoadedModel(llama, tokenizer, None, "x").tokenizer_fingerprint

    always = SlowPieces()
    never = SlowPieces()
    never.special_tokens_pattern = "none"
    assert fingerprint(always) != fingerprint(never)
    made = [
        byte_level(),
        byte_level(n=329),
        byte_level(bos=False),
        byte_level(wrap="<|endoftext|> $A"),
        SlowPairs(),
    ]
    added = byte_level()
    added.add_tokens(["x"])
    assert len({fingerprint(tokenizer) for tokenizer in [*made, added, word_tokenizer()]}) == 7
    first = fingerprint(made[0])
    made[0].pad_token = made[0].eos_token
    made[0](["a", "a b c d"], padding=True, truncation=True, max_length=3)
    assert fingerprint(made[0]) == first == fingerprint(byte_level())
