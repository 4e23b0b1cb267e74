"""The subject as graphs use it: the editor's probes on `select`, and debates. Loaded when it is first asked for.

One Measurer for all features in hand, so that batches are full. What was predicted and measured before a stop is read from
the store and not done again; a debate that was held is not held again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from glossator.agents.debate.debater import Debater, debate_id
from glossator.agents.debate.rivals import Rival, TextReader
from glossator.agents.editor.editor import Editor, Known, Probed
from glossator.agents.editor.predictors import TextPredictor
from glossator.agents.run import Run
from glossator.config import DebateConfig, EditorConfig
from glossator.llm.base import LLM
from glossator.rows import DebateRow
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureRecord

if TYPE_CHECKING:
    from glossator.harness.measurer import Measurer


class Bench:
    """`async with Bench(...)`: probes and debates of `features`. Raises UsageError where subject or dictionary are not there."""

    def __init__(
        self, run: Run, editor: EditorConfig, debate: DebateConfig, run_id: str, features: Sequence[int]
    ) -> None:
        self.run, self.run_id, self.features = run, run_id, features
        self._editor_config, self._debate_config = editor, debate
        self._lock = asyncio.Lock()
        self._measurer: Measurer | None = None
        self._known = Known()
        self._causal = False

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._measurer is not None:
            await self._measurer.__aexit__(kind, error, trace)

    async def probe(
        self, record: FeatureRecord, explanation_id: str, text: str, writer: LLM, reader: LLMPredictor
    ) -> Probed:
        config = self._editor_config
        editor = await self._editor(config)
        ask = LLMPredictor(reader.llm, reader.vocabulary, config.reading)
        mine = TextPredictor(explanation_id, text, ask, str(record.feature))
        return await editor.probe(record, [mine], self._known, "select", writer=writer, claims=[text])

    async def debate(self, record: FeatureRecord, rivals: tuple[Rival, Rival], reader: LLMPredictor) -> DebateRow:
        config = self._debate_config
        ask = TextReader(record, reader)
        held = await asyncio.to_thread(self._held, debate_id(record, rivals, ask.predictor, config))
        if held is not None:
            return held
        editor = await self._editor(EditorConfig(carriers=config.carriers, seed=config.seed))
        return await Debater(self.run, editor, config, self.run_id).debate(record, rivals, ask, self._known)

    async def _editor(self, config: EditorConfig) -> Editor:
        async with self._lock:
            if self._measurer is None:
                await asyncio.to_thread(self._load)
        assert self._measurer is not None
        return Editor(
            self.run.lexicon.vocabulary, self.run.neighbours, self._measurer, self.run.store, config, causal=self._causal,
            run_id=self.run_id,
        )  # fmt: skip

    def _load(self) -> None:
        from glossator.agents.editor.probe import known_outcomes  # with torch: where all rules stand it is not needed
        from glossator.harness.measurer import Measurer

        if not self.run.at_hand:
            self.run.say("loading the subject, to try sentences on it")
        subject, dictionary = self.run.model()
        self._known = known_outcomes(self.run, list(self.features))
        self._causal = subject.causal
        self._measurer = Measurer(subject, dictionary, say=self.run.say)

    def _held(self, identity: str) -> DebateRow | None:
        rows = self.run.store.sql("SELECT * FROM debate WHERE debate_id = ? LIMIT 1", [identity])
        return DebateRow(*rows[0]) if rows else None
