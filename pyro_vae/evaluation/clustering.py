"""How well an assignment of images to components agrees with their labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = dict[str, float]


def cluster_scores(
    components: NDArray[Any], labels: NDArray[Any] | None
) -> Scores:
    r"""Scores components against labels.

    Args:
        components: The images' components, `(N,)` integers.
        labels: The images' labels, `(N,)` integers; None if they have none,
            and then there is the first score alone.

    Returns:
        The scores by their names.
        `components_used`: how many components have an image;
        `clustering_accuracy`: the fraction of images whose component is
        matched to their label, under the best one-to-one matching;
        `purity`: the same where every component takes its most frequent label;
        `normalised_mutual_information`:
        :math:`2 I(y, c) / (H(y) + H(c))`.

    References:
        The Hungarian Method for the Assignment Problem, H. W. Kuhn, 1955.
    """
    scores = {"components_used": float(len(np.unique(components)))}
    if labels is None:
        return scores
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(labels, components)
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    information = normalized_mutual_info_score(labels, components)
    return {
        **scores,
        "clustering_accuracy": float(matched / len(labels)),
        "purity": float(counts.max(0).sum() / len(labels)),
        "normalised_mutual_information": float(information),
    }
