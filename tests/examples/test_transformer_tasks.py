"""What the example's Transformer learns: nothing held out is seen, and each task can be solved."""

from __future__ import annotations

import random
import re
from functools import cache

import pytest
from num2words import num2words
from transformer.__main__ import arguments
from transformer.batches import Batches
from transformer.constituency import RULES, WORDS, brackets, grow, sentences, words
from transformer.number_names import Form, held_out, name, number_names
from transformer.pairs import DEVELOPMENT, Pair
from transformer.scores import translation_scores, tree_scores
from transformer.vocabulary import BEGIN, END, PAD, Vocabulary

_NUMBER = {num2words(n, to=form): n for n in range(1000) for form in ("cardinal", "ordinal")}


def test_a_held_out_number_is_learnt_in_no_form():
    pairs = number_names(1500, 150, seed=3)
    for kept, found in ((False, pairs.train), (True, pairs.development), (True, pairs.test)):
        known = [n for pair in found if (n := _whole(pair.source)) is not None]
        assert len(known) > 20
        assert {held_out(n) for n in known} == {kept}
    assert len({p.source for p in (*pairs.train, *pairs.development, *pairs.test)}) == 1800
    assert number_names(20, 5, seed=3).train == pairs.train[:20]


def _whole(text: str) -> int | None:
    """The number of a name below 1000, or the whole units of such a sum."""
    return _NUMBER.get(re.split(r" (?:euro|dollars?|pounds?)\b", text)[0])


@pytest.mark.parametrize(
    ("form", "german"),
    [
        (Form.CARDINAL, "einundzwanzig"),
        (Form.ORDINAL, "einundzwanzigste"),
        (Form.CURRENCY, "einundzwanzig (Euro|Dollar|Pfund) und .* (Cent|Penny|Pence)"),
    ],
)
def test_a_number_is_named_in_each_form(form, german):
    pair = name(21, form, random.Random(0))
    assert pair.source.startswith("twenty-")
    assert re.fullmatch(german, pair.target)


@cache
def _ways(symbol: str, sentence: tuple[str, ...]) -> int:
    """In how many ways the grammar derives a sentence from a symbol."""
    if symbol in WORDS:
        return len(sentence) == 1 and sentence[0] in WORDS[symbol].split()
    return sum(_sequence(tuple(way.split()), sentence) for _, way in RULES[symbol])


@cache
def _sequence(symbols: tuple[str, ...], sentence: tuple[str, ...]) -> int:
    if len(symbols) == 1:
        return _ways(symbols[0], sentence)
    return sum(
        _ways(symbols[0], sentence[:i]) * _sequence(symbols[1:], sentence[i:])
        for i in range(1, len(sentence) - len(symbols) + 2)
    )


def test_every_sentence_has_one_tree():
    rng = random.Random(1)
    drawn = {tuple(words(grow("S", rng))) for _ in range(150)}
    assert {_ways("S", sentence) for sentence in drawn if len(sentence) <= 16} == {1}


def test_no_held_out_sentence_is_learnt():
    pairs = sentences(2000, 200, seed=0)
    known, learnt = ({p.source for p in each} for each in (pairs.development, pairs.train))
    tested = {p.source for p in pairs.test}
    assert not learnt & (known | tested)
    assert not known & tested
    for pair in (*pairs.development, *pairs.test):
        found = brackets(pair.target)
        assert found["S", 0, len(pair.source.split())] == 1


def test_brackets_are_those_of_the_line():
    assert brackets("(S (NP DT NN )NP (VP VBD )VP )S") == {
        ("S", 0, 3): 1, ("NP", 0, 2): 1, ("VP", 2, 3): 1,
    }  # fmt: skip
    no_trees = ("", "NN", "(S NN", "(S NN )S )S", "(S NN )S (S NN )S", "(S NN )S NN", "(S NN )NP")
    for no_tree in no_trees:
        assert brackets(no_tree) is None


def test_bracket_scores_count_labels_and_both_ends():
    right = "(S (NP DT NN )NP (VP VBD )VP )S"
    scores = tree_scores([right, "(S NN"], [right, right])
    assert scores["exact match"] == 0.5
    assert scores["precision"] == 1.0
    assert scores["recall"] == 0.5
    other = tree_scores(["(S (NP DT )NP (VP NN VBD )VP )S"], [right])
    assert other["precision"] == other["recall"] == other["bracket F1"] == pytest.approx(1 / 3)
    label = tree_scores(["(S (NP DT NN )NP (PP VBD )PP )S"], [right])
    assert label["bracket F1"] == pytest.approx(2 / 3)


def test_translation_scores():
    wanted = ["zwei Euro und ein Cent", "drei"]
    assert translation_scores(wanted, wanted)["word BLEU"] == pytest.approx(100)
    scores = translation_scores(["zwei Euro und zwei Cent", "drei"], wanted)
    assert scores["exact match"] == 0.5
    assert scores["word BLEU"] < scores["character BLEU"] < 100


@pytest.fixture(scope="module")
def pairs():
    return number_names(300, 0, seed=0).train


@pytest.fixture(scope="module")
def vocabulary(pairs):
    return Vocabulary.learn((text for pair in pairs for text in pair), 120)


def test_a_vocabulary_gives_back_what_it_was_given(pairs, vocabulary):
    assert len(vocabulary) <= 120
    for text in (text for pair in pairs for text in pair):
        numbers = vocabulary.encode(text)
        assert max(numbers) < len(vocabulary)
        assert min(numbers) > END
        assert vocabulary.decode([BEGIN, *numbers, END, PAD]) == text
    again = Vocabulary(vocabulary.model)
    assert again.encode(pairs[0].source) == vocabulary.encode(pairs[0].source)


def test_an_epoch_holds_every_pair_once_and_a_batch_depends_on_its_step_alone(pairs, vocabulary):
    batches = Batches(pairs, vocabulary, 50, seed=1)
    read = []
    for step in range(6):
        batch = batches[step]
        assert (batch.target[:, 0] == BEGIN).all()
        for source, length, target, foretold in zip(
            batch.source, batch.lengths, batch.target, batch.foretold, strict=True
        ):
            assert source[length - 1] == END
            assert (source[length:] == PAD).all()
            assert unpadded(target)[1:] == unpadded(foretold)[:-1]
            assert foretold[len(unpadded(foretold)) - 1] == END
            texts = (vocabulary.decode(x.tolist()) for x in (source, target))
            read.append(Pair(*texts))
    assert sorted(read) == sorted(pairs)
    other = Batches(pairs, vocabulary, 50, seed=1)[9].source
    assert other.equal(batches[9].source)
    assert other.shape != batches[3].source.shape or not other.equal(batches[3].source)


def unpadded(row):
    """A row without its padding."""
    return [n for n in row.tolist() if n != PAD]


def test_no_more_can_be_asked_than_there_is_to_choose_by(capsys):
    known = ["--asked", str(DEVELOPMENT), "--development"]
    assert arguments(["test", *known]).asked == DEVELOPMENT
    assert arguments(["test", "--asked", str(DEVELOPMENT + 1)]).asked == DEVELOPMENT + 1
    with pytest.raises(SystemExit):
        arguments(["test", "--asked", str(DEVELOPMENT + 1), "--development"])
    assert "--asked 601: there are 600 pairs to choose by" in capsys.readouterr().err
