"""Waves: what was wanted most is done wholly first, and how large a wave is changes no row, no question and no choice."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from glossator.agents.run import Run
from glossator.config import Night, read_night
from glossator.errors import BudgetSpent
from glossator.night.log import Log, events
from glossator.night.running import run_night
from glossator.night.stages import LAST, WAVES, left, stages
from glossator.night.status import standing_in
from glossator.night.stopping import Stopping
from glossator.night.watching import Watch
from glossator.night.waves import about_to_be_asked, wave_size, waves
from glossator.store.store import Store
from tests.llm.server import Server, serving
from tests.night.answers import answers
from tests.night.drilling import rows
from tests.night.planted_night import asks, model, run, sql, written

WHICH = 'which = "0-7"\norder = "density desc"\n'


def night(**sections: dict[str, object]) -> Night:
    return Night.model_validate({"run": "x.duckdb", **sections})


def test_waves_change_no_row_and_no_question(folder: Path, planted_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(planted_file, other / "run.duckdb")
    asked: list[Counter[str]] = []
    for where, wave in ((folder, "3"), (other, '"all"')):
        with serving(Server(answer=answers)) as server:
            path = written(
                where,
                features=f"{WHICH}wave = {wave}",
                explain='explainer = "cascade"',
                probe='by = "llm"',
                score='scorers = ["rule", "detection"]\nrepeats = 1',
                llm=asks(server, 8),
            )
            run(path)
            asked.append(Counter(one.body for one in server.seen))
    found, wanted = rows(folder / "run.duckdb"), rows(other / "run.duckdb")
    assert found == wanted
    assert asked[0] == asked[1] and max(asked[0].values()) == 1
    made = "SELECT comparison, count(*) FROM null_score WHERE predictor LIKE 'llm:%' GROUP BY ALL ORDER BY ALL"
    assert sql(folder, made) and sql(folder, made) == sql(other, made)
    repeats = "SELECT * EXCLUDE (run_id) FROM repeat_score ORDER BY ALL"
    assert sql(folder, repeats) and sql(folder, repeats) == sql(other, repeats)
    began = [one for one in events(folder / "run.duckdb") if one["event"] == "stage begun"]
    order = [
        (one["stage"], one.get("wave")) for one in began if one["stage"] in ("explain", "probe", "read", "compare")
    ]
    assert order == [(s, f"wave {n} of 3") for n in (1, 2, 3) for s in ("explain", "probe", "read")] + [
        ("compare", None)
    ]
    said = run(path)
    assert all(
        any(line == f"{one}: stands for all 8 features" for line in said) for one in ("explain", "read", "compare")
    )


def test_a_night_that_ends_early_has_the_features_that_were_wanted_most_done_wholly(folder: Path) -> None:
    sections = {
        "features": f"{WHICH}wave = 2",
        "probe": 'by = "none"',
        "explain": 'explainer = "oneshot"',
        "score": 'scorers = ["detection"]',
    }
    with serving(Server(answer=answers)) as server:
        with pytest.raises(BudgetSpent):
            run(written(folder, **sections, llm=asks(server, 2), limits="tokens = 42_000"))
        order = [f for (f,) in sql(folder, "SELECT feature FROM feature WHERE feature < 8 ORDER BY density DESC")]
        explained = {f for (f,) in sql(folder, "SELECT feature FROM explanation WHERE explainer = 'oneshot'")}
        is_read = {
            f for (f,) in sql(folder, "SELECT feature FROM score WHERE explainer = 'oneshot' AND split = 'test'")
        }
        assert 2 <= len(is_read) < 8 and set(order[: len(is_read)]) == is_read
        assert len(explained - is_read) <= 2, "no more than a wave is half done"
        run(written(folder, **sections, llm=asks(server, 2)))
    assert {
        f for (f,) in sql(folder, "SELECT feature FROM score WHERE explainer = 'oneshot' AND split = 'test'")
    } == set(order)
    assert sql(folder, "SELECT count(*) - count(DISTINCT call_id) FROM llm_call WHERE reply IS NOT NULL") == [(0,)]


def test_labels_are_settled_before_they_are_read_when_a_kill_came_between(folder: Path) -> None:
    sections = {
        "features": WHICH,
        "probe": 'by = "none"',
        "explain": 'explainer = "best_of:2"',
        "score": 'scorers = ["detection"]\nnulls = false',
    }
    with serving(Server(answer=answers)) as server:
        path = written(folder, **{**sections, "score": "scorers = []"}, llm=asks(server))
        run(path)
        with Store(folder / "run.duckdb") as store:  # as a kill leaves it after the last explanation
            labels = store.sql("SELECT explanation_id FROM label WHERE label IS NOT NULL AND feature < 8 ORDER BY ALL")
            store.execute("UPDATE label SET label = NULL, explanation_id = NULL, explainer = NULL")
            store.execute("UPDATE run SET finished = NULL WHERE stage = 'night:explain'")
        run(written(folder, **sections, llm=asks(server)))
    is_read = "SELECT DISTINCT explanation_id FROM score WHERE split = 'test' AND predictor LIKE 'llm:%' ORDER BY ALL"
    assert sql(folder, is_read) == labels


def test_the_subject_is_loaded_once_for_all_waves_and_then_let_go(mini_run: Path, tmp_path: Path) -> None:
    shutil.copy(mini_run, tmp_path / "run.duckdb")
    with Store(tmp_path / "run.duckdb") as store:
        one = Run(store)
        with one.keeping():
            assert not one.at_hand
            first = one.model()
            assert one.at_hand and one.model()[0] is first[0] and one.model()[1] is first[1]
        assert not one.at_hand


def test_a_wave_is_as_large_as_its_tail_is_cheap_and_there_are_not_too_many() -> None:
    live = {"writer": "openai:x@http://127.0.0.1:9/v1", "concurrency": 10}
    assert wave_size(night(llm=live), 2000, 2000) == 160
    assert wave_size(night(llm=live), 2000, 500) == 640, "features that nobody is asked about take no place"
    assert wave_size(night(llm=live), 2000, 0) == 2000
    assert wave_size(night(llm=live), 1_000_000, 1_000_000) == 31_250, "at most 32 waves"
    assert wave_size(night(llm=live, features={"wave": 7}), 2000, 2000) == 7
    assert wave_size(night(llm=live, features={"wave": "all"}), 2000, 2000) == 2000
    for batched in ("openai:x@http://127.0.0.1:9/v1+batch", "files:x@somewhere"):
        assert wave_size(night(llm={"writer": batched}), 2000, 2000) == 2000
        assert wave_size(night(llm={**live, "reader": batched}), 2000, 2000) == 2000
    pieces = waves(night(llm=live, features={"wave": 3}), [9, 1, 5, 7], 4)
    assert pieces == [(9, 1, 5), (7,)]


def test_features_that_a_cascade_leaves_alone_are_not_counted(folder: Path) -> None:
    path = written(folder, features=WHICH)
    run(path)
    with Store(folder / "run.duckdb") as store:
        store.execute("UPDATE feature SET status = 'rare' WHERE feature = 2")
        store.execute("UPDATE score SET value = 0.99 WHERE feature = 3 AND split = 'select' AND metric = 'simulation'")
        store.execute(
            "UPDATE score SET value = 0.1 WHERE feature NOT IN (2, 3) AND split = 'select' AND metric = 'simulation'"
        )
        one = Run(store)
        assert about_to_be_asked(night(explain={"explainer": "cascade"}), one, range(8)) == 6
        assert about_to_be_asked(night(explain={"explainer": "oneshot"}), one, range(8)) == 8


def test_the_size_of_a_wave_chooses_no_other_features_and_does_nothing_anew(folder: Path) -> None:
    which = 'which = "label IS NULL"\norder = "density"\nfirst = 4\n'
    run(written(folder, features=which, probe='by = "none"'))
    before = sql(folder, "SELECT DISTINCT feature FROM explanation ORDER BY ALL")
    said = run(written(folder, features=f"{which}wave = 2", probe='by = "none"'))
    assert "rules: stands for all 4 features" in said
    assert sql(folder, "SELECT DISTINCT feature FROM explanation ORDER BY ALL") == before


@pytest.mark.parametrize("wave", ["0", "-3", '"some"', "2.5", "true", "[1]"])
def test_what_is_no_size_of_a_wave_is_told_with_its_line(wave: str, tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_text(f'run = "x"\n[features]\nwave = {wave}\n')
    (one,) = read_night(tmp_path / "night.toml").mistakes
    assert (one.line, one.key) == (3, "features.wave") and '"all"' in one.message


def test_comparisons_come_after_all_waves_and_stand_apart_from_what_was_read() -> None:
    asked = night(
        llm={"writer": "openai:x@http://127.0.0.1:9/v1"}, explain={"explainer": "cascade"}, score={"scorers": ("rule", "detection", "embedding")}
    )  # fmt: skip
    when = {one.name: one.when for one in stages(asked)}
    assert [name for name, of in when.items() if of == WAVES] == ["explain", "read"]
    assert [name for name, of in when.items() if of == LAST] == ["embedding", "compare"]
    none = asked.model_copy(update={"score": asked.score.model_copy(update={"nulls": False})})
    assert "compare" not in [one.name for one in stages(none)]


def test_comparisons_that_are_asked_for_later_read_no_label_again(folder: Path) -> None:
    sections = {"features": WHICH, "probe": 'by = "none"', "explain": 'explainer = "lexical"'}
    with serving(Server(answer=answers)) as server:
        run(written(folder, **sections, score='scorers = ["detection"]\nnulls = false', llm=asks(server)))
        asked = len(server.seen)
        path = written(folder, **sections, score='scorers = ["detection"]', llm=asks(server))
        with Store(folder / "run.duckdb") as store:
            found = {one.name: left(Run(store), one, range(8)) for one in stages(read_night(path).night)}
        assert found["read"].stands == 8 and len(found["compare"].todo) == 8
        said = run(path)
        assert any(line == "read: stands for all 8 features" for line in said)
        assert len(server.seen) > asked
        said = run(path)
        assert any(line == "compare: stands for all 8 features" for line in said)
        said = run(written(folder, **sections, score='scorers = ["detection"]', llm=asks(server) + '\neffort = "low"'))
    assert [line for line in said if line.startswith("compare: settings have changed")], "another effort, other answers"


def test_a_stage_in_pieces_is_shown_with_the_features_of_all_of_them(tmp_path: Path) -> None:
    watch = Watch(
        "run", ["explain", "read", "report"], Log(tmp_path / "run"), lambda one: None, lambda line: None, Stopping()
    )
    watch.expects("explain", 4, 10)
    watch.expects("read", 0, 10)
    with watch.stage("explain", "d", 3, "wave 1 of 2"):
        watch.progress("oneshot", 30, 90)  # whatever the stage counts
        assert [(one.done, one.total, one.state) for one in watch.standing().stages[:2]] == [
            (5, 10, "running"),
            (0, 10, "waiting"),
        ]
    assert [(one.done, one.state) for one in watch.standing().stages[:1]] == [(7, "waiting")]
    with watch.stage("read", "d", 7, "wave 1 of 2"):
        watch.progress("read labels", 0, 14)
        told = standing_in(list(events(tmp_path / "run")))
        assert told is not None and [(one.done, one.total, one.state) for one in told.stages[:2]] == [
            (7, 10, "waiting"),
            (0, 10, "running"),
        ]
    with watch.stage("explain", "d", 3, "wave 2 of 2"):
        pass
    assert [(one.done, one.total, one.state) for one in watch.standing().stages[:2]] == [
        (10, 10, "done"),
        (7, 10, "waiting"),
    ]
    watch.expects("read", 10, 10)
    with watch.stage("read", "d", 6):  # six of those that stood have a new label
        assert (watch.standing().stages[1].done, watch.standing().stages[1].total) == (4, 10)
    assert (watch.standing().stages[1].done, watch.standing().stages[1].total) == (10, 10)
    watch.expects("read", 10, 10)
    watch.through("read")
    assert watch.standing().stages[1].state == "stands"


def test_dollars_are_projected_over_the_pieces_that_wait(folder: Path, tmp_path: Path) -> None:
    watch = Watch(
        "run", ["explain", "read", "report"], Log(tmp_path / "run"), lambda one: None, lambda line: None, Stopping()
    )
    with Store(folder / "run.duckdb") as store:
        watch.reads(store, Run(store))
        watch.plans({"explain": 8.0, "read": 2.0})
        for name in ("explain", "read"):
            watch.expects(name, 0, 10)
        with watch.stage("explain", "d", 5, "wave 1 of 2"):
            assert watch.look().projected == pytest.approx(10.0), "what was planned, while nothing is known of it"
            store.execute(_CALL)  # a dollar
            watch.progress("oneshot", 5, 5)
            assert watch.look().projected == pytest.approx(1.0 + 1.0 + 2.0), "as much again for the other half"
        with watch.stage("read", "d", 5, "wave 1 of 2"):
            assert watch.look().projected == pytest.approx(1.0 + 1.0 + 2.0)
    assert json.dumps(standing_in(list(events(tmp_path / "run"))), default=str)


_CALL = "INSERT INTO llm_call BY NAME SELECT 'c' AS call_id, 1.0 AS usd, 'm' AS model, epoch(now()) AS asked_at"


def test_a_night_that_is_ended_between_any_two_pieces_ends_as_one_that_was_left_alone(
    folder: Path, planted_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(planted_file, other / "run.duckdb")
    sections = {
        "features": 'which = "0-5"\norder = "density desc"\nwave = 3',
        "probe": 'by = "none"',
        "explain": 'explainer = "oneshot"',
        "score": 'scorers = ["detection"]',
    }

    def ended(line: str) -> None:
        if line.startswith("wave "):  # what came of a piece: it is through, and the next one was not begun
            raise KeyboardInterrupt

    with serving(Server(answer=answers)) as server:
        run(written(other, **sections, llm=asks(server)))
        asked = len(server.seen)
        path, times = written(folder, **sections, llm=asks(server)), 0
        while True:
            try:
                run_night(read_night(path), say=ended, model=model())
                break
            except KeyboardInterrupt:
                times += 1
        assert times == 4, "two waves of two stages"
        assert len(server.seen) == 2 * asked, "and nothing was asked again"
    assert rows(folder / "run.duckdb") == rows(other / "run.duckdb")
