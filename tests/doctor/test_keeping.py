"""A verdict is made once per model, number format, device and versions, and made again for anything else."""

import json
import os

import pytest
import torch

import patchpoint.doctor.about
from patchpoint.doctor import Verdict, about, keeping, verdict_of
from patchpoint.doctor.verdict import FORMAT, Check
from patchpoint.errors import InvalidArgument
from words import tiny_model


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.fixture
def made(monkeypatch):
    """One entry per examination."""
    real, made = keeping.examine, []

    def counted(model, **more):
        made.append(model.name)
        return real(model, **more)

    monkeypatch.setattr(keeping, "examine", counted)
    return made


def kept_file(cache):
    (path,) = (cache / "verdicts").glob("*.json")
    return path


def test_the_second_time_it_is_read_and_nothing_is_said(model, made, cache):
    news = []
    first = verdict_of(model, notify=news.append)
    assert first.passed
    assert len(news) == 1
    assert "checks passed" in news[0]
    assert verdict_of(model, notify=news.append) == first
    assert (len(made), len(news)) == (1, 1)
    assert [path.name for path in (cache / "verdicts").iterdir()] == [kept_file(cache).name]


def test_r44_a_changed_weight_needs_its_own_verdict(model, made):
    first = verdict_of(model)
    with torch.no_grad():
        model.hf.model.layers[1].mlp.up_proj.weight[3, 5] += 0.125
    second = verdict_of(model)
    assert len(made) == 2
    assert first.about.model_fingerprint != second.about.model_fingerprint == model.fingerprint


def test_another_number_format_needs_its_own_verdict(model, made):
    verdict_of(model)
    model.hf.to(torch.bfloat16)
    assert verdict_of(model).about.dtype == "bfloat16"
    assert len(made) == 2


def test_another_precision_of_products_needs_its_own_verdict(model, made):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert verdict_of(model).about.products == "ieee"
        torch.set_float32_matmul_precision("medium")
        assert about.products("cpu") == "bf16"
        assert about.products("cuda") == "tf32"
        assert keeping.read(about.about(model)) is None
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("library", ["torch", "transformers", "patchpoint"])
def test_another_version_needs_its_own_verdict(model, made, monkeypatch, library):
    verdict_of(model)
    real = patchpoint.doctor.about.version
    monkeypatch.setattr(
        patchpoint.doctor.about, "version", lambda name: "99" if name == library else real(name)
    )
    patchpoint.doctor.about.own_version.cache_clear()
    try:
        assert verdict_of(model).about.versions[library].startswith("99")
    finally:
        patchpoint.doctor.about.own_version.cache_clear()
    assert len(made) == 2


def test_changed_code_needs_its_own_verdict(tmp_path, monkeypatch):
    for package in ("models", "engine", "doctor"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("1")
    monkeypatch.setattr(patchpoint.doctor, "__file__", str(tmp_path / "doctor" / "__init__.py"))
    first = about.own_version.__wrapped__()
    assert about.own_version.__wrapped__() == first
    (tmp_path / "engine" / "a.py").write_text("2")
    assert about.own_version.__wrapped__() != first


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[1, 2]",
        lambda text: "[" * 100_000,
        lambda text: "\x00\xff",
        lambda text: text.replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'),
        lambda text: text.replace('"device": "cpu"', '"device": "cuda"'),
        lambda text: text.replace('"outcome": "passed"', '"outcome": "fine"', 1),
    ],
)
def test_a_damaged_file_or_one_of_another_format_is_made_again(model, made, cache, damage):
    first = verdict_of(model)
    whole = kept_file(cache).read_text()
    changed = damage(whole)
    assert changed != whole
    kept_file(cache).write_text(changed, encoding="latin-1")
    again = verdict_of(model)
    assert len(made) == 2
    assert again.about == first.about
    assert Verdict.from_dict(json.loads(kept_file(cache).read_text())) == again


def test_a_given_fingerprint_is_not_read_again(model, monkeypatch):
    fingerprint = model.fingerprint
    monkeypatch.setattr(type(model), "fingerprint", property(lambda self: pytest.fail("it was read")))
    assert verdict_of(model, fingerprint=fingerprint).about.model_fingerprint == fingerprint


def test_the_fingerprint_is_read_once(model, monkeypatch):
    real, read = type(model).fingerprint, []
    monkeypatch.setattr(
        type(model), "fingerprint", property(lambda self: (read.append(1), real.fget(self))[1])
    )
    verdict_of(model)
    assert len(read) == 1


def test_a_cache_that_cannot_be_written_costs_a_line_only(model, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PATCHPOINT_CACHE", str(tmp_path / "file"))
    news = []
    assert verdict_of(model, notify=news.append).passed
    assert len(news) == 2
    assert "cannot be kept" in news[1]


def test_a_write_that_fails_leaves_nothing_behind(model, cache, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    news = []
    assert verdict_of(model, notify=news.append).passed
    assert "No space left" in news[1]
    assert list((cache / "verdicts").iterdir()) == []


def test_a_failed_verdict_is_kept_but_one_that_could_not_be_made_is_not(model, made):
    model.adapter.blocks[1].scale *= 1.5
    assert not verdict_of(model).passed
    assert not verdict_of(model).passed
    assert len(made) == 1
    other = tiny_model("gpt2")
    other.adapter.blocks[1].heads_out = None
    for _ in range(2):
        assert not verdict_of(other).passed
    assert len(made) == 3


def test_a_verdict_comes_back_from_json(model):
    verdict = verdict_of(model)
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


@pytest.mark.parametrize("data", [{}, [], None, {"format": FORMAT}, {"format": 0}])
def test_what_is_no_verdict_is_refused_in_one_line(data):
    with pytest.raises(InvalidArgument) as caught:
        Verdict.from_dict(data)
    assert "\n" not in str(caught.value)
    assert "models check" in str(caught.value)


def test_a_check_says_its_error_or_its_reason():
    with pytest.raises(InvalidArgument, match="without an error"):
        Check("parity", "a with b", "passed")
    with pytest.raises(InvalidArgument, match="without a reason"):
        Check("parity", "a with b", "skipped")
