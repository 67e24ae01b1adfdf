"""A run killed at any moment continues to the bytes of an unbroken one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

N_FACTS = 6
TABLES = ("effects.parquet", "facts.parquet")


# One process imports the library and forks a writer per try; a writer that ends by itself has finished.
KILLER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
from conftest import make_effects, make_record, make_row
from pathlib import Path
from patchpoint.results import Store, disk, store as store_module

N_FACTS = 6
OPERATIONS = [(disk.os, "replace"), (disk.os, "fsync"), (store_module.shutil, "rmtree"), (os, "mkdir")]

def write(folder, seed):
    with Store.create_or_resume(folder, make_record()) as store:
        todo = sorted(set(range(1, N_FACTS + 1)) - store.statuses().keys())
        random.Random(seed).shuffle(todo)
        for fact in todo:
            store.write(make_row(fact), make_effects(fact))
        store.finish()

def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child

def ended(child):
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return not os.WIFSIGNALED(status)

def killed_in_time(folder, seed):
    chance = random.Random(seed)
    kills = 0
    while True:
        child = forked(lambda: write(folder, chance.random()))
        time.sleep(chance.uniform(0.002, 0.01 + 0.003 * kills))
        os.kill(child, signal.SIGKILL)
        if ended(child):
            return kills
        kills += 1

def killed_at(folder, count):
    def work():
        left = [count]
        for module, name in OPERATIONS:
            def counted(*given, real=getattr(module, name), **named):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return real(*given, **named)
            setattr(module, name, counted)
        write(folder, count)
    return not ended(forked(work))

make_record()  # asks git once, for all the forks
root = Path(sys.argv[2])
if sys.argv[3] == "times":
    print(*(killed_in_time(root / str(seed), seed) for seed in range(4)))
else:
    count = 0
    while killed_at(root / str(count), count):
        assert ended(forked(lambda: write(root / str(count), -count)))
        count += 1
    print(count)
"""


def killer(tmp_path: Path, kind: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(Path(__file__).parent), str(tmp_path), kind],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="kills forked writers; this system cannot fork"
)


@needs_fork
@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path, whole, tables):
    kills = killer(tmp_path / "killed", "times")
    assert min(kills) >= 3
    for folder in (tmp_path / "killed").iterdir():
        assert tables(folder) == whole
        assert sorted(p.name for p in folder.iterdir()) == [".lock", *TABLES, "run.json"]


@needs_fork
@pytest.mark.slow
def test_killed_at_each_disk_operation_a_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path, whole, tables):
    (count,) = killer(tmp_path / "killed", "operations")
    assert count > 3 * N_FACTS
    assert len(list((tmp_path / "killed").iterdir())) == count + 1
    for folder in (tmp_path / "killed").iterdir():
        assert tables(folder) == whole
        assert sorted(p.name for p in folder.iterdir()) == [".lock", *TABLES, "run.json"]
