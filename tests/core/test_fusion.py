"""What words say: counted right, added up exactly, weighed by what they are worth."""

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from heads import documents as vectors_of
from heads import flat, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from robert_pipeline.core import terms
from robert_pipeline.core.fusion import fit_views, fit_weights, make_fusion, view_bytes, views_from, weighted
from robert_pipeline.core.lexical import VIEWS, fit_view
from robert_pipeline.core.score import score
from robert_pipeline.core.terms import PAIR_SHIFT, ChunkTokens, DocumentTokens, count_terms
from robert_pipeline.errors import ConfigError, ModelError

texts = st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=6)


def tokens_of(texts):
    return DocumentTokens(
        token_ids=np.array([token for text in texts for token in text], np.int32),
        tokens_B=np.array([len(text) for text in texts], np.int64),
    )


def learnable(count, *, classes=3, seed=0):
    """Documents in which one token of twenty is that of the class."""
    random = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    texts = [np.where(random.random(60) < 0.05, k, random.integers(classes, 40, 60)).tolist() for k in targets]
    return tokens_of(texts), targets


@given(texts, st.integers(1, 40))
def test_terms_are_counted_within_each_document(texts, at_once):
    """A pair would span two documents, or a term be counted for another, or for a document counted elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terms, "TOKENS_AT_ONCE", at_once)
        counts = count_terms(tokens_of(texts), pairs=True)
    assert counts.document_C.tolist() == sorted(counts.document_C.tolist())
    found = {(d, t): c for d, t, c in zip(counts.document_C, counts.term_C, counts.count_C, strict=True)}
    wanted = Counter()
    for number, text in enumerate(texts):
        wanted.update((number, token) for token in text)
        wanted.update((number, (a + 1) << PAIR_SHIFT | b) for a, b in pairwise(text))
    assert found == wanted


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_view_learns_and_its_contributions_sum_to_its_logit(view, classes):
    """The words that decided would not be those that are shown."""
    tokens, targets = learnable(240, classes=classes)
    fitted = fit_view(view, tokens, targets, logit_count=1 if classes == 2 else classes)
    fresh, truth = learnable(90, classes=classes, seed=1)
    reading = fitted.read(fresh)
    logits_BK = reading.logits()
    chosen = (logits_BK[:, 0] > 0).astype(int) if classes == 2 else logits_BK.argmax(1)
    assert (chosen == truth).mean() > 0.8
    class_B = np.zeros(len(fresh), int) if classes == 2 else chosen
    token, added = reading.contributions(class_B)
    document = np.repeat(np.arange(len(fresh)), fresh.tokens_B)
    sums = np.bincount(document[token], added, minlength=len(fresh))
    np.testing.assert_allclose(sums, logits_BK[np.arange(len(fresh)), class_B] - fitted.bias_K[class_B], atol=1e-9)


@given(texts)
@settings(max_examples=25)
def test_a_document_reads_the_same_alone(texts):
    """A label would depend on the documents beside it."""
    tokens, targets = learnable(60)
    for fitted in fit_views(tokens, targets, logit_count=3):
        together = fitted.read(tokens_of(texts)).logits()
        for number, text in enumerate(texts):
            np.testing.assert_allclose(fitted.read(tokens_of([text])).logits()[0], together[number], atol=1e-9)


def test_two_logits_of_two_classes_are_each_others_opposite():
    """A softmax over two labels would get one logit."""
    tokens, targets = learnable(80, classes=2)
    one = fit_view("topic", tokens, targets, logit_count=1).read(tokens).logits()
    two = fit_view("topic", tokens, targets, logit_count=2).read(tokens).logits()
    np.testing.assert_allclose(two, np.concatenate([-one, one], axis=1), atol=1e-6)


def test_several_labels_at_once_and_one_that_nobody_has():
    """A multi-label head could have no words, or a label without documents would stop it."""
    tokens, targets = learnable(120)
    mask = np.stack([targets == 0, targets != 1, np.zeros(120, bool)], axis=1)
    fitted = fit_view("topic", tokens, mask, logit_count=3)
    logits_BK = fitted.read(tokens).logits()
    assert ((logits_BK > 0) == mask).mean() > 0.95


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("logit_count", [1, 2, 3])
def test_a_view_without_a_term_says_nothing(view, logit_count):
    """A corpus of titles that share no word would end a fit in scikit-learn's own error."""
    tokens = tokens_of([[number] for number in range(30)])
    fitted = fit_view(view, tokens, np.arange(30) % max(2, logit_count), logit_count=logit_count)
    back = views_from(view_bytes([fitted]))[0]
    np.testing.assert_array_equal(back.read(tokens).logits(), np.zeros((30, logit_count)))
    assert len(back.read(tokens).contributions(np.zeros(30, int))[0]) == 0


