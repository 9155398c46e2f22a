"""What the product is measured against: chunks of text in, one mean vector a chunk out, in order.

Each peer is used as its own documentation shows, and gets what it is fastest with: where it takes any batch, texts
sorted by length in batches whose size is chosen by trying. Mean over tokens, as MiniLM was trained.
Axes: B chunks, T tokens, D embedding.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

SENTENCES_A_BATCH = 32
"""What sentence-transformers takes, and users of the other two give."""


class Unavailable(Exception):  # noqa: N818 - a finding for the table
    """This peer cannot run here; the message says why."""


class Peer:
    """Chunks to vectors. `began` is set by peers whose start is not to be counted."""

    way = ""
    began: float | None = None
    batch_sizes: Sequence[int] = ()
    """Tokens of a batch to choose from by trying; `batch_tokens` is the choice."""
    batch_tokens = 0

    def __call__(self, texts: list[str]) -> Vectors:
        """One vector a text."""
        raise NotImplementedError


class Pipeline(Peer):
    """transformers' feature-extraction pipeline, float32."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import pipeline

        self._run = pipeline(
            "feature-extraction", model=str(folder), tokenizer=str(folder), device=device, batch_size=SENTENCES_A_BATCH
        )
        self._tokenizer: Any = self._run.tokenizer
        self.way = f"{_dtype(self._run.model)}, batches of {SENTENCES_A_BATCH}"

    def __call__(self, texts: list[str]) -> Vectors:
        lengths = [len(ids) for ids in self._tokenizer(texts)["input_ids"]]
        features = self._run(texts, return_tensors=True)
        return np.stack([f[0, :n].float().mean(0).numpy() for f, n in zip(features, lengths, strict=True)])


