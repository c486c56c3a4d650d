"""The threshold: what is compared, the rule that is kept, and what is said about it."""

import numpy as np
import pytest
from gallery_helpers import line, line_gallery, random_gallery

from workbook.gallery.threshold import limit_strangers


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("among_entries", [False, True])
def test_a_comparison_is_that_of_a_plain_loop(model, seed, among_entries):
    gallery, (queries, labels) = random_gallery(model, seed)
    gallery.add_embeddings(line(model, [1.5]), ["alone"])
    labels = np.array(labels, str)
    if among_entries:
        queries, labels, result = gallery.embeddings, gallery.labels, gallery.compare_entries()
    else:
        result = gallery.compare(queries, labels)
    for i, (vector, label) in enumerate(zip(queries, labels)):
        others = [j for j in range(31) if not (among_entries and j == i)]
        distance = {j: ((gallery.embeddings[j] - vector) ** 2).sum() for j in others}
        closest = min(others, key=distance.get)
        assert result.distances[i] == pytest.approx(distance[closest], rel=1e-4, abs=1e-4)
        assert result.is_known[i] == any(gallery.labels[j] == label for j in others)
        assert result.is_right[i] == (gallery.labels[closest] == label)
        to_others = min(distance[j] for j in others if gallery.labels[j] != label)
        given = gallery.labels[closest]
        runner_up = min(distance[j] for j in others if gallery.labels[j] != given)
        margin = 1 - distance[closest] / runner_up
        assert result.margins[i] == pytest.approx(margin, rel=1e-3, abs=1e-4)
        found = result.distances_to_other_classes[i]
        assert found == pytest.approx(to_others, rel=1e-4, abs=1e-4)
    assert result.strangers_are_simulated == among_entries
    expected = result.distances_to_other_classes
    if not among_entries:
        expected = result.distances[~result.is_known]
    np.testing.assert_array_equal(result.stranger_distances, expected)
    assert not gallery.compare_entries().is_known[-1], "a class of one entry has no other to match"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_policy_is_kept_and_refuses_no_more_friends_than_it_must(model, seed, share):
    gallery, (queries, labels) = random_gallery(model, seed)
    policy = gallery.fit_threshold(queries, labels, share)
    found = gallery.threshold
    result = gallery.compare(queries, labels)
    accepted = lambda limit: (result.is_right & (result.distances <= limit)).sum()  # noqa: E731
    let_in = lambda limit: (result.stranger_distances <= limit).mean()  # noqa: E731
    allowed = [limit for limit in result.distances if let_in(limit) <= share]
    best = max(map(accepted, allowed))
    farthest = min(limit for limit in allowed if accepted(limit) == best)
    outside = min(x for x in result.stranger_distances if let_in(x) > share)
    assert found == pytest.approx((farthest + outside) / 2) and best > 10
    known = np.array(labels) < 4
    lows, highs = zip(policy["strangers_let_in_95"], policy["known_refused_95"])
    assert all(low <= policy[k] for low, k in zip(lows, ("strangers_let_in", "known_refused")))
    assert all(high >= policy[k] for high, k in zip(highs, ("strangers_let_in", "known_refused")))
    assert policy == gallery.policy == {
        "threshold": found,
        "strangers_let_in_at_most": share,
        "known_refused_at_most": None,
        "strangers": (~known).sum(),
        "stranger_classes": len(set(np.array(labels)[~known])),
        "strangers_simulated": False,
        "strangers_let_in": let_in(found),
        "strangers_let_in_95": [lows[0], highs[0]],
        "known": known.sum(),
        "known_held_out": True,
        "known_refused": (result.distances[known] > found).mean(),
        "known_refused_95": [lows[1], highs[1]],
    }  # fmt: skip
    assert policy["strangers_let_in"] <= share


