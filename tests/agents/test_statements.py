"""Words of a debate: templates over the evidence, and the check of what anybody cites and quotes."""

from __future__ import annotations

import pytest

from glossator.agents.debate.statements import Said, closing, figures_of, remark, unsupported, verdict_sentence

FIRED = Said("3f2a77b012345678", 0.98, 0.05, True, 1.0, 7.25, "A", 1.4)
SILENT = Said("77b03f2a12345678", 0.9, 0.1, False, 1 / 3, 0.5, "A", 0.2)
FIGURES = {turn.experiment_id: turn.figures for turn in (FIRED, SILENT)}
WHOLE = figures_of([FIRED, SILENT], [30, 3.0])


def wrong(statement: str) -> list[str]:
    return unsupported(statement, FIGURES, WHOLE)


def test_who_was_contradicted_is_told_so_by_who_was_not() -> None:
    assert remark(FIRED) == ("A", "B said that this would stay silent, at 5%; it fired (experiment 3f2a).")
    assert remark(SILENT) == ("B", "A said that this would fire, at 90%; it did not (experiment 77b0).")
    assert remark(Said("aaaa", 0.9, 0.9, True, 1, 1)) is None
    both = remark(Said("aaaa", 0.9, 0.9, False, 0, 0))
    assert both is not None and both[0] == "editor"


def test_templates_bear_out_what_they_cite() -> None:
    for said in (remark(FIRED), remark(SILENT)):
        assert said is not None and wrong(said[1]) == []
    for side in "AB":
        assert wrong(closing(side, [FIRED, SILENT])) == []
        assert wrong(closing(side, [Said("aaaa", 0.9, 0.9, True, 1, 1)])) == []
    assert closing("A", [FIRED, SILENT]) == (
        "Of the 2 texts on which we disagreed I foresaw 1 (experiment 3f2a); B foresaw 1 (experiment 77b0)."
    )


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("It peaked at 7.25 (experiment 3f2a).", []),
        ("It peaked at 7.3 in experiment 3f2a.", []),
        ("It peaked at 9.9 in experiment 3f2a.", ["9.9"]),
        ("It peaked at 7.25.", ["7.25"]),  # whose figure it is has to be said
        ("B gave it 5% (experiment 3f2a).", []),
        ("B gave it 50% (experiment 3f2a).", ["50%"]),
        ("See experiments 3f2a and 77b0.", []),
        ("See experiments 3f2a, beef and 77b0.", ["beef"]),
        ("See experiment 3f2.", ["3f2"]),  # too short to be sure
        ('It fired on "in 1953" (experiment 3f2a).', []),
        ("I foresaw 17 of 2 texts.", ["17"]),
        ("We may run 30 experiments and need 3 nats.", []),
        ("A thing is a thing.", []),
    ],
)
def test_ids_and_numbers_are_checked(statement: str, found: list[str]) -> None:
    assert wrong(statement) == found


def test_a_verdict_is_a_sentence() -> None:
    assert verdict_sentence("A", "A", 3.31, 8, 3.0) == "A holds. After 8 experiments it leads all others by 3.3 nats."
    assert "Neither holds" in verdict_sentence("neither", "neither", 3.0, 9, 3.0)
    assert verdict_sentence(None, "both", 1.2, 30, 3.0).startswith(
        "Undecided after 30 experiments: both together leads"
    )
