"""`patchpoint models list|pull|info|check`: tables for people, one JSON document for programs."""

import json

import pytest
import typer.testing

import patchpoint.cli.models
from families import tiny
from patchpoint.cli.main import main
from patchpoint.cli.models import app
from patchpoint.doctor import Verdict
from patchpoint.doctor.examine import CHECKS
from patchpoint.errors import ModelError, UnknownName
from patchpoint.models.catalog import CATALOG
from patchpoint.models.families.llama import LlamaBlock
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


def test_check_shows_every_check_with_its_error(saved, cache):
    result = run("check", saved)
    assert result.exit_code == 0
    for name in CHECKS:
        assert any(
            name in line and ("passed" in line or "skipped" in line) for line in result.stdout.splitlines()
        )
    assert "11 checks passed, 1 skipped" in result.stdout
    assert "noise of float32 (products ieee)" in result.stdout
    assert result.stderr == ""


def test_check_as_json_is_the_verdict(saved, cache):
    result = run("check", saved, "--json", "--dtype", "bfloat16", "--device", "cpu")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document.pop("passed") is True
    verdict = Verdict.from_dict(document)
    assert (verdict.about.dtype, verdict.about.device) == ("bfloat16", "cpu")
    assert verdict.about.model_fingerprint == load(saved, device="cpu", dtype="bfloat16").fingerprint
    assert [check.name for check in verdict.checks] == list(CHECKS)
    (kept,) = (cache / "verdicts").iterdir()
    assert json.loads(kept.read_text()) == document


def test_check_looks_anew_and_exits_1_when_a_check_fails(saved, cache, monkeypatch):
    assert run("check", saved).exit_code == 0
    real = LlamaBlock.heads_out
    monkeypatch.setattr(LlamaBlock, "heads_out", lambda block, z: real(block, z) * 0.9)
    result = run("check", saved)
    assert result.exit_code == 1
    assert "1 of 12 checks failed: heads (error" in result.stdout
    assert json.loads(run("check", saved, "--json").stdout)["passed"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/at/all"], "nowhere/at/all"),
        (["FOLDER", "--dtype", "float8"], "unknown dtype 'float8'"),
        (["FOLDER", "--device", "gpu"], "unknown device 'gpu'"),
    ],
)
def test_check_of_what_is_no_model_is_one_line_and_exit_2(saved, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        main(["models", "check", *(str(saved) if word == "FOLDER" else word for word in words)])
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["list", "pull", "info", "check"])
def test_every_command_has_an_example(command):
    assert f"Example: patchpoint models {command}" in " ".join(run(command, "--help").stdout.split())
