"""Loading from folders, objects and ids, and how a wrong source is refused."""

import logging
import warnings

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from families import tiny
from made_tokenizers import byte_level
from model_files import refusal
from patchpoint.errors import InvalidArgument, ModelError, UnknownName, UnsupportedFamily
from patchpoint.models.load import load
from patchpoint.models.model import LoadedModel
from words import word_tokenizer


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_folder_gives_the_model_it_was_saved_from(tmp_path, family):
    hf = tiny(family)
    hf.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    model = load(tmp_path, device="cpu")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(model.hf(ids).logits, hf(ids).logits)
    assert not model.hf.training
    assert (model.n_layers, model.n_heads, model.d_model, model.d_vocab) == (3, 4, 32, 97)
    assert (model.max_tokens, model.dtype, model.device) == (64, torch.float32, torch.device("cpu"))
    assert model.name == str(tmp_path)
    assert model.fingerprint == load(hf, tokenizer=word_tokenizer()).fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "torch.float32"])
def test_dtype_by_name_or_torch(saved, dtype):
    assert str(load(saved, device="cpu", dtype=dtype).dtype).endswith(str(dtype).removeprefix("torch."))


def test_a_subclass_is_what_comes_back(saved):
    class Mine(LoadedModel):
        pass

    assert type(load(saved, device="cpu", cls=Mine)) is Mine


def test_a_tokenizer_can_be_given_for_a_folder_without_one(saved, llama):
    for path in saved.glob("tokenizer*"):
        path.unlink()
    assert "no tokenizer" in refusal(ModelError, saved)
    mine = word_tokenizer()
    assert load(saved, device="cpu", tokenizer=mine).tokenizer is mine


def test_loading_is_silent_and_leaves_the_callers_settings(saved, capfd):
    transformers_logging.set_verbosity_info()
    transformers_logging.enable_progress_bar()

    def mine(factory, args, options):
        return factory(*args, **options)

    before = transformers_logging.set_tqdm_hook(mine)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(saved, device="cpu")
        assert transformers_logging.get_verbosity() == logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.set_tqdm_hook(before) is mine
        assert [str(warning.message) for warning in caught] == []
        assert capfd.readouterr() == ("", "")
    finally:
        transformers_logging.set_tqdm_hook(before)
        transformers_logging.set_verbosity_warning()


def test_encoders_and_bodies_are_refused(tmp_path, llama):
    config = BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    bert = BertModel(config)
    bert.save_pretrained(tmp_path / "bert")
    for source in (tmp_path / "bert", bert.eval()):
        message = refusal(UnsupportedFamily, source, tokenizer=word_tokenizer())
        assert "no adapter for model type 'bert'; supported: " in message
    body = AutoModel.from_config(llama.config).eval()
    assert "AutoModelForCausalLM" in refusal(ModelError, body, tokenizer=word_tokenizer())


def test_a_tokenizer_with_more_ids_than_embeddings(saved, llama):
    message = refusal(ModelError, llama, tokenizer=byte_level())
    assert "ids up to 329, the model's embedding only 97 rows" in message
    byte_level().save_pretrained(saved)
    assert "only 97 rows" in refusal(ModelError, saved)
    larger = word_tokenizer()
    larger.add_tokens(["w97"])
    assert "ids up to 97" in refusal(ModelError, llama, tokenizer=larger)


def test_the_callers_model_stays_as_it_is(llama):
    llama.train()
    llama.model.layers[0].mlp.eval()
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    modes = [module.training for module in llama.modules()]
    hooks = [len(module._forward_hooks) for module in llama.modules()]
    model = load(llama, tokenizer=word_tokenizer())
    assert model.fingerprint
    assert model.hf is llama
    assert [module.training for module in llama.modules()] == modes
    assert [len(module._forward_hooks) for module in llama.modules()] == hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())


