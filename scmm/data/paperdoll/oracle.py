"""The oracle: ranks the gallery by the true attributes, the ceiling that the data allow."""

import numpy as np


# Log-likelihood of a contradiction: an image of the same person cannot show another value.
CONTRADICTION = -12.0
# View and pose belong to the image, not to the person: of the person's images only one is the described one.
PER_IMAGE = ("view", "pose")


def oracle_scores(records: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Score every caption against every image by the true attributes.

    The score is the log-likelihood ratio of "this image shows the described person" against "it shows anybody": a
    stated attribute that the image shows with an allowed value adds the more, the rarer such a value is in the
    gallery; one shown with another value is a contradiction and subtracts 12; a hidden one is neutral.

    Args:
        records (`list[dict]`): the records of one split, from [`paperdoll_records`] or `paperdoll.json`.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: scores of shape (captions, images), float32, and the person ids of
        the captions and of the images, int64. Captions are in the order of the records.

    Example:

    ```python
    >>> from scmm.data.paperdoll import oracle_scores, paperdoll_records
    >>> scores, query_ids, gallery_ids = oracle_scores(
    ...     paperdoll_records(train_identities=0, val_identities=0, test_identities=5)
    ... )
    >>> scores.shape
    (40, 20)

    ```
    """
    gallery_ids = np.array([record["id"] for record in records], dtype=np.int64)
    queries = [(record["id"], stated) for record in records for stated in record["caption_attributes"]]
    scores = np.zeros((len(queries), len(records)), dtype=np.float32)
    columns: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}
    shown: dict[str, np.ndarray] = {}
    for row, (_, stated) in enumerate(queries):
        for name, values in stated.items():
            key = (name, tuple(values))
            if key not in columns:
                if name not in shown:
                    shown[name] = np.array([record["attributes"].get(name, "") for record in records])
                columns[key] = _evidence(shown[name], key[1], name in PER_IMAGE)
            scores[row] += columns[key]
    return scores, np.array([person_id for person_id, _ in queries], dtype=np.int64), gallery_ids


def _evidence(shown: np.ndarray, values: tuple[str, ...], per_image: bool) -> np.ndarray:
    """Log-likelihood ratio of one statement for each image; `shown` is "" where the image hides the attribute."""
    visible, match = shown != "", np.isin(shown, values)
    share = match.sum() / max(1, visible.sum())
    if per_image:  # one of the person's (typically four) images is the described one, the others are like anybody's
        hit, miss = np.log((0.25 + 0.75 * share) / max(share, 1e-9)), np.log(0.75)
    else:
        hit, miss = -np.log(max(share, 1e-9)), CONTRADICTION
    return np.where(match, hit, np.where(visible, miss, 0.0)).astype(np.float32)