@pytest.mark.parametrize("output", ["binary", "multiclass", "multilabel"])
def test_weights_go_to_what_is_worth_something(output):
    """Noise would have a say, or a part that knows be ignored."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2 if output == "binary" else 4, 400)
    mask = truth[:, None] == (np.array([1]) if output == "binary" else np.arange(4))
    good = 3 * mask - 1 + random.normal(size=mask.shape)
    noise = random.normal(size=mask.shape)
    targets = mask if output == "multilabel" else truth
    wrong = -good
    weights = fit_weights([good, noise, wrong], targets, output)
    assert weights[0] > 0.5
    assert abs(weights[1]) < 0.2
    assert weights[2] == 0
    only_good = fit_weights([10 * good], targets, output)
    assert only_good[0] * 10 == pytest.approx(weights[0], rel=0.2)


def test_without_held_out_documents_parts_count_the_same():
    """A corpus too small to hold anything out would get no model."""
    empty = np.empty((0, 3))
    weights = fit_weights([empty, empty], np.empty(0, np.int64), "multiclass")
    assert weights == (0.5, 0.5)


@pytest.mark.parametrize("names", [("a", "b", "c"), ("no", "yes")])
@pytest.mark.parametrize("lengths", [[3, 1, 2], [5]])
def test_a_fused_heads_contributions_sum_to_its_logit(names, lengths):
    """The passage would be that of a part, and not of the label that was given."""
    tokens, targets = learnable(90, classes=len(names))
    logit_count = 1 if len(names) == 2 else len(names)
    fusion = make_fusion(fit_views(tokens, targets, logit_count=logit_count), (0.7, 1.5, 0.4))
    head = dataclasses.replace(trained(names), fusion=fusion)
    vectors_ND, lengths_B = (tensor.numpy() for tensor in flat(vectors_of(lengths)))
    new_tokens_N = np.arange(len(vectors_ND)) % 4 + 3
    ids = np.random.default_rng(0).integers(0, 40, int(new_tokens_N.sum()))
    found = score(head, vectors_ND, lengths_B, ChunkTokens(token_ids=ids, new_tokens_N=new_tokens_N))
    plain = score(trained(names), vectors_ND, lengths_B)
    of_documents = ChunkTokens(token_ids=ids, new_tokens_N=new_tokens_N).of_documents(lengths_B)
    parts = [plain.logits_BK, *(view.read(of_documents).logits() for view in fusion.views)]
    np.testing.assert_allclose(found.logits_BK, weighted(parts, (0.7, 1.5, 0.4)))
    bias_K = 0.7 * head.module.out.bias.detach().numpy() + 1.5 * fusion.views[0].bias_K + 0.4 * fusion.views[1].bias_K
    starts = np.cumsum(lengths_B) - lengths_B
    sums = np.add.reduceat(found.contributions_N, starts)
    class_B = np.zeros_like(found.candidate_B) if len(names) == 2 else found.candidate_B
    sign_B = np.where(found.candidate_B == 1, 1, -1) if len(names) == 2 else 1
    wanted = sign_B * (found.logits_BK[np.arange(len(lengths_B)), class_B] - bias_K[class_B])
    np.testing.assert_allclose(sums, wanted, atol=1e-4)


def test_a_fused_head_without_words_and_words_without_their_shape_are_refused():
    """A label would be made of half of what makes it."""
    tokens, targets = learnable(90)
    views = fit_views(tokens, targets, logit_count=3)
    head = dataclasses.replace(trained(), fusion=make_fusion(views, (1.0, 1.0, 1.0)))
    with pytest.raises(ModelError, match="tokens of the chunks"):
        score(head, *(tensor.numpy() for tensor in flat(vectors_of([2]))))
    with pytest.raises(ConfigError, match="logits"):
        dataclasses.replace(trained(("no", "yes")), fusion=head.fusion)


def test_the_words_are_part_of_a_heads_identity():
    """Two heads that label differently would have one name."""
    tokens, targets = learnable(90)
    views = fit_views(tokens, targets, logit_count=3)
    plain = trained()
    fused = [
        dataclasses.replace(plain, fusion=make_fusion(views, weights))
        for weights in ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (2.0, 1.0, 1.0))
    ]
    other = fit_views(*learnable(90, seed=3), logit_count=3)
    fused.append(dataclasses.replace(plain, fusion=make_fusion(other, (1.0, 1.0, 1.0))))
    assert len({head.fingerprint for head in [plain, *fused]}) == 5


def test_views_come_back_as_they_were_and_damage_is_named():
    """A saved head would label differently, or with weights of another size."""
    tokens, targets = learnable(90)
    views = fit_views(tokens, targets, logit_count=3)
    raw = view_bytes(views)
    back = views_from(raw)
    assert view_bytes(back) == raw
    np.testing.assert_array_equal(back[0].read(tokens).logits(), views[0].read(tokens).logits())
    for change, named in (
        ({"scale_F": views[0].scale_F[:-1]}, "do not fit"),
        ({"terms_F": views[0].terms_F[::-1]}, "order"),
        ({"weights_KF": np.full_like(views[0].weights_KF, np.nan)}, "finite"),
    ):
        broken = dataclasses.replace(views[0], **change)
        with pytest.raises(ValueError, match=named):
            views_from(view_bytes([broken]))
