"""Fine-tuning a tiny encoder: it learns, it can be gone on with, and it ends well when things go wrong."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from transformers import BertConfig, BertModel

from robert_pipeline.config import Chunking, FinetuneConfig
from robert_pipeline.core import cuda_graphs
from robert_pipeline.core.chunk import cut
from robert_pipeline.core.finetune import loop
from robert_pipeline.core.finetune import pace as paces
from robert_pipeline.core.finetune.loop import ChunkedDocuments, Finetuning, TrainingState, Watchers
from robert_pipeline.core.finetune.pace import TimeBudget
from robert_pipeline.core.framing import Frame
from robert_pipeline.errors import ConfigError, TrainingError

VOCABULARY = 60
DOCUMENTS = 48
LEARN, HELD_OUT = np.arange(0, 36), np.arange(36, DOCUMENTS)
CONFIG = FinetuneConfig(
    epochs=6,
    learning_rate=3e-3,
    classifier_learning_rate=1e-2,
    dropout=0.0,
    step_tokens=200,
    batch_tokens=100,
    train_embeddings=True,
)


def documents(*, multilabel=False):
    """Documents of 5 to 60 tokens; in those of class 1 token 7 stands everywhere, in the others token 8."""
    random = np.random.default_rng(0)
    targets = np.arange(DOCUMENTS) % 2
    counts = random.integers(5, 60, DOCUMENTS)
    texts = [
        np.where(random.random(count) < 0.4, 7 + target, random.integers(10, VOCABULARY, count))
        for count, target in zip(counts, targets, strict=True)
    ]
    return ChunkedDocuments(
        token_ids=np.concatenate(texts).astype(np.int32),
        spans=cut(counts.astype(np.int64), Chunking(chunk_tokens=20, overlap_tokens=5)),
        first_token_B=np.cumsum(counts) - counts,
        frame=Frame(prefix_ids=np.array([1], np.int32), suffix_ids=np.array([2], np.int32)),
        targets=np.stack([targets == 0, targets == 1], axis=1) if multilabel else targets,
    )


def encoder(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **sizes))


def finetuning(config=CONFIG, *, data=None, model=None):
    return Finetuning(
        model or encoder(), data or documents(), config, label_count=2, pooling="mean", pad_id=0, kernel=None
    )


class KilledError(Exception):
    pass


def replace(config, **changes):
    return FinetuneConfig(**{**{name: getattr(config, name) for name in config.__dataclass_fields__}, **changes})


@pytest.mark.parametrize("multilabel", [False, True], ids=["classes", "labels"])
def test_the_encoder_learns(multilabel):
    """Fine-tuning would leave the encoder no better than it found it."""
    steps = []
    training = finetuning(data=documents(multilabel=multilabel))
    done = training.run(LEARN, HELD_OUT, watchers=Watchers(on_step=steps.append))
    assert done.best.accuracy >= 0.9
    assert done.best.loss < done.history[0].loss
    assert steps[-1].step == steps[-1].steps == done.steps
    assert not done.diverged


@pytest.mark.parametrize("kind", ["Roberta", "DistilBert", "ModernBert", "DebertaV2"])
def test_encoders_of_other_families_learn(kind):
    """A family whose layers have other names would be trained in part, or not at all."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    others = {
        "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
        "ModernBert": {f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "eos", "cls", "sep"))},
    }
    given = {**sizes, **others.get(kind, {}), "vocab_size": VOCABULARY, "max_position_embeddings": 64}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**given))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = finetuning(replace(CONFIG, epochs=4, train_embeddings=False), model=model)
    done = training.run(LEARN, HELD_OUT)
    assert done.history[-1].loss < 0.69
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("layer" in name and ".0." in name for name in changed)
    assert any("layer" in name and ".1." in name for name in changed)
    assert not any("word_embeddings" in name or "tok_embeddings" in name for name in changed)


