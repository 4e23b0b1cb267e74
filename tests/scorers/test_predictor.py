"""A rule's probabilities for the corpus, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from glossator.scorers.predictor import corpus_rates
from glossator.scorers.rates import Census, census
from glossator.types import WINDOW, Sample, Windows


def seen(strongest: list[float], weight: list[float], stratum: str) -> Sample:
    n = len(strongest)
    acts = np.zeros((n, WINDOW), np.float32)
    acts[:, 0] = strongest
    windows = Windows(np.zeros((n, WINDOW), np.int32), np.arange(n), 0, np.arange(n))
    return Sample(windows, acts, np.full(n, stratum), np.asarray(weight, float))


def said(strengths: list[int]) -> np.ndarray:
    out = np.zeros((len(strengths), WINDOW), np.int8)
    out[:, 5] = strengths
    return out


def ground(firing: int = 4, silent: int = 100, corpus: int = 1000) -> Census:
    return census(
        seen([5.0] * firing, [1.0] * firing, "top"), seen([0.0] * silent, [corpus / silent] * silent, "background"), 1.0
    )


def test_a_band_s_probability_is_its_share_of_the_corpus_and_not_of_the_sample() -> None:
    """Said 10 on all 4 firing windows and on one silent window, which stands for 9.96 of the corpus."""
    found = ground()
    p = corpus_rates(said([10] * 4 + [10] + [0] * 99), found)
    base, heavy = 4 / 1000, 9.96
    n = (4 + heavy) ** 2 / (4 + heavy**2)
    assert p[3] == pytest.approx((4 / (4 + heavy) * n + base) / (n + 1))
    assert p[3] < 0.4  # in the sample four of five fire
    assert p[0] == pytest.approx(base / 100)  # none of 99 fires


def test_an_empty_band_says_the_base_rate_and_stronger_never_says_less() -> None:
    found = ground()
    p = corpus_rates(said([2] * 4 + [10] * 100), found)  # what says most never fires
    assert p == sorted(p)
    assert p[0] == pytest.approx(4 / 1000)


def test_weak_windows_teach_nothing() -> None:
    active = seen([5.0] * 4 + [0.5] * 6, [1.0] * 10, "sample")
    found = census(active, seen([0.0] * 100, [10.0] * 100, "background"), 1.0)
    with_weak = corpus_rates(said([10] * 4 + [10] * 6 + [0] * 100), found)
    without = corpus_rates(said([10] * 4 + [0] * 6 + [0] * 100), found)
    assert with_weak == pytest.approx(without)
