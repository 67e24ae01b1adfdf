"""The laboratories that experiments run in."""

import pytest

from laboratory import laboratory


@pytest.fixture(scope="module")
def lab():
    return laboratory("llama")


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox"])
def other_lab(request):
    return laboratory(request.param)
