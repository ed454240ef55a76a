"""PaperDoll, the embedded benchmark: procedurally drawn pedestrians with captions, for runs without any download."""

from scmm.data.paperdoll.attributes import number_of_identities, sample_identity, shown_attributes
from scmm.data.paperdoll.benchmark import paperdoll_records, render_paperdoll
from scmm.data.paperdoll.captions import write_caption
from scmm.data.paperdoll.drawing import draw_image, render_image
from scmm.data.paperdoll.export import export_paperdoll, read_paperdoll
from scmm.data.paperdoll.oracle import oracle_scores
from scmm.data.paperdoll.scenes import CAMERAS, Camera, Scene, sample_scene


__all__ = [
    "CAMERAS",
    "Camera",
    "Scene",
    "draw_image",
    "export_paperdoll",
    "number_of_identities",
    "oracle_scores",
    "paperdoll_records",
    "read_paperdoll",
    "render_image",
    "render_paperdoll",
    "sample_identity",
    "sample_scene",
    "shown_attributes",
    "write_caption",
]
