"""`generate_batch`: the greedy tokens of every request are those of `generate` for it alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers_families import DECODER, EXPERTS, GEMMA2, HEAD, WINDOW, Family

import attnlang
from attnlang.integrations.transformers import CALLS, NAME, register, use
from attnlang.ops import tables

pytest.importorskip("psutil", reason="continuous batching asks it for memory")
pytestmark = pytest.mark.filterwarnings("ignore")

LENGTHS = (5, 17, 33, 1, 24)
PAGE, MOST_TOKENS, NEW = 16, 40, 10  # 80 prompt tokens in steps of 40: some prompts come in chunks

FAMILIES = {
    "llama": Family("text", "LlamaConfig", DECODER),
    "mistral": Family("text", "MistralConfig", DECODER | WINDOW),
    "gemma2": Family("text", "Gemma2Config", DECODER | GEMMA2),
    "gpt_oss": Family("text", "GptOssConfig", DECODER | HEAD | WINDOW | EXPERTS),
}


def batch(model: torch.nn.Module, prompts: list[list[int]]) -> list[list[int]]:
    """Generate greedily for all prompts at once, in their order."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    names = ContinuousBatchingConfig.__dataclass_fields__
    page = "page_size" if "page_size" in names else "block_size"
    config = ContinuousBatchingConfig(
        **{page: PAGE, "num_blocks": 64, "max_batch_tokens": MOST_TOKENS}
    )
    results = model.generate_batch(  # type: ignore[operator]
        prompts, generation_config=greedy(), continuous_batching_config=config, progress_bar=False
    )
    found = {tuple(r.prompt_ids): r for r in results.values()}
    assert not [r.error for r in found.values() if r.error]
    return [list(found[tuple(p)].generated_tokens) for p in prompts]


def greedy() -> GenerationConfig:
    return GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=None)


def alone(model: torch.nn.Module, prompt: list[int]) -> list[int]:
    tokens = model.generate(torch.tensor([prompt]), generation_config=greedy())  # type: ignore[operator]
    return tokens[0, len(prompt) :].tolist()


def prompts() -> list[list[int]]:
    g = torch.Generator().manual_seed(3)
    return [torch.randint(3, 99, (n,), generator=g).tolist() for n in LENGTHS]


def model_of(name: str) -> torch.nn.Module:
    model = FAMILIES[name].build()
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize(
    "name",
    ["llama", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gemma2", "mistral", "gpt_oss"))],
)
def test_requests_together_get_the_tokens_of_each_alone(name: str) -> None:
    model = model_of(name)
    want = [alone(model, prompt) for prompt in prompts()]
    assert Counter(map(len, want)) == {NEW: len(LENGTHS)}
    use(model)
    before = CALLS.total
    assert batch(model, prompts()) == want
    steps = -(-sum(LENGTHS) // MOST_TOKENS) + NEW - 1
    assert CALLS.total >= before + 2 * steps, "layers ran elsewhere"


def test_the_paged_name_is_no_dense_implementation() -> None:
    from transformers import AttentionInterface

    register()
    if f"paged|{NAME}" not in AttentionInterface._global_mapping:
        pytest.skip("this transformers has no names for continuous batching")
    model = model_of("llama")
    model.set_attn_implementation(f"paged|{NAME}")
    with pytest.raises(attnlang.CallError, match="outside of continuous batching"):
        model(input_ids=torch.tensor([prompts()[0]]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_tables_that_a_gpu_alone_reads_give_the_same_tokens(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By emulated kernels, which could read them: there a GPU's step is planned as on one."""
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm80")
    model = model_of(name).bfloat16()
    use(model)
    want = batch(model, prompts())
    made: list[object] = []

    def unread(table: object) -> bool:
        made.append(table)
        return isinstance(table, Tensor)

    monkeypatch.setattr(tables, "is_unread", unread)
    assert batch(model, prompts()) == want
    assert made, "plans were made elsewhere"
