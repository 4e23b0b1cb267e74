"""A label that a language model reads, as a predictor of the editor's pool: it sees the sentence and texts, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from glossator.scorers.reading import LLMPredictor
from glossator.types import Prediction, Windows


@dataclass(frozen=True)
class TextPredictor:
    """about: the feature, for the books; no part of what is asked. Raises as `LLMPredictor.fires`."""

    explanation_id: str
    text: str
    reader: LLMPredictor
    about: str

    @property
    def predictor(self) -> str:
        return self.reader.predictor

    async def predict(self, windows: Windows) -> list[Prediction]:
        """All texts in as few questions as fit, in an order and under ids that come from hashes of the texts. No strengths."""
        told = await self.reader.fires(self.text, windows, self.about)
        return [Prediction((), float(p)) for p in told]