def test_a_time_budget_shortens_the_schedule_and_leaves_time_for_what_comes_after():
    """A training would take longer than was asked for, or end before its learning rate has fallen."""
    ticks = iter(range(1_000_000))
    steps = []

    def run(budget):
        training = Finetuning(
            encoder(),
            documents(),
            replace(CONFIG, epochs=40),
            label_count=2,
            pooling="mean",
            pad_id=0,
            clock=lambda: float(next(ticks)),
        )
        return training.run(LEARN, HELD_OUT, budget=budget, watchers=Watchers(on_step=steps.append))

    whole = run(None).steps
    steps.clear()
    short = run(TimeBudget(seconds=100.0))
    assert paces.PROBED_STEPS <= short.steps < whole
    assert steps[-1].steps == short.steps
    assert short.history[-1].step == short.steps
    pace = steps[-1].tokens_per_second
    shorter = run(TimeBudget(seconds=100.0, tokens_afterwards=int(50 * paces.FORWARD_PACE * pace)))
    assert shorter.steps < short.steps


def test_a_machine_that_gets_slower_still_ends_with_a_low_learning_rate():
    """The time would be up in the middle of the schedule: a model that has not settled."""
    now = 0.0
    seen = []

    def clock():
        nonlocal now
        now += 0.2 if len(seen) < 30 else 1.0
        return now

    training = Finetuning(
        encoder(), documents(), replace(CONFIG, epochs=400), label_count=2, pooling="mean", pad_id=0, clock=clock
    )
    done = training.run(LEARN, HELD_OUT, budget=TimeBudget(seconds=200.0), watchers=Watchers(on_step=seen.append))
    planned_first, planned_last = seen[paces.UNTIMED_STEPS + paces.PROBED_STEPS].steps, seen[-2].steps
    assert planned_last < planned_first / 2
    assert done.steps == planned_last
    assert now < 220


def test_two_runs_with_one_seed_give_the_same_weights():
    """A result could not be reproduced."""
    once, again = (finetuning().run(LEARN, HELD_OUT).weights for _ in range(2))
    for name, tensor in once.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_killed_run_goes_on_where_it_was(dropout):
    """A crash after hours would cost all of them, or the run that goes on would come to another end."""
    config = replace(CONFIG, dropout=dropout)
    whole = finetuning(config).run(LEARN, HELD_OUT)
    kept = []

    def keep(state):
        kept.append(state)
        if len(kept) == 9:
            raise KilledError

    with pytest.raises(KilledError):
        finetuning(config).run(LEARN, HELD_OUT, watchers=Watchers(on_state=keep, state_seconds=0))
    assert 0 < kept[-1].step < whole.steps
    seen = []
    resumed = finetuning(config, model=encoder(seed=5)).run(
        LEARN, HELD_OUT, state=kept[-1], watchers=Watchers(on_step=seen.append)
    )
    assert seen[0].step == kept[-1].step + 1
    assert resumed.history == whole.history
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(tensor, resumed.weights[name], rtol=0, atol=1e-6)


def test_the_best_weights_are_kept():
    """The encoder would be the one that has overfitted last, not the one that did best."""
    config = replace(CONFIG, epochs=3, learning_rate=0.05, patience=99)
    training = finetuning(config)
    done = training.run(LEARN, HELD_OUT)
    assert done.best == min(done.history, key=lambda evaluation: evaluation.loss)
    training._workers = loop.Workers(torch.device("cpu"))
    logits = torch.from_numpy(training.logits(HELD_OUT))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(documents().targets[HELD_OUT]))
    assert float(loss) == pytest.approx(done.best.loss, abs=1e-4)


def test_it_stops_when_nothing_gets_better():
    """Hours would be spent on making the encoder worse."""
    done = finetuning(replace(CONFIG, epochs=50, patience=2, learning_rate=0.02)).run(LEARN, HELD_OUT)
    after_the_best = [evaluation for evaluation in done.history if evaluation.step > done.best.step]
    assert len(after_the_best) == 2


@pytest.mark.parametrize(
    ("count", "drawn_share", "epochs"),
    [
        (20_000, 1.0, 4.0),  # many short documents
        (400, 1.0, 8.0),  # few
        (400, 1 / 12, 12.0),  # few and long: every chunk once
        (400, 1 / 50, 16.0),  # very long
        (1_600, 1 / 50, 10.0),  # more of them
        (100_000, 1 / 50, 4.0),  # so many that no document needs to be read whole
    ],
)
def test_few_or_long_documents_take_more_epochs(count, drawn_share, epochs):
    """Of contracts with one telling passage most would never be seen; of a large corpus it would take days."""
    assert FinetuneConfig().epochs_for(count, drawn_share) == epochs
    assert FinetuneConfig(epochs=2.5).epochs_for(count, drawn_share) == 2.5