@pytest.mark.parametrize(
    "rates", [{"resid_pdrop": 0.1}, {"attn_pdrop": 0.1}, {"embd_pdrop": 0.1}, {"resid_pdrop": 0.0}]
)
def test_dropout_at_work_is_refused(rates):
    off = {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=4, **(off | rates))).train()
    if max(rates.values()) > 0:
        assert "call model.eval() first" in refusal(ModelError, hf, tokenizer=word_tokenizer())
        hf.eval()
    load(hf, tokenizer=word_tokenizer())


def test_functional_dropout_at_work_is_refused():
    hf = tiny("llama", attention_dropout=0.1).train()
    assert "self_attn" in refusal(ModelError, hf, tokenizer=word_tokenizer())
    load(hf.eval(), tokenizer=word_tokenizer())


def test_a_loaded_model_is_not_moved_or_converted(llama):
    tokenizer = word_tokenizer()
    assert load(llama, tokenizer=tokenizer, device="cpu", dtype="float32").hf is llama
    assert "convert it first" in refusal(InvalidArgument, llama, tokenizer=tokenizer, dtype="float16")
    assert "give tokenizer=" in refusal(InvalidArgument, llama)
    assert "got str" in refusal(InvalidArgument, llama, tokenizer="gpt2")
    assert llama.dtype == torch.float32


def test_weights_on_several_or_no_devices(llama):
    llama.model.norm.to("meta")
    assert "cpu, meta; put the whole model on one device" in refusal(
        ModelError, llama, tokenizer=word_tokenizer()
    )


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        ("smolm2-135m", ModelError, "did you mean smollm2-135m?"),
        ("nobody/nothing", ModelError, "no folder or .gguf file, and not on the Hugging Face hub"),
        ("./nothing", ModelError, "no folder"),
        ("nothing.gguf", ModelError, "no folder or .gguf file"),
        ("", InvalidArgument, "got an empty string"),
        (None, InvalidArgument, "got NoneType"),
        (torch.nn.Linear(1, 1), InvalidArgument, "got Linear"),
    ],
)
def test_sources_that_lead_nowhere(source, kind, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert said in refusal(kind, source)


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_hub_id_is_read_like_a_folder(saved, llama, monkeypatch, allow_pickle):
    asked = []

    def snapshot_download(name, *, allow_patterns, **_):
        asked.append((name, tuple(allow_patterns)))
        return str(saved)

    monkeypatch.setattr("patchpoint.models.hub.snapshot_download", snapshot_download)
    if allow_pickle:
        (saved / "model.safetensors").unlink()
        torch.save(llama.state_dict(), saved / "pytorch_model.bin")
    model = load("someone/tiny", device="cpu", allow_pickle=allow_pickle)
    assert model.name == "someone/tiny"
    assert {name for name, _ in asked} == {"someone/tiny"}
    assert any("*.bin" in patterns for _, patterns in asked) == allow_pickle


def test_devices_and_dtypes_by_name(saved):
    assert "did you mean cuda?" in refusal(UnknownName, saved, device="cdua")
    assert "unknown device 'cpu:x'" in refusal(UnknownName, saved, device="cpu:x")
    assert "unknown dtype 'float8'" in refusal(UnknownName, saved, dtype="float8")
    assert "unknown dtype 'int64'" in refusal(UnknownName, saved, dtype=torch.int64)
    n = torch.cuda.device_count()
    assert f"'cuda:{n}' is not here ({n} of cuda)" in refusal(InvalidArgument, saved, device=f"cuda:{n}")


def test_a_device_that_cannot_hold_the_model(saved, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr("transformers.LlamaForCausalLM.to", full)
    message = refusal(ModelError, saved)
    assert message.startswith(
        "cannot put the model on cpu: CUDA out of memory. Tried to allocate 2 GiB; give"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_the_default_and_gives_the_same_fingerprint(saved):
    model = load(saved)
    assert model.device.type == "cuda"
    assert model.fingerprint == load(saved, device="cpu").fingerprint
    assert load(model.hf, tokenizer=model.tokenizer, device="cuda:0").hf is model.hf
