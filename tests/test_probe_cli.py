"""`glossator probe` as users run it: offline on the built-in subject, with a model behind a loopback server, wrong flags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glossator.agents.run import Run
from glossator.config import EditorConfig, LLMConfig, wide_editor
from glossator.pipeline import probe_by_llm
from glossator.planted import planted_features
from glossator.prompts import edit
from glossator.prompts.texts import fixed_text
from glossator.rows import ExplanationRow
from glossator.show import experiments, probed
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from glossator.types import Message, Request
from tests import mini
from tests.test_label_llm import PURPOSES, Server
from tests.test_label_llm import path as harvested  # noqa: F401  a fixture
from tests.test_shown import told

FEATURES = planted_features()
BEAR, FALCON = (next(i for i, f in enumerate(FEATURES) if f.name == name) for name in ("bear", "falcon"))
ASKED = PURPOSES | {fixed_text("edit"): edit.PURPOSE}


class Editing(Server):
    """Answers the editor's question too, about the feature whose label it is."""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.status != 200:
            return super().reply(body)
        messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
        said = self.oracle._answer(Request(ASKED[messages[0].text], messages, edit.Answer, 99))
        usage = {"prompt_tokens": sum(len(m.text) for m in messages) // 4, "completion_tokens": len(said) // 4 + 1}
        return {"model": "tiny", "choices": [{"message": {"role": "assistant", "content": said}}], "usage": usage}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-this-must-never-be-seen-1234567890")
    made = Editing()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def planted(harvested: Path, planted_subject: Any, planted_dictionary: Any) -> Iterator[Run]:  # noqa: F811
    with Store(harvested) as store:
        rows = [
            ExplanationRow(f"e{f}", "planted", f, "oneshot", "m", f"Fires on {FEATURES[f].description}.", None, False, None, "")
            for f in (BEAR, FALCON)
        ]  # fmt: skip
        store.put_now(*rows)
        materialise_labels(store)
        yield Run(store, model=(planted_subject, planted_dictionary))


def rendered(what: Any) -> str:
    from rich.console import Console

    console = Console(width=160, no_color=True)
    with console.capture() as said:
        console.print(what)
    return said.get()


def test_with_a_model_texts_are_written_read_measured_and_scored_and_again_nothing_is_asked(
    planted: Run, server: Server
) -> None:
    said = probe_by_llm(planted, server.spec, LLMConfig(), EditorConfig(), [BEAR, FALCON])
    assert "2 probed" in said and "tokens" in said and len(server.asked) == 4
    shown = rendered(experiments(planted, BEAR))
    assert "positive" in shown and "minimal_off" in shown and "bisect" in shown
    table = rendered(probed(planted, [BEAR, FALCON]))
    assert "llm:openai:tiny" in table and 'the word "falcon"' in table
    assert planted.store.sql("SELECT count(*) FROM labels WHERE adversarial > 0.8") == [(2,)]
    stages = planted.store.sql("SELECT DISTINCT stage, status FROM stage")
    assert stages == [("probe:llm:openai:tiny", "done")]
    counts = planted.store.sql(
        "SELECT count(*), (SELECT count(*) FROM measurement), (SELECT count(*) FROM score) FROM experiment"
    )
    probe_by_llm(planted, server.spec, LLMConfig(), EditorConfig(), [BEAR, FALCON])
    assert len(server.asked) == 4
    assert counts == planted.store.sql("SELECT count(*), (SELECT count(*) FROM measurement), (SELECT count(*) FROM score) FROM experiment")  # fmt: skip


def test_a_wide_probe_asks_for_more_texts_and_reads_every_carrier(planted: Run, server: Server) -> None:
    config = wide_editor()
    probe_by_llm(planted, server.spec, LLMConfig(), config, [BEAR])
    written, read = server.asked[0], server.asked[1:]
    assert f"{config.writing.boundary} boundary" in written
    texts = sum(text.count("\n[") for text in read)
    assert texts > planted.store.sql("SELECT count(*) FROM experiment")[0][0], "one carrier of each was read"


def test_another_reader_predicts_and_one_budget_is_for_both(planted: Run, server: Server) -> None:
    other = server.spec.replace("tiny", "reader")
    said = probe_by_llm(planted, server.spec, LLMConfig(), EditorConfig(), [BEAR], reader=other)
    assert server.models == ["tiny", "reader"] and "1 probed" in said
    assert planted.store.sql("SELECT DISTINCT predictor FROM prediction") == [("llm:openai:reader",)]
    assert planted.store.sql("SELECT DISTINCT stage FROM stage") == [("probe:llm:openai:reader",)]
    assert planted.store.sql("SELECT DISTINCT model FROM score") == [("openai:reader",)]
    spent = planted.store.sql("SELECT purpose, calls FROM spend ORDER BY ALL")
    assert spent == [("probe:edit", 1), ("score:detection", 1)]


@pytest.mark.real
def test_offline_a_rule_is_probed_and_shown_and_several_are_summed_up(
    mini_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = mini.copy(mini_run, tmp_path)
    with Store(path, create=False) as store:
        features = [
            f for (f,) in store.sql("SELECT feature FROM labels WHERE status = 'labelled' ORDER BY feature LIMIT 2")
        ]
        ((dead, status),) = store.sql("SELECT feature, status FROM labels WHERE status IN ('dead', 'rare') LIMIT 1")
    code, said, complained = told(capsys, "probe", path, "--feature", features[0])
    assert code == 0, complained
    assert "predicted before measured" in said and "bisect" in said and " texts" in said
    code, said, complained = told(capsys, "probe", path, "--features", f"{features[0]},{features[1]},{dead}")
    assert code == 0, complained
    assert "adversarial" in said and f"{dead}  probe: nothing to probe: {status}" in said


@pytest.mark.real
@pytest.mark.parametrize(
    ("more", "part"),
    [
        ([], "--feature: name one"),
        (["--feature", "9999999"], "has features 0 to"),
        (["--feature", "1-2"], "name one feature"),
        (["--feature", "1", "--reader", "openai:x"], "--llm"),
        (["--feature", "1", "--retry-failed"], "--llm"),
        (["--feature", "1", "--every"], "--llm"),
        (["--feature", "1", "--wide"], "--wide"),
        (["--feature", "1", "--budget-usd", "1"], "--llm"),
        (["--feature", "1", "--llm", "nobody:x"], "openai:NAME"),
        (["--feature", "1", "--llm", "openai:x", "--reader", "nobody:x"], "--reader nobody:x"),
    ],
)
def test_wrong_flags_are_one_line(
    mini_run: Path, more: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, complained = told(capsys, "probe", mini.copy(mini_run, tmp_path), *more)
    assert code == 2
    assert part in complained.strip().splitlines()[-1]


def test_the_schema_of_a_reply_is_one_that_providers_take(planted: Run, server: Server) -> None:
    """Strict schemas refuse what they do not know: every object names all its fields, and no list has items of two types."""
    schema = json.dumps(edit.Answer.model_json_schema())
    assert "anyOf" not in schema and "prefixItems" not in schema
