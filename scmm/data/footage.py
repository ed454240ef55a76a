"""Which benchmarks are cut from the same footage, so that one's people may be among the other's."""

_FOOTAGE = {"icfg-pedes": "MSMT17", "rstpreid": "MSMT17"}


def shared_footage(dataset: str, other: str) -> str | None:
    """
    Names the person re-identification data set that two different benchmarks are both cut from. Their splits were made
    apart, so that people of one's test split may be in the other's training split, and figures on it flatter.

    Args:
        dataset (`str`), other (`str`): names of benchmarks, as [`load_benchmark`] takes them.

    Returns:
        `str`, *optional*: that data set; `None` where there is none, or the two are the same.

    Example:

    ```python
    >>> from scmm.data.footage import shared_footage
    >>> shared_footage("icfg-pedes", "rstpreid")
    'MSMT17'
    >>> shared_footage("icfg-pedes", "cuhk-pedes")

    ```
    """
    footage = _FOOTAGE.get(dataset)
    return footage if dataset != other and footage == _FOOTAGE.get(other) else None
