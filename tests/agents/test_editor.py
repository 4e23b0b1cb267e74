"""The editor's pool: which edits there are, that predictions are sealed first, what is shared, what is measured only once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from glossator.agents.editor.editor import Editor, Known, Probed
from glossator.agents.editor.edits import Mechanical, firing_windows
from glossator.agents.editor.probe import known_outcomes
from glossator.agents.run import Run
from glossator.config import EditorConfig
from glossator.errors import HarvestError, UnavailableError
from glossator.harness.measurer import Measurer
from glossator.llm.scripted import ScriptedLLM
from glossator.planted import planted_features
from glossator.rows import MeasurementRow, PredictionRow, Row
from glossator.types import Activations, FeatureId, FeatureRecord, Prediction, Split, Windows

NAMES = [f.name for f in planted_features()]
BEAR, FALCON, FIRST = NAMES.index("bear"), NAMES.index("falcon"), NAMES.index("first")


class Says:
    """The same of every text. `asked`: the windows, call by call."""

    predictor = "llm:double"

    def __init__(self, explanation_id: str, p: float = 0.5) -> None:
        self.explanation_id, self.p, self.asked = explanation_id, p, list[Windows]()

    async def predict(self, windows: Windows) -> list[Prediction]:
        self.asked.append(windows)
        return [Prediction((), self.p) for _ in range(len(windows))]


class Watched:
    """A measurer and a store in one, which keep what came to them, in order."""

    def __init__(self, run: Run, measurer: Measurer, faint: float) -> None:
        """faint: what activations are multiplied by."""
        self.run, self.measurer, self.events, self.faint = run, measurer, list[tuple[str, Any]](), faint

    async def put(self, *rows: Row) -> None:
        self.events += [("row", row) for row in rows]
        await self.run.store.put(*rows)

    async def measure(self, pairs: Sequence[tuple[str, FeatureId]]) -> list[Activations]:
        self.events += [("measured", text) for text, _ in pairs]
        found = await self.measurer.measure(pairs)
        return [replace(one, values=tuple(self.faint * value for value in one.values)) for one in found]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self.measurer.tokenize(texts)

    @property
    def texts(self) -> list[str]:
        return [what for event, what in self.events if event == "measured"]


def record_of(run: Run, index: int) -> FeatureRecord:
    return next(run.records([index]))


def probe(
    run: Run, predictors: Sequence[Any], index: int = BEAR, config: EditorConfig | None = None, split: Split = "test",
    known: Known | None = None, record: FeatureRecord | None = None, faint: float = 1.0,
) -> tuple[Probed, Watched]:  # fmt: skip
    async def work() -> tuple[Probed, Watched]:
        subject, dictionary = run.model()
        async with Measurer(subject, dictionary) as measurer:
            watched = Watched(run, measurer, faint)
            editor = Editor(
                run.lexicon.vocabulary, run.neighbours, watched, watched, config or EditorConfig(), causal=False, run_id="r",
            )  # fmt: skip
            shown = record or record_of(run, index)
            return await editor.probe(shown, predictors, known or Known(), split), watched

    return asyncio.run(work())


def test_every_prediction_is_stored_before_its_text_is_measured(run: Run) -> None:
    _, watched = probe(run, [Says("a"), Says("b")], config=EditorConfig(texts=40))
    sealed: set[str] = set()
    of = dict(run.store.sql("SELECT unnest(texts), experiment_id FROM experiment"))
    for event, what in watched.events:
        if event == "row" and isinstance(what, PredictionRow):
            sealed.add(what.experiment_id)
        if event == "measured":
            assert of[what] in sealed, what
    assert len(watched.texts) > 15


def test_all_kinds_are_run_when_there_are_texts_for_them_and_no_more_than_that(run: Run) -> None:
    whole, watched = probe(run, [Says("a")], config=EditorConfig(texts=40))
    kinds = {one.kind for one in whole.experiments}
    assert kinds == {
        "bisect",
        "transplant",
        "swap",
        "delete",
        "cut_left",
        "cut_right",
        "random",
    }  # it knows no capitals
    assert whole.measured == len(watched.texts) <= 40
    for texts in (3, 8, 12):
        some, watched = probe(run, [Says(f"b{texts}")], config=EditorConfig(texts=texts))
        assert some.measured == len(watched.texts) <= texts


def test_nothing_before_the_peak_matters_to_a_causal_subject_is_not_cut_on_the_right(run: Run) -> None:
    record = record_of(run, BEAR)
    bases = firing_windows(record, "test", 3)
    subject, _ = run.model()
    for causal in (False, True):
        made = Mechanical(run.lexicon.vocabulary, run.neighbours, subject.tokenize, EditorConfig(), causal=causal)
        assert ("cut_right" in {edit.kind for edit in made.around(bases)}) is not causal


def test_all_explanations_share_the_pool_and_each_is_predicted_in_one_go(run: Run) -> None:
    a, b = Says("a", 0.9), Says("b", 0.1)
    found, _ = probe(run, [a, b])
    assert len(a.asked) == len(b.asked) == 1 and (a.asked[0].ids == b.asked[0].ids).all()
    assert all(one.predicted == {"a": 0.9, "b": 0.1} for one in found.experiments)
    rows = run.store.sql("SELECT experiment_id, count(*) FROM prediction GROUP BY ALL")
    assert dict(rows) == {one.experiment_id: 2 for one in found.experiments}
    assert run.store.sql("SELECT count(DISTINCT pool) FROM experiment") == [(1,)]


def test_a_model_is_paid_for_one_carrier_of_an_experiment_and_for_three_where_that_is_asked_for(run: Run) -> None:
    counts = []
    for number in (1, 3):
        one = Says(f"says {number}")
        probe(run, [one], config=EditorConfig(carriers_read=number))
        counts.append(len(one.asked[0]))
    assert counts[1] > 2 * counts[0] - 4 and counts[0] < 12


def test_an_experiment_says_what_each_carrier_did(run: Run) -> None:
    found, _ = probe(run, [Says("a")])
    threshold = record_of(run, BEAR).threshold
    for one in found.experiments:
        assert len(one.texts) == len(one.tokens) == len(one.values)
        fires = [max(values) >= threshold for values in one.values]
        assert one.fires == (sum(fires) * 2 > len(fires)) and not one.weak
        assert all(tuple(text.split()) == tokens for text, tokens in zip(one.texts, one.tokens, strict=True))
    (weak,) = run.store.sql("SELECT count(*) FROM outcome WHERE weak")
    assert weak == (0,)


def test_a_text_in_which_most_carriers_are_active_under_the_threshold_is_weak(run: Run) -> None:
    strong, _ = probe(run, [Says("a")])
    faint, _ = probe(run, [Says("b")], faint=0.4)
    bears = {one.texts for one in strong.experiments if one.fires}
    assert bears and not any(one.fires for one in faint.experiments)
    for one in faint.experiments:  # the bisection goes on, for no step fires: what it tries are more texts
        active = sum(max(values) > 0 for values in one.values)
        assert one.weak == (2 * active > len(one.texts)), one
    assert {one.texts for one in faint.experiments if one.weak} & bears


def test_another_label_seed_or_split_gets_a_pool_of_its_own(run: Run) -> None:
    pools = []
    for predictors, config, split in (
        ([Says("a")], EditorConfig(), "test"),
        ([Says("b")], EditorConfig(), "test"),
        ([Says("a")], EditorConfig(seed=1), "test"),
        ([Says("a")], EditorConfig(), "select"),
    ):
        found, _ = probe(run, predictors, config=config, split=split)  # type: ignore[arg-type]
        pools.append({one.experiment_id for one in found.experiments})
    for i, one in enumerate(pools):
        assert not any(one & other for other in pools[i + 1 :])
    names = [name for (name,) in run.store.sql("SELECT DISTINCT pool FROM experiment")]
    assert len(names) == 4 and sum(name.startswith("select:0:") for name in names) == 1


def test_the_pool_of_select_is_made_of_other_texts_than_that_of_test(run: Run) -> None:
    texts = []
    for split in ("test", "select"):
        found, _ = probe(run, [Says("a")], split=split)
        texts.append({text for one in found.experiments if one.kind != "bisect" for text in one.texts})
        windows = run.store.sql("SELECT DISTINCT w.split FROM experiment e JOIN text_window w ON w.window_id = e.source_window WHERE e.split = ?", [split])  # fmt: skip
        assert windows == [(split,)]
    assert not texts[0] & texts[1]


def test_what_was_measured_before_is_not_measured_again_and_comes_back_whole(run: Run) -> None:
    first, _ = probe(run, [Says("a")])
    again, watched = probe(run, [Says("a")], known=known_outcomes(run, [BEAR]))
    assert not watched.events
    assert again == first


def test_a_kill_after_sealing_leaves_one_prediction_and_measures_what_is_left(run: Run) -> None:
    first, _ = probe(run, [Says("a")])
    lost = [one.experiment_id for one in first.experiments][2:]
    run.store.execute("DELETE FROM measurement WHERE experiment_id IN (SELECT unnest(?::VARCHAR[]))", [lost])
    again, watched = probe(run, [Says("a")], known=known_outcomes(run, [BEAR]))
    assert again == first
    assert {row.experiment_id for event, row in watched.events if event == "row"} == set(lost)
    assert all(isinstance(row, MeasurementRow) for event, row in watched.events if event == "row")


def test_a_reader_that_fails_ends_the_feature_before_anything_is_sealed_or_measured(run: Run) -> None:
    class Fails(Says):
        async def predict(self, windows: Windows) -> list[Prediction]:
            raise UnavailableError("nobody answered")

    with pytest.raises(UnavailableError):
        probe(run, [Says("a"), Fails("b")])
    for table in ("experiment", "prediction", "measurement"):
        assert run.store.sql(f"SELECT count(*) FROM {table}") == [(0,)]


def test_when_measuring_fails_nothing_of_the_feature_is_at_work_any_more(run: Run) -> None:
    class Breaks(Watched):
        async def measure(self, pairs: Sequence[tuple[str, FeatureId]]) -> list[Activations]:
            if len(pairs) > 1:  # the texts that were written
                await asyncio.sleep(0.05)
                return await super().measure(pairs)
            raise HarvestError("not finite")

    new = ["the judge hid a bear in the garden", "one red bear was old"]
    writer = ScriptedLLM(lambda _: json.dumps({"positive": new, "boundary": [], "minimal_off": [], "minimal_on": []}))

    async def work() -> None:
        subject, dictionary = run.model()
        async with Measurer(subject, dictionary) as measurer:
            broken = Breaks(run, measurer, 1.0)
            editor = Editor(
                run.lexicon.vocabulary, run.neighbours, broken, broken, EditorConfig(), causal=False, run_id="r"
            )
            with pytest.raises(HarvestError):
                await editor.probe(record_of(run, BEAR), [Says("a")], Known(), writer=writer, claims=["Bears."])
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())
    assert run.store.sql("SELECT count(DISTINCT experiment_id) FROM measurement") == [(2,)]


@pytest.mark.parametrize("status", ["dead", "rare", "dense"])
def test_a_feature_that_has_no_pool_says_why(run: Run, status: str) -> None:
    record = replace(record_of(run, BEAR), status=status, reason="for a reason")
    found, watched = probe(run, [Says("a")], record=record)
    assert found == Probed(0, (), f"{status}: for a reason") and not watched.events


def test_a_feature_without_exemplars_says_so(run: Run) -> None:
    record = replace(record_of(run, BEAR), exemplars={})
    found, watched = probe(run, [Says("a")], record=record)
    assert found.note == "no window of test in which it fires" and not watched.events


def test_a_word_of_a_carrier_that_would_be_cut_does_not_join_what_is_put_there(run: Run) -> None:
    subject, _ = run.model()
    made = Mechanical(run.lexicon.vocabulary, run.neighbours, subject.tokenize, EditorConfig(), causal=False)
    carriers = made.carriers(record_of(run, FALCON), "test")
    starts = made.vocabulary.starts_word
    assert len(carriers) == 3
    piece = subject.tokenize(["a falcon flew"])[0]
    for text in made.put_into(carriers, piece):
        assert "a falcon flew" in text and len(text.split()) == 32
    after = carriers[0].ids[17 + 1]  # 3 tokens in the middle of 32 end before the 18th
    starts_before = starts.copy()
    try:
        starts[after] = False
        cut = made.put_into(carriers[:1], piece)[0]
    finally:
        starts[:] = starts_before
    assert "falcon flew" + made.vocabulary.pieces[after] not in cut.replace(" ", "")


def test_edits_say_what_they_are(run: Run) -> None:
    probe(run, [Says("a")], config=EditorConfig(texts=40))
    for kind, edit in run.store.sql("SELECT kind, edit FROM experiment"):
        about = json.loads(edit)
        if kind == "bisect":
            assert set(about) == {"radius", "tokens", "was"} and about["was"] > 0
        if kind == "swap":
            assert about["from"] == "bear" and about["to"] != "bear"
