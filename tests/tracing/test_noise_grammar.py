"""Noise as it is written: what is read, what is refused, and what corruptors refuse to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchpoint.errors import InvalidArgument
from patchpoint.tracing.corruption import (
    Gaussian,
    Multivariate,
    Replaced,
    Scaled,
    Shuffled,
    Student,
    Twin,
    Uniform,
    corruptor_of,
)

TWIN = Twin(("w1 w2",))
positive = st.floats(0, 1e300).map(float)


@given(
    st.one_of(
        positive.map(Gaussian),
        positive.map(Scaled),
        positive.map(Uniform),
        st.floats(2, 1e9, exclude_min=True).map(Student),
    ),
    st.booleans(),
)
def test_a_text_reads_as_the_corruptor_it_came_from(noise, replaced):
    corruptor = Replaced(noise) if replaced else noise
    again = corruptor_of(f" {corruptor.text} ")
    inside = again.noise if replaced else again
    assert type(inside) is type(noise)
    assert vars(inside) == vars(noise)
    assert again.text == corruptor.text


KNOWN = (Gaussian, Scaled, Uniform, Student, Multivariate, Replaced, Shuffled)


@settings(max_examples=300)
@given(st.text("sutm0123456789.e+-:replacshuf ", max_size=12))
def test_every_text_is_read_or_refused_by_the_grammar(text):
    try:
        corruptor = corruptor_of(text)
    except InvalidArgument:
        with pytest.raises(InvalidArgument, match=r"\A[^\n]* is not understood; give sX [^\n]*\Z"):
            corruptor_of(text)
    else:
        assert isinstance(corruptor, KNOWN)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("s3", Scaled(3.0)),
        ("s.5e1", Scaled(5.0)),
        ("1e-6", Gaussian(1e-6)),
        ("1e6", Gaussian(1e6)),
        ("0", Gaussian(0.0)),
        ("u2.", Uniform(2.0)),
        (np.float32(0.5), Gaussian(0.5)),
        (2, Gaussian(2.0)),
        ("shuffle", Shuffled()),
        ("replace:s3", Replaced(Scaled(3.0))),
    ],
)
def test_the_grammar(text, want):
    assert corruptor_of(text) == want


def test_a_corruptor_stays_as_it_is():
    assert corruptor_of(TWIN) is TWIN


@pytest.mark.parametrize(
    "noise",
    [
        *(
            "",
            " ",
            "x3",
            "s",
            "s-1",
            "u-1",
            "t",
            "t2",
            "t-3",
            "-1",
            "nan",
            "inf",
            "s1e999",
            "snan",
            "1_0",
            "S3",
        ),
        *(
            "sm",
            "m3",
            "replace:",
            "replace:shuffle",
            "replace:replace:m",
            "replace",
            "shuffle2",
            "s3 s4",
            "s٣",
        ),
        *(
            float("nan"),
            float("inf"),
            -0.1,
            10**400,
            -(10**400),
            True,
            None,
            [0.1],
            {},
            Gaussian,
            np.array(["a"]),
        ),
    ],
    ids=repr,
)
def test_what_is_no_noise_is_refused_with_the_grammar(noise):
    with pytest.raises(InvalidArgument, match=r"^noise .* is not understood; give sX .*replace: .*shuffle"):
        corruptor_of(noise)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gaussian(-1.0),
        lambda: Scaled(float("nan")),
        lambda: Uniform(float("inf")),
        lambda: Student(2.0),
        lambda: Student("3"),
        lambda: Gaussian(True),
    ],
)
def test_corruptors_are_valid_from_birth(make):
    with pytest.raises(InvalidArgument, match="not understood"):
        make()


@pytest.mark.parametrize("noise", [Shuffled(), TWIN, Replaced(Gaussian(1.0)), 0.1])
def test_only_noise_stands_instead_of_embeddings(noise):
    with pytest.raises(InvalidArgument, match="is no noise"):
        Replaced(noise)
