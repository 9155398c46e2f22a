"""Turn texts into token ids, with the characters each token came from.

Texts enter; flat token ids leave. Never cuts a text: truncation that a checkpoint's tokenizer file asks for is off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.framing import Frame

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedTexts:
    """Tokens of several texts, one after the other, special tokens not among them."""

    token_ids: NDArray[np.int32]
    first_token_B: NDArray[np.int64]
    """Where each text's tokens begin in `token_ids`."""
    token_counts_B: NDArray[np.int64]
    encodings: "Sequence[tokenizers.Encoding]"

    def characters(self, text: int, first_token: int, token_count: int) -> tuple[int, int]:
        """Characters [start, end) of a run of tokens of one text, in Unicode code points."""
        encoding = self.encodings[text]
        start = encoding.token_to_chars(first_token)
        end = encoding.token_to_chars(first_token + token_count - 1)
        if start is None or end is None:
            raise ValueError(f"token {first_token} of text {text} has no place in the text")
        return int(start[0]), int(end[1])


class Tokenizer:
    """A fast tokenizer (Rust) with truncation and padding off, and the special tokens around a sequence."""

    def __init__(self, backend: "tokenizers.Tokenizer", *, pad_id: int) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.pad_id = pad_id
        plain = backend.encode("a", add_special_tokens=False).ids
        framed = backend.encode("a", add_special_tokens=True).ids
        before = next(i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
        self.frame = Frame(
            prefix_ids=np.array(framed[:before], np.int32),
            suffix_ids=np.array(framed[before + len(plain) :], np.int32),
        )

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenise whole texts. A mark like '[SEP]' that stands in a text is one token, as the checkpoint reads it."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        counts_B = np.array([len(encoding) for encoding in encodings], np.int64)
        flat = [np.array(encoding.ids, np.int32) for encoding in encodings]
        return TokenizedTexts(
            token_ids=np.concatenate(flat) if flat else np.empty(0, np.int32),
            first_token_B=np.cumsum(counts_B) - counts_B,
            token_counts_B=counts_B,
            encodings=encodings,
        )
