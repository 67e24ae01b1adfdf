"""Settings of `pp.trace` that do not exist or do not fit together are refused in one line."""

import numpy as np
import pytest

import patchpoint as pp
from patchpoint.tracing import Twin
from words import tiny_model

PROMPT = "w5 w9 w13 w2 w44"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sever": "mlp", "state": "mlp"},
            "sever='mlp' is for state resid in direction restore, got state mlp",
        ),
        ({"sever": "attn", "state": "attn"}, "got state attn"),
        ({"sever": "mlp", "direction": "corrupt"}, "in direction corrupt"),
        ({"sever": "mpl"}, "unknown severed output 'mpl'; did you mean mlp"),
        ({"fresh_noise": True, "noise": Twin(("w5 w30 w31 w2 w44",))}, "cannot be|cannot$"),
        ({"fresh_noise": True, "noise": np.zeros((3, 2, 32), dtype="float32")}, "drawn again for every site"),
        ({"noise": "x3"}, "noise 'x3' is not understood"),
        ({"noise": "t2"}, "not understood"),
        ({"noise": "u-1"}, "not understood"),
        ({"noise": "replace:shuffle"}, "not understood"),
        ({"noise": "shuffle", "subject": "w9"}, "one token cannot be shuffled"),
        ({"noise": Twin(("w5 w9 w13 w2",))}, "4 tokens"),
        ({"noise": Twin((PROMPT,))}, "is the prompt itself"),
        ({"method": "exakt"}, "did you mean exact"),
        ({"answer": 3, "incorrect": "w4"}, "stands alone"),
        ({"seed": 2**70}, "seed"),
    ],
)
def test_wrong_combinations_are_refused(arguments, message):
    with pytest.raises(pp.PatchpointError, match=message) as caught:
        pp.trace(tiny_model("gpt2"), PROMPT, **{"subject": "w9 w13", "answer": "w20", **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [-1, 97, 10**9, True])
def test_an_answer_that_is_no_token_is_refused(answer):
    with pytest.raises(pp.PatchpointError, match="token"):
        pp.trace(tiny_model("gpt2"), PROMPT, subject="w9 w13", answer=answer)
