import numpy as np
import pytest

from pyro_vae.evaluation.clustering import cluster_scores


def test_a_perfect_clustering_under_other_names():
    labels = np.array([0, 0, 1, 1, 2])
    scores = cluster_scores(np.array([7, 7, 0, 0, 3]), labels)
    assert scores == {
        "components_used": 3,
        "clustering_accuracy": 1.0,
        "purity": 1.0,
        "normalised_mutual_information": pytest.approx(1),
    }


def test_by_hand():
    """Components 0 and 1 both hold mostly label 0; only one is matched."""
    components = np.array([0, 0, 0, 1, 1, 2])
    labels = np.array([0, 0, 1, 0, 0, 1])
    scores = cluster_scores(components, labels)
    assert scores["components_used"] == 3
    assert scores["clustering_accuracy"] == pytest.approx(3 / 6)
    assert scores["purity"] == pytest.approx(5 / 6)
    joint = np.array([[2, 2, 0], [1, 0, 1]]) / 6
    rows, columns = joint.sum(1), joint.sum(0)
    seen = joint[joint > 0]
    entropies = -sum((m * np.log(m)).sum() for m in (rows, columns))
    information = entropies + (seen * np.log(seen)).sum()
    assert scores["normalised_mutual_information"] == pytest.approx(
        2 * information / entropies
    )


def test_without_labels():
    scores = cluster_scores(np.array([1, 1, 4]), None)
    assert scores == {"components_used": 2}
