"""Which features a night is about: conditions that are conditions and no more, the order, and the choice that is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glossator.agents.run import Run
from glossator.config import FeaturesSection
from glossator.errors import UsageError
from glossator.night.choosing import chosen, is_condition, ordered, prompts_in
from glossator.night.conditions import bound, check_condition, matching
from glossator.store.store import Store


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder / "run.duckdb") as opened:
        yield opened


@pytest.mark.parametrize(
    "text",
    [
        "density BETWEEN 1e-5 AND 0.01", "label LIKE '%x%' AND NOT status IN ('dead')", "density > 0 -- why", "top_tokens[1] = 'the' OR len(top_tokens) > 3",
        "label IS NULL", "simulation < 0.3", "abs(density - 0.01) < 0.005", "true",
    ],
)  # fmt: skip
def test_conditions_on_what_is_known_of_features_are_taken(text: str) -> None:
    check_condition(text)
    bound(text)


@pytest.mark.parametrize(
    "text",
    [
        "true) OR (SELECT 1) = 1 --", "1) UNION SELECT 1 --", "density > (SELECT 1)", "read_text('/etc/passwd') IS NOT NULL", "1 = 1 ORDER BY 1",
        "1 = 1; DROP TABLE label", "getenv('HOME') = 'x'", "true) GROUP BY (feature", "density >", "count(*) > 1", "row_number() OVER () < 3",
        "COLUMNS(*) > 1", "density = ?", "feature IN (FROM range(3))", "", "EXISTS (SELECT 1)", "current_setting('memory_limit') = '1'",
    ],
)  # fmt: skip
def test_whatever_is_more_than_a_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        check_condition(text)


@pytest.mark.parametrize("text", ["densty > 0", "nonsense", "density LIKE 3 AND x"])
def test_columns_that_there_are_not_are_told_without_a_run_file(text: str) -> None:
    check_condition(text)
    with pytest.raises(UsageError):
        bound(text)


def test_a_condition_finds_the_features_it_holds_of(store: Store) -> None:
    ((low, high),) = store.sql("SELECT min(density), median(density) FROM feature")
    wanted = [f for (f,) in store.sql("SELECT feature FROM feature WHERE density < ? ORDER BY feature", [high])]
    assert low < high and matching(store, "planted", f"density < {high!r}") == wanted
    assert matching(store, "planted", "label = 'x'") == [], (
        "of a feature without a label that is not known, so it does not hold"
    )


def test_indices_are_no_condition() -> None:
    assert (
        not is_condition("0-999")
        and not is_condition("all")
        and not is_condition("17-, 3+")
        and is_condition("density > 0")
    )


def test_the_order_is_the_one_that_was_asked_for(store: Store) -> None:
    mine = [7, 2, 5, 11]
    by = {
        order: ordered(store, "planted", mine, order, 1)
        for order in ("index", "density", "density desc", "max_activation", "random")
    }
    assert by["index"] == [2, 5, 7, 11]
    assert (
        by["density"]
        == by["density desc"][::-1]
        == [f for (f,) in store.sql("SELECT feature FROM feature WHERE feature IN (2, 5, 7, 11) ORDER BY density")]
    )
    assert sorted(by["random"]) == [2, 5, 7, 11] and by["random"] == ordered(store, "planted", mine, "random", 1)
    assert any(ordered(store, "planted", mine, "random", seed) != by["random"] for seed in range(5))


def test_a_choice_is_kept_until_the_section_changes(store: Store) -> None:
    run = Run(store)
    asked = FeaturesSection(which="density > 0", order="density", first=5)
    first = chosen(run, asked)
    assert len(first) == 5
    store.execute("UPDATE feature SET density = -density")
    assert chosen(run, asked) == first, "what was chosen before is what is gone on with"
    assert chosen(run, FeaturesSection(which="0-3")) == [0, 1, 2, 3]
    assert chosen(run, FeaturesSection(which="0-2"), write=False) == [0, 1, 2]
    assert chosen(run, FeaturesSection(which="0-3")) == [0, 1, 2, 3], "what was only looked at is not kept"


def test_controls_are_labelled_on_a_random_draw(store: Store) -> None:
    store.execute("UPDATE dictionary SET control = 'random-dictionary', control_of = 'other'")
    found = chosen(Run(store, "planted"), FeaturesSection(which="0-3", controls=6))
    assert len(found) == 6 and set(found) - {0, 1, 2, 3}


def test_prompts_are_lines_that_say_something(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\n  two  \n")
    assert prompts_in(path) == ["one", "two"]
    path.write_text("\n \n")
    with pytest.raises(UsageError, match="holds no prompt"):
        prompts_in(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match="UTF-8"):
        prompts_in(path)
