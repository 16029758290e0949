"""The example's server loops: the same tokens by pages, padding, FlexAttention, and no cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from serving.caches import Share
from serving.engine import Engine, Outcome
from serving.flex import FlexCache
from serving.model import Decoder, Shape
from serving.padded import PaddedCache
from serving.paged import PagedCache
from serving.requests import Load, choose, random_load
from torch.nn.functional import scaled_dot_product_attention

SHAPE = Shape(vocabulary=64, layers=2, heads=4, kv_heads=2, head_dim=16, inner=64)
LOAD = random_load(
    requests=5, vocabulary=SHAPE.vocabulary, common=37, prompts=(1, 40), new_tokens=(1, 9),
    samples=4, temperature=0.0,
)  # fmt: skip
SEQUENCES, CHUNK, PAGE = 9, 16, 8
MODEL = Decoder(SHAPE)
SIZES = (SHAPE, SEQUENCES, LOAD.longest, torch.float32)


def serve(cache, load: Load = LOAD) -> Outcome:
    torch.manual_seed(0)
    return Engine(MODEL, cache, load, sequences=SEQUENCES, chunk=CHUNK).run()


def expected(load: Load) -> dict[tuple[int, int], list[int]]:
    """Every token from a call over the whole text before it, without a cache."""

    def attend(_, q, k, v):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(0, 1)

    found = {}
    for number, request in enumerate(load.requests):
        for sample in range(load.samples):
            tokens = [*load.common, *request.prompt]
            for _ in range(request.new_tokens):
                n, last = len(tokens), torch.tensor([len(tokens) - 1])
                logits = MODEL(torch.tensor(tokens), torch.arange(n), last, attend)
                tokens.append(choose(logits[0], load.temperature, number, sample, n))
            found[number, sample] = tokens[-request.new_tokens :]
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_pages_and_padding_give_the_tokens_of_no_cache(temperature: float) -> None:
    load = replace(LOAD, temperature=temperature)
    want = expected(load)
    paged = PagedCache(*SIZES, PAGE)
    assert serve(paged, load).tokens == want
    assert paged.pages_in_use == 0
    assert serve(PaddedCache(*SIZES), load).tokens == want
    differ = [len({tuple(want[r, s]) for s in range(4)}) > 1 for r in range(len(load.requests))]
    assert any(differ) == (temperature > 0)


@pytest.mark.slow  # compiles two calls
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler, within torch
def test_flex_attention_gives_the_same_tokens() -> None:
    assert serve(FlexCache(*SIZES, CHUNK)).tokens == serve(PagedCache(*SIZES, PAGE)).tokens


def test_no_common_beginning() -> None:
    load = replace(LOAD, common=(), requests=LOAD.requests[:2])
    assert serve(PagedCache(*SIZES, PAGE), load).tokens == expected(load)


def test_what_is_measured() -> None:
    outcome = serve(PagedCache(*SIZES, PAGE))
    new = [r.new_tokens for r in LOAD.requests]
    assert {key: len(tokens) for key, tokens in outcome.tokens.items()} == {
        (r, s): n for r, n in enumerate(new) for s in range(LOAD.samples)
    }
    assert len(outcome.first) == len(new)
    assert len(outcome.gaps) == LOAD.samples * sum(n - 1 for n in new)
    assert outcome.rate > 0


def test_samples_must_fit() -> None:
    with pytest.raises(ValueError, match="4 samples of a request do not fit in 3 slots"):
        Engine(MODEL, PagedCache(*SIZES, PAGE), LOAD, sequences=3, chunk=CHUNK)


def test_forks_share_full_pages_and_part_where_they_go_on() -> None:
    cache = PagedCache(*SIZES, PAGE)
    rows = lambda n: torch.randn(n, 2, 16)  # noqa: E731
    cache.begin([Share(0, 0, 20)])
    k, v = rows(20), rows(20)
    cache.attend(0, torch.randn(20, 4, 16), k, v)
    assert cache.pages_in_use == 3
    cache.fork(0, 1)
    assert cache.pages_in_use == 4
    cache.begin([Share(0, 20, 1), Share(1, 20, 1)])
    q, new_k, new_v = torch.randn(2, 4, 16), rows(2), rows(2)
    out = cache.attend(0, q, new_k, new_v)
    for i in range(2):
        keys, values = (torch.cat([x, y[i : i + 1]]) for x, y in ((k, new_k), (v, new_v)))
        want = scaled_dot_product_attention(
            q[i, :, None], keys.transpose(0, 1), values.transpose(0, 1), enable_gqa=True
        )
        torch.testing.assert_close(out[i], want[:, 0])
    cache.release(0)
    assert cache.pages_in_use == 3
    cache.release(1)
    assert cache.pages_in_use == 0
