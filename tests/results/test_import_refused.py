"""Files of foreign results that do not fit: each is refused in one line that names the fact, whatever it holds."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchpoint.errors import PatchpointError
from patchpoint.results.foreign import read_foreign
from patchpoint.results.imported import Origin

ONE = [[[1.0, 2.0]], ["A*"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is not JSON"),
        ("{", "the file is not JSON"),
        ("[" * 100_000, "the file is not JSON"),
        ("{}", "the file holds a JSON dict; expected a list"),
        ("[]", "the file holds no facts"),
        ("[3]", "fact 1 is a int; expected an .effect, tokens. pair"),
        ("[[1, 2, 3]]", "fact 1 is a list of 3; expected"),
        ([ONE, {"tokens": ["A*"]}], "fact 2 lacks effect"),
        ([{"efect": [[1]], "tokens": ["A*"]}], "unknown field of fact 1 'efect'; did you mean effect"),
        ([ONE, [[[1, 2]], ["A"]]], "fact 2 has the mark . on none; end the tokens of the subject in"),
        ([[[[1], [1], [1]], ["A*", "b", "C*"]]], "fact 1 has the mark . at positions 0, 2, not one run"),
        (
            [ONE, [[[1, 2], [3, 4]], ["A*"]]],
            r"fact 2 has effects of shape \(2, 2\) for 1 tokens; expected one row",
        ),
        ([ONE, [[[1, 2, 3]], ["A*"]]], "fact 2 has 3 layers and fact 1 has 2"),
        ([[[[1, 2], [3]], ["A*", "b"]]], "fact 1 has effects that are no array"),
        ([[[1, 2], ["A*", "b"]]], r"fact 1 has effects of shape \(2,\)"),
        ([[[[]], ["A*"]]], "fact 1 has effects of shape"),
        ([[[["1"]], ["A*"]]], "fact 1 has effects of shape .1, 1. and kind <U1"),
        ([[[[True]], ["A*"]]], "kind bool"),
        ([[[[None]], ["A*"]]], "kind object"),
        ([[[[10**400]], ["A*"]]], "fact 1 has effects"),
        ('[[[[1, NaN]], ["A*"]]]', "fact 1 has the effect nan in row 0, column 1"),
        ([[[[1e39]], ["A*"]]], r"fact 1 has the effect 1e\+39 in row 0, column 0"),
        ([[[[1]], "A*"]], "fact 1 has tokens that are not a list of texts; got 'A.'"),
        ([[[[1]], []]], "fact 1 has tokens that are not"),
        ([[[[1]], ["\ud800*"]]], "fact 1 has tokens that are not"),
        ([{"effect": [[1]], "tokens": ["A*"], "p_clean": "1"}], "fact 1 has p_clean '1'; expected a finite"),
        ([{"effect": [[1]], "tokens": ["A*"], "p_corrupt": True}], "fact 1 has p_corrupt True"),
        ([{"effect": [[1]], "tokens": ["A*"], "prompt": 5}], "fact 1 has prompt 5; expected text"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "f.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(PatchpointError, match=message) as caught:
        read_foreign(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"effect_0": np.ones((1, 2)), "tokens_0": np.array(["A*"], dtype=object)},
            "not an archive of plain arrays",
        ),
        ({"effect_0": np.ones((1, 2))}, "fact 1 lacks tokens"),
        ({"effect_1": np.ones((1, 2)), "tokens_1": np.array(["A*"])}, "holds no effect_0, but later ones"),
        ({"x": np.ones(1)}, "holds an array 'x'; expected names such as effect_0"),
        ({"efect_0": np.ones(1)}, "unknown field of fact 1 'efect'"),
        ({"effect_0": np.ones((1, 2)) * 1j, "tokens_0": np.array(["A*"])}, "kind complex128"),
        ({"effect_0": np.full((1, 1), np.longdouble("1e4000")), "tokens_0": np.array(["A*"])}, "effect inf"),
        ({"effect_0": np.ones((1, 2)), "tokens_0": np.array([1])}, "tokens that are not a list of texts"),
        ({}, "holds no facts"),
    ],
)
def test_an_archive_that_does_not_fit_is_named_in_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(PatchpointError, match=message) as caught:
        read_foreign(tmp_path / "f.npz")
    assert "\n" not in str(caught.value)


def test_other_fields_of_an_archive_are_read(tmp_path):
    np.savez(
        tmp_path / "f.npz",
        effect_0=np.ones((1, 2), dtype=np.float16),
        tokens_0=np.array(["A*"]),
        p_clean_0=0.5,
        prompt_0="A",
    )
    (fact,) = read_foreign(tmp_path / "f.npz").facts
    assert (fact.p_clean, fact.p_corrupt, fact.prompt, fact.answer) == (0.5, None, "A", None)


def test_files_that_cannot_be_had_are_named_in_one_line(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for name, message in (
        ("absent.json", "No such file"),
        ("folder.json", "Is a directory"),
        ("nul\0.json", "cannot read"),
        ("results.jsn", "unknown ending of a file of results '.jsn'; did you mean .json"),
        ("results", "unknown ending of a file of results ''; known: .json"),
    ):
        with pytest.raises(PatchpointError, match=message):
            read_foreign(tmp_path / name)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("direction", "restor", "unknown direction 'restor'; did you mean restore"),
        ("state", "residual", "unknown state 'residual'"),
        ("metric", "probs", "unknown metric 'probs'; did you mean prob"),
        ("samples", 0, "samples must be at least 1, got 0"),
        ("window", 0, "window must be at least 1, got 0"),
        ("model", " ", "model ' ' is no text"),
        ("noise", "\udcff", "is no text"),
    ],
)
def test_an_origin_that_cannot_be_is_refused(option, value, message):
    with pytest.raises(PatchpointError, match=message):
        Origin(**{option: value})


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just("a*")
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["effect", "tokens", "p_clean", "answer", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
NEARLY = st.lists(
    st.tuples(st.lists(st.lists(LEAVES, max_size=2), max_size=2) | TREES, st.lists(LEAVES, max_size=2))
)


def read_or_refused(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            said = [fact.effect for fact in read_foreign(path).facts]
        except PatchpointError as error:
            said = str(error)
    assert "\n" not in said if isinstance(said, str) else all(np.isfinite(effect).all() for effect in said)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=TREES | NEARLY, ending=st.sampled_from([".json", ".jsonl"]))
def test_any_json_is_read_or_refused(tmp_path, document, ending):
    path = tmp_path / f"f{ending}"
    path.write_text(json.dumps(document))
    read_or_refused(path)


def write_whole(path):
    facts = [[[[0.5, -0.25], [1.0, 0.0]], ["A*", " is"]], [[[2.0, 1e-3]], ["B*"]]]
    if path.suffix == ".npz":
        arrays = {f"effect_{place}": np.array(effect) for place, (effect, _) in enumerate(facts)}
        np.savez(path, **arrays, **{f"tokens_{place}": np.array(t) for place, (_, t) in enumerate(facts)})
    else:
        path.write_text(json.dumps(facts) if path.suffix == ".json" else "\n".join(map(json.dumps, facts)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), ending=st.sampled_from([".json", ".jsonl", ".npz"]))
def test_any_bytes_are_read_or_refused(tmp_path, data, ending):
    path = tmp_path / f"whole{ending}"
    if not path.exists():
        write_whole(path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))]
    broken = tmp_path / f"broken{ending}"
    broken.write_bytes(data.draw(st.just(bytes(cut)) | st.binary(max_size=40)))
    read_or_refused(broken)
