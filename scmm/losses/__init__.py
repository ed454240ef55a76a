"""The training objective: sew calibration, masked caption modeling, and the field's alignment losses.

Every loss is a pure function of tensors; [`SCMMLoss`] weighs them. Embeddings come as the model yields them, not
normalized. All arithmetic is at least in float32, whatever the autocast type: half precision is raised, float64 stays.
In distributed training, gather embeddings, ids and qualities of every process first
(see [`~scmm.distributed.gather_with_gradient`]).

The method's ideas are published (SCMM, arXiv 2304.02278); the equations of the sew calibration loss, its default
margins and the weights of the objective are this project's reconstruction.
"""

from .alignment import cmpm_loss, itc_loss, sdm_loss
from .classification import id_loss, mcm_loss
from .objective import SCMMLoss
from .sew_calibration import sew_calibration_loss, triplet_loss


__all__ = [
    "sew_calibration_loss",
    "triplet_loss",
    "itc_loss",
    "sdm_loss",
    "cmpm_loss",
    "mcm_loss",
    "id_loss",
    "SCMMLoss",
]
