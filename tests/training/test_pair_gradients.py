"""The gradient on a pair: of losses whose derivative can be written down."""

import numpy as np
import pytest

from workbook.training.losses import LOSSES
from workbook.training.pair_gradients import pair_gradients

D_AP, D_AN = np.array([0.3, 0.5, 1.0, 1.5]), np.array([0.9, 0.6, 1.6, 1.4])


def gradients(name, **options):
    return pair_gradients(name, options, D_AP, D_AN)


def test_the_semi_hard_triplet_loss_pulls_and_pushes_alike_or_not_at_all():
    pull, push = gradients("triplet", margin=0.5)
    between = 2 - 2 * (1 - D_AP / 2) * (1 - D_AN / 2)  # positive and negative, at right angles
    expected = []
    for ap, an, pn in zip(D_AP, D_AN, between):
        mined = [(an > ap, an), (pn > ap, pn)]  # of the pairs (a, p) and (p, a)
        active = [ap - n + 0.5 > 0 for is_mined, n in mined if is_mined]
        expected.append(
            (np.mean(active or [0]), mined[0][0] * (ap - an + 0.5 > 0) / max(1, len(active)))
        )
    np.testing.assert_allclose(np.transpose([pull, push]), expected, atol=1e-5)


def test_the_contrastive_loss_looks_at_each_distance_alone():
    pull, push = gradients("contrastive", positive_margin=0.4, negative_margin=1.5)
    between = 2 - 2 * (1 - D_AP / 2) * (1 - D_AN / 2)
    np.testing.assert_allclose(pull, D_AP > 0.4, atol=1e-9)  # the mean over (a, p) and (p, a)
    close = (D_AN < 1.5).astype(int) + (between < 1.5)
    np.testing.assert_allclose(push, (D_AN < 1.5) / np.maximum(close, 1), atol=1e-9)


def test_a_softmax_over_proxies_pulls_as_much_as_it_pushes():
    pull, push = gradients("cosine softmax", scale=8.0)
    share = 1 / (1 + np.exp(-8 * (D_AN - D_AP) / -2))  # that of the wrong class
    np.testing.assert_allclose(pull, 8 / 2 * share, rtol=1e-9)
    np.testing.assert_allclose(push, 8 / 2 * share, rtol=1e-9)


def test_the_length_of_proxies_plays_no_part():
    shorter = gradients("proxy-anchor", alpha=10.0, proxy_length=0.1)
    np.testing.assert_array_equal(shorter, gradients("proxy-anchor", alpha=10.0))


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"softmax"}))
def test_no_loss_pushes_a_positive_or_pulls_a_negative(name):
    pull, push = gradients(name)
    assert (pull > -1e-6).all() and (push > -1e-6).all() and pull.max() > 0.01 < push.max()
