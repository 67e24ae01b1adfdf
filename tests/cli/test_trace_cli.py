"""`patchpoint trace` as a user meets it: files, JSON, exit codes, one line for every wrong request."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import patchpoint as pp
from families import tiny
from words import tiny_model

PROMPT = "w5 w9 w13 w2"


@pytest.fixture
def trace(run, folder):
    return lambda *words: run("trace", "--model", folder, "--samples", 2, *words)


@pytest.fixture
def facts(tmp_path):
    """Facts of which the model answers some: the attribute is its prediction for every second one."""
    model = tiny_model("gpt2")
    rows = []
    for number in range(6):
        prompt = f"w{number + 1} w{number + 20} w7 w{number + 40}"
        predicted = int(model.run(prompt).logits[0].argmax())
        attribute = f"w{predicted}" if number % 2 else f"w{(predicted + 1) % 97}"
        rows.append({"prompt": prompt, "subject": f"w{number + 20}", "attribute": attribute})
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_one_prompt_prints_its_runs_and_largest_effects(trace):
    code, out, _ = trace(PROMPT, "--subject", "w9")
    assert code == 0
    assert "clean" in out
    assert "largest indirect effects" in out


def test_json_is_one_document_equal_to_the_function(trace):
    code, out, _ = trace(PROMPT, "--subject", "w9 w13", "--json")
    document = json.loads(out)
    assert code == 0
    want = pp.trace(tiny_model("gpt2"), PROMPT, subject="w9 w13", samples=2)
    np.testing.assert_allclose(document["effect"], want.effect, atol=1e-7)
    assert (document["answer_id"], document["subject_span"], document["bos"]) == (
        want.answer_id,
        [1, 3],
        False,
    )


def test_one_prompt_leaves_results_and_pictures(trace, tmp_path):
    out = tmp_path / "out"
    code, _, _ = trace(PROMPT, "--subject", "w9", "--out", out, "--pictures", "png,svg,pdf,html")
    assert code == 0
    names = {path.name for path in out.iterdir()}
    assert {
        "effects.parquet",
        "facts.parquet",
        "run.json",
        *(f"trace.{k}" for k in ("png", "svg", "pdf", "html")),
    } <= names
    assert trace(PROMPT, "--subject", "w9", "--out", out)[0] == 0, "the same request again is no error"
    code, _, err = trace(PROMPT, "--subject", "w13", "--out", out)
    assert code == 2
    assert "subject" in err


def test_a_file_of_facts_is_traced_skipped_and_counted(trace, facts, tmp_path):
    out = tmp_path / "out"
    code, text, _ = trace("--facts", facts, "--out", out, "--pictures", "png,html")
    assert code == 0
    assert "3 facts traced, 3 skipped, 0 malformed" in text
    table = pq.read_table(out / "facts.parquet").to_pylist()
    assert [row["status"] for row in table] == ["skipped", "traced"] * 3
    assert all("predicts" in row["reason"] for row in table[::2])
    assert {path.name for path in (out / "pictures").iterdir()} == {
        "average-by-role.png",
        "facts.html",
        *(f"fact-{n:06d}.png" for n in (2, 4, 6)),
    }
    effects = pq.read_table(out / "effects.parquet").to_pandas()
    fact = table[1]
    again = pp.trace(
        tiny_model("gpt2"), fact["prompt"], subject=fact["subject"], samples=2, noise=fact["noise_std"]
    )
    mine = effects[effects.fact == 2].sort_values(["token", "layer"]).effect
    np.testing.assert_allclose(mine, again.effect.values.ravel(), atol=1e-6)


def test_relative_noise_is_measured_over_all_subjects_of_the_file(trace, facts, tmp_path):
    trace("--facts", facts, "--out", tmp_path / "some", "--limit", 1)
    trace("--facts", facts, "--out", tmp_path / "all")
    stds = [
        row["noise_std"]
        for out in ("some", "all")
        for row in pq.read_table(tmp_path / out / "facts.parquet").to_pylist()
        if row["status"] == "traced"
    ]
    embeddings = tiny("gpt2").get_input_embeddings().weight.detach()[range(20, 26)]
    assert stds == pytest.approx([3 * float(embeddings.std())] * 4, rel=1e-5)


def test_limit_counts_traced_facts(trace, facts, tmp_path):
    code, text, _ = trace("--facts", facts, "--out", tmp_path / "out", "--limit", 2, "--json")
    document = json.loads(text)
    assert code == 0
    assert document["counts"] == {"facts": 4, "traced": 2, "skipped": 2, "malformed": 0}
    assert [row["fact"] for row in document["not_traced"]] == [1, 3]


def test_answer_attribute_traces_facts_whatever_is_predicted(trace, facts, tmp_path):
    _, text, _ = trace("--facts", facts, "--out", tmp_path / "out", "--answer", "attribute")
    assert "6 facts traced, 0 skipped" in text


def test_malformed_rows_are_named_and_the_others_run(trace, facts, tmp_path):
    lines = facts.read_text().splitlines()
    facts.write_text("\n".join([lines[0], "{not json", lines[1], '{"prompt": "w1 w2"}', lines[3]]))
    code, text, err = trace("--facts", facts, "--out", tmp_path / "out")
    assert code == 0
    assert "2 facts traced, 1 skipped, 2 malformed" in text
    assert "row 2 left out" in err
    assert "row 4 left out" in err


BAD = {
    "subject not in the prompt": ([PROMPT, "--subject", "w8"], "subject 'w8' is not in the prompt"),
    "empty prompt": (["", "--subject", "w8"], "empty"),
    "too long": (["w1 " * 64 + "w2", "--subject", "w1"], "65 tokens, the model reads at most 64"),
    "no subject": ([PROMPT], "--subject"),
    "both": ([PROMPT, "--facts", "x.json"], "--facts brings its own"),
    "limit alone": ([PROMPT, "--subject", "w9", "--limit", "3"], "--limit counts the facts of a file"),
    "missing file": (["--facts", "nowhere.json"], "nowhere.json"),
    "unknown state": ([PROMPT, "--subject", "w9", "--state", "mpl"], "did you mean mlp"),
    "unknown metric": ([PROMPT, "--subject", "w9", "--metric", "porb"], "did you mean prob"),
    "noise": ([PROMPT, "--subject", "w9", "--noise", "t2"], "noise 't2'"),
    "samples": ([PROMPT, "--subject", "w9", "--samples", "0"], "samples must be at least 1"),
    "picture format": ([PROMPT, "--subject", "w9", "--pictures", "gif"], "unknown picture format 'gif'"),
    "style": ([PROMPT, "--subject", "w9", "--style", "rom"], "did you mean rome"),
    "memory": ([PROMPT, "--subject", "w9", "--memory", "-1"], "memory must be a positive number"),
    "device": ([PROMPT, "--subject", "w9", "--device", "gpu"], "gpu"),
    "dtype": ([PROMPT, "--subject", "w9", "--dtype", "float8"], "float8"),
    "unknown option": ([PROMPT, "--subjekt", "w9"], "--subjekt"),
    "not a number": ([PROMPT, "--subject", "w9", "--window", "wide"], "--window"),
    "fact answers": (["--facts", "FACTS", "--answer", "Paris"], "unknown answer for a fact file 'Paris'"),
    "unwritable": ([PROMPT, "--subject", "w9", "--out", "/proc/nowhere"], "/proc/nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_get_one_line_and_exit_2(trace, facts, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, message = BAD[case]
    code, out, err = trace(*(facts if word == "FACTS" else word for word in words))
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trace", PROMPT, "--subject", "w9", "--model", "smolm2-135m"], "did you mean smollm2-135m"),
        (["models", "pull", "gpt5"], "gpt5"),
        (["trase"], "trase"),
        (["results", "show", "nowhere"], "nowhere"),
    ],
)
def test_unknown_names(run, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*words)
    assert code == 2
    assert message in err
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err


def test_a_corrupt_result_is_one_line(trace, run, facts, tmp_path):
    out = tmp_path / "out"
    trace("--facts", facts, "--out", out)
    whole = (out / "effects.parquet").read_bytes()
    (out / "effects.parquet").write_bytes(whole[: len(whole) // 2])
    for words in (["results", "show", out], ["results", "query", out, "SELECT 1"]):
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert "effects.parquet" in err
    code, _, err = trace("--facts", facts, "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert "effects.parquet" in err


def test_an_interrupt_keeps_what_is_finished(trace, facts, tmp_path, monkeypatch):
    from patchpoint.experiments import fact_run

    real, calls = fact_run.trace, []

    def interrupted(*arguments, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(fact_run, "trace", interrupted)
    code, _, err = trace("--facts", facts, "--out", tmp_path / "out")
    assert code == 130
    assert "interrupted" in err
    monkeypatch.setattr(fact_run, "trace", real)
    _, text, err = trace("--facts", facts, "--out", tmp_path / "out")
    assert "3 facts traced" in text
    assert "continuing: 3 rows" in err


def test_no_arguments_show_help(run):
    code, out, _ = run()
    assert code == 0
    for command in ("trace", "models", "results", "bench"):
        assert command in out
