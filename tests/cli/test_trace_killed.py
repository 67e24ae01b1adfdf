"""`patchpoint trace` on a file of facts, killed without warning and continued."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from families import tiny
from words import word_tokenizer

N_FACTS = 60


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command line up to --out, over facts that are all traced."""
    root = tmp_path_factory.mktemp("killed")
    tiny("gpt2").save_pretrained(root / "model")
    word_tokenizer().save_pretrained(root / "model")
    rows = []
    for i in range(N_FACTS):
        prompt = f"w{i} w{i + 1} w{i + 2} w{i + 3} w7"
        rows.append({"prompt": prompt, "subject": f"w{i + 1}", "attribute": "w50"})
    facts = root / "facts.jsonl"
    facts.write_text("\n".join(json.dumps(row) for row in rows))
    words = ["--facts", str(facts), "--answer", "attribute", "--model", str(root / "model"), "--samples", "3"]
    return [sys.executable, "-m", "patchpoint.cli", "trace", *words, "--pictures", "", "--out"]


def n_parts(folder):
    return len(list((folder / "parts").glob("fact-*.parquet"))) if (folder / "parts").is_dir() else 0


def kill_after(words, folder, parts):
    """Start the command and SIGKILL it once so many facts are on disk."""
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        while n_parts(folder) < parts and running.poll() is None:
            time.sleep(0.002)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert running.returncode == -signal.SIGKILL, "the run ended before it could be killed"


@pytest.mark.slow
def test_two_kills_and_a_resume_give_the_bytes_of_an_unbroken_run(command, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    subprocess.run([*command, str(straight)], check=True, capture_output=True)
    words = [*command, str(broken)]
    kill_after(words, broken, 5)
    kept = n_parts(broken)
    assert 5 <= kept < N_FACTS
    kill_after(words, broken, kept + 8)
    subprocess.run(words, check=True, capture_output=True)
    for name in ("effects.parquet", "facts.parquet"):
        assert (broken / name).read_bytes() == (straight / name).read_bytes()
    rows = pq.read_table(broken / "facts.parquet").to_pylist()
    assert [row["fact"] for row in rows] == list(range(1, N_FACTS + 1))
    assert len(json.loads((broken / "run.json").read_text())["resumed"]) == 2
