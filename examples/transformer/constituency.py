"""A small constituency parser: sentences of a grammar, and their trees written in a line.

As section 6.3 of the paper has it, a tree is a sequence to foretell: brackets that open with a
label, parts of speech, brackets that close with it, so that none is miscounted. The grammar is
probabilistic, and recursive: phrases hang on nouns, clauses on nouns and verbs. Each of its
sentences has one tree, so that a parser can be right always: what might hang in two places hangs
where the symbols after a point allow it, such as a prepositional phrase on the verb of its clause
and never inside of a relative one.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from dataclasses import dataclass

from transformer.pairs import Pair, Pairs, draw_pairs

# Ways of writing a symbol, with their weights. What stands after a point is not shown in the tree.
RULES: dict[str, tuple[tuple[int, str], ...]] = {
    "S": ((8, "NP VP"), (2, "PP COMMA NP VP")),
    "NP": ((70, "NP.plain"), (18, "NP.plain PP.of"), (12, "NP.plain SBAR.relative")),
    "NP.plain": ((35, "DT NN"), (30, "DT ADJP NN"), (20, "NNP")),
    "NP.place": ((7, "DT NN.place"), (3, "DT ADJP NN.place")),
    "ADJP": ((3, "JJ"), (1, "RB JJ")),
    "VP": ((75, "VP.one"), (15, "VP.one CC VP"), (10, "VBD.say SBAR.that")),
    "VP.one": ((7, "VP.bare"), (3, "VP.bare PP")),
    "VP.bare": ((4, "VBD.alone"), (6, "VBD.with NP")),
    "PP": ((1, "IN NP.place"),),
    "PP.of": ((1, "IN.of NP"),),
    "SBAR.relative": ((1, "WDT VP.bare"),),
    "SBAR.that": ((1, "IN.that S"),),
}

WORDS: dict[str, str] = {
    "DT": "the a this every some no",
    "NN": "dog cat king child teacher bird sailor letter song ship book friend doctor wolf",
    "NN.place": "garden house forest city river kitchen harbour street",
    "NNP": "Anna Bertrand Clara David Emma Felix",
    "JJ": "old small red quiet clever hungry tall strange",
    "RB": "very quite rather too",
    "VBD.alone": "slept laughed waited vanished sang arrived",
    "VBD.with": "saw chased found loved followed carried painted remembered",
    "VBD.say": "said believed knew heard",
    "IN": "in near behind through under",
    "IN.of": "of",
    "IN.that": "that",
    "WDT": "which who",
    "CC": "and or but",
    "COMMA": ",",
}
MOST_WORDS = 20
_HELD_OUT = 10  # one sentence in so many


@dataclass(frozen=True, slots=True)
class Tree:
    """A constituent, or a word with its part of speech; a word has no children."""

    label: str
    children: tuple[Tree, ...] = ()
    word: str = ""


Bracket = tuple[str, int, int]  # a label, the first word, and the one behind the last


def sentences(train: int, asked: int, seed: int) -> Pairs:
    """Draw different sentences with their trees; a sentence's own hash holds it out."""
    return draw_pairs(train, asked, seed, _one)


def grow(symbol: str, rng: random.Random) -> Tree:
    """Draw a tree below a symbol."""
    label = symbol.partition(".")[0]
    if symbol in WORDS:
        return Tree(label, word=rng.choice(WORDS[symbol].split()))
    weights, ways = zip(*RULES[symbol], strict=True)
    (chosen,) = rng.choices(ways, weights)
    children = tuple(grow(child, rng) for child in chosen.split())
    if len(children) == 1 and children[0].label == label:
        return children[0]  # the same constituent: NP -> NP.plain
    return Tree(label, children)


def words(tree: Tree) -> list[str]:
    """Return the sentence of a tree."""
    return [tree.word] if tree.word else [w for child in tree.children for w in words(child)]


def written(tree: Tree) -> str:
    """Write a tree in a line, without its words: `(S (NP DT NN )NP (VP VBD )VP )S`."""
    if tree.word:
        return tree.label
    return " ".join((f"({tree.label}", *map(written, tree.children), f"){tree.label}"))


def brackets(line: str) -> Counter[Bracket] | None:
    """Return the constituents of a line such as `written` makes; None if it is no tree."""
    found, place, opened = Counter[Bracket](), 0, list[tuple[str, int]]()
    tokens = line.split()
    for i, token in enumerate(tokens):
        if token.startswith("("):
            opened.append((token[1:], place))
        elif not opened:
            return None
        elif token.startswith(")"):
            label, start = opened.pop()
            if token[1:] != label:
                return None
            found[label, start, place] += 1
            if not opened and i + 1 < len(tokens):
                return None
        else:
            place += 1
    return None if opened or not found else found


def _one(rng: random.Random) -> tuple[Pair, bool]:
    """Draw a sentence that is not too long."""
    while len(sentence := words(tree := grow("S", rng))) > MOST_WORDS:
        pass
    text = " ".join(sentence)
    return Pair(text, written(tree)), zlib.crc32(text.encode()) % _HELD_OUT == 0
