"""Foreign results: the study's lists become a run, with the study's averages, and nothing else gets in."""

import json
import pickle
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

from patchpoint.cli.main import main
from patchpoint.errors import PatchpointError
from patchpoint.plots.run import Look, draw_run
from patchpoint.results import open_run, query
from patchpoint.results.averages import grids_of, saved_roles
from patchpoint.results.foreign import read_foreign
from patchpoint.tracing import ROLES, average_by_role
from patchpoint.tracing.averages import role_averages

FIRST, MIDDLE, LAST, NEXT, FURTHER, END = ROLES
TOKENS = [
    ["The*", " E*", "iff*", "el*", " is", " in", " the", " city", " of"],
    ["In", " Rome*", " they", " speak"],
    [" A*", " is"],
    ["of", " A*", " B*"],
    [" A*"],
]
N_LAYERS = 3


def lists(tokens=TOKENS, n_layers=N_LAYERS, seed=0):
    generator = np.random.default_rng(seed)
    return [(generator.normal(size=(len(words), n_layers)), words) for words in tokens]


def write_pairs(path, facts):
    path.write_text(json.dumps([[effect.tolist(), tokens] for effect, tokens in facts]))


def write_objects(path, facts):
    path.write_text(json.dumps([{"effect": effect.tolist(), "tokens": tokens} for effect, tokens in facts]))


def write_lines(path, facts):
    lines = [json.dumps([effect.tolist(), tokens], ensure_ascii=False) for effect, tokens in facts]
    path.write_text("\ufeff" + "\n".join(lines) + "\n\n", encoding="utf-8")


def write_npz(path, facts):
    arrays = {}
    for place, (effect, tokens) in enumerate(facts):
        arrays |= {f"effect_{place}": effect.astype(np.float32), f"tokens_{place}": np.array(tokens)}
    np.savez_compressed(path, **arrays)


WRITERS = {
    "pairs.json": write_pairs,
    "objects.json": write_objects,
    "lines.jsonl": write_lines,
    "arrays.npz": write_npz,
}


def called(capsys, *words, code=0):
    with pytest.raises(SystemExit) as end:
        main(["results", *map(str, words)])
    said = capsys.readouterr()
    assert end.value.code == code, said.err
    assert "Traceback" not in said.err
    return said.out if code == 0 else said.err


def imported(capsys, tmp_path, name="pairs.json", facts=None, *words):
    WRITERS[name](tmp_path / name, lists() if facts is None else facts)
    called(capsys, "import", tmp_path / name, "--out", tmp_path / "run", *words)
    return open_run(tmp_path / "run")


@pytest.mark.parametrize("name", WRITERS)
def test_every_layout_of_the_file_gives_its_own_average(capsys, tmp_path, name):
    run = imported(capsys, tmp_path, name)
    want = average_by_role(*zip(*lists(), strict=True))
    got = saved_roles(run)
    for quantity in want:
        np.testing.assert_allclose(got[quantity], want[quantity], atol=1e-6)
    shown = json.loads(called(capsys, "show", tmp_path / "run", "--json"))
    assert shown["run"]["counts"] == {"facts": 5, "traced": 5, "skipped": 0, "malformed": 0}
    for role in ROLES:
        mean = [np.nan if value is None else value for value in shown["roles"][role]["mean"]]
        np.testing.assert_allclose(mean, want["mean"].sel(role=role), atol=1e-6)


def test_the_study_s_rule_worked_by_hand(capsys, tmp_path, monkeypatch):
    """Effects that are 1, 2, 3, ... over the tokens of all facts in turn, in layer 0, and their squares in 1."""
    facts, n = [], 0
    for tokens in TOKENS:
        numbers = np.arange(n + 1.0, n + 1 + len(tokens))
        facts.append((np.stack([numbers, numbers**2], axis=1), tokens))
        n += len(tokens)
    by_hand = {
        FIRST: [1, 11, 14, 17, 19],
        MIDDLE: [2, 3],
        LAST: [4, 18],
        NEXT: [5, 12, 15],
        FURTHER: [6, 7, 8],
        END: [9, 13],
    }
    got = saved_roles(imported(capsys, tmp_path, "pairs.json", facts))
    for role, values in by_hand.items():
        for layer, power in enumerate((1, 2)):
            there, found = np.array(values, dtype=float) ** power, got.sel(role=role, layer=layer)
            assert int(found["count"]) == len(values)
            np.testing.assert_allclose(found["mean"], there.mean(), rtol=1e-6)
            np.testing.assert_allclose(found["std"], there.std(ddof=1), rtol=1e-6)
    monkeypatch.setenv("COLUMNS", "200")
    first = next(line for line in called(capsys, "show", tmp_path / "run").splitlines() if FIRST in line)
    assert "193.6000" in first


