"""One harvest by many hands: processes, shards on other machines, killed workers: always the same bytes."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest

from glossator import pipeline
from glossator.config import Recipe
from glossator.errors import HarvestError, UsageError
from glossator.harness.harvest import Harvest, harvest, merge, run_missing
from glossator.harness.parts import parts_in
from glossator.harness.workers import (
    _Hand,
    _listen,
    _News,
    _shared,
    run_ray,
    run_shard,
    run_workers,
    set_up,
    share,
    too_small,
)
from glossator.store.store import Store
from tests.harness.planted_runs import small_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Planted documents cut into some thirty shards."""
    return small_recipe(tmp_path_factory.mktemp("workers"), 300)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Harvest:
    found = harvest(set_up(recipe), tmp_path_factory.mktemp("whole"))
    assert found.shards > 10
    return found


def digests(found: Harvest) -> list[str]:
    return [one.digest for one in found.found]


def merged(recipe: Recipe, folder: Path) -> list[str]:
    work = set_up(recipe)
    return digests(merge(work, [part.path for part in parts_in(folder, work.about)]))


@pytest.mark.slow
def test_worker_processes_find_what_one_process_finds(recipe: Recipe, whole: Harvest, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    work = set_up(recipe)
    run_workers(work, recipe, tmp_path, 2, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (work.n_tokens, work.n_tokens)
    assert len(list(tmp_path.iterdir())) == 2  # one part each, and no corpus left behind
    assert merged(recipe, tmp_path) == digests(whole)


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_nothing_finished_with_it(recipe: Recipe, whole: Harvest, tmp_path: Path) -> None:
    work = set_up(recipe)

    def kill() -> None:
        while not list(tmp_path.glob("part-*.npz")):
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(
        HarvestError, match=r"worker \d of 2 failed, the others were stopped: the process died .exit code -9"
    ):
        run_workers(work, recipe, tmp_path, 2, lambda done, total: None)
    killer.join()
    kept = {part.path: part.path.stat().st_mtime_ns for part in parts_in(tmp_path, work.about)}
    assert kept
    run_workers(work, recipe, tmp_path, 2, lambda done, total: None)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert merged(recipe, tmp_path) == digests(whole)


@pytest.mark.slow
def test_a_worker_that_cannot_load_says_why(recipe: Recipe, tmp_path: Path) -> None:
    work = set_up(recipe)
    gone = recipe.model_copy(update={"subject": recipe.subject.model_copy(update={"model": str(tmp_path / "gone")})})
    with pytest.raises(HarvestError, match=r"worker \d of 2 failed, the others were stopped: .*gone: cannot be loaded"):
        run_workers(work, gone, tmp_path, 2, lambda done, total: None)


def test_shards_are_shared_out_once_whatever_is_done_already() -> None:
    for n in (1, 2, 5, 16):
        for of in (1, 2, 3, 7):
            runs = [share(n, number, of) for number in range(1, of + 1)]
            assert [s for a, b in runs for s in range(a, b)] == list(range(n))
    assert _shared([(0, 10)], 2) == [(0, 5), (5, 10)]
    assert _shared([(3, 5), (8, 9)], 2) == [(3, 4), (4, 5), (8, 9)]
    assert _shared([(0, 2)], 4) == [(0, 1), (1, 2)]
    assert _shared([], 4) == []


def test_shards_of_several_machines_are_merged_into_one_run_file(
    recipe: Recipe, whole: Harvest, tmp_path: Path
) -> None:
    for number in (3, 1, 2):
        pipeline.harvest_shard(tmp_path / "run.duckdb", recipe, number, 3)
    assert not (tmp_path / "run.duckdb").exists()
    folder = tmp_path / "run.duckdb.harvest"
    files = sorted(folder.iterdir())
    assert len(files) == 3
    with pytest.raises(HarvestError, match="lack the shards"):
        pipeline.merge(tmp_path / "less.duckdb", files[:2])
    pipeline.merge(tmp_path / "run.duckdb", [files[2], files[0], files[1]])
    pipeline.merge(tmp_path / "again.duckdb", [folder])
    for name in ("run", "again"):
        with Store(tmp_path / f"{name}.duckdb", create=False) as store:
            assert store.sql("SELECT dictionary, digest FROM harvest ORDER BY ALL") == [
                (name, one) for name, one in zip(("one", "two"), digests(whole), strict=True)
            ]
            assert store.sql("SELECT dictionary, count(*) FROM feature GROUP BY ALL ORDER BY ALL") == [
                ("one", 48),
                ("two", 64),
            ]
    with pytest.raises(UsageError, match="holds a harvest already"):
        pipeline.merge(tmp_path / "run.duckdb", [folder])


def test_what_is_no_part_is_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no parts here"):
        pipeline.merge(tmp_path / "a.duckdb", [tmp_path])
    with pytest.raises(HarvestError, match=r"none\.npz: no such part"):
        pipeline.merge(tmp_path / "b.duckdb", [tmp_path / "none.npz"])
    (tmp_path / "part-x-00000-00001.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(HarvestError, match=r"00001\.npz: is no complete part"):
        pipeline.merge(tmp_path / "c.duckdb", [tmp_path])


def test_a_changed_corpus_is_noticed_when_parts_are_merged(recipe: Recipe, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text(Path(recipe.subject.corpus[0]).read_text())
    mine = recipe.model_copy(update={"subject": recipe.subject.model_copy(update={"corpus": (str(text),)})})
    pipeline.harvest_shard(tmp_path / "run.duckdb", mine, 1, 1)
    text.write_text(text.read_text().replace("falcon", "lamp"))
    with pytest.raises(HarvestError, match=r"comes from another harvest .another corpus"):
        pipeline.merge(tmp_path / "run.duckdb", [tmp_path / "run.duckdb.harvest"])


_DRIVER = """
import multiprocessing, signal, sys
from pathlib import Path
import glossator
from glossator.config import Recipe
from glossator.harness.workers import run_workers, set_up

def tell(done, total):
    print(len(multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
    try:
        run_workers(set_up(recipe), recipe, Path(sys.argv[2]), 2, tell)
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(recipe: Recipe, tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "driver.py").write_text(_DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "recipe.json"), str(tmp_path / "parts")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "2\n"
        if how is signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does
        else:
            process.kill()
        said, errors = process.communicate(
            timeout=120
        )  # until the workers, who write to the same pipes, have ended too
    assert "Traceback" not in errors
    assert ("stopped" in said) is (how is signal.SIGINT)
    assert not list((tmp_path / "parts").glob("part-*"))
    assert len(list((tmp_path / "parts").iterdir())) == (
        how is signal.SIGKILL
    )  # the corpus, until the end of the harvest


def hand(exit_code: int = 0) -> tuple[_Hand, Connection]:
    news, tell = multiprocessing.Pipe(duplex=False)
    return _Hand(SimpleNamespace(exitcode=exit_code, join=lambda: None), news), tell


def test_what_a_worker_fails_of_is_told_before_the_others_have_ended(recipe: Recipe) -> None:
    work = set_up(recipe)
    (one, told), (two, still_open) = hand(), hand()
    told.send(_News(7))
    told.send(_News(7, "no luck"))
    seen: list[int] = []
    with pytest.raises(
        HarvestError, match="worker 1 of 2 failed, the others were stopped: no luck; what they finished is kept"
    ):
        _listen([one, two], [(0, 1), (1, 2)], work, lambda done, total: seen.append(done))
    assert seen[-1] - seen[0] == 7
    assert not still_open.closed


def test_a_worker_that_is_killed_in_the_middle_of_a_word_is_one_that_died(recipe: Recipe) -> None:
    work = set_up(recipe)
    (one, tell), (two, other) = hand(-9), hand()
    os.write(tell.fileno(), b"\0\0\0\x10abc")
    tell.close()
    other.close()
    with pytest.raises(HarvestError, match=r"worker 1 of 2 failed.*the process died .exit code -9"):
        _listen([one, two], [(0, 1), (1, 2)], work, lambda done, total: None)


_KILLED = """
import sys, time
from pathlib import Path
from glossator.config import Recipe
from glossator.harness.harvest import run_missing
from glossator.harness.workers import set_up
work = set_up(Recipe.model_validate_json(Path(sys.argv[1]).read_text()))
print("ready", flush=True)
run_missing(work, Path(sys.argv[2]), 0, len(work.ranges), lambda done, total: time.sleep(0.05))
"""


@pytest.mark.slow
def test_a_harvest_that_is_killed_again_and_again_ends_with_the_same_bytes(
    recipe: Recipe, whole: Harvest, tmp_path: Path
) -> None:
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    folder = tmp_path / "parts"
    draw = random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", _KILLED, str(tmp_path / "recipe.json"), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stdout.readline() == "ready\n"
            before = set(folder.glob("part-*.npz"))
            while set(folder.glob("part-*.npz")) == before:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.6))
            process.kill()
    work = set_up(recipe)
    assert len(parts_in(folder, work.about)) > 0
    run_missing(work, folder, 0, len(work.ranges))
    assert merged(recipe, folder) == digests(whole)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'glossator[ray]'"
)
def test_ray_tasks_find_what_one_process_finds(recipe: Recipe, whole: Harvest, tmp_path: Path) -> None:
    ended: list[tuple[int, int]] = []
    run_ray(recipe, tmp_path, 3, lambda done, of: ended.append((done, of)))
    assert ended == [(1, 3), (2, 3), (3, 3)]
    assert merged(recipe, tmp_path) == digests(whole)
    gone = recipe.model_copy(update={"subject": recipe.subject.model_copy(update={"model": str(tmp_path / "gone")})})
    with pytest.raises(HarvestError, match=r"2 of 2 tasks failed: .*gone"):
        run_ray(gone, tmp_path, 2, lambda done, of: None)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_its_engine_says_what_to_install(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pip install 'glossator\[ray\]'"):
        run_ray(recipe, tmp_path, 2, lambda done, of: None)


def test_a_shard_that_has_nothing_to_do_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    one = recipe.model_copy(
        update={"harvest": recipe.harvest.model_copy(update={"shard_tokens": 10**7, "batch_tokens": 2**16})}
    )
    run_shard(one, tmp_path, 1, 2, lambda done, total: None)
    assert not list(tmp_path.glob("part-*"))
    run_shard(one, tmp_path, 2, 2, lambda done, total: None)
    assert len(list(tmp_path.glob("part-*"))) == 1


def test_a_small_corpus_is_cut_finer_for_several_workers(recipe: Recipe, whole: Harvest, tmp_path: Path) -> None:
    wide = recipe.model_copy(update={"harvest": recipe.harvest.model_copy(update={"shard_tokens": 262_144})})
    alone = set_up(wide)
    assert len(alone.ranges) == 1
    assert too_small(alone, 1) is None
    three = set_up(wide, workers=3)
    assert len(three.ranges) in (12, 13)
    assert too_small(three, 3) is None
    again = set_up(Recipe.model_validate_json(three.recipe or ""))  # as whoever merges does
    assert again.about == three.about
    many = set_up(wide, workers=100)
    assert many.config.shard_tokens == 8 * 512  # not smaller: batches would be filled up with nothing
    said = too_small(many, 100)
    assert said is not None and "shards of up to 4,096 tokens: 100 workers need at least some 409,600 to share" in said
    assert set_up(recipe, workers=3).config == recipe.harvest  # fine enough as it is
    one = [run_found(wide, tmp_path / str(workers), workers) for workers in (1, 3)]
    assert one[0] == one[1]  # here rounding changes nothing


def run_found(recipe: Recipe, folder: Path, workers: int) -> list[str]:
    return digests(harvest(set_up(recipe, workers=workers), folder))
