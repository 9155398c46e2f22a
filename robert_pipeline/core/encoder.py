"""One BERT-family model as a function from token ids to one vector a chunk.

Axes: B chunks of a batch, T tokens, D embedding. Never loads weights; `robert_pipeline.storage.encoders` does.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from robert_pipeline.errors import EncoderError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooled = Literal["cls", "mean", "pooler"]


def fast_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The faster of the two on this machine: bfloat16 on CUDA and on CPUs that multiply it in hardware.

    These have AMX tiles or AVX512-BF16; elsewhere bfloat16 is emulated and slower than float32.
    """
    if device.type == "cuda" or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        return "bfloat16"
    return "float32"


class Encoder:
    """A model in inference mode on one device. Chunks in a batch do not see one another."""

    def __init__(self, model: "PreTrainedModel", *, pooling: Pooled, pad_id: int, device: torch.device) -> None:
        self._model = model.to(device).eval()  # type: ignore[arg-type]  # transformers annotates `to` for its own types
        self._pooling = pooling
        self._pad_id = pad_id
        self._device = device
        self.dimension = int(model.config.hidden_size)

    def __call__(self, sequences: list[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Vectors (B, D), float32, of token id sequences with their special tokens.

        A batch whose sequences are equally long runs without a mask. Raises torch.OutOfMemoryError or RuntimeError
        where the batch does not fit in memory.
        """
        lengths_B = np.array([len(sequence) for sequence in sequences])
        ids_BT = np.full((len(sequences), int(lengths_B.max())), self._pad_id, np.int64)
        for row, sequence in enumerate(sequences):
            ids_BT[row, : len(sequence)] = sequence
        mask_BT = None
        if (lengths_B != ids_BT.shape[1]).any():
            mask_BT = torch.from_numpy(np.arange(ids_BT.shape[1]) < lengths_B[:, None]).to(self._device)
        with torch.inference_mode():
            output = self._model(input_ids=torch.from_numpy(ids_BT).to(self._device), attention_mask=mask_BT)
            vectors_BD = self._pool(output.last_hidden_state, getattr(output, "pooler_output", None), mask_BT)
        return vectors_BD.float().cpu().numpy()

    def _pool(
        self, hidden_BTD: torch.Tensor, pooled_BD: torch.Tensor | None, mask_BT: torch.Tensor | None
    ) -> torch.Tensor:
        if self._pooling == "cls":
            return hidden_BTD[:, 0]
        if self._pooling == "pooler":
            if pooled_BD is None:
                raise EncoderError("this encoder has no pooler", fix="Use pooling 'mean' or 'cls'")
            return pooled_BD
        if mask_BT is None:
            return hidden_BTD.float().mean(dim=1)
        weights_BT1 = mask_BT.unsqueeze(-1).float()
        return (hidden_BTD.float() * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
