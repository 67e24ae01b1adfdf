"""Commands as a user gives them, on a model of their own.

They keep verdicts on the models they run: not in the cache of whoever runs the tests.
"""

import pytest

from families import tiny
from patchpoint.cli.main import main
from words import word_tokenizer


@pytest.fixture(scope="session")
def made_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(made_cache, monkeypatch):
    """One for all tests, so that each made model is examined once."""
    monkeypatch.setenv("PATCHPOINT_CACHE", str(made_cache))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny GPT-2 on disk, as a user's own model."""
    path = tmp_path_factory.mktemp("model")
    tiny("gpt2").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def run(folder, capsys):
    """Runs a command and returns (exit code, standard output, standard error)."""

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        done = capsys.readouterr()
        return end.value.code, done.out, done.err

    return call
