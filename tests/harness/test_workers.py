"""One harvest by many hands: processes, shards on other machines, killed workers: always the same bytes."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sae_lens import SAE
from sae_lens.saes.topk_sae import TopKSAEConfig

from glossator import pipeline
from glossator.config import CorpusConfig, HarvestConfig, Recipe, SubjectConfig
from glossator.errors import HarvestError, StoreError, UsageError
from glossator.harness.harvest import Harvest, harvest, merge, run_missing
from glossator.harness.parts import parts_in
from glossator.harness.workers import _shared, run_ray, run_shard, run_workers, set_up, share
from glossator.planted import planted_documents
from glossator.store.store import Store
from tests.harness.small_models import small_gpt2


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny GPT-2, two random dictionaries at two layers, planted documents cut into some thirty shards."""
    folder = tmp_path_factory.mktemp("workers")
    small_gpt2(folder / "model")
    for name in ("one", "two"):
        config = TopKSAEConfig(d_in=16, d_sae={"one": 48, "two": 64}[name], k=4, device="cpu")
        SAE.get_sae_class_for_architecture("topk")(config).save_model(folder / name)
    with (folder / "text.jsonl").open("w") as file:
        for document in planted_documents(300):
            file.write(json.dumps({"name": document.name, "text": " ".join(document.passages)}) + "\n")
    what = SubjectConfig(
        model=str(folder / "model"),
        dictionaries=(str(folder / "one"), str(folder / "two")),
        hooks=("blocks.0.hook_resid_post", "h.1"),
        corpus=(str(folder / "text.jsonl"),),
    )
    config = HarvestConfig(
        top=5, sample=10, background=(60, 30, 60), batch_tokens=512, encode_tokens=512, shard_tokens=2048, threads=1
    )
    return Recipe(subject=what, corpus=CorpusConfig(context_size=64), harvest=config)


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
        while not list(tmp_path.glob("part-*")):
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(HarvestError, match=r"1 of 2 workers failed; worker \d: the process died .exit code -9"):
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
    with pytest.raises(HarvestError, match=r"2 of 2 workers failed; worker .: .*gone: cannot be loaded"):
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
    with pytest.raises(StoreError, match="holds a harvest already"):
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
    one = recipe.model_copy(update={"harvest": recipe.harvest.model_copy(update={"shard_tokens": 10**7})})
    run_shard(one, tmp_path, 1, 2, lambda done, total: None)
    assert not list(tmp_path.glob("part-*"))
    run_shard(one, tmp_path, 2, 2, lambda done, total: None)
    assert len(list(tmp_path.glob("part-*"))) == 1
