"""`patchpoint models list|pull|info`: tables for people, one JSON document for programs."""

import json

import pytest
import typer.testing

import patchpoint.cli.models
from families import tiny
from patchpoint.cli.models import app
from patchpoint.errors import ModelError, UnknownName
from patchpoint.models.catalog import CATALOG
from patchpoint.models.load import load
from words import word_tokenizer


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "a [bold]model"
    tiny("llama").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHPOINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_list_says_what_is_in_the_cache(cache):
    (row,) = json.loads(run("list", "--json").stdout)["models"]
    assert row["name"] == "smollm2-135m"
    assert row["folder"] is None
    assert run("list").stdout.splitlines()[3].split("│")[1].strip() == "smollm2-135m"
    assert run("list").stdout.splitlines()[3].split("│")[6].strip() == "no"
    CATALOG["smollm2-135m"].folder.mkdir(parents=True)
    (row,) = json.loads(run("list", "--json").stdout)["models"]
    assert row["folder"] == str(CATALOG["smollm2-135m"].folder)
    assert run("list").stdout.splitlines()[3].split("│")[6].strip() == "yes"


def test_pull_prints_the_folder_and_nothing_else_on_stdout(cache, monkeypatch):
    def made_pull(name, notify):
        notify("downloading")
        return cache / name

    monkeypatch.setattr(patchpoint.cli.models, "pull", made_pull)
    result = run("pull", "smollm2-135m", "--json")
    assert json.loads(result.stdout) == {"name": "smollm2-135m", "folder": str(cache / "smollm2-135m")}
    assert result.stderr == "downloading\n"
    assert run("pull", "smollm2-135m").stdout == f"{cache / 'smollm2-135m'}\n"


def test_info_tells_all_about_a_folder(saved):
    result = run("info", saved, "--json")
    assert result.stderr == ""
    facts = json.loads(result.stdout)
    model = load(saved, device="cpu")
    assert facts["name"] == facts["files"] == str(saved)
    assert (facts["family"], facts["class"], facts["dtype"]) == ("llama", "LlamaForCausalLM", "float32")
    sizes = [facts[size] for size in ("layers", "heads", "kv_heads", "d_model", "d_vocab", "max_tokens")]
    assert sizes == [3, 4, 2, 32, 97, 64]
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.hf.parameters())
    assert (facts["bos_token"], facts["bos_habit"]) == (None, False)
    assert facts["fingerprint"] == model.fingerprint
    assert facts["tokenizer_fingerprint"] == model.tokenizer_fingerprint


def test_the_table_shows_paths_and_fingerprints_whole(saved):
    shown = "".join(character for character in run("info", saved).stdout if character not in "│ \n")
    assert str(saved).replace(" ", "") in shown
    assert load(saved, device="cpu").fingerprint in shown


def test_errors_are_left_to_the_main_command(cache, tmp_path):
    assert isinstance(run("pull", "smolm2").exception, UnknownName)
    assert isinstance(run("info", tmp_path).exception, ModelError)


@pytest.mark.parametrize("command", ["list", "pull", "info"])
def test_every_command_has_an_example(command):
    assert f"Example: patchpoint models {command}" in " ".join(run(command, "--help").stdout.split())
