"""The doctor passes every sound model, and each of its checks catches what it is there for."""

import copy

import pytest
import torch

import patchpoint.doctor.outputs
import patchpoint.doctor.sites
from families import FAMILY_NAMES, VARIANTS, tiny, variant
from patchpoint.doctor import examine
from patchpoint.engine import COMPONENTS, Model, Run, Taken, load
from patchpoint.models.families import adapter_for
from words import tiny_model, word_tokenizer

SPECIAL = ("-dynamic", "-longrope", "-window", "-biases", "-mqa", "-projected")
"""Ends of the names of further configurations in which one check or another has more to look at."""


def model_of(hf):
    return Model(hf, word_tokenizer(), adapter_for(hf), "made")


def failed(verdict):
    return {check.name for check in verdict.failed}


def named(verdict, name):
    return next(check for check in verdict.checks if check.name == name)


@pytest.mark.parametrize("name", [*FAMILY_NAMES, *(name for name in VARIANTS if name.endswith(SPECIAL))])
def test_a_sound_model_passes(name):
    verdict = examine(model_of(variant(name)))
    assert verdict.passed, verdict.summary()
    assert verdict.conclusive
    skipped = [check for check in verdict.checks if check.outcome == "skipped"]
    assert {check.name for check in skipped} <= {"device", "padding"}
    by_length = [check for check in skipped if check.name == "padding"]
    assert all("rotary angles depend on the length" in check.reason for check in by_length)
    assert bool(by_length) == name.endswith(("-dynamic", "-longrope"))
    for check in verdict.checks:
        if check.outcome == "passed":
            assert 0 <= check.error <= check.tolerance <= 1e-3 * (check.name != "effect")


@pytest.mark.parametrize(
    ("family", "dtype", "least_noise"),
    [(family, "bfloat16", 1e-3) for family in FAMILY_NAMES]
    + [(family, "float16", 1e-4) for family in ("gpt2", "llama", "gemma2")],
)
def test_r53_low_precision_passes_within_its_own_reported_noise(family, dtype, least_noise):
    verdict = examine(model_of(tiny(family).to(getattr(torch, dtype))))
    assert verdict.passed, verdict.summary()
    assert verdict.about.dtype == dtype
    assert least_noise < verdict.noise < 0.15
    parity = named(verdict, "parity")
    assert parity.error <= parity.tolerance == pytest.approx(4 * verdict.noise)


def test_r53_a_wrong_scale_is_caught_in_low_precision_too():
    model = model_of(tiny("llama").to(torch.bfloat16))
    model.adapter.blocks[0].scale *= 3
    assert "parity" in failed(examine(model))


def test_a_wrong_scale_fails_parity():
    model = tiny_model("llama")
    model.adapter.blocks[1].scale *= 1.01
    assert "parity" in failed(examine(model))
    assert "batch" not in failed(examine(model))


def test_r01_a_plain_model_that_ignores_positions_of_padded_prompts_fails_padding():
    model = tiny_model("gpt2")
    real = model.hf.forward
    model.hf.forward = lambda input_ids, position_ids=None, **more: real(input_ids, **more)
    assert failed(examine(model)) == {"padding"}


def test_numbers_that_depend_on_the_rest_of_the_batch_fail_batch():
    model = tiny_model("llama")
    block = model.adapter.blocks[2]
    real = block.mlp_down
    block.mlp_down = lambda post: real(post) * (1.01 if len(post) > 20 else 1)
    assert "batch" in failed(examine(model))


def wrong_on_the_device(monkeypatch, kernel):
    """A model that is taken to be elsewhere, where one function of torch gives other numbers."""
    real_kernel, real_copy = getattr(torch.nn.functional, kernel), patchpoint.doctor.outputs.copied_to_cpu

    def copied(given):
        monkeypatch.setattr(torch.nn.functional, kernel, real_kernel)
        return real_copy(given)

    monkeypatch.setattr(patchpoint.doctor.outputs, "on_the_cpu", lambda model: False)
    monkeypatch.setattr(patchpoint.doctor.outputs, "copied_to_cpu", copied)
    return real_kernel