class SentenceTransformers(Peer):
    """`SentenceTransformer.encode`, as it comes or with the model in bfloat16."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(
            str(folder), device=str(device), model_kwargs={} if dtype is None else {"dtype": dtype}
        )
        self.way = f"{'default' if dtype is None else dtype}, batches of {SENTENCES_A_BATCH}".replace("torch.", "")

    def __call__(self, texts: list[str]) -> Vectors:
        return np.asarray(self._model.encode(texts, batch_size=SENTENCES_A_BATCH), np.float32)


class Sorted(Peer):
    """What a careful user writes around a model: sort by length, batch by tokens, pad, mean over real tokens."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.batch_sizes = (16_384, 65_536, 262_144) if device.type == "cuda" else (1_024, 2_048, 4_096, 8_192)
        self.batch_tokens = self.batch_sizes[0]

    def hidden(self, batches: list[dict[str, NDArray[np.int64]]]) -> list[Vectors]:
        """Mean vectors (B, D) of each padded batch of input_ids and attention_mask (B, T)."""
        raise NotImplementedError

    def __call__(self, texts: list[str]) -> Vectors:
        ids = self._tokenizer(texts)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        batches, chosen, at = [], [], 0
        while at < len(order):
            batch = order[at : at + max(1, self.batch_tokens // len(ids[order[at]]))]
            padded = self._tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="np")
            batches.append({name: padded[name].astype(np.int64) for name in ("input_ids", "attention_mask")})
            chosen += batch
            at += len(batch)
        vectors = np.concatenate(self.hidden(batches))
        result = np.empty_like(vectors)
        result[chosen] = vectors
        return result


class SortedModel(Sorted):
    """transformers' model with SDPA attention, perhaps through torch.compile."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> None:
        super().__init__(folder, device)
        from transformers import AutoModel

        self._device = device
        self._model = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(device).eval()
        if compiled:
            import torch._inductor.config as inductor

            inductor.freezing = True
            self._model = torch.compile(self._model, dynamic=True)
        self.way = f"{dtype}, SDPA, sorted{', compiled with frozen weights' if compiled else ''}".replace("torch.", "")

    def hidden(self, batches: list[dict[str, NDArray[np.int64]]]) -> list[Vectors]:
        found = []
        with torch.inference_mode():
            for batch in batches:
                ids, mask = (torch.from_numpy(batch[name]).to(self._device) for name in ("input_ids", "attention_mask"))
                hidden_BTD = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                found.append((hidden_BTD.float() * mask[..., None]).sum(1) / mask.sum(1)[:, None])
            return [vectors_BD.cpu().numpy() for vectors_BD in found]


class OnnxRuntime(Sorted):
    """onnxruntime with the graph that torch exports, float32 or with weights in int8."""

    def __init__(self, folder: Path, device: torch.device, *, quantized: bool = False) -> None:
        super().__init__(folder, device)
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise Unavailable(f"this onnxruntime has no {provider}")
        if quantized and device.type == "cuda":
            raise Unavailable("int8 is measured on CPUs")
        with tempfile.TemporaryDirectory() as place:
            graph = _export_onnx(folder, Path(place) / "model.onnx")
            if quantized:
                quantize_dynamic(graph, Path(place) / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
                graph = Path(place) / "int8.onnx"
            self._session = onnxruntime.InferenceSession(graph, providers=[provider])
        self.way = f"{'int8' if quantized else 'float32'}, sorted"

    def hidden(self, batches: list[dict[str, NDArray[np.int64]]]) -> list[Vectors]:
        return [_mean(self._session.run(None, batch)[0], batch["attention_mask"]) for batch in batches]


class OpenVino(Sorted):
    """OpenVINO with its throughput hint: as many requests at once as it asks for."""

    def __init__(self, folder: Path, device: torch.device, precision: str) -> None:
        if device.type == "cuda":
            raise Unavailable("OpenVINO does not compute on NVIDIA devices")
        super().__init__(folder, device)
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Unavailable("this processor has no bfloat16")
        graph = openvino.convert_model(_HiddenStates(folder), example_input=_example())
        compiled = core.compile_model(
            graph, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT"}
        )
        self._queue = openvino.AsyncInferQueue(compiled)
        self.way = f"{precision}, sorted, {len(self._queue)} requests at once"

    def hidden(self, batches: list[dict[str, NDArray[np.int64]]]) -> list[Vectors]:
        found: dict[int, Vectors] = {}

        def take(request: Any, place: int) -> None:
            found[place] = _mean(request.get_output_tensor(0).data, batches[place]["attention_mask"])

        self._queue.set_callback(take)
        for place, batch in enumerate(batches):
            self._queue.start_async(batch, userdata=place)
        self._queue.wait_all()
        return [found[place] for place in range(len(batches))]


class BeamRunInference(Peer):
    """Apache Beam's RunInference over tokenised chunks with a PyTorch model handler, float32, in Beam's own runner."""

    vectors: dict[int, Vectors] = {}  # noqa: RUF012 - where the pipeline's last step, in this process, puts them
    clock: list[float] = []  # noqa: RUF012

    def __init__(self, folder: Path, device: torch.device) -> None:
        import apache_beam  # noqa: F401
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._device = device
        self._config = AutoConfig.from_pretrained(folder)
        self._state = Path(tempfile.mkdtemp()) / "state.pt"
        model = AutoModel.from_pretrained(folder)
        torch.save(model.state_dict(), self._state)
        self._model_class = type(model)
        self.way = f"float32, batches of {SENTENCES_A_BATCH}; its start is not counted"

    def __call__(self, texts: list[str]) -> Vectors:
        import apache_beam as beam
        from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
        from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerKeyedTensor
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        self.vectors.clear()
        self.clock.clear()
        handler = PytorchModelHandlerKeyedTensor(
            state_dict_path=str(self._state),
            model_class=self._model_class,
            model_params={"config": self._config},
            device="GPU" if self._device.type == "cuda" else "CPU",
            inference_fn=_infer_padded,
            min_batch_size=SENTENCES_A_BATCH,
            max_batch_size=SENTENCES_A_BATCH,
        )
        started = time.perf_counter()
        elements = [(i, {"input_ids": torch.tensor(ids)}) for i, ids in enumerate(self._tokenizer(texts)["input_ids"])]
        tokenized = time.perf_counter() - started
        options = PipelineOptions(["--pickle_library=cloudpickle"])
        with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
            _ = pipeline | beam.Create(elements) | RunInference(KeyedModelHandler(handler)) | beam.Map(_keep)
        self.began = self.clock[0] - tokenized
        return np.stack([self.vectors[i] for i in range(len(texts))])


def _infer_padded(
    batch: "Sequence[dict[str, torch.Tensor]]", model: torch.nn.Module, device: Any, *_others: Any
) -> list[Any]:
    from apache_beam.ml.inference.base import PredictionResult

    BeamRunInference.clock.append(time.perf_counter())
    ids = torch.nn.utils.rnn.pad_sequence([element["input_ids"] for element in batch], batch_first=True).to(device)
    lengths = torch.tensor([len(element["input_ids"]) for element in batch], device=device)
    mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    with torch.inference_mode():
        hidden_BTD = model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors_BD = (hidden_BTD * mask[..., None]).sum(1) / lengths[:, None]
    return [PredictionResult(example=None, inference=vector) for vector in vectors_BD.cpu().numpy()]


def _keep(result: Any) -> None:
    BeamRunInference.vectors[result[0]] = result[1].inference


def _dtype(model: torch.nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _mean(hidden_BTD: NDArray[Any], mask_BT: NDArray[np.int64]) -> Vectors:
    real = mask_BT[..., None].astype(np.float32)
    mean: Vectors = ((hidden_BTD * real).sum(1) / real.sum(1)).astype(np.float32)
    return mean


def _example() -> dict[str, torch.Tensor]:
    ids = torch.arange(2_000, 2_000 + 3 * 32).reshape(3, 32)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class _HiddenStates(torch.nn.Module):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


def _export_onnx(folder: Path, place: Path) -> Path:
    example = _example()
    torch.onnx.export(
        _HiddenStates(folder),
        (example["input_ids"], example["attention_mask"]),
        place,
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_shapes=({0: torch.export.Dim("chunks"), 1: torch.export.Dim("tokens", max=512)},) * 2,
        external_data=False,
        verbose=False,
    )
    return place


BFLOAT16 = torch.bfloat16

PEERS: dict[str, tuple[str, Callable[[Path, torch.device], Peer]]] = {
    "transformers pipeline": ("", Pipeline),
    "sentence-transformers": ("sentence-transformers", SentenceTransformers),
    "sentence-transformers bf16": ("sentence-transformers", lambda f, d: SentenceTransformers(f, d, BFLOAT16)),
    "transformers bf16 sorted": ("", lambda f, d: SortedModel(f, d, BFLOAT16)),
    "torch.compile bf16 sorted": ("", lambda f, d: SortedModel(f, d, BFLOAT16, compiled=True)),
    "onnxruntime fp32": ("onnxruntime onnx onnxscript", OnnxRuntime),
    "onnxruntime int8": ("onnxruntime onnx onnxscript", lambda f, d: OnnxRuntime(f, d, quantized=True)),
    "OpenVINO fp32": ("openvino", lambda f, d: OpenVino(f, d, "f32")),
    "OpenVINO bf16": ("openvino", lambda f, d: OpenVino(f, d, "bf16")),
    "Beam RunInference": ("apache-beam", BeamRunInference),
}
"""By name: the packages it needs, for pip, and how to make it."""
