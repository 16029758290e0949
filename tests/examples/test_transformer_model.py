"""The example's Transformer: what each position may see, decoding in steps, and every variant."""

from __future__ import annotations

import pytest
import torch
from transformer.batches import sources
from transformer.eager import eager
from transformer.fillers import CROSS, FILLERS, PACKED, UNFIT, UnfitError
from transformer.gallery import GALLERY, Attend, Place, compiled
from transformer.model import sinusoids
from transformer.search import search, translate
from transformer.train import loss_of
from transformer.vocabulary import BEGIN, END, PAD
from transformer_runs import PAIRS, VOCABULARY, small_batches, small_run

# Their weights are divided by KV, which grows while a decoder goes on token by token.
GROWS = {"relu_squared", "silu"}


def interpreted(place: Place, training: bool) -> Attend:
    """A variant by its reference, which needs no kernel."""
    return compiled(place, training).reference


# Every variant by its reference; its kernels too, which take long to build, where there is time.
EVERY = [
    *(pytest.param(name, interpreted, id=f"{name}-reference") for name in sorted(FILLERS)),
    *(
        pytest.param(
            name, compiled, id=f"{name}-compiled", marks=[] if name == "full" else pytest.mark.slow
        )
        for name in sorted(FILLERS)
    ),
]


@pytest.mark.parametrize(("name", "attention"), EVERY)
def test_a_variant_trains_and_decodes(name, attention):
    """All parameters learn, nothing looks ahead, and steps give what the whole gives."""
    run, batch = small_run(variant=name, attention=attention), small_batches()[0]
    loss_of(run.model, batch, 0.1).backward()
    for path, parameter in run.model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().max() > 0 or path.endswith("to_k.bias"), path
    model = run.model.eval()
    # With gradients, though nothing asks for them: these kernels are built already.
    state = model.read(batch.source, batch.lengths)
    whole, _ = model.advance(batch.target, state)
    changed = batch.target.clone()
    changed[:, 5:] = END
    torch.testing.assert_close(model.advance(changed, state)[0][:, :5], whole[:, :5])
    if name in GROWS:
        return
    for i in range(batch.target.shape[1]):
        step, state = model.advance(batch.target[:, i : i + 1], state)
        torch.testing.assert_close(step[:, 0], whole[:, i], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CROSS)
def test_a_variant_looks_at_the_source(name):
    run, batch = small_run(cross=name, attention=interpreted), small_batches()[1]
    loss_of(run.model, batch, 0.1).backward()
    assert all(p.grad.isfinite().all() for p in run.model.parameters())


def test_what_padding_holds_has_no_effect():
    model, batch = small_run().model.eval(), small_batches()[2]
    row = int(batch.lengths.argmin())
    length = int(batch.lengths[row])
    padded = torch.cat([batch.source, torch.full((16, 7), 5)], 1)
    alone = batch.source[row : row + 1, :length], batch.lengths[row : row + 1]
    with torch.no_grad():
        together = model(padded, batch.lengths, batch.target)[row]
        single = model(*alone, batch.target[row : row + 1])[0]
    torch.testing.assert_close(together, single, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["full", *(pytest.param(n, marks=pytest.mark.slow) for n in PACKED if n != "full")],
)
def test_sequences_one_after_another_are_the_padded_ones(name):
    """The logits of every token that is there, and all gradients."""
    model, batch = small_run(variant=name).model, small_batches()[3]
    assert model.packs
    there = batch.foretold != PAD
    assert not there.all()
    found = []
    for logits in (
        model.learn(*batch.rows()),
        model(batch.source, batch.lengths, batch.target)[there],
    ):
        model.zero_grad()
        (logits * torch.linspace(-1, 1, logits.shape[1])).square().mean().backward()
        found.append([logits.detach(), *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_positions_are_those_of_the_paper():
    found = sinusoids(7, 6)
    for position, pair in ((0, 0), (3, 1), (6, 2)):
        angle = torch.tensor(position / 10000 ** (2 * pair / 6))
        torch.testing.assert_close(found[position, 2 * pair], angle.sin())
        torch.testing.assert_close(found[position, 2 * pair + 1], angle.cos())


def test_a_wider_beam_finds_nothing_less_likely():
    run = small_run(attention=eager)
    source, lengths = sources([VOCABULARY.encode(pair.source) for pair in PAIRS[:12]])

    def likelihood(width):
        total = 0.0
        found = search(run.model, source, lengths, width=width, alpha=0.0)
        with torch.no_grad():
            for i, target in enumerate(found):
                logits = run.model(
                    source[i : i + 1], lengths[i : i + 1], torch.tensor([[BEGIN, *target]])
                )
                told = torch.tensor([*target, END])
                total += float(logits[0].log_softmax(1)[torch.arange(len(told)), told].sum())
        return total

    for step in range(60):
        run.advance(small_batches()[step])
    assert likelihood(6) > likelihood(1)


def test_a_beam_of_one_follows_the_likeliest_token():
    run = small_run(attention=eager)
    for step in range(60):
        run.advance(small_batches()[step])
    source, lengths = sources([VOCABULARY.encode(pair.source) for pair in PAIRS[:5]])
    found = search(run.model, source, lengths, width=1)
    with torch.no_grad():
        for i, target in enumerate(found):
            told = torch.tensor([[BEGIN, *target]])
            logits = run.model(source[i : i + 1], lengths[i : i + 1], told)[0]
            assert logits[:, END + 1 :].argmax(1)[: len(target)].add(END + 1).tolist() == target


def test_texts_come_back_in_their_order():
    run = small_run(attention=eager)
    texts = [pair.source for pair in PAIRS[:9]]
    alone = [translate(run.model, VOCABULARY, [text])[0] for text in texts]
    assert translate(run.model, VOCABULARY, texts, batch=4) == alone


def test_every_variant_of_the_gallery_fits_or_is_told_why_not():
    names = {path.stem for path in GALLERY.glob("*.attn")}
    assert set(FILLERS) | set(UNFIT) == names
    assert not set(FILLERS) & set(UNFIT)
    assert set(CROSS) <= set(FILLERS)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"variant": "swin_shifted"}, "for images.* choose one of alibi, .*vertical_slash"),
        ({"variant": "nothing"}, "no such variant"),
        ({"cross": "alibi"}, "mean nothing to each other; choose one of cosine, full"),
    ],
)
def test_a_variant_that_does_not_fit_is_refused(shape, message):
    with pytest.raises(UnfitError, match=message):
        small_run(**shape)
