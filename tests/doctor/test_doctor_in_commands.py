"""Every run of the command line says what the doctor found, in its record and, once or when it is bad, aloud."""

import json

import pytest

import patchpoint.doctor.keeping
from families import tiny
from patchpoint.cli.main import main
from patchpoint.doctor import Verdict
from patchpoint.doctor.verdict import Check
from patchpoint.results import open_run
from words import word_tokenizer

PROMPT = ("w5 w9 w13 w2", "--subject", "w9", "--pictures", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny("gpt2").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def trace(folder, capsys):
    def call(*words):
        with pytest.raises(SystemExit) as end:
            main(["trace", "--model", str(folder), "--device", "cpu", "--samples", "2", *map(str, words)])
        done = capsys.readouterr()
        return end.value.code, done.out, done.err

    return call


@pytest.fixture
def facts(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows = [{"prompt": "w1 w20 w7", "subject": "w20", "attribute": "w3"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return ("--facts", path, "--answer", "attribute", "--pictures", "")


@pytest.fixture
def sick(monkeypatch):
    """The doctor finds a fault in every model."""
    real = patchpoint.doctor.keeping.examine

    def bad(model, **more):
        verdict = real(model, **more)
        fault = Check("parity", "ours with theirs", "failed", 0.5, 1e-4, "std of the logits")
        return Verdict(verdict.model, verdict.about, verdict.noise, (fault, *verdict.checks[1:]), 0.1)

    monkeypatch.setattr(patchpoint.doctor.keeping, "examine", bad)


def test_a_sound_model_is_told_of_once(trace):
    code, _, err = trace(*PROMPT)
    assert code == 0
    assert err.count("doctor: ") == 1
    assert "checks passed" in err
    assert trace(*PROMPT)[2] == ""


def test_quiet_commands_do_not_tell_it_at_all(trace):
    assert trace(*PROMPT, "--quiet")[2] == ""


def test_a_refused_request_is_one_line_even_the_first_time(trace, tmp_path, facts):
    for words in (
        ("w5 w9", "--subject", "w8"),
        (*PROMPT, "--out", "/proc/nowhere"),
        (*facts, "--out", "/proc/x"),
    ):
        code, _, err = trace(*words)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize("json_flag", [(), ("--json",)])
def test_the_record_of_every_run_holds_the_verdict(trace, facts, tmp_path, json_flag):
    for name, words in (("prompt", PROMPT), ("facts", facts)):
        code, out, _ = trace(*words, *json_flag, "--out", tmp_path / name)
        assert code == 0
        record = open_run(tmp_path / name).record
        assert record.doctor.passed
        assert record.doctor.about.model_fingerprint == record.model_fingerprint
        plain = json.loads((tmp_path / name / "run.json").read_text())["doctor"]
        assert {check["name"] for check in plain["checks"]} >= {"parity", "causality", "effect"}
        if json_flag:
            assert json.loads(out)["doctor"] == {"passed": True, "failed": []}


def test_results_show_tells_the_verdict(trace, facts, tmp_path, capsys):
    trace(*facts, "--out", tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["results", "show", str(tmp_path / "run"), "--json"])
    assert json.loads(capsys.readouterr().out)["run"]["doctor"]["checks"]
    with pytest.raises(SystemExit):
        main(["results", "show", str(tmp_path / "run")])
    assert "checks passed" in " ".join(capsys.readouterr().out.split())


def test_a_failed_check_warns_at_every_run_and_is_in_every_record(trace, facts, tmp_path, sick):
    for number, words in enumerate(
        (PROMPT, (*PROMPT, "--quiet"), facts, (*facts, "--quiet"), (*PROMPT, "--json"))
    ):
        out = tmp_path / str(number)
        code, text, err = trace(*words, "--out", out)
        assert code == 0
        warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
        assert len(warnings) == 1
        assert "parity (error 0.5, tolerance 0.0001)" in warnings[0]
        assert [check.name for check in open_run(out).record.doctor.failed] == ["parity"]
        if "--json" in words:
            assert json.loads(text)["doctor"] == {"passed": False, "failed": ["parity"]}
    assert "warning: " in trace(*PROMPT)[2], "without a folder too"


def test_another_verdict_does_not_stop_a_run_from_going_on(trace, facts, tmp_path, sick, monkeypatch):
    out = tmp_path / "out"
    trace(*facts, "--out", out)
    document = json.loads((out / "run.json").read_text())
    del document["doctor"]
    (out / "run.json").write_text(json.dumps(document))
    assert open_run(out).record.doctor is None, "records of before are read"
    assert trace(*facts, "--out", out)[0] == 0


def test_the_python_functions_ask_no_doctor(cache):
    import patchpoint as pp
    from words import tiny_model

    pp.trace(tiny_model("gpt2"), "w5 w9 w13 w2", subject="w9", samples=2)
    assert not cache.exists()
