"""The gallery: an index of images on disk that is searched with sentences and images."""

from .approximate import RecallReport
from .building import AddReport
from .columns import ColumnError
from .embedding import ShardReport, embed_shard, embed_shard_with_ray
from .filters import Filter, Range
from .gallery import Gallery, Hit, is_gallery
from .identity import ModelIdentity
from .queries import Query
from .shards import Shard, ShardError
from .sources import SourceError
from .store import GalleryBusyError, GalleryError
from .view import NEAR_DUPLICATES


__all__ = [
    "NEAR_DUPLICATES",
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
    "Shard",
    "ShardError",
    "ShardReport",
    "SourceError",
    "embed_shard",
    "embed_shard_with_ray",
    "is_gallery",
]