def test_r54_a_kernel_that_is_wrong_on_the_device_is_caught_although_the_plain_model_uses_it_too(monkeypatch):
    model = tiny_model("llama")
    real = wrong_on_the_device(monkeypatch, "scaled_dot_product_attention")
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *given, **more: real(*given, **more) * 1.01,
    )
    verdict = examine(model)
    assert failed(verdict) >= {"device"}
    assert not {"parity", "batch"} & failed(verdict)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_r54_the_copy_on_the_cpu_is_the_same_model_and_leaves_it_alone(family, monkeypatch):
    model = tiny_model(family)
    before = copy.deepcopy(model.hf.state_dict())
    monkeypatch.setattr(patchpoint.doctor.outputs, "on_the_cpu", lambda model: False)
    check = named(examine(model), "device")
    assert (check.outcome, check.error) == ("passed", 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())


def test_a_model_too_large_for_the_cpu_skips_the_device_check_with_the_reason(monkeypatch):
    monkeypatch.setattr(patchpoint.doctor.outputs, "on_the_cpu", lambda model: False)
    monkeypatch.setattr(patchpoint.doctor.outputs, "SHARE_OF_FREE", 0.0)
    verdict = examine(tiny_model("gpt2"))
    check = named(verdict, "device")
    assert verdict.passed
    assert check.outcome == "skipped"
    assert "the CPU has" in check.reason


def test_r16_activations_read_at_the_wrong_token_fail_the_self_patch(monkeypatch):
    real = Taken.rows
    monkeypatch.setattr(
        Taken,
        "rows",
        lambda taken, component, layer, prompts, positions: real(
            taken, component, layer, prompts, [0] * len(positions)
        ),
    )
    assert "self-patch" in failed(examine(tiny_model("llama")))


def test_r12_an_edit_that_is_discarded_has_no_effect():
    """The peers' fault: the edited neurons are thrown away and the module's own output is used."""
    model = tiny_model("llama")
    block = model.adapter.blocks[1]
    post, down = block.mlp_post, block.mlp_down
    kept = {}

    def remembering(resid):
        neurons = post(resid)
        kept["own"] = down(neurons.clone())
        return neurons

    block.mlp_post, block.mlp_down = remembering, lambda neurons: kept["own"]
    verdict = examine(model)
    assert failed(verdict) == {"effect"}
    assert named(verdict, "effect").error == 1
    assert named(verdict, "effect").reason == "no effect: 1 mlp_post"


def test_r12_an_edit_that_the_engine_drops_is_a_failure(monkeypatch):
    from patchpoint.engine import row_edits

    monkeypatch.setattr(row_edits.RowEdit, "apply", lambda *given: None)
    verdict = examine(tiny_model("llama"))
    assert failed(verdict) >= {"self-patch", "effect", "sweep"}
    assert not failed(verdict) & {"parity", "stream", "lens", "heads"}


def test_a_sweep_that_forgets_an_edit_differs_from_the_edited_run(monkeypatch):
    from patchpoint.engine import Variant, sweep

    def forgetful(base, variants, metric):
        short = [Variant(v.edits[:-1]) if isinstance(v, Variant) else v for v in variants]
        return sweep(base, short, metric)

    monkeypatch.setattr(patchpoint.doctor.sites, "sweep", forgetful)
    assert failed(examine(tiny_model("gpt2"))) == {"sweep"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_sweep_that_forgets_any_one_component_is_caught(component, monkeypatch):
    from patchpoint.engine import Variant, sweep

    def forgetful(base, variants, metric):
        short = [
            Variant(tuple(e for e in v.edits if e.site.component != component))
            if isinstance(v, Variant)
            else v
            for v in variants
        ]
        return sweep(base, short, metric)

    monkeypatch.setattr(patchpoint.doctor.sites, "sweep", forgetful)
    assert failed(examine(tiny_model("llama"))) == {"sweep"}


def test_r18_a_block_in_which_tokens_see_later_ones_fails_causality():
    model = tiny_model("llama")
    block = model.adapter.blocks[1]
    real = block.attn_out
    block.attn_out = lambda z: real(z + 1e-3 * z.mean(0))
    assert "causality" in failed(examine(model))


def test_r19_a_plain_model_that_looks_ahead_differs_from_ours(monkeypatch):
    """Ours is causal by construction; a leak in the plain model shows as a difference from it."""
    from transformers.models.llama import modeling_llama

    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda *given, **more: None)
    hf = tiny("llama", attn_implementation="eager")
    verdict = examine(model_of(hf))
    assert "parity" in failed(verdict)
    assert "causality" not in failed(verdict)


