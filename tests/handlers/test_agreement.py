"""How near two engines' answers are, where a model has no labels."""

import numpy as np
import pytest

from flambeau.handlers.agreement import compare


def test_states_agree_by_the_direction_of_their_mean() -> None:
    """A text whose vector turned too far is not equal; lengths do not matter."""
    draw = np.random.default_rng(0)
    texts = [draw.normal(1, 1, (5, 8)).astype(np.float32) for _ in range(4)]
    turned = [texts[0] * 3, texts[1], texts[2], texts[3][:, ::-1]]
    expected, found = ([{"last_hidden_state": each} for each in side] for side in (texts, turned))
    agreement = compare("embeddings", expected, found, many_labels=False)
    means = texts[3].mean(0), turned[3].mean(0)
    cosine = means[0] @ means[1] / (np.linalg.norm(means[0]) * np.linalg.norm(means[1]))
    assert cosine < 0.99
    assert agreement.labels == 0.75
    assert agreement.cosine == pytest.approx(cosine, abs=1e-6)
    assert agreement.difference == pytest.approx(1 - cosine, abs=1e-6)
    assert not agreement.within(0.995, 0.1)
    same = compare("embeddings", expected, expected, many_labels=False)
    assert same.within(1.0, 1e-6)
