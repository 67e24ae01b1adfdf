"""Loading from folders and objects: what is accepted, what is refused and how it is said."""

import json
import logging
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from families import tiny
from made_tokenizers import SlowPairs, SlowPieces, byte_level
from patchpoint.errors import InvalidArgument, ModelError, UnknownName, UnsupportedFamily
from patchpoint.models.load import load
from patchpoint.models.model import LoadedModel
from words import word_tokenizer


@pytest.fixture
def llama():
    return tiny("llama", tie_word_embeddings=False)


@pytest.fixture
def saved(tmp_path, llama):
    folder = tmp_path / "model"
    llama.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def refusal(kind, *args, **options):
    with pytest.raises(kind) as caught:
        load(*args, device=options.pop("device", "cpu"), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


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


def test_gpt2_without_tokenizer_files_gets_no_empty_tokenizer(tmp_path):
    tiny("gpt2").save_pretrained(tmp_path)
    assert "no tokenizer" in refusal(ModelError, tmp_path)


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


def test_a_corrupt_tokenizer(saved):
    (saved / "tokenizer.json").write_text("{")
    assert "cannot read the tokenizer of model folder" in refusal(ModelError, saved)


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


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    assert "give its folder" in refusal(ModelError, path)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"nonsense")
    assert "is no GGUF file" in refusal(ModelError, path)
    path.write_bytes(b"GGUF" + bytes(40))
    assert "cannot read GGUF file" in refusal(ModelError, path)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_the_default_and_gives_the_same_fingerprint(saved):
    model = load(saved)
    assert model.device.type == "cuda"
    assert model.fingerprint == load(saved, device="cpu").fingerprint
    assert load(model.hf, tokenizer=model.tokenizer, device="cuda:0").hf is model.hf


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