def test_r27_an_attention_output_before_its_norm_fails_the_stream(monkeypatch):
    model = tiny_model("gemma2")
    real = Run.rows
    monkeypatch.setattr(
        Run, "rows", lambda run, name, layer: real(run, name, layer) * (2 if name == "attn_out" else 1)
    )
    assert "stream" in failed(examine(model))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "olmo2-biases", "llama-biases"])
def test_r31_a_head_left_out_of_the_sum_fails_heads(name):
    model = model_of(variant(name))
    block = model.adapter.blocks[1]
    real = block.heads_out

    def without_last(z):
        shares = real(z).clone()
        shares[:, -1] *= 0.99
        return shares

    block.heads_out = without_last
    assert failed(examine(model)) == {"heads"}


def test_r25_a_forgotten_logit_factor_fails_the_lens():
    model = tiny_model("llama")
    real = model.adapter.unembed
    model.adapter.unembed = lambda final, vocab, out=None: real(final, vocab) * 1.01
    assert failed(examine(model)) >= {"lens", "parity"}
    assert "stream" not in failed(examine(model))


@pytest.mark.parametrize("change", [lambda rows: rows * 1.01, lambda rows: rows.roll(1, -1)])
def test_r20_attention_rows_that_are_no_distribution_or_look_ahead_fail_pattern(change, monkeypatch):
    real = Run.rows
    monkeypatch.setattr(
        Run,
        "rows",
        lambda run, name, layer: (
            change(real(run, name, layer)) if name == "pattern" else real(run, name, layer)
        ),
    )
    assert "pattern" in failed(examine(tiny_model("llama")))


def test_r21_attention_rows_of_another_head_fail_pattern(monkeypatch):
    real = Run.rows
    monkeypatch.setattr(
        Run,
        "rows",
        lambda run, name, layer: (
            real(run, name, layer).roll(1, 1) if name == "pattern" else real(run, name, layer)
        ),
    )
    assert "pattern" in failed(examine(tiny_model("llama")))


def test_a_check_that_cannot_be_made_has_failed_with_the_reason():
    model = tiny_model("llama")

    def broken(z):
        raise ValueError("no such\nprojection")

    model.adapter.blocks[0].heads_out = broken
    verdict = examine(model)
    check = named(verdict, "heads")
    assert failed(verdict) == {"heads"}
    assert check.reason == "it could not be made: no such projection"
    assert not verdict.conclusive


def test_what_is_not_a_number_has_failed():
    model = tiny_model("llama")
    model.adapter.blocks[0].heads_out = lambda z: torch.full((*z.shape[:2], 32), float("nan"))
    check = named(examine(model), "heads")
    assert (check.outcome, check.error, check.reason) == ("failed", None, "not a number")


def test_r37_the_model_comes_back_as_it_was():
    model = tiny_model("gpt2")
    seen = []
    handle = model.hf.transformer.h[1].register_forward_hook(lambda *given: seen.append(1))
    tensors = copy.deepcopy(model.hf.state_dict())
    hooks = [list(module._forward_hooks) for module in model.hf.modules()]
    examine(model)
    assert [list(module._forward_hooks) for module in model.hf.modules()] == hooks
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.hf.state_dict().items())
    assert seen
    handle.remove()


def test_r41_nothing_holds_a_graph():
    model = tiny_model("llama")
    assert any(parameter.requires_grad for parameter in model.hf.parameters())
    examine(model)
    assert all(parameter.grad is None for parameter in model.hf.parameters())


def test_a_model_that_is_partly_on_disk_is_examined_where_it_is(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    ends = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    places = dict.fromkeys((*ends, "model.layers.0"), "cpu") | {f"model.layers.{k}": "disk" for k in (1, 2)}
    model = load(str(tmp_path), device_map=places)
    assert any(parameter.device.type == "meta" for parameter in model.hf.parameters())
    verdict = examine(model)
    assert verdict.passed, verdict.summary()


def test_models_with_short_positions_are_examined_on_shorter_prompts():
    verdict = examine(model_of(tiny("gpt2", n_positions=4)))
    assert verdict.passed, verdict.summary()


def test_prompts_hold_ordinary_tokens_only():
    from made_tokenizers import byte_level
    from patchpoint.doctor.exam import prompts_for

    tokenizer = byte_level()
    hf = tiny("gpt2", vocab_size=len(tokenizer))
    prompts = prompts_for(Model(hf, tokenizer, adapter_for(hf), "bytes"))
    assert len(prompts) == 4
    drawn = {token for ids in prompts[:3] for token in ids}
    assert not drawn & set(tokenizer.all_special_ids)