def test_an_imported_run_is_a_run(capsys, tmp_path):
    run = imported(capsys, tmp_path, "pairs.json", None, "--model", "gpt2-xl")
    assert (run.record.command, run.record.model, run.record.status) == ("import", "gpt2-xl", "finished")
    assert {run.record.model_fingerprint, run.record.tokenizer_fingerprint, run.record.dtype} == {"imported"}
    assert run.fact(1)["prompt"] == "The Eiffel is in the city of"
    assert run.fact(1)["subject"] == "The Eiffel"
    assert run.tokens(1) == TOKENS[0]
    np.testing.assert_allclose(run.effect(2), lists()[1][0], atol=1e-6)
    assert run.exact(2).values.all()
    assert query(tmp_path / "run", "SELECT count(*), bool_and(exact) FROM effects").rows == ((57, True),)
    assert "not given" in called(capsys, "show", tmp_path / "run")
    again = called(
        capsys, "import", tmp_path / "pairs.json", "--out", tmp_path / "run", "--model", "gpt2-xl", "--json"
    )
    assert json.loads(again) == {
        "out": str(tmp_path / "run"),
        "counts": {"facts": 5, "traced": 5, "skipped": 0, "malformed": 0},
        "layers": 3,
        "facts_sha256": run.record.facts_sha256,
    }
    write_pairs(tmp_path / "other.json", lists(seed=1))
    error = called(
        capsys, "import", tmp_path / "other.json", "--out", tmp_path / "run", "--model", "gpt2-xl", code=2
    )
    assert "holds another run: facts_sha256" in error


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_probabilities_are_kept_where_there_are_any(capsys, tmp_path, direction):
    facts = [
        {
            "effect": [[0.25, -0.5]],
            "tokens": ["A*"],
            "p_clean": 0.9,
            "p_corrupt": 0.4,
            "answer": " b",
            "prompt": "A:",
        },
        {"effect": [[0.25, -0.5]], "tokens": ["A*"], "p_clean": 0.9},
        {"effect": [[0.5, 0]], "tokens": ["A*"], "p_clean": 0.1, "p_corrupt": None},
    ]
    (tmp_path / "f.json").write_text(json.dumps(facts))
    called(capsys, "import", tmp_path / "f.json", "--out", tmp_path / "run", "--direction", direction)
    run = open_run(tmp_path / "run")
    first, second, third = grids_of(run)
    assert (first.p_clean, first.p_corrupt, first.answer, first.prompt) == (0.9, 0.4, " b", "A:")
    assert first.direction == direction
    assert np.isnan([second.p_corrupt, second.total_effect, third.total_effect]).all()
    start = 0.4 if direction == "restore" else 0.9
    np.testing.assert_allclose(run.measure(1, "p_restored"), [[start + 0.25, start - 0.5]], atol=1e-6)
    percent = role_averages([first, second, third], "percent_improvement").sel(role=FIRST)
    np.testing.assert_allclose(percent["mean"], [0.5, -1.0], atol=1e-6)
    assert percent["facts"].values.tolist() == [1, 1]
    assert saved_roles(run)["facts"].sel(role=FIRST).values.tolist() == [3, 3]


def test_a_file_of_layers_by_tokens_is_told_from_one_of_tokens_by_layers(capsys, tmp_path):
    turned = [(effect.T, tokens) for effect, tokens in lists()]
    write_pairs(tmp_path / "turned.json", turned)
    error = called(capsys, "import", tmp_path / "turned.json", "--out", tmp_path / "run", code=2)
    assert "fact 1 has effects of shape (3, 9) for 9 tokens" in error
    assert "(layer, token); give --transposed" in error
    assert not (tmp_path / "run").exists()
    called(capsys, "import", tmp_path / "turned.json", "--out", tmp_path / "run", "--transposed")
    want = average_by_role(*zip(*lists(), strict=True))
    np.testing.assert_allclose(saved_roles(open_run(tmp_path / "run"))["mean"], want["mean"], atol=1e-6)
    write_pairs(tmp_path / "right.json", lists())
    with pytest.raises(PatchpointError, match=r"\(token, layer\); leave out --transposed"):
        read_foreign(tmp_path / "right.json", transposed=True)


@pytest.mark.parametrize(
    ("name", "dump"),
    [
        ("it's.pkl", lambda facts, path: path.write_bytes(pickle.dumps(facts))),
        ("r.PT", lambda facts, path: torch.save([(torch.tensor(e), t) for e, t in facts], path)),
    ],
)
def test_a_pickle_is_refused_with_a_program_that_converts_it(capsys, tmp_path, name, dump):
    dump(lists(), tmp_path / name)
    error = called(capsys, "import", tmp_path / name, "--out", tmp_path / "run", code=2)
    assert error.count("\n") == 1
    program = shlex.split(error[error.index("python -c") :])
    assert program[0] == "python"
    subprocess.run([sys.executable, *program[1:]], check=True, timeout=120)
    found = read_foreign(tmp_path / (tmp_path / name).with_suffix(".json"))
    for fact, (effect, _) in zip(found.facts, lists(), strict=True):
        np.testing.assert_array_equal(fact.effect, effect)


def test_pictures_of_an_imported_run(capsys, tmp_path):
    facts = [
        {"effect": [[0.25, -0.5]], "tokens": ["A*"], "p_clean": 0.9, "p_corrupt": 0.4, "answer": " b"},
        {
            "effect": [[0.25, -0.5], [0, 0]],
            "tokens": ["A*", " is"],
            "p_clean": 0.9,
            "p_corrupt": 0.1,
            "answer": "c",
        },
    ]
    (tmp_path / "f.json").write_text(json.dumps(facts))
    called(capsys, "import", tmp_path / "f.json", "--out", tmp_path / "run")
    assert len(draw_run(open_run(tmp_path / "run"), tmp_path / "pictures", Look())) == 4
