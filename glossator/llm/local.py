"""A causal model of transformers on this machine: questions that come together are answered together, on a GPU where there is one.

Questions that come within 20 ms, or while others are answered, make one batch, padded on the left and bounded by tokens.
One worker thread does all that touches the model. The likeliest token is taken; with a temperature it is drawn, by a
generator that is seeded with the question's identity, so that equal questions get equal replies (and `sample` others).
Other company in a batch can change the last bits of a logit, and so now and then a token: what holds a run together is
the log, not this. On a CPU it computes in float32, on a GPU in the precision of the file.

The form of the reply is asked for in words; nothing forces it. A tokenizer without a chat template gets
`System: ...`, `User: ...`, `Assistant:`, each on a line of its own. No code from a model's folder is run, and nothing is
downloaded. The path stands for the model: who puts another one there starts another run file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils import logging

from glossator.config import LLMConfig
from glossator.errors import ProviderError, RejectedError
from glossator.llm.base import Address, RawReply, call_id
from glossator.llm.openai_chat import in_words
from glossator.llm.spec import Spec
from glossator.types import Message, Request, Usage

_GATHER = 0.02  # seconds
_MOST_TOKENS = 32_768  # places in a batch, padding and room for the replies included
_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # how models that write are called
_UNBOUNDED = 10**9  # tokenizers that know no bound say some enormous number
_THOUGHT = "</think>"  # what stands before it is no part of the reply


@dataclass(eq=False)
class _Asked:
    """A question that waits: its tokens, once they are known, and how many may be written."""

    request: Request
    answer: asyncio.Future[RawReply]
    ids: list[int] | None = None
    room: int = 0


class LocalModel:
    """`LocalModel(spec, config)`: loads the model. Raises ProviderError where there is none that writes text."""

    structured, likely = False, True  # the form in words; log-probabilities from the model itself

    def __init__(self, spec: Spec, config: LLMConfig) -> None:
        self.address = Address("local", "", spec.name, config.effort)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer, self._model = self._load(spec.name)
        self._eos = _ends(self._model, self._tokenizer)
        # what a model's makers advise (penalties, cut-offs, temperatures) is not what was asked for
        pad = self._tokenizer.pad_token_id
        self._pad = pad if pad is not None else next(iter(self._eos), 0)
        self._model.generation_config = GenerationConfig(eos_token_id=sorted(self._eos) or None, pad_token_id=self._pad)
        text = self._model.config.get_text_config()
        known = getattr(text, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self.context: int | None = int(known) if known < _UNBOUNDED else None
        added = self._tokenizer.added_tokens_decoder.values()
        marks = {str(token) for token in added if token.special} | set(self._tokenizer.all_special_tokens)
        self._marks = sorted((mark for mark in marks if len(mark) > 1), key=len, reverse=True)
        self.most_together = 0  # questions that were answered in one batch
        self._waiting: list[_Asked] = []
        self._serving: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="local-model")
        self._closed = False

    async def ask(self, request: Request) -> RawReply:
        """Raises RejectedError for a prompt that is too long, ProviderError where the model cannot be run."""
        if self._closed:
            raise ProviderError(f"{self.address}: closed")
        asked = _Asked(request, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await asked.answer

    async def close(self) -> None:
        """What is being written ends at its next token."""
        self._closed = True
        if self._serving is not None:
            await asyncio.wait([self._serving])
        self._worker.shutdown()

    # ------------------------------------------------------------------ the queue

    async def _serve(self) -> None:
        """Batch after batch, until nothing waits."""
        await asyncio.sleep(_GATHER)
        while self._waiting:
            await self._in_worker(self._tokenize, [asked for asked in self._waiting if asked.ids is None])
            batch = self._take()
            if batch:
                await self._in_worker(self._answer, batch)

    async def _in_worker(self, work: Any, batch: list[_Asked]) -> None:
        """Run `work(batch)` in the worker, and hand out what came of each question."""
        run = asyncio.get_running_loop().run_in_executor(self._worker, work, batch)
        await asyncio.wait([run])
        # what was cut short because we are closed is no reply, and must not be logged as one
        error = run.exception() or (ProviderError(f"{self.address}: closed") if self._closed else None)
        for asked, came in zip(batch, [error] * len(batch) if error else run.result(), strict=True):
            if came is None or asked.answer.done():
                continue
            if isinstance(came, RawReply):
                asked.answer.set_result(came)
            else:
                asked.answer.set_exception(self._meaning(came))

    def _take(self) -> list[_Asked]:
        """The questions that have waited longest, as many as fit; those that nobody waits for any more are dropped."""
        self._waiting = [asked for asked in self._waiting if not asked.answer.done()]
        batch: list[_Asked] = []
        longest = room = 0
        for asked in self._waiting:
            if asked.ids is None:
                break
            longest, room = max(longest, len(asked.ids)), max(room, asked.room)
            # a row that is done goes on counting positions until all are: none may leave the context
            beyond = self.context is not None and longest + room > self.context
            if batch and (beyond or (longest + room) * (len(batch) + 1) > _MOST_TOKENS):
                break
            batch.append(asked)
        del self._waiting[: len(batch)]
        return batch

    def _meaning(self, error: BaseException) -> BaseException:
        """Of what the model's own code raises, nothing passes by itself."""
        if not isinstance(error, Exception) or isinstance(error, RejectedError | ProviderError):
            return error
        wrapped = ProviderError(f"{self.address}: the model cannot be run ({_line(error)})")
        wrapped.__cause__ = error
        return wrapped

    # ------------------------------------------------------------------ in the worker

    def _tokenize(self, batch: Sequence[_Asked]) -> list[RejectedError | None]:
        return [self._tokens(asked) for asked in batch]

    def _tokens(self, asked: _Asked) -> RejectedError | None:
        request = asked.request
        first, *others = request.messages
        prompt, framed = self._written([Message(first.role, first.text + in_words(request)), *others])
        ids = self._tokenizer(prompt, add_special_tokens=not framed).input_ids
        left = request.max_tokens if self.context is None else self.context - len(ids)
        if left < 1:
            return RejectedError(
                f"{self.address}: the prompt has {len(ids):,} tokens, the model reads {self.context:,}; show fewer or shorter examples"
            )
        asked.ids, asked.room = ids, min(request.max_tokens, left)
        return None

    def _written(self, messages: Sequence[Message]) -> tuple[str, bool]:
        """The prompt as one text, and whether it already has what the tokenizer would put around a text."""
        said = [{"role": m.role, "content": self._harmless(m.text)} for m in messages]
        if self._tokenizer.chat_template is None:
            lines = [f"{m['role'].capitalize()}: {m['content']}" for m in said]
            return "\n".join([*lines, "Assistant:"]), False
        try:
            return self._templated(said), True
        except TemplateError:  # some templates know no system message: it goes into the first that the user says
            n = 1 + next((place for place, m in enumerate(said) if m["role"] != "system"), len(said))
            head = {"role": "user", "content": "\n\n".join(m["content"] for m in said[:n])}
            return self._templated([head, *said[n:]]), True

    def _templated(self, said: list[dict[str, str]]) -> str:
        effort = self.address.effort
        thinking = {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort} if effort else {}
        return str(self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **thinking))

    def _harmless(self, text: str) -> str:
        """Marks of the chat format in a text from outside are broken up: they must not end a message."""
        for mark in self._marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def _answer(self, batch: list[_Asked]) -> list[RawReply]:
        try:
            return self._generate(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(batch) // 2
        return [*self._answer(batch[:half]), *self._answer(batch[half:])]

    def _generate(self, batch: list[_Asked]) -> list[RawReply]:
        self.most_together = max(self.most_together, len(batch))
        prompts = [asked.ids or [] for asked in batch]
        width = max(map(len, prompts))
        ids = torch.full((len(batch), width), self._pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        chooser = _Chooser([asked.request for asked in batch], self.address)
        with torch.inference_mode():
            written = self._model.generate(
                ids.to(self.device),
                attention_mask=mask.to(self.device),
                do_sample=False,
                max_new_tokens=max(asked.room for asked in batch),
                logits_processor=LogitsProcessorList([chooser]),
                stopping_criteria=StoppingCriteriaList([_Enough(self, batch, width)]),
            )
        rows = written[:, width:].tolist()
        return [self._read(asked, row, likely) for asked, row, likely in zip(batch, rows, chooser.likely, strict=True)]

    def _read(self, asked: _Asked, row: list[int], likely: Sequence[Sequence[tuple[int, float]]]) -> RawReply:
        row = row[: asked.room]
        end = next((place for place, token in enumerate(row) if token in self._eos), None)
        kept = row if end is None else row[:end]
        text = self._tokenizer.decode(kept, skip_special_tokens=True).rpartition(_THOUGHT)[2].strip()
        logprobs = tuple(
            tuple((self._tokenizer.decode([token]), value) for token, value in place) for place in likely[: len(kept)]
        )
        usage = Usage(len(asked.ids or []), len(row) if end is None else end + 1)
        finish = "length" if end is None else "stop"
        return RawReply(text, finish, usage, self.address.model, logprobs if asked.request.logprobs else None)

    # ------------------------------------------------------------------ loading

    def _load(self, path: str) -> tuple[Any, Any]:
        safe = {"local_files_only": True, "trust_remote_code": False}
        precision = "auto" if self.device == "cuda" else torch.float32
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            named = AutoConfig.from_pretrained(path, **safe).architectures or []
            if not any(str(name).endswith(_HEADS) for name in named):
                raise ProviderError(
                    f"local:{path}: {', '.join(named) or 'this'} is no causal language model; name one that writes text"
                )
            tokenizer = AutoTokenizer.from_pretrained(path, **safe)
            model, found = AutoModelForCausalLM.from_pretrained(path, **safe, dtype=precision, output_loading_info=True)
        except OSError as error:
            raise ProviderError(
                f"local:{path}: no model there; name a folder with config.json, a tokenizer and weights, or a model that "
                f"was downloaded before ({_line(error)})"
            ) from error
        except (ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise ProviderError(
                f"local:{path}: cannot be loaded as a causal language model ({_line(error)})"
            ) from error
        if missing := sorted(found["missing_keys"]):
            raise ProviderError(
                f"local:{path}: the weights are not all there ({', '.join(missing)[:160]}); get the whole model"
            )
        return tokenizer, model.eval().requires_grad_(False).to(self.device)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply: a chat model may have several."""
    found = getattr(model.generation_config, "eos_token_id", None)
    listed = found if isinstance(found, list) else [found]
    return frozenset(int(token) for token in [*listed, tokenizer.eos_token_id] if token is not None)


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


class _Chooser(LogitsProcessor):  # type: ignore[misc]
    """Notes the likeliest tokens, and draws one where there is a temperature: for each row as its own question says."""

    def __init__(self, requests: list[Request], address: Address) -> None:
        self.requests = requests
        self._wanted = max(request.logprobs for request in requests)
        self.likely: list[list[list[tuple[int, float]]]] = [[] for _ in requests]
        self._drawn = {
            row: torch.Generator().manual_seed(int(call_id(address, request), 16) >> 1)
            for row, request in enumerate(requests)
            if request.temperature
        }

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._wanted:
            top = scores.float().log_softmax(1).topk(min(self._wanted, scores.shape[1]), dim=1)
            for row, (tokens, values) in enumerate(zip(top.indices.tolist(), top.values.tolist(), strict=True)):
                self.likely[row].append(list(zip(tokens, values, strict=True))[: self.requests[row].logprobs])
        for row, generator in self._drawn.items():
            temperature = self.requests[row].temperature or 1.0
            shares = (scores[row].float().cpu() / temperature).softmax(0)
            token = int(torch.multinomial(shares, 1, generator=generator))
            scores[row] = -torch.inf
            scores[row, token] = 0.0
        return scores


class _Enough(StoppingCriteria):  # type: ignore[misc]
    """A row ends when it has all that it may have, when nobody waits for it any more, and when the model is closed."""

    def __init__(self, model: LocalModel, batch: list[_Asked], width: int) -> None:
        self.model, self.batch, self.width = model, batch, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        written = input_ids.shape[1] - self.width
        done = [self.model._closed or asked.answer.done() or written >= asked.room for asked in self.batch]
        return torch.tensor(done, device=input_ids.device)
