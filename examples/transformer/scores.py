"""How good is what a model found? Maps texts and the right ones to named shares of 1, or BLEU.

BLEU is sacrebleu's: by words, and by characters, for German number names are single long words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sacrebleu import corpus_bleu

from transformer.constituency import brackets

Scores = Mapping[str, float]


def exact(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of texts that are right to the last character."""
    return sum(f == w for f, w in zip(found, wanted, strict=True)) / len(wanted)


def translation_scores(found: Sequence[str], wanted: Sequence[str]) -> Scores:
    """Return the share that is exact, and BLEU out of 100."""
    bleu = {
        name: float(corpus_bleu(list(found), [list(wanted)], tokenize=by).score)
        for name, by in (("word BLEU", "13a"), ("character BLEU", "char"))
    }
    return {"exact match": exact(found, wanted), **bleu}


def tree_scores(found: Sequence[str], wanted: Sequence[str]) -> Scores:
    """Return the share that is exact, and labelled precision, recall and F1 of all brackets.

    As Black et al. 1991, "A Procedure for Quantitatively Comparing the Syntactic Coverage of
    English Grammars", but labelled; a line that is no tree has no brackets.
    """
    right = ours_all = theirs_all = 0
    for line, truth in zip(found, wanted, strict=True):
        ours, theirs = (brackets(text) or Counter() for text in (line, truth))
        right += (ours & theirs).total()
        ours_all += ours.total()
        theirs_all += theirs.total()
    precision, recall = right / max(ours_all, 1), right / max(theirs_all, 1)
    f1 = 2 * right / max(ours_all + theirs_all, 1)
    return {
        "exact match": exact(found, wanted),
        "precision": precision,
        "recall": recall,
        "bracket F1": f1,
    }
