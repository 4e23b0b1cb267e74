"""What commands print: data as it is, every explanation of a feature, money that is not in the log; two dictionaries in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glossator.cli import main
from glossator.rows import BatchRow, ExplanationRow, SessionRow
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from tests.test_label_llm import Server, label, path, read, server  # noqa: F401  fixtures


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """A command in this process: exit code, output, errors."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


@pytest.mark.parametrize(
    "more", ["", ", repeat('x', 500) AS wide, repeat('y', 24) AS " + " , 1 AS ".join("abcdefghij")]
)
def test_data_is_shown_as_it_is(more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path / "run.duckdb").close()
    query = f"""SELECT ':smile:' AS ":x:", '[red]a[/red] \\[b' AS "[bold]"{more}"""
    code, said, complained = told(capsys, "sql", tmp_path / "run.duckdb", query)
    assert code == 0, complained
    for whole in (":smile:", ":x:", "[red]a[/red] \\[b", "[bold]"):
        assert whole in said


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_every_kind_of_value_is_shown(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path / "run.duckdb").close()
    kinds = "INTERVAL 3 DAY AS i, 'ab'::BLOB AS b, [1, 2] AS l, {'a': 1} AS s, 3.5::DECIMAL(9, 2) AS d, DATE '2020-01-02' AS t, 7 AS i"
    code, said, complained = told(capsys, "sql", tmp_path / "run.duckdb", f"SELECT {kinds}", "--format", form)
    assert code == 0, complained
    assert all(value in said for value in ("3 days", "ab", "3.5", "2020-01-02", "7", "i_1"))


def test_what_a_terminal_would_obey_is_shown_as_an_escape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path / "run.duckdb").close()
    code, said, complained = told(capsys, "sql", tmp_path / "run.duckdb", "SELECT chr(27) || '[2J' || 'x' AS text")
    assert code == 0, complained
    assert "\x1b" not in said and "\\x1b[2Jx" in said


def test_errors_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ":smile: [red]" in told(capsys, "sql", tmp_path / ":smile: [red].duckdb", "FROM labels")[2]


def test_show_lists_every_explanation_of_a_feature(path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    with Store(path) as store:
        store.put_now(
            ExplanationRow("a", "planted", 3, "typed", None, "chosen :x: words", None, False, None, ""),
            ExplanationRow("b", "planted", 3, "oneshot", "openai:m", "bought [words]", None, False, None, ""),
            ExplanationRow("c", "planted", 3, "other", "openai:n", None, None, True, "saw nothing", ""),
        )
        materialise_labels(store)
    said = told(capsys, "show", path, 3)[1]
    for whole in ("chosen :x: words", "openai:m", "bought [words]", "(abstained: saw nothing)"):
        assert whole in said
    assert said.count("bought [words]") == 2, "once as the label, with its star"


def test_bought_labels_that_labels_does_not_show_are_found_by_the_query_that_is_named(
    path: Path,  # noqa: F811
    server: Server,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    score = "INSERT INTO score SELECT 'r' || feature, dictionary, feature, 'typed', 'rule', NULL, 'simulation', 'select', 0.5, 0, 1, 9, NULL, '' FROM feature"
    with Store(path) as store:
        store.put_now(
            *(ExplanationRow(f"r{i}", "planted", i, "typed", None, "typed", None, False, None, "") for i in range(12))
        )
        store.execute(score)
        materialise_labels(store)
    code, said, complained = label(path, server)
    assert code == 0 and "12 of them are not in labels" in said, complained
    query = "SELECT feature, text FROM explanation WHERE explainer = 'oneshot'"
    assert f'"{query}"' in said and len(read(path, query)) == 12


def test_money_that_is_not_in_the_log_is_in_spend_and_in_the_account(path: Path, server: Server) -> None:  # noqa: F811
    with Store(path) as store:
        store.put_now(
            SessionRow("dead", 0.5, 900, False),
            SessionRow("ended", 0.7, 90, False),
            SessionRow("ended", 0.0, 0, True),
            *(BatchRow(x, "openai", "h", "m", "intent", None, 1, 0.25, 100, 0.0) for x in ("out", "back", "out2")),
            BatchRow("out", "openai", "h", "m", "sent", "r", 1, 0.25, 100, 1.0),
            BatchRow("back", "openai", "h", "m", "done", "r", 1, 0.25, 100, 1.0),
        )
        assert store.sql("SELECT purpose, model, calls, tokens, dollars FROM spend") == [
            ("in flight when stopped", None, 0, 900, 0.5),
            ("out in batches", "openai:m", 0, 200, 0.5),
        ]
    code, said, complained = label(path, server)
    assert code == 0, complained
    assert "$0.5000 for 900 tokens booked for what was in flight when runs were stopped" in said
    assert "$0.5000 for 200 tokens out in batches" in said


def test_where_nothing_was_asked_there_is_no_account(
    path: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for words in (["label", path, "--explainer", "oneshot"], ["score", path]):
        code, said, complained = told(capsys, *words, "--llm", "openai:gpt-5-mini")
        assert code == 1 and not said and "spent" not in complained and "OPENAI_API_KEY" in complained


def test_a_file_of_prices_says_what_it_lacks(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    prices = tmp_path / "prices.toml"
    asked = ["label", path, "--explainer", "oneshot", "--llm", "openai:m@http://127.0.0.1:9/v1", "--prices", prices]
    prices.write_text("[opnai.m]\ninput = 1\noutput = 1\n")
    code, _, complained = told(capsys, *asked)
    assert code == 2 and f"{prices}: [opnai]: no such provider" in complained
    prices.write_text("[openai.other]\ninput = 1\noutput = 1\n")
    complained = told(capsys, *asked, "--budget-tokens", 0)[2]
    assert f"--prices {prices}: has no price of openai:m; dollars are unknown" in complained
    prices.write_text("[openai.m]\ninput = 1\noutput = 1\n")
    assert "has no price" not in told(capsys, *asked, "--budget-tokens", 0)[2]


def test_where_the_first_dictionary_waits_the_second_is_asked_too(
    path: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Store(path) as store:
        of_dictionary = store.sql(
            "SELECT table_name, bool_or(column_name = 'feature') FROM information_schema.columns "
            "JOIN information_schema.tables USING (table_name) WHERE table_type = 'BASE TABLE' "
            "GROUP BY table_name HAVING bool_or(column_name = 'dictionary')"
        )
        for table, by_feature in of_dictionary:  # in another order: equal questions would be asked once
            others = "'second' AS dictionary" + ", 11 - feature AS feature" * by_feature
            store.execute(f"INSERT INTO {table} SELECT * REPLACE ({others}) FROM {table}")
    code, _, complained = told(
        capsys, "label", path, "--explainer", "oneshot", "--llm", f"files:m@{tmp_path / 'asked'}", "--features", "0-2"
    )
    assert code == 3, complained
    asked = [line for file in (tmp_path / "asked").glob("requests-*.jsonl") for line in file.read_text().splitlines()]
    assert len({json.loads(line)["custom_id"] for line in asked}) == len(asked) == 6
    assert all(file.name in complained.splitlines()[-1] for file in (tmp_path / "asked").glob("requests-*.jsonl"))