@pytest.mark.parametrize("seed", range(3))
def test_the_balanced_threshold_is_the_best_of_a_plain_loop(model, seed):
    gallery, (queries, labels) = random_gallery(model, seed)
    gallery.fit_threshold(queries, labels, strangers_let_in=None)
    balance = lambda shares: shares["known_accuracy"] + shares["unknown_rejection"]  # noqa: E731
    found, best = balance(gallery.open_set(queries, labels)), 0
    for limit in gallery.compare(queries, labels).distances:
        gallery.threshold = limit
        best = max(best, balance(gallery.open_set(queries, labels)))
    assert found == pytest.approx(best)


def test_shares_of_known_and_strangers(model):
    gallery = line_gallery(model, [0, 10], ["a", "b"])
    queries = line(model, [1, 9, 0.5, 6, 4, 15, 20])  # squared: 1 1 .25 | 16 wrong | 16 25 100
    labels = ["a", "b", "a", "a", "x", "x", "y"]
    everybody = {"known_accuracy": 0.75, "known_refused": 0, "unknown_rejection": 0}
    assert gallery.open_set(queries, labels) == everybody
    assert gallery.fit_threshold(queries, labels)["known_refused"] == 0.25
    assert gallery.threshold == pytest.approx((1 + 16) / 2), (
        "friends end at 1, strangers begin at 16"
    )
    right = {"known_accuracy": 0.75, "known_refused": 0.25, "unknown_rejection": 1}
    assert gallery.open_set(queries, labels) == right
    # known ones alone: each again as a stranger, 9 and 9 from the entry of the other class
    assert gallery.compare(queries[:2], labels[:2]).stranger_distances.tolist() == [81, 81]
    assert gallery.open_set(queries[:2], labels[:2])["unknown_rejection"] == 1
    assert np.isnan(gallery.open_set(queries[4:], labels[4:])["known_accuracy"])


def test_an_image_that_is_an_entry_cannot_choose_the_threshold(model):
    gallery, (queries, labels) = random_gallery(model, 0)
    queries[[3, 7]] = gallery.embeddings[[5, 6]] * (1 + 1e-6)  # embedded again: rounding differs
    copies = gallery.find_copies(queries)
    assert np.flatnonzero(copies >= 0).tolist() == [3, 7] and copies[[3, 7]].tolist() == [5, 6]
    with pytest.raises(ValueError, match="2 of 200 images are entries of this gallery"):
        gallery.fit_threshold(queries, labels)
    assert gallery.threshold is None and gallery.policy is None, "an error, not a number"


def test_without_held_out_images_the_entries_stand_in(model):
    """Two classes of pairs: friends at 1 and 4 of each other, the other class at 36 or more."""
    gallery = line_gallery(model, [0, 1, 7, 9], ["a", "a", "b", "b"])
    for nothing in ((), (gallery.embeddings[:0], [])):
        policy = gallery.fit_threshold(*nothing)
        assert gallery.threshold == pytest.approx((4 + 36) / 2), "half way"
        assert policy["strangers"] == policy["known"] == 4
        assert policy["strangers_simulated"] and not policy["known_held_out"]
        assert policy["strangers_let_in"] == policy["known_refused"] == 0
    # strangers alone are held out: the friends are still the entries
    policy = gallery.fit_threshold(line(model, [4, 20]), ["x", "y"])
    assert gallery.threshold == pytest.approx((4 + 9) / 2) and policy["strangers"] == 2
    # a class of one entry is no friend of anybody, but a stranger like the others
    gallery.add_embeddings(line(model, [30]), ["alone"])
    policy = gallery.fit_threshold()
    assert (policy["known"], policy["strangers"]) == (4, 5)
    # friends alone are held out: they and the entries, each without its class, are the strangers
    policy = gallery.fit_threshold(line(model, [0.5, 7.25]), ["a", "b"])
    assert gallery.threshold == 0.25 and (policy["known"], policy["strangers"]) == (2, 7)


def test_one_class_and_nobody_else_gives_no_threshold(model):
    gallery = line_gallery(model, [0, 1], ["a", "a"])
    with pytest.raises(ValueError, match="nothing can stand in for a stranger"):
        gallery.fit_threshold()
    assert gallery.threshold is None
    gallery.fit_threshold(line(model, [5]), ["x"])
    assert gallery.threshold == pytest.approx((1 + 16) / 2)


