"""What a harvest says to who runs it: before the work what is wrong, afterwards what came out and what to do next."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from glossator import pipeline
from glossator.cli import main
from glossator.config import CorpusConfig, Recipe, SubjectConfig, elsewhere, located, subject_config
from glossator.errors import CorpusError, FeatureError, HarvestError, StoreError, SubjectError, UsageError
from glossator.harness.loading import LoadingCheck
from glossator.harness.workers import set_up
from glossator.store.records import the_dictionary
from glossator.store.store import Store
from glossator.types import Document
from tests.harness.planted_runs import corpus_of, small_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("words"), 60)


def changed(recipe: Recipe, **subject: Any) -> Recipe:
    return recipe.model_copy(update={"subject": recipe.subject.model_copy(update=subject)})


# ------------------------------------------------------------------ before the work


def test_an_engine_that_there_is_not_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--engine foo: write one of process, ray"):
        pipeline.harvest(tmp_path / "run.duckdb", recipe, engine="foo")
    assert list(tmp_path.iterdir()) == []


HARVEST = ["--model", "demo", "--dictionary", "demo", "--corpus", "themes", "--shard", "1/2"]


@pytest.mark.parametrize("more", [["--workers", "2"], ["--engine", "ray"]])
def test_a_share_is_not_shared_again(tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["harvest", str(tmp_path / "run.duckdb"), *HARVEST, *more])
    assert stopped.value.code == 2
    assert "--shard: one process runs a share; leave out --workers and --engine" in capsys.readouterr().err


def test_a_harvest_that_fails_leaves_no_empty_run_file(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run.duckdb"
    gone = changed(recipe, model=str(tmp_path / "gone"))
    with pytest.raises(SubjectError, match="gone: cannot be loaded"):
        pipeline.harvest(run, gone)
    assert not run.exists()
    with Store(run):  # empty, but not made by the harvest
        pass
    with pytest.raises(SubjectError, match="gone: cannot be loaded"):
        pipeline.harvest(run, gone)
    assert run.exists()


def test_a_run_file_that_cannot_be_used_is_found_out_before_anything_is_loaded(recipe: Recipe, tmp_path: Path) -> None:
    gone = changed(recipe, model=str(tmp_path / "gone"))
    (tmp_path / "text.duckdb").write_text("no database " * 10)
    with pytest.raises(StoreError, match="is not a DuckDB file"):
        pipeline.harvest(tmp_path / "text.duckdb", gone)
    assert (tmp_path / "text.duckdb").exists()
    where = tmp_path / "no" / "run.duckdb"
    for job in (
        lambda: pipeline.harvest(where, gone),
        lambda: pipeline.harvest_shard(where, gone, 1, 2),
        lambda: pipeline.demo(where),
    ):
        with pytest.raises(UsageError, match=r"there is no folder .*no; make it first"):
            job()


def test_a_dictionary_that_nobody_named_is_not_called_none() -> None:
    with Store(":memory:") as store:
        for name in ("a", "b"):
            store.execute("INSERT INTO dictionary (dictionary) VALUES (?)", [name])
        with pytest.raises(FeatureError, match=r"^--dictionary: this run has a, b; name one of them$"):
            the_dictionary(store)
        with pytest.raises(FeatureError, match=r"^--dictionary c: this run has a, b; name one of them$"):
            the_dictionary(store, "c")


def test_one_document_is_not_called_documents() -> None:
    with pytest.raises(CorpusError, match="the corpus has 1 document in 1 group: too few to fill the split"):
        corpus_of([Document("only", ("the lamp stood near the door",))])


# ------------------------------------------------------------------ what is said of the loading


def test_a_card_that_says_nothing_is_not_quoted() -> None:
    assert LoadingCheck(9.6, 0.5, None, None).summary == "variance explained 0.50, L0 9.6"
    assert (
        LoadingCheck(9.6, 0.5, 10.0, 0.8).summary
        == "variance explained 0.50 (its card: 0.80), L0 9.6 (its card: 10.00)"
    )
    assert LoadingCheck(99.0, 1.0, None, None, learned=False).summary == "L0 99.0"


# ------------------------------------------------------------------ afterwards


def test_a_harvest_says_what_came_out_and_what_stays(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run.duckdb"
    narrow = recipe.model_copy(update={"corpus": CorpusConfig(context_size=48)})
    pipeline.harvest_shard(run, narrow, 1, 2)
    folder = pipeline.harvest_folder(run)
    theirs = sorted(folder.iterdir())
    said: list[str] = []
    wide = changed(recipe, dictionaries=(recipe.subject.dictionaries[0], "neurons"), hooks=("h.1", "h.1"))
    wide = wide.model_copy(update={"corpus": CorpusConfig(context_size=4096)})
    pipeline.harvest(run, wide, say=said.append)
    assert said[0] == "--context-size 4096: the model reads 64 tokens at most, so contexts have 64"
    assert next(line for line in said if line.startswith("dictionary neurons")).rpartition(", ")[2].startswith("L0 ")
    assert said[-2] == f"{folder}: still holds files of other harvests (1); merge them, or delete the folder"
    assert sorted(folder.iterdir()) == theirs
    with Store(run) as store:
        n = dict(store.sql("SELECT status, count(*) FROM feature GROUP BY status"))
    assert said[-1].startswith(f"{run}: {sum(n.values())} features (")
    assert all(f"{count} {status}" in said[-1] for status, count in n.items())
    assert said[-1].endswith(f"; next: glossator label {run}")
    with pytest.raises(UsageError, match="holds a harvest already; name another file"):
        pipeline.harvest(run, recipe)
    with Store(run) as store:
        assert store.sql("SELECT count(*) FROM dictionary") == [(2,)]


def test_more_workers_than_shards_are_told_what_they_need(recipe: Recipe, tmp_path: Path) -> None:
    said: list[str] = []
    pipeline.harvest_shard(tmp_path / "run.duckdb", recipe, 1, 50, say=said.append)
    n = len(set_up(recipe, workers=50).ranges)
    line = (
        f"--shard 1/50: the corpus is {n} shards of up to 2,048 tokens: 50 workers need at least some 102,400 to share"
    )
    assert line in said


def test_parts_that_differ_in_what_made_them_are_a_warning(recipe: Recipe, tmp_path: Path) -> None:
    run, said = tmp_path / "run.duckdb", list[str]()
    pipeline.harvest_shard(run, recipe, 1, 2)
    two = recipe.model_copy(update={"harvest": recipe.harvest.model_copy(update={"threads": 2})})
    pipeline.harvest_shard(run, two, 2, 2)
    pipeline.harvest(run, recipe, say=said.append)
    (warning,) = [line for line in said if line.startswith("WARNING: the parts")]
    assert warning == (
        "WARNING: the parts were made with different threads (1 and 2): they equal those of one machine up to rounding"
    )
    assert not pipeline.harvest_folder(run).exists()


# ------------------------------------------------------------------ merging elsewhere


def test_parts_are_merged_where_everything_lies_elsewhere(recipe: Recipe, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    shutil.copytree(Path(recipe.subject.model).parent, here)
    mine = small_places(recipe, here)
    for number in (1, 2):
        pipeline.harvest_shard(tmp_path / "run.duckdb", mine, number, 2)
    folder = pipeline.harvest_folder(tmp_path / "run.duckdb")
    for old, new in (("model", "my model"), ("one", "1"), ("two", "2"), ("text.jsonl", "text.jsonl")):
        shutil.move(here / old, there / new)
    run = there / "run.duckdb"
    with pytest.raises(UsageError, match="no such folder"):
        pipeline.merge(run, [folder])
    assert not run.exists()
    dictionaries = [str(there / "1"), str(there / "2")]
    places: dict[str, Any] = {"model": str(there / "my model"), "corpus": [str(there / "text.jsonl")]}
    with pytest.raises(UsageError, match="--dictionary: 1 given, the parts hold 2; name "):
        pipeline.merge(run, [folder], **places, dictionaries=dictionaries[:1])
    with pytest.raises(HarvestError, match=r"comes from another harvest .another dictionary"):
        pipeline.merge(run, [folder], **places, dictionaries=dictionaries[::-1])
    said: list[str] = []
    pipeline.merge(run, [folder], said.append, **places, dictionaries=dictionaries)
    assert said[-2] == f"2 parts joined; they may be deleted: {folder}"
    assert said[-1].startswith(f"{run}: 112 features (")
    with Store(run) as store:
        assert store.sql("SELECT dictionary FROM dictionary ORDER BY ALL") == [("1",), ("2",)]


def small_places(recipe: Recipe, folder: Path) -> Recipe:
    return changed(
        recipe,
        model=str(folder / "model"),
        dictionaries=(str(folder / "one"), str(folder / "two")),
        corpus=(str(folder / "text.jsonl"),),
    )


def test_what_we_ship_is_looked_for_where_it_is_needed() -> None:
    what = subject_config("demo", [], ["demo", "neurons"], ["themes"])
    assert what == SubjectConfig(
        model="demo", dictionaries=("demo", "neurons"), hooks=(None, None), corpus=("themes",)
    )  # no path of this machine
    found = located(what)
    assert found.hooks == ("encoder.layer.4", None) and found.model_name == "all-MiniLM-L6-v2"
    assert Path(found.dictionaries[0], "cfg.json").exists() and Path(found.model, "config.json").exists()
    assert located(found) == found
    assert elsewhere(what, None, (), ()) == what
    assert located(subject_config("gpt2", ["h.2"], ["demo"], ["themes"])).hooks == ("h.2",)
