"""Tokenise one long text piece by piece: the tokens of the whole, in memory that does not grow with it.

A tokenizer's own result takes a hundred bytes a token. Tokenizers first cut a text into words, from left to right, and
then each word into tokens by itself. So a piece ends where a word begins, well before the end of what was read, and the
next reading starts some words earlier: it counts only where both readings agree on these. Opens no file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.tokenize import Tokenizer

if TYPE_CHECKING:
    import tokenizers

MARGIN_CHARACTERS = 1_000
"""The last characters of a reading are read again: what follows could change them. More than any lookahead."""
CONTEXT_TOKENS = 64
"""Read again before a cut."""


class PiecesDifferError(ValueError):
    """Two readings of the same words are not the same: this tokenizer reads a text only as a whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPiece:
    """Consecutive tokens of a text, within a reading of the characters around them."""

    read_ids: NDArray[np.int32]
    encoding: "tokenizers.Encoding" = field(repr=False)
    first_character: int
    """Of the reading, in the text."""
    first: int
    """Of the reading's tokens, the piece's first."""
    end: int

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """The piece's."""
        return self.read_ids[self.first : self.end]

    def characters(self, token: int) -> tuple[int, int]:
        """Characters [start, end) of the text that a token of the piece came from."""
        return self.place(self.first + token)

    def place(self, read_token: int) -> tuple[int, int]:
        """The same of a token of the reading."""
        place = self.encoding.token_to_chars(read_token)
        if place is None:
            raise ValueError(f"token {read_token} has no place in the text")
        return self.first_character + int(place[0]), self.first_character + int(place[1])

    def begins_word(self, read_token: int) -> bool:
        """Whether a token of the reading is its word's first."""
        word = self.encoding.token_to_word
        return read_token == 0 or word(read_token) != word(read_token - 1)


def tokenize_in_pieces(tokenizer: Tokenizer, text: str, *, characters: int) -> Iterator[TokenPiece]:
    """The tokens of `text`, special tokens not among them, of about so many characters at once.

    A text without words to cut it at is one piece. Raises PiecesDifferError where pieces may not be the whole's tokens.
    """
    piece: TokenPiece | None = None
    cut, ahead = 0, characters
    while True:
        reading = _read_on(tokenizer, text, piece, until=cut + ahead)
        is_last = cut + ahead >= len(text)
        end = reading.end if is_last else _last_word(reading, cut + ahead - MARGIN_CHARACTERS)
        if end <= reading.first and not is_last:
            ahead *= 2
            continue
        piece = replace(reading, end=end)
        yield piece
        if is_last:
            return
        cut, ahead = piece.place(end)[0], characters


def _read_on(tokenizer: Tokenizer, text: str, piece: TokenPiece | None, *, until: int) -> TokenPiece:
    """What follows the piece, until a character of the text. Raises PiecesDifferError."""
    if piece is None:
        return _read(tokenizer, text[:until], 0)
    known = _context(piece)
    begin = piece.place(known.start)[0]
    reading = _read(tokenizer, text[begin:until], begin)
    return replace(reading, first=_agree(piece, known, reading))


def _read(tokenizer: Tokenizer, text: str, first_character: int) -> TokenPiece:
    tokenized = tokenizer([text])
    return TokenPiece(
        read_ids=tokenized.token_ids,
        encoding=tokenized.encodings[0],
        first_character=first_character,
        first=0,
        end=len(tokenized.token_ids),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Context:
    """Tokens of a reading before a cut: where to read on from, and from where on the two must agree."""

    start: int
    compared: int


def _context(piece: TokenPiece) -> _Context:
    start = max(0, piece.end - CONTEXT_TOKENS)
    while start > 0:
        if piece.begins_word(start):
            # A text's first word may be read in another way than one after a space.
            compared = next(token for token in range(start + 1, piece.end + 1) if piece.begins_word(token))
            if compared < piece.end:
                return _Context(start=start, compared=compared)
        start -= 1
    return _Context(start=0, compared=0)


def _agree(piece: TokenPiece, known: _Context, reading: TokenPiece) -> int:
    """The token of `reading` that follows the piece. Raises PiecesDifferError."""
    cut = piece.place(piece.end)[0]
    token = reading.encoding.char_to_token(cut - reading.first_character)
    while token is not None and token > 0 and reading.place(token - 1)[0] == cut:
        token -= 1
    count = piece.end - known.compared
    if token is None or token < count or not reading.begins_word(token) or reading.place(token)[0] != cut:
        raise PiecesDifferError(f"character {cut} begins a word in one reading only")
    same_ids = (piece.read_ids[known.compared : piece.end] == reading.read_ids[token - count : token]).all()
    if not same_ids or any(
        piece.place(piece.end - back) != reading.place(token - back) for back in range(1, count + 1)
    ):
        raise PiecesDifferError(f"the tokens before character {cut} are not the same in two readings")
    return token


def _last_word(reading: TokenPiece, before_character: int) -> int:
    """The last token that begins a word before the character; 0 where there is none."""
    for token in range(reading.end - 1, 0, -1):
        if reading.place(token)[0] < before_character and reading.begins_word(token):
            return token
    return 0