def test_a_threshold_that_refuses_most_is_called_out(model, capsys):
    gallery = line_gallery(model, [0, 10], ["a", "b"])
    queries, labels = line(model, [3, 7, 9.5, 1, 12]), ["a", "b", "b", "x", "x"]
    gallery.fit_threshold(queries, labels)
    assert gallery.threshold == pytest.approx((0.25 + 1) / 2)
    assert "CAUTION: the threshold 0.625 refuses 2 of 3 known images" in capsys.readouterr().out
    gallery.fit_threshold(line(model, [0.5, 4]), ["a", "x"])
    assert not capsys.readouterr().out
    # a stranger who looks like an entry: everybody stays outside
    gallery.fit_threshold(line(model, [1e-3, 3]), ["x", "a"])
    assert gallery.open_set(*[line(model, [1e-3, 3]), ["x", "a"]])["unknown_rejection"] == 1
    assert "refuses 1 of 1" in capsys.readouterr().out


def test_the_threshold_says_where_it_comes_from(model):
    gallery, (queries, _) = random_gallery(model, 0)
    assert "no threshold" in gallery.describe_threshold()
    gallery.threshold = 0.5
    assert gallery.describe_threshold() == "threshold 0.500, set by hand"
    gallery.fit_threshold(queries[80:120], np.repeat([0, 9], 20))
    text = gallery.describe_threshold()
    assert (
        "at most 5% of strangers let in" in text
        and "0.0% [0.0%, 16.1%] of 20 strangers (images of" in text
    )
    assert "of 20 known images (held out)" in text
    gallery.fit_threshold(queries[80:120], np.repeat([0, 9], 20), strangers_let_in=0.0001)
    assert "at most 0.01% of strangers let in" in gallery.describe_threshold()
    gallery.threshold *= 2
    assert gallery.describe_threshold().endswith("set by hand"), "then the policy is not its own"
    gallery.fit_threshold(strangers_let_in=None)
    text = gallery.describe_threshold()
    assert "the best balance" in text and "simulated" in text and "leave-one-out" in text
    with pytest.raises(ValueError, match="strangers_let_in=5: give a share"):
        gallery.fit_threshold(strangers_let_in=5)


@pytest.mark.parametrize(
    ("strangers", "says"),
    [("xyz", "only 3 classes"), ("x", "only one class"), ("abcdefgh", None)],
)
def test_few_classes_of_strangers_promise_nothing(model, strangers, says):
    gallery = line_gallery(model, [0, 1], ["known", "known"])
    gallery.fit_threshold(line(model, 10.0 + np.arange(len(strangers))), list(strangers))
    text = gallery.describe_threshold()
    assert says is None or f"strangers of {says} chose it" in text
    assert ("CAUTION" in text) == (says is not None)


@pytest.mark.parametrize("share", [0.29, 0.57, 0.58])
def test_a_share_of_a_hundred_strangers_is_that_many(share):
    strangers = np.arange(1, 101.0)
    limit = limit_strangers(np.array([0.5]), strangers, share, halfway=False)
    assert limit == 0.5
    limit = limit_strangers(np.array([99.5]), strangers, share, halfway=False)
    assert (strangers <= limit).sum() == round(share * 100)


def test_a_collapsed_embedding_is_called_so(model):
    gallery = line_gallery(model, [1, 1 + 1e-5, 1, 1], ["a", "a", "b", "b"])
    with pytest.raises(ValueError, match="the embedding has collapsed"):
        gallery.fit_threshold()
    assert gallery.threshold is None


def test_a_known_class_is_known_in_both_unicode_forms(model):
    gallery = line_gallery(model, [0, 10], ["Cafe\u0301", "tea"])
    result = gallery.compare(line(model, [1, 9]), ["Caf\u00e9 ", "juice"])
    assert result.is_known.tolist() == [True, False]
