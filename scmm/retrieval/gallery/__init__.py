"""The gallery: an index of images on disk that is searched with sentences and images."""

from .approximate import RecallReport
from .building import AddReport
from .columns import ColumnError
from .filters import Filter, Range
from .gallery import Gallery, Hit
from .identity import ModelIdentity
from .queries import Query
from .sources import SourceError
from .store import GalleryBusyError, GalleryError, is_gallery


__all__ = [
    "AddReport",
    "ColumnError",
    "Filter",
    "Gallery",
    "GalleryBusyError",
    "GalleryError",
    "Hit",
    "ModelIdentity",
    "Query",
    "Range",
    "RecallReport",
    "SourceError",
    "is_gallery",
]
