"""The loop: in each step a token of every running sequence, and a piece of one prompt.

Continuous batching (Yu et al. 2022, Orca): a request begins as soon as there is room for all its
samples. Its prompt is read once, in pieces, then the samples fork from it. Which tokens go into
which step depends on the load alone, never on the cache.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from serving.caches import Cache, Share
from serving.model import Decoder
from serving.requests import Load, choose


@dataclass(slots=True)
class Sequence:
    """A sample, or a prompt of which none was drawn yet."""

    slot: int
    request: int
    sample: int
    tokens: list[int]
    prompt: int  # how many of them
    wanted: int  # tokens in the end
    done: int  # tokens whose keys are stored
    last: float = 0.0  # when the latest token came

    @property
    def in_prompt(self) -> bool:
        """Whether the prompt is not read yet."""
        return self.done < self.prompt


@dataclass(slots=True)
class Outcome:
    """What a run gave."""

    tokens: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # of (request, sample)
    gaps: list[float] = field(default_factory=list)  # seconds between a sample's tokens
    first: list[float] = field(default_factory=list)  # seconds until a request's first token
    seconds: float = 0.0
    steps: int = 0

    @property
    def rate(self) -> float:
        """New tokens a second."""
        return sum(map(len, self.tokens.values())) / self.seconds


class Engine:
    """One run of a load."""

    def __init__(
        self, model: Decoder, cache: Cache, load: Load, *, sequences: int, chunk: int
    ) -> None:
        if load.samples > sequences:
            raise ValueError(f"{load.samples} samples of a request do not fit in {sequences} slots")
        self._model, self._cache, self._load, self._chunk = model, cache, load, chunk
        self._waiting = deque(enumerate(load.requests))
        self._slots = list(range(sequences))
        self._common = sequences  # the slot of the common beginning
        self._running: list[Sequence] = []
        self.outcome = Outcome()

    def run(self, advance: Callable[[int], None] = lambda tokens: None) -> Outcome:
        """Serve all requests; the clock begins once the common beginning has been read."""
        self._read_common()
        self._began = time.perf_counter()
        while self._running or self._waiting:
            self._admit()
            before = sum(len(s.tokens) for s in self._running)
            self._step()
            advance(max(0, sum(len(s.tokens) for s in self._running) - before))
            self._retire()
        self.outcome.seconds = time.perf_counter() - self._began
        if self._load.common:
            self._cache.release(self._common)
        return self.outcome

    def _read_common(self) -> None:
        tokens = list(self._load.common)
        common = Sequence(self._common, -1, 0, tokens, len(tokens), len(tokens), 0)
        while common.in_prompt:
            self._forward([(common, min(self._chunk, common.prompt - common.done))])

    def _admit(self) -> None:
        while self._waiting and len(self._slots) >= self._load.samples:
            number, request = self._waiting.popleft()
            tokens = [*self._load.common, *request.prompt]
            slots = [self._slots.pop() for _ in range(self._load.samples)]
            wanted, common = len(tokens) + request.new_tokens, len(self._load.common)
            self._running.extend(
                Sequence(slot, number, sample, list(tokens), len(tokens), wanted, common)
                for sample, slot in enumerate(slots)
            )
            if common:
                self._cache.fork(self._common, slots[0])

    def _step(self) -> None:
        """Go on with all; the first sample of a request reads the prompt for all of them."""
        step = [(s, 1) for s in self._running if not s.in_prompt]
        readers = (s for s in self._running if s.in_prompt and s.sample == 0)
        reader = next(readers, None)
        if reader is not None:
            step.append((reader, min(self._chunk, reader.prompt - reader.done)))
        logits = self._forward(step)
        now, self.outcome.steps = time.perf_counter(), self.outcome.steps + 1
        for (sequence, _), row in zip(step, logits, strict=True):
            if sequence.in_prompt:
                continue
            if sequence is not reader:
                self.outcome.gaps.append(now - sequence.last)
                self._draw(sequence, row, now)
                continue
            self.outcome.first.append(now - self._began)
            for sample in (s for s in self._running if s.request == reader.request):
                if sample is not reader:
                    self._cache.fork(reader.slot, sample.slot)
                    sample.done = reader.done
                self._draw(sample, row, now)

    def _draw(self, sequence: Sequence, logits: torch.Tensor, now: float) -> None:
        temperature, place = self._load.temperature, len(sequence.tokens)
        token = choose(logits, temperature, sequence.request, sequence.sample, place)
        sequence.tokens.append(token)
        sequence.last = now

    def _forward(self, step: list[tuple[Sequence, int]]) -> torch.Tensor:
        """Store the next tokens of some sequences; return the logits behind the last of each."""
        self._cache.begin([Share(s.slot, s.done, count) for s, count in step])
        tokens = [t for s, count in step for t in s.tokens[s.done : s.done + count]]
        positions = [p for s, count in step for p in range(s.done, s.done + count)]
        lasts = torch.tensor([count for _, count in step]).cumsum(0) - 1
        for sequence, count in step:
            sequence.done += count
        with torch.inference_mode():
            attend = self._cache.attend
            logits = self._model(torch.tensor(tokens), torch.tensor(positions), lasts, attend)
        assert isinstance(logits, torch.Tensor)
        return logits

    def _retire(self) -> None:
        for sequence in [s for s in self._running if len(s.tokens) == s.wanted]:
            new = sequence.tokens[sequence.prompt :]
            self.outcome.tokens[sequence.request, sequence.sample] = new
            self._running.remove(sequence)
            self._cache.release(sequence.slot)
            self._slots.append(sequence.slot)