def test_long_documents_are_told_by_their_chunks():
    """A corpus of few long documents would get the epochs of short ones."""
    whole = documents()
    counts = np.diff([*whole.first_token_B, len(whole.token_ids)])
    spans = cut(counts, Chunking(chunk_tokens=3, overlap_tokens=0))
    config = FinetuneConfig(chunks_per_document=1, step_tokens=10_000)
    done = finetuning(config, data=dataclasses.replace(whole, spans=spans)).run(LEARN, np.empty(0, np.int64))
    chunks_of_each = spans.lengths_B[LEARN].mean()
    assert 8 < chunks_of_each < 16
    assert done.epochs == pytest.approx(chunks_of_each)


def test_torch_has_its_threads_back_afterwards():
    """Encoding after fine-tuning, in threads of its own, would go on with one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        workers = loop.Workers(torch.device("cpu"))
        assert list(workers.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
        workers.close()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_a_long_training_has_more_patience():
    """The loss of documents with rare telling passages stands still at first: training would end before it falls."""
    assert [FinetuneConfig().patience_for(n) for n in (1, 4, 8, 16)] == [3, 3, 3, 5]
    assert FinetuneConfig(patience=2).patience_for(16) == 2
    done = finetuning(replace(CONFIG, epochs=50, patience=None, learning_rate=0.02)).run(LEARN, HELD_OUT)
    after_the_best = [evaluation for evaluation in done.history if evaluation.step > done.best.step]
    assert len(after_the_best) == FinetuneConfig().patience_for(50 * CONFIG.evaluations_per_epoch)


def test_killed_before_its_first_step_it_goes_on():
    """A state of which every gradient was infinite would stop each run that finds it."""
    untouched = loop.MasterWeights(encoder(), torch.nn.Linear(32, 2), CONFIG, with_pooler=False)
    state = TrainingState(step=1, weights=untouched.weights(), moments=untouched.moments())
    assert state.moments == {}
    assert finetuning().run(LEARN, HELD_OUT, state=state).steps == training_steps()


def test_killed_after_its_last_step_it_has_none_to_come():
    """A training that had stopped early would go on past its end, and come to other weights than an unbroken one."""
    config, kept, seen = replace(CONFIG, epochs=50, patience=2, learning_rate=0.02), [], []
    whole = finetuning(config).run(LEARN, HELD_OUT, watchers=Watchers(on_state=kept.append))
    again = finetuning(config).run(LEARN, HELD_OUT, state=kept[-1], watchers=Watchers(on_step=seen.append))
    assert not seen
    assert again.history == whole.history
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


@pytest.mark.parametrize("evaluated", [True, False], ids=["after an evaluation", "before the first"])
def test_a_loss_that_is_no_number_ends_it(evaluated, monkeypatch):
    """A diverged encoder would be written as if it were the best."""
    steps = training_steps()
    real, calls = loop.step_gradients, []

    def poisoned(*arguments, **others):
        found = real(*arguments, **others)
        calls.append(1)
        if len(calls) > (30 if evaluated else 0):
            for gradient in found.of:
                gradient.fill_(float("nan"))
        return found

    monkeypatch.setattr(loop, "step_gradients", poisoned)
    training = finetuning()
    if not evaluated:
        with pytest.raises(TrainingError, match="not a number"):
            training.run(LEARN, HELD_OUT)
        return
    done = training.run(LEARN, HELD_OUT)
    assert done.diverged
    assert done.steps < steps
    assert all(torch.isfinite(tensor).all() for tensor in done.weights.values())


def training_steps():
    counted = []
    finetuning().run(LEARN, np.empty(0, np.int64), watchers=Watchers(on_step=counted.append))
    return counted[-1].steps


def test_out_of_memory_halves_the_batch(monkeypatch):
    """A run would die of one batch that did not fit."""
    real, sizes = loop.step_gradients, []

    def cramped(gradients_of, parts, workers):
        sizes.append(max(len(part.tokens.token_ids) for part in parts))
        if sizes[-1] > 60:
            raise torch.OutOfMemoryError("no")
        return real(gradients_of, parts, workers)

    monkeypatch.setattr(loop, "step_gradients", cramped)
    states = []
    finetuning().run(LEARN, HELD_OUT, watchers=Watchers(on_state=states.append))
    assert sizes[0] > 60
    assert max(sizes[3:]) <= 60
    assert states[-1].batch_tokens < CONFIG.batch_tokens


def test_frozen_parts_stay_as_they_are():
    """What was asked to be left alone would be changed."""
    model = encoder()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = replace(CONFIG, epochs=1, frozen_layers=1, train_embeddings=False)
    done = finetuning(config, model=model).run(LEARN, HELD_OUT)
    after = model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed
    assert all("layer.1." in name for name in changed)
    assert all("layer.1." in name or name.startswith("classifier.") for name in done.weights)


def test_lower_layers_learn_more_slowly():
    """The decay of learning rates would be turned upside down, or applied to the classifier."""
    config = replace(CONFIG, layer_decay=0.5, weight_decay=0.0)
    weights = loop.MasterWeights(encoder(), torch.nn.Linear(32, 2), config, with_pooler=False)
    before = weights.weights()
    weights.step([torch.ones_like(master) for master in weights.masters], 1.0)  # Adam's first step is the rate itself
    of = {name: float((before[name] - after).mean()) for name, after in weights.weights().items()}
    top = of["encoder.encoder.layer.1.attention.self.query.weight"]
    assert top == pytest.approx(CONFIG.learning_rate, rel=0.01)
    assert of["encoder.encoder.layer.0.attention.self.query.weight"] == pytest.approx(top / 2, rel=0.01)
    assert of["encoder.embeddings.word_embeddings.weight"] == pytest.approx(top / 4, rel=0.01)
    assert of["classifier.weight"] == pytest.approx(CONFIG.classifier_learning_rate, rel=0.01)


def test_going_on_from_the_beginning_is_a_fresh_run():
    """A state that was written before the first step would stop the run that finds it."""
    once = finetuning().run(LEARN, HELD_OUT, state=TrainingState())
    assert once.steps == training_steps()


@pytest.mark.parametrize("name", ["epochs", "learning_rate", "step_tokens", "dropout", "patience", "frozen_layers"])
def test_a_senseless_setting_is_named(name):
    """A run would fail hours later, in words of the framework."""
    with pytest.raises(ConfigError, match=name):
        FinetuneConfig(**{name: -1})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_by_graph_are_those_without(monkeypatch):
    """Fine-tuning on a GPU would follow another slope, or the one of an earlier batch."""
    found = {}
    for captured_at in (2, 10**9):
        monkeypatch.setattr(cuda_graphs, "CAPTURED_AT", captured_at)
        config = replace(CONFIG, epochs=2, batch_tokens=100)  # several batches a step
        steps = []
        training = finetuning(config, model=encoder().to("cuda", torch.bfloat16))
        training.run(LEARN, HELD_OUT, watchers=Watchers(on_step=steps.append))
        found[captured_at] = [step.loss for step in steps]
    assert found[2] == pytest.approx(found[10**9], rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_encoder_learns_on_a_gpu_and_goes_on_from_a_state():
    """Fine-tuning would end where the state on disk meets a device, or learn nothing there."""
    states = []
    training = finetuning(model=encoder().to("cuda", torch.bfloat16))
    training.run(LEARN, HELD_OUT, watchers=Watchers(on_state=states.append))
    kept = states[0]
    kept = dataclasses.replace(
        kept,
        weights={name: values.cpu() for name, values in kept.weights.items()},
        moments={name: values.cpu() for name, values in kept.moments.items()},
        best_weights={name: values.cpu() for name, values in kept.best_weights.items()},
    )
    done = finetuning(model=encoder().to("cuda", torch.bfloat16)).run(LEARN, HELD_OUT, state=kept)
    assert done.steps > kept.step
    assert done.best.accuracy >= 0.9
