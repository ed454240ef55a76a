"""SCMMTrainingArguments: transformers' TrainingArguments and the options of SCMM's objective, data and optimizer."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from scmm.losses import SCMMLoss


SAMPLING_STRATEGIES = ("random", "sequential", "group_by_length", "identity_balanced")


@dataclass
class SCMMTrainingArguments(TrainingArguments):
    """
    transformers' [`TrainingArguments`] and what SCMM adds. Differing defaults: evaluate and save every epoch, keep the
    checkpoint of the best rank-1 on the evaluation data, and keep the columns of the data set.

    Args:
        sew_weight, mcm_weight, align_weight, id_weight (`float`): weights of the terms, see [`SCMMLoss`]; 0 leaves a
            term out.
        align (`str`, *optional*): `"itc"` (default), `"sdm"`, `"cmpm"`, `"triplet"`, or `None`.
        itc_targets, triplet_margin, margin_min, margin_max, margin_single, mining, tau, weight_cross, weight_single:
            see [`SCMMLoss`].
        sew_warmup_ratio (`float`, defaults to 0.0):
            Share of all steps over which `sew_weight` rises linearly from 0. From random weights, hardest-mined sew
            calibration makes all embeddings alike unless the alignment loss has a start of it.
        mask_probability (`float`, defaults to 0.15): share of tokens to mask.
        whole_word_masking (`bool`, defaults to `False`): masks whole words.
        mask_global_branch (`bool`, defaults to `False`): lets the global branch see the masked caption.
        flip_probability, crop_padding, erasing_probability: see [`~scmm.data.transforms.TrainingAugmentation`].
        cache_images (`bool`, defaults to `False`): see [`SCMMDataCollator`].
        train_sampling_strategy (`str`, defaults to `"random"`):
            The order of an epoch: also transformers' `"sequential"` and `"group_by_length"`, and
            `"identity_balanced"`, see [`~scmm.data.samplers.IdentityBalancedSampler`].
        images_per_identity (`int`, defaults to 4): captions of each person in an identity-balanced batch.
        learning_rate_multipliers (`dict[str, float]`, *optional*):
            Factors on the learning rate of modules and weights, by their name, such as `{"decoder": 5.0}` for what is
            newly initialized.
        muon_learning_rate (`float`, *optional*):
            Trains the matrices inside the layers with Muon at this rate, and only the rest with `optim` and
            `learning_rate`; see [`~scmm.optimizer.MuonHybrid`].

    Raises:
        ValueError: for an option out of its range, such as `margin_min` above `margin_max`.

    Example:

    ```python
    >>> from scmm import SCMMTrainingArguments
    >>> SCMMTrainingArguments(output_dir="runs/example", mcm_weight=0.5).metric_for_best_model
    'rank1'

    ```
    """

    sew_weight: float = field(default=4.0, metadata={"help": "Weight of the sew calibration loss."})
    mcm_weight: float = field(default=1.0, metadata={"help": "Weight of masked caption modeling."})
    align_weight: float = field(default=1.0, metadata={"help": "Weight of the alignment loss."})
    id_weight: float = field(default=0.0, metadata={"help": "Weight of the identity classification loss."})
    align: str | None = field(default="itc", metadata={"help": "itc, sdm, cmpm, triplet, or null for none."})
    itc_targets: str = field(default="identity", metadata={"help": "identity or pair."})
    triplet_margin: float = field(default=0.2, metadata={"help": "Margin of the triplet alignment loss."})
    margin_min: float = field(default=0.1, metadata={"help": "Cross-modal margin of a caption of quality 0."})
    margin_max: float = field(default=0.4, metadata={"help": "Cross-modal margin of a caption of quality 1."})
    margin_single: float = field(default=0.2, metadata={"help": "Margin within a modality."})
    mining: str = field(default="hardest", metadata={"help": "hardest, all or softplus."})
    tau: float = field(default=0.1, metadata={"help": "Smoothness of softplus mining."})
    weight_cross: float = field(default=1.0, metadata={"help": "Weight of sew's cross-modal terms."})
    weight_single: float = field(default=1.0, metadata={"help": "Weight of sew's single-modal terms."})
    sew_warmup_ratio: float = field(
        default=0.0, metadata={"help": "Share of the steps over which sew_weight rises from 0."}
    )
    mask_probability: float = field(default=0.15, metadata={"help": "Share of caption tokens to mask."})
    whole_word_masking: bool = field(default=False, metadata={"help": "Mask all tokens of a word or none."})
    mask_global_branch: bool = field(default=False, metadata={"help": "Give the global branch the masked caption."})
    flip_probability: float = field(default=0.5, metadata={"help": "How often to mirror an image."})
    crop_padding: int = field(default=10, metadata={"help": "Pixels to pad before the random crop."})
    erasing_probability: float = field(default=0.0, metadata={"help": "How often to erase a rectangle."})
    cache_images: bool = field(default=False, metadata={"help": "Keep resized images in memory."})
    images_per_identity: int = field(
        default=4, metadata={"help": "Captions of each person in an identity-balanced batch."}
    )
    learning_rate_multipliers: dict | None = field(
        default=None, metadata={"help": "Factors on the learning rate by module name."}
    )
    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "Train the matrices inside the layers with Muon at this rate."}
    )

    # Defaults of transformers that do not fit retrieval.
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "rank1"
    greater_is_better: bool | None = True
    remove_unused_columns: bool = False
    report_to: None | str | list[str] = "none"

    def __post_init__(self):
        super().__post_init__()
        self.loss_function()  # checks its options
        for name in ("sew_warmup_ratio", "mask_probability", "flip_probability", "erasing_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must not be negative, got {self.crop_padding}.")
        if self.images_per_identity < 1:
            raise ValueError(f"images_per_identity must be at least 1, got {self.images_per_identity}.")
        if self.train_sampling_strategy not in SAMPLING_STRATEGIES:
            raise ValueError(
                f"train_sampling_strategy must be one of {SAMPLING_STRATEGIES}, got {self.train_sampling_strategy!r}."
            )
        if self.mcm_weight > 0 and self.mask_probability == 0:
            raise ValueError("mask_probability is 0: there is nothing to model. Set mcm_weight to 0 as well.")

    def __getstate__(self) -> dict[str, Any]:
        """Without the token: the trainer pickles its arguments into `training_args.bin`, and pushes that file."""
        return {**vars(self), "hub_token": None}

    def loss_function(self) -> SCMMLoss:
        """The objective that these arguments describe."""
        return SCMMLoss(
            sew_weight=self.sew_weight,
            mcm_weight=self.mcm_weight,
            align_weight=self.align_weight,
            id_weight=self.id_weight,
            align=self.align,  # ty: ignore[invalid-argument-type]
            itc_targets=self.itc_targets,  # ty: ignore[invalid-argument-type]
            triplet_margin=self.triplet_margin,
            margin_min=self.margin_min,
            margin_max=self.margin_max,
            margin_single=self.margin_single,
            mining=self.mining,  # ty: ignore[invalid-argument-type]
            tau=self.tau,
            weight_cross=self.weight_cross,
            weight_single=self.weight_single,
        )
