"""A night in this process: what it does, that running it again goes on, what stands when the file changes, and how it stops."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from glossator.agents.run import Run
from glossator.config import read_night
from glossator.errors import ProviderError, StoreError, UsageError
from glossator.night.log import log_path
from glossator.night.running import reports, run_night
from glossator.night.stages import left, stages
from glossator.progress import Standing
from glossator.store.store import Store
from tests.llm.server import Server, serving
from tests.night.answers import answers
from tests.night.planted_night import asks, model, run, sql, written

ORDER = 'which = "0-5"\norder = "density desc"'


def test_a_night_labels_what_it_was_asked_for_and_a_second_one_finds_nothing_to_do(folder: Path) -> None:
    path = written(folder, top='report = "r.html"', features=ORDER)
    run(path)
    assert sql(folder, "SELECT feature FROM label WHERE label IS NOT NULL ORDER BY ALL") == [(f,) for f in range(6)]
    assert (folder / "r.html").stat().st_size > 1000
    before = sql(folder, "SELECT count(*) FROM stage")
    said = run(path)
    assert [line for line in said if "stands for all 6" in line] == [
        f"{name}: stands for all 6 features" for name in ("rules", "edits", "rule")
    ]
    assert sql(folder, "SELECT count(*) FROM stage") == before
    assert any("6 features: 6 labelled" in line for line in said)


def test_what_is_wanted_most_is_asked_about_first(folder: Path) -> None:
    with serving(Server(answer=answers)) as server:
        run(
            written(
                folder,
                features=ORDER,
                probe='by = "none"',
                explain='explainer = "oneshot"',
                score="scorers = []",
                llm=asks(server, 1),
            )
        )
    wanted = [
        f"planted/{f}" for (f,) in sql(folder, "SELECT feature FROM feature WHERE feature < 6 ORDER BY density DESC")
    ]
    asked = [str(about) for (about,) in sql(folder, "SELECT about FROM llm_call ORDER BY asked_at")]
    assert sorted(asked) == sorted(wanted)
    assert asked[0] == wanted[0] and asked.index(wanted[-1]) >= 4


def test_a_change_says_what_is_done_anew_and_equal_questions_are_answered_from_the_log(folder: Path) -> None:
    with serving(Server(answer=answers)) as server:
        one = {"features": ORDER, "probe": 'by = "none"', "score": "scorers = []"}
        run(written(folder, **one, explain='explainer = "refine:1"', llm=asks(server)))
        calls = sql(folder, "SELECT count(*) FROM llm_call")
        said = run(written(folder, **one, explain='explainer = "refine:2"', llm=asks(server)))
        changed = [line for line in said if line.startswith("explain: settings have changed")]
        assert changed and "rounds 1 -> 2" in changed[0] and "6 features are done anew" in changed[0]
        asked = sql(folder, "SELECT count(*) - count(DISTINCT call_id) FROM llm_call")
        assert asked == [(0,)] and sql(folder, "SELECT count(*) FROM llm_call") >= calls
        said = run(written(folder, **one, explain='explainer = "refine:2"', llm=asks(server)))
        assert "explain: stands for all 6 features" in said
        said = run(written(folder, **one, explain='explainer = "refine:2"', llm=asks(server, name="another")))
        assert any("settings have changed" in line and "another" in line for line in said), (
            "another model's answers are others"
        )


def test_what_another_command_did_under_the_same_settings_stands(folder: Path) -> None:
    from glossator import pipeline
    from glossator.config import LexicalConfig

    with Store(folder / "run.duckdb") as store:
        pipeline.explain(Run(store), LexicalConfig(), [0, 1, 2])
    said = run(written(folder, features=ORDER, probe='by = "none"'))
    assert "rules: stands for 3 features, 3 to go" in said


def test_a_run_file_in_use_is_a_clear_line_and_its_log_is_left_alone(folder: Path) -> None:
    path = written(folder, features=ORDER)
    with Store(folder / "run.duckdb"), pytest.raises(StoreError, match="another process"):
        run(path)
    assert not log_path(folder / "run.duckdb").exists()


def test_mistakes_are_told_before_anything_is_started(folder: Path) -> None:
    with pytest.raises(UsageError, match="matches no feature"):
        run(written(folder, features='which = "density > 2"'))
    assert not log_path(folder / "run.duckdb").exists()
    assert sql(folder, "SELECT count(*) FROM run") == [(0,)]


def test_prompts_choose_the_features_that_fire_on_them(folder: Path) -> None:
    ((text, fires),) = sql(
        folder,
        "SELECT any_value(w.text), list(DISTINCT e.feature) FROM exemplar e JOIN text_window w USING (window_id) WHERE e.feature = 3 AND e.rank = 0 AND e.stratum = 'top' AND e.split = 'test'",
    )
    (folder / "prompts.txt").write_text(f"{text}\n\n")
    run(written(folder, features='active_on = "prompts.txt"', probe='by = "none"', score='scorers = ["rule"]'))
    labelled = {f for (f,) in sql(folder, "SELECT feature FROM explanation")}
    assert 3 in labelled and len(labelled) < 20
    assert fires == [3]


def test_the_features_of_a_condition_stay_those_of_the_first_night(folder: Path) -> None:
    path = written(
        folder,
        features='which = "label IS NULL"\norder = "density"\nfirst = 4',
        probe='by = "none"',
        score="scorers = []",
    )
    with Store(folder / "run.duckdb") as store:
        wanted = store.sql("SELECT feature FROM feature WHERE status <> 'dead' ORDER BY density, feature LIMIT 4")
    night = read_night(path)
    assert not night.mistakes
    path = written(folder, features='which = "label IS NULL"\norder = "density"\nfirst = 4', probe='by = "none"')
    run(path)
    run(path)  # none of them lacks a label now
    assert sorted(sql(folder, "SELECT DISTINCT feature FROM explanation")) == sorted(wanted)


def test_the_log_tells_what_happened_and_holds_no_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    shown: list[Standing] = []
    with serving(Server(answer=answers, keys=("other",))) as server:
        path = written(folder, features=ORDER, explain='explainer = "oneshot"', llm=asks(server))
        with pytest.raises(ProviderError):
            run_night(read_night(path), shown.append, model=model())
    text = log_path(folder / "run.duckdb").read_text()
    told = [json.loads(line) for line in text.splitlines()]
    assert "very-secret" not in text
    kinds = [one["event"] for one in told]
    assert kinds[0] == "run begun" and kinds[-1] == "run ended"
    ended = {one["stage"]: one["state"] for one in told if one["event"] == "stage ended"}
    assert ended["rules"] == "done" and ended["explain"] == "stopped"
    assert datetime.datetime.fromtimestamp(told[0]["at"]).year >= 2024
    assert [one.name for one in shown[-1].stages] == ["harvest", "rules", "edits", "rule", "explain"]


def test_sentences_of_an_explainer_that_weighs_none_are_read_and_may_become_the_label(folder: Path) -> None:
    with serving(Server(answer=answers)) as server:
        run(
            written(
                folder,
                features=ORDER,
                probe='by = "none"',
                explain='explainer = "oneshot"',
                score='scorers = ["detection"]\nnulls = false',
                llm=asks(server),
            )
        )
    read = sql(
        folder,
        "SELECT e.explainer, count(DISTINCT e.feature) FROM score s JOIN explanation e USING (explanation_id) WHERE s.predictor LIKE 'llm:%' AND s.split = 'select' AND s.metric = 'detection' GROUP BY ALL ORDER BY ALL",
    )
    assert read == [("lexical", 6), ("oneshot", 6)]


def test_comparisons_that_were_not_made_are_made_of_all_features_not_of_those_that_were_left(folder: Path) -> None:
    one = {
        "features": ORDER,
        "probe": 'by = "none"',
        "explain": 'explainer = "lexical"',
        "score": 'scorers = ["detection"]',
    }
    with serving(Server(answer=answers)) as server:
        path = written(folder, **one, llm=asks(server))
        run(path)
        made = "SELECT explanation_id, comparison, p_value, difference FROM null_score WHERE predictor LIKE 'llm:%' ORDER BY ALL"
        wanted, asked = sql(folder, made), len(server.seen)
        with Store(folder / "run.duckdb") as store:  # as a kill leaves it while the comparisons are being asked
            store.execute("DELETE FROM null_score WHERE predictor LIKE 'llm:%'")
            store.execute("UPDATE run SET finished = NULL WHERE stage = 'night:read'")
            store.execute("DELETE FROM stage WHERE stage LIKE 'score:detection:%' AND feature > 3")
        run(path)
    assert wanted and sql(folder, made) == wanted
    assert len(server.seen) == asked, "all replies were in the log"


def test_what_was_stopped_on_one_dictionary_is_not_done_anew_on_another(folder: Path) -> None:
    path = written(folder, features=ORDER, probe='by = "none"')
    run(path)
    call = (
        "INSERT INTO run BY NAME SELECT run_id || 'x' AS run_id, stage, replace(config, 'planted', 'another') AS config, started + INTERVAL 1 HOUR AS started "
        "FROM run WHERE stage = 'night:rule'"
    )
    with Store(folder / "run.duckdb") as store:
        store.execute(call)  # it never ended
        whole = next(one for one in stages(read_night(path).night) if one.name == "rule")
        assert left(Run(store), whole, range(6)).todo == ()
        store.execute(call.replace("'another'", "'planted'"))
        assert left(Run(store), whole, range(6)).todo == tuple(range(6))


def test_each_dictionary_that_is_no_control_has_a_page(folder: Path) -> None:
    with Store(folder / "run.duckdb") as store:
        for name, control in (("later", None), ("later:random", "random")):
            store.execute(
                "INSERT INTO dictionary BY NAME SELECT * REPLACE (? AS dictionary, ? AS control) FROM dictionary LIMIT 1",
                [name, control],
            )
        runs = [Run(store, name) for name in ("planted", "later", "later:random")]
        pages = [(run.dictionary, str(path)) for run, path in reports("here/r.html", runs)]
        assert pages == [("planted", "here/r.html"), ("later", "here/r-2-later.html")]
        odd = Run(store, "planted")
        odd.dictionary = "a/b c@https://x" + "y" * 100
        ((_, first), (_, second)) = reports("r.html", [runs[0], odd])
        assert str(first) == "r.html" and "/" not in str(second) and len(str(second)) < 80
        assert reports(None, runs) == []


def test_a_report_that_cannot_be_written_is_said_and_the_night_ends_well(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "morning"
    place.mkdir()
    path = written(folder, top=f'report = "{place / "r.html"}"', features=ORDER)
    said: list[str] = []

    def show(_: Standing) -> None:
        if place.is_dir():
            place.rmdir()  # while the night goes on

    run_night(read_night(path), show=show, say=said.append, model=model())
    assert any(line.startswith("no report: ") and "there is no folder" in line for line in said)
    assert not any("written in" in line for line in said)
