"""One vocabulary of subwords for both languages: byte-pair encoding, as the paper has it.

Maps a text to the numbers of its pieces and back. A vocabulary is its trained model, in bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

PAD, UNKNOWN, BEGIN, END = range(4)


class Vocabulary:
    """Subwords and their numbers."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._pieces = SentencePieceProcessor(model_proto=model)

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """Merge the most frequent neighbours until there are `size` pieces, or none to merge."""
        written = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            num_threads=1,
            minloglevel=2,
        )
        return cls(written.getvalue())

    def __len__(self) -> int:
        return int(self._pieces.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's pieces."""
        return list(self._pieces.encode(text))

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the text of some pieces; marks such as the end are not shown."""
        return str(self._pieces.decode([n for n in numbers if n > END]))
