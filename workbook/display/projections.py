"""Maps of an embedding in two dimensions: t-SNE and principal components. Notebook 05 explains it.

Collapsed embeddings are refused before they reach scikit-learn, whose t-SNE ends the whole process
with a segmentation fault when all rows are equal.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # scikit-learn requires it

from workbook.evaluation.collapse import refuse_collapsed

FEWEST = 3  # rows that a map needs


class TsneMap(NamedTuple):
    """A t-SNE map, with what a figure has to state about it.

    Attributes
    ----------
    points : (n, 2) float32, where each image lies. Only neighbourhoods have a meaning; distances
        between groups and the sizes of groups have none.
    perplexity : float, about how many neighbours each point attends to.
    seed : int.
    """

    points: np.ndarray
    perplexity: float
    seed: int

    def describe(self) -> str:
        """Say on how many images, with which perplexity and which seed the map was made."""
        return (
            f"t-SNE of {len(self.points):,} images, perplexity {self.perplexity:g}, "
            f"seed {self.seed}"
        )


def tsne_map(embeddings: ArrayLike, seed: int = 42, perplexity: float = 20) -> TsneMap:
    """Lay embeddings out in two dimensions by t-SNE.

    Parameters
    ----------
    embeddings : (n, dim) finite numbers, at least three rows.
    seed : the same seed gives the same map on one machine.
    perplexity : for few images it is lowered to (n - 1) / 3, but not below 1.

    Raises
    ------
    CollapsedError : if all embeddings lie at one point; its message begins with "collapsed".
    ValueError : for fewer than three rows, another shape, NaN or infinity.

    References
    ----------
    van der Maaten and Hinton 2008, "Visualizing data using t-SNE".
    """
    vectors = refuse_collapsed(embeddings, FEWEST).astype(np.float32)
    if vectors.shape[1] == 1:  # its start needs two dimensions
        vectors = np.pad(vectors, ((0, 0), (0, 1)))
    count = len(vectors)
    perplexity = max(1.0, min(perplexity, (count - 1) / 3))
    method = "exact" if count < 200 else "barnes_hut"  # a tree gains nothing on a few points
    tsne = TSNE(perplexity=perplexity, random_state=seed, method=method)
    with threadpool_limits(1):  # on a few points threads wait for each other, 20 times as long
        return TsneMap(tsne.fit_transform(vectors), round(perplexity, 1), seed)


def tsne_maps(
    embeddings: Mapping[str, ArrayLike], seed: int = 42, perplexity: float = 20
) -> dict[str, TsneMap | str]:
    """Make a `tsne_map` of each set of embeddings, or a sentence that says why there is none.

    Parameters
    ----------
    embeddings : title -> (n, dim), for example "untrained" and "trained".

    Returns
    -------
    title -> TsneMap or, where the embeddings have collapsed or are too few, the message.
    `plot_tsne` draws both.
    """
    maps: dict[str, TsneMap | str] = {}
    for title, vectors in embeddings.items():
        try:
            maps[title] = tsne_map(vectors, seed, perplexity)
        except ValueError as error:
            maps[title] = str(error)
    return maps


def pca_plane(embeddings: ArrayLike) -> PCA:
    """Fit the plane of the two directions in which the embeddings differ most.

    Parameters
    ----------
    embeddings : (n, dim) finite numbers, at least three rows and two dimensions.

    Returns
    -------
    scikit-learn's PCA, fitted: `.transform(vectors)` gives the (m, 2) positions of other vectors in
    the same plane, and `.explained_variance_ratio_` the share of the variance per direction.

    Raises
    ------
    CollapsedError : if all embeddings lie at one point; its message begins with "collapsed".
    ValueError : for fewer rows or dimensions, NaN or infinity.
    """
    vectors = refuse_collapsed(embeddings, FEWEST)
    if vectors.shape[1] < 2:
        raise ValueError(f"embeddings of shape {vectors.shape}: a plane needs two dimensions")
    return PCA(2, svd_solver="full").fit(vectors.astype(np.float32))
