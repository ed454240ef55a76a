"""SCMMTrainer: transformers' Trainer with SCMM's objective, its batches and the field's evaluation."""

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from scmm.data.collator import CaptionItems, SCMMDataCollator
from scmm.data.samplers import IdentityBalancedSampler, LengthGroupedSampler
from scmm.data.transforms import TrainingAugmentation
from scmm.distributed import gather_with_gradient
from scmm.hub.pushes import HubTrainer
from scmm.optimizer import MuonHybrid
from scmm.processing import SCMMProcessor
from scmm.retrieval.encode import encode_dataset
from scmm.retrieval.metrics import retrieval_metrics
from scmm.training_arguments import SCMMTrainingArguments


logger = logging.get_logger(__name__)

COLLAPSED_COSINE = 0.99


class SCMMTrainer(HubTrainer):
    """
    Trains [`SCMMForPreTraining`] with the weighted objective of [`SCMMLoss`].

    Every log has each term by its name (`loss_sew`, `loss_mcm`, ...) and `contrastive_batch`, the number of pairs that
    a loss compares: batch size times processes, which gradient accumulation does not enlarge. It also has `data_wait`,
    the share of the steps' time since the last log in which training waited for its next batch: far above 0, images
    are not decoded fast enough, which more `dataloader_num_workers` or `cache_images` mend. Evaluation embeds each
    image and each caption once and reports `eval_rank1`, `eval_mAP` and the others of
    [`~scmm.retrieval.metrics.retrieval_metrics`].

    Args:
        model ([`SCMMForPreTraining`] or a PEFT model around it): the training model.
        args ([`SCMMTrainingArguments`]): the arguments.
        train_dataset (`datasets.Dataset`): rows of [`~scmm.data.schema.FEATURES`].
        eval_dataset (`datasets.Dataset` or dict of them, *optional*): likewise.
        processing_class ([`SCMMProcessor`]): saved with every checkpoint; its `caption_quality` sets the margins.
        **kwargs: the rest of [`Trainer`]'s arguments.

    Raises:
        ValueError: if processor, model and data do not fit together.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm import SCMMConfig, SCMMForPreTraining, SCMMProcessor, SCMMTrainer, SCMMTrainingArguments
    >>> from scmm import load_benchmark
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=4, val_identities=2, test_identities=0, progress=False)
    ...     splits = load_benchmark("paperdoll", root)
    ...     captions = [caption for captions in splits["train"]["captions"] for caption in captions]
    ...     processor = SCMMProcessor.from_captions(captions)
    ...     config = SCMMConfig.from_preset("tiny", text_config=processor.text_config_fields())
    ...     args = SCMMTrainingArguments(f"{root}/run", max_steps=1, disable_tqdm=True, use_cpu=True)
    ...     trainer = SCMMTrainer(
    ...         SCMMForPreTraining(config), args, splits["train"], splits["val"], processing_class=processor
    ...     )
    ...     trained = trainer.train()
    {...}
    >>> trained.global_step
    1

    ```
    """

    loss_is_scaled_for_ga = False  # the loss is a mean over the batch

    # Narrower than what transformers declares.
    model: Any
    args: SCMMTrainingArguments
    train_dataset: CaptionItems
    processing_class: SCMMProcessor

    def __init__(
        self,
        model: Any,
        args: SCMMTrainingArguments,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: SCMMProcessor | None = None,
        **kwargs: Any,
    ):
        if processing_class is None:
            raise ValueError("SCMMTrainer needs the model's SCMMProcessor as `processing_class`.")
        _check_fit(model, processing_class, train_dataset, args)
        if train_dataset is not None:
            train_dataset = CaptionItems(train_dataset, processing_class, seed=args.seed)
        augmentation = TrainingAugmentation(args.flip_probability, args.crop_padding, args.erasing_probability)
        collator = SCMMDataCollator(
            processing_class,
            augmentation,
            mask_probability=args.mask_probability if args.mcm_weight > 0 or args.mask_global_branch else 0.0,
            whole_word_masking=args.whole_word_masking,
            mask_global_branch=args.mask_global_branch,
            cache_images=args.cache_images,
        )
        kwargs.setdefault("data_collator", collator)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.loss_function = args.loss_function()
        self._term_sums: dict[str, Tensor] = {}
        self._num_terms = 0
        self._step_started = self._waited = self._stepped = 0.0  # seconds
        self._collapse_warned = False
        self.add_callback(_EndOfStep(self))
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_ProgressBar)
        if train_dataset is not None:
            self.add_callback(_EpochOfItems(train_dataset))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As [`Trainer.train`], after a look at what would silently go wrong."""
        items = self.train_dataset
        if items.num_truncated and self.is_world_process_zero():
            logger.warning(
                f"{items.num_truncated} of {len(items)} training captions are longer than "
                f"{self.processing_class.tokenizer.model_max_length} tokens and are cut."
            )
        paper_mode = "sew" in self.loss_function.weights and not {"itc", "sdm", "cmpm"} & set(
            self.loss_function.weights
        )
        if paper_mode and not self._unwrapped_model().name_or_path:
            logger.warning(
                "Sew calibration without an alignment loss starts from random weights here, where it tends to "
                "collapse: start from a CLIP checkpoint or set align='itc'."
            )
        return super().train(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        strategy, batch_size = self.args.train_sampling_strategy, self.args.train_batch_size * self.args.world_size
        if strategy == "group_by_length":
            return LengthGroupedSampler(self.train_dataset, batch_size)
        if strategy == "identity_balanced":
            return IdentityBalancedSampler(self.train_dataset, batch_size, self.args.images_per_identity)
        return super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler | None:
        return torch.utils.data.SequentialSampler(eval_dataset)  # the training items' order means nothing here

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As [`Trainer.create_optimizer`], with `muon_learning_rate` and `learning_rate_multipliers` applied."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.args.learning_rate_multipliers:
            self._multiply_learning_rates(optimizer, self.args.learning_rate_multipliers)
        if self.args.muon_learning_rate is not None:
            in_layers = {weight for name, weight in self.model.named_parameters() if ".layers." in name}
            matrices = {weight for weight in in_layers if weight.ndim == 2}
            optimizer = self.optimizer = MuonHybrid(optimizer, matrices, self.args.muon_learning_rate)
        return optimizer

    def _multiply_learning_rates(self, optimizer: torch.optim.Optimizer, multipliers: dict[str, float]) -> None:
        factor_of: dict[int, float] = {}
        for module, factor in multipliers.items():
            found = [id(weight) for name, weight in self.model.named_parameters() if f".{module}." in f".{name}."]
            if not found:
                raise ValueError(f"learning_rate_multipliers: the model has no module or weight {module!r}.")
            factor_of.update(dict.fromkeys(found, float(factor)))
        groups = []
        for group in optimizer.param_groups:
            for factor in sorted({1.0, *factor_of.values()}, key=lambda factor: (factor != 1.0, factor)):
                weights = [weight for weight in group["params"] if factor_of.get(id(weight), 1.0) == factor]
                if weights:
                    groups.append({**group, "params": weights, "lr": group["lr"] * factor})
        optimizer.param_groups = groups

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As [`Trainer.get_batch_samples`], with a look at the clock: here training waits for its data."""
        self._step_started = time.perf_counter()
        batches = super().get_batch_samples(*args, **kwargs)
        self._waited += time.perf_counter() - self._step_started
        return batches

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted objective on the batch of all processes."""
        beside = {name: inputs.pop(name) for name in ("person_ids", "identity_labels", "caption_quality")}
        if "mcm" not in self.loss_function.weights:
            inputs.pop("mcm_labels", None)  # masked for the global branch alone: the decoder need not run
        outputs = model(**inputs)
        both = gather_with_gradient(torch.stack([outputs.image_embeds, outputs.text_embeds], dim=1))
        image_embeds, text_embeds = both.unbind(1)
        mcm_labels, num_masked = inputs.get("mcm_labels"), None
        if mcm_labels is not None:
            mcm_labels = mcm_labels[mcm_labels != -100]
            # The mean over processes, so that tokens weigh the same in every process's share of the gradient.
            num_masked = gather_with_gradient(torch.tensor([float(len(mcm_labels))], device=mcm_labels.device)).mean()
        if "sew" in self.loss_function.weights:
            self.loss_function.weights["sew"] = self.args.sew_weight * self._sew_warmup()
        terms = self.loss_function(
            image_embeds,
            text_embeds,
            gather_with_gradient(beside["person_ids"]),
            gather_with_gradient(beside["caption_quality"]),
            outputs.logit_scale,
            mcm_logits=outputs.mcm_logits,
            mcm_labels=mcm_labels,
            num_masked=num_masked,
            image_id_logits=outputs.image_id_logits,
            text_id_logits=outputs.text_id_logits,
            id_labels=beside["identity_labels"],
        )
        self._note(terms, image_embeds, text_embeds, outputs.logit_scale)
        return (terms["loss"], outputs) if return_outputs else terms["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As [`Trainer.log`]; a log of the training loss gets the mean of every term since the last one."""
        if "loss" in logs and self._num_terms:
            names = list(self._term_sums)
            means = torch.stack([self._term_sums[name] for name in names]) / self._num_terms
            means = torch.cat([means, means.new_tensor([self._waited / max(self._stepped, 1e-9)])])
            means = self.accelerator.reduce(means, reduction="mean")
            logs.update(dict(zip([*names, "data_wait"], means.tolist(), strict=True)))
            logs["contrastive_batch"] = self.args.per_device_train_batch_size * self.args.world_size
            self._term_sums, self._num_terms = {}, 0
            self._waited = self._stepped = 0.0
            self._warn_of_collapse(logs)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Retrieval metrics, text to image; the loader only says which data set."""
        dataset: Any = dataloader.dataset
        with self.compute_loss_context_manager():
            encoded = encode_dataset(
                self._unwrapped_model().scmm,
                self.processing_class,
                dataset,
                batch_size=self.args.eval_batch_size,
                num_workers=self.args.dataloader_num_workers,
                progress=not self.args.disable_tqdm,
            )
        metrics = retrieval_metrics(
            encoded.text_embeds, encoded.image_embeds, encoded.text_person_ids, encoded.image_person_ids
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(
            predictions=None,  # ty: ignore[invalid-argument-type]
            label_ids=None,
            metrics=metrics,
            num_samples=len(dataset),
        )

    def _sew_warmup(self) -> float:
        """The factor on `sew_weight` at this step, above 0 so that the term is always computed and logged."""
        steps = self.args.sew_warmup_ratio * self.state.max_steps
        return min(1.0, (self.state.global_step + 1) / steps) if steps > 0 else 1.0

    def _unwrapped_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def _note(self, terms: dict[str, Tensor], image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor) -> None:
        """Adds a batch's terms to those of the next log."""
        values = {f"loss_{name}": value for name, value in terms.items() if name != "loss"}
        values["logit_scale"] = logit_scale
        values["image_cosine"] = _mean_pairwise_cosine(image_embeds)
        values["text_cosine"] = _mean_pairwise_cosine(text_embeds)
        for name, value in values.items():
            value = value.detach().float()
            self._term_sums[name] = self._term_sums[name] + value if name in self._term_sums else value
        self._num_terms += 1

    def _warn_of_collapse(self, logs: dict[str, float]) -> None:
        warming_up = self.state.global_step <= self.args.get_warmup_steps(self.state.max_steps)
        cosine = max(logs["image_cosine"], logs["text_cosine"])
        if cosine > COLLAPSED_COSINE and not warming_up and not self._collapse_warned:
            self._collapse_warned = True
            logger.warning(
                f"The embeddings have collapsed: their mean pairwise cosine is {cosine:.4f} at step "
                f"{self.state.global_step}. Hardest-mined sew calibration does this from random weights: start from a "
                "CLIP checkpoint, set align='itc', or lower the learning rate."
            )


