"""
A trainer of a few thousand parameters on a few dolls, for the trainer's tests.

Also a program, so that a test can kill it or run it in two processes: `trainer_setup.py gradients ROOT OUT`,
`trainer_setup.py order ROOT OUT` and `trainer_setup.py train ROOT OUT [--kill-at STEP] [--resume] [--options JSON]`.
"""

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from safetensors.torch import save_file
from torch import distributed as dist
from transformers import TrainerCallback, set_seed

from scmm import (
    SCMMConfig,
    SCMMForPreTraining,
    SCMMProcessor,
    SCMMTrainer,
    SCMMTrainingArguments,
    load_benchmark,
)
from scmm.data.paperdoll import render_paperdoll


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def paperdoll_splits(root: Path) -> DatasetDict:
    if not (root / "PaperDoll").exists():
        sizes = {"train_identities": 6, "val_identities": 3, "test_identities": 0}
        render_paperdoll(root, **sizes, image_size=(32, 16), num_workers=1, progress=False)
    return load_benchmark("paperdoll", root)


def build(
    root: Path,
    output_dir: Path,
    *,
    model: Any = None,
    processor: SCMMProcessor | None = None,
    image_size: list[int] | None = None,
    vocab_size: int | None = None,
    num_identities: int | None = None,
    callbacks: list[TrainerCallback] | None = None,
    data_collator: Any = None,
    **options: Any,
) -> SCMMTrainer:
    splits = paperdoll_splits(root)
    if processor is None:
        captions = [caption for captions in splits["train"]["captions"] for caption in captions]
        processor = SCMMProcessor.from_captions(captions, image_size=(32, 16), vocab_size=600)
    defaults = {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "use_cpu": True, "disable_tqdm": True}
    defaults.update(crop_padding=2, dataloader_pin_memory=False, save_strategy="epoch")
    if "max_steps" in options and "eval_strategy" not in options:
        defaults.update(eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    args = SCMMTrainingArguments(str(output_dir), **{**defaults, **options})
    if model is None:
        text = processor.text_config_fields()
        if vocab_size is not None:
            text["vocab_size"] = vocab_size
        identities = len(set(splits["train"]["person_id"])) if num_identities is None else num_identities
        config = SCMMConfig(
            text_config={**TOWER, **text},
            vision_config={**TOWER, "image_size": image_size or [32, 16], "patch_size": 8},
            decoder_config={**TOWER, "num_hidden_layers": 1},
            projection_dim=24,
            num_identities=identities if args.id_weight > 0 else 0,
        )
        set_seed(0)
        model = SCMMForPreTraining(config)
    own = {"data_collator": data_collator} if data_collator is not None else {}
    return SCMMTrainer(
        model, args, splits["train"], splits["val"], processing_class=processor, callbacks=callbacks, **own
    )


class KillAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(root: Path, output_dir: Path, kill_at: int | None, resume: bool, options: dict[str, Any]) -> None:
    """Two epochs of six steps; a checkpoint every three."""
    trainer = build(
        root,
        output_dir,
        num_train_epochs=2,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        logging_steps=3,
        dataloader_num_workers=1,
        erasing_probability=0.5,
        callbacks=[KillAt(kill_at)] if kill_at else [],
        **options,
    )
    trainer.train(resume_from_checkpoint=resume or None)
    save_file(
        {name: weight.contiguous() for name, weight in trainer.model.scmm.state_dict().items()},
        output_dir / "final.safetensors",
    )
    timing = ("runtime", "per_second", "data_wait")
    history = [
        {name: value for name, value in entry.items() if not any(word in name for word in timing)}
        for entry in trainer.state.log_history[:-1]
    ]
    (output_dir / "state.json").write_text(json.dumps({"best": trainer.state.best_metric, "history": history}))


def gradients(root: Path, output_dir: Path) -> None:
    """The gradients of one batch of eight; each of two processes has four of it."""
    distributed = {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    trainer = build(root, output_dir, id_weight=0.5, **distributed)
    model = trainer.accelerator.prepare(trainer.model)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(0, 48, 6)])
    if dist.is_initialized() and dist.get_world_size() > 1:
        share = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
        batch = {name: tensor[share] for name, tensor in batch.items()}
    trainer.compute_loss(model, batch).backward()
    if trainer.is_world_process_zero():
        output_dir.mkdir(exist_ok=True)
        found = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
        save_file(
            {name: gradient.contiguous() for name, gradient in found.items()}, output_dir / "gradients.safetensors"
        )


def order(root: Path, output_dir: Path) -> None:
    """Which captions this process gets in each batch of two epochs, by each way to sample."""
    found: dict[str, list] = {}
    for strategy in ("random", "identity_balanced", "group_by_length"):
        options = {"train_sampling_strategy": strategy, "images_per_identity": 2, "ddp_backend": "gloo"}
        trainer = build(root, output_dir, per_device_train_batch_size=4, seed=3, **options)
        items = trainer.train_dataset
        index_of = {items[index]["seed"]: index for index in range(len(items))}
        trainer.data_collator = lambda batch: torch.tensor([item["seed"] for item in batch])
        loader = trainer.get_train_dataloader()
        found[strategy] = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            items.set_epoch(epoch)
            index_of.update({items[index]["seed"]: index for index in range(len(items))})
            batches = [[index_of[seed] for seed in batch.tolist()] for batch in loader]
            assert len(batches) == len(loader)
            found[strategy].append(batches)
    (output_dir / f"order_{dist.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["train", "gradients", "order"])
    parser.add_argument("root", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--options", type=json.loads, default={})
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.job == "train":
        train(options.root, options.output_dir, options.kill_at, options.resume, options.options)
    else:
        {"gradients": gradients, "order": order}[options.job](options.root, options.output_dir)