class _ProgressBar(ProgressCallback):
    """One bar for the whole training, with the latest loss and rank-1 beside it instead of lines of figures."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.shown: dict[str, str] = {}
        if self.training_bar is not None:
            self.training_bar.set_description("Training")

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, label in (("loss", "loss"), ("eval_rank1", "rank-1")):
            if logs and name in logs:
                self.shown[label] = f"{logs[name]:.2f}"
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.shown)


class _EndOfStep(TrainerCallback):
    """Ends the time of a step, which evaluation and saving are no part of."""

    def __init__(self, trainer: SCMMTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer._stepped += time.perf_counter() - self.trainer._step_started


class _EpochOfItems(TrainerCallback):
    """Moves the items' random choices on at every epoch, also at the epoch of a resumed run."""

    def __init__(self, items: CaptionItems):
        self.items = items

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.items.set_epoch(int(state.epoch or 0))


def _mean_pairwise_cosine(embeds: Tensor) -> Tensor:
    """The mean cosine of all pairs of different rows, from the length of the rows' sum."""
    rows = F.normalize(embeds.detach().float(), dim=-1)
    count = len(rows)
    return (rows.sum(0).square().sum() - count) / max(count * (count - 1), 1)


def _check_fit(model: Any, processor: SCMMProcessor, train_dataset: Any, args: SCMMTrainingArguments) -> None:
    if not hasattr(model, "scmm"):
        raise ValueError(f"SCMMTrainer trains SCMMForPreTraining, got {type(model).__name__}.")
    config = model.config
    if len(processor.tokenizer) > config.text_config.vocab_size:
        raise ValueError(
            f"The processor has {len(processor.tokenizer)} tokens, the model {config.text_config.vocab_size}: "
            "build the model with vocab_size=len(processor.tokenizer)."
        )
    size = processor.image_processor.size
    if [size["height"], size["width"]] != list(config.vision_config.image_size):
        raise ValueError(
            f"The processor makes images of {size['height']}x{size['width']}, the model takes "
            f"{config.vision_config.image_size[0]}x{config.vision_config.image_size[1]}."
        )
    if args.id_weight > 0 and train_dataset is not None:
        identities = len(set(train_dataset["person_id"]))
        if config.num_identities != identities:
            raise ValueError(
                f"id_weight is {args.id_weight}, the training data have {identities} identities and the model's "
                f"classifier {config.num_identities}: set num_identities={identities} in the configuration."
            )
