import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from trainer_setup import build, paperdoll_splits
from transformers import TrainerCallback

from scmm import SCMMForPreTraining, SCMMModel, SCMMProcessor, SCMMTrainingArguments, retrieval_metrics


SETUP = Path(__file__).with_name("trainer_setup.py")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trainer")
    paperdoll_splits(root)
    return root


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_every_term_is_logged_and_they_add_up(data_root, tmp_path):
    trainer = build(data_root, tmp_path, max_steps=2, logging_steps=1, id_weight=0.5, mcm_weight=0.7)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        weighted = {"loss_sew": 4.0, "loss_mcm": 0.7, "loss_itc": 1.0, "loss_id": 0.5}
        assert entry["loss"] == pytest.approx(sum(weight * entry[name] for name, weight in weighted.items()), rel=1e-3)
        assert entry["contrastive_batch"] == 8
        assert 0 < entry["logit_scale"] <= 100


def test_the_share_of_waiting_for_data_is_logged(data_root, tmp_path, monkeypatch):
    """By a clock that stands still but for 3 s to make a batch, 1 s to learn from one, and 100 s to evaluate."""
    now = [0.0]
    monkeypatch.setattr("scmm.trainer.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def advance(seconds: float) -> None:
        now[0] += seconds

    class SlowEvaluation(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            advance(100)

    make_batch = build(data_root, tmp_path).data_collator
    trainer = build(
        data_root,
        tmp_path,
        max_steps=6,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        data_collator=lambda items: (advance(3), make_batch(items))[1],
        callbacks=[SlowEvaluation()],
    )
    trainer.model.register_forward_hook(lambda *args: advance(1))
    trainer.train()
    shares = [entry["data_wait"] for entry in trainer.state.log_history if "loss" in entry]
    # One batch is made ahead: 3, 2 and 1 batches are made during two steps each.
    assert shares == pytest.approx([9 / 11, 6 / 8, 3 / 5])


def test_sew_weight_warms_up(data_root, tmp_path):
    trainer = build(data_root, tmp_path, max_steps=6, logging_steps=1, sew_warmup_ratio=0.5, mcm_weight=0.0)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    weights = [(entry["loss"] - entry["loss_itc"]) / entry["loss_sew"] for entry in logs]
    assert weights == pytest.approx([4 / 3, 8 / 3, 4, 4, 4, 4], rel=1e-3)


def test_gradient_accumulation_averages_and_does_not_enlarge_the_contrastive_batch(data_root, tmp_path):
    options = {"per_device_train_batch_size": 4, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
    options.update(lr_scheduler_type="constant", weight_decay=0.0, warmup_steps=0, logging_steps=1, max_steps=1)
    trainer = build(data_root, tmp_path, gradient_accumulation_steps=3, **options)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    batches = iter(build(data_root, tmp_path, **options).get_train_dataloader())
    expected: dict[str, torch.Tensor] = {}
    for _ in range(3):
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, dict(next(batches))).backward()
        for name, gradient in gradients(trainer.model).items():
            expected[name] = expected.get(name, 0) + gradient / 3
    trainer.model.zero_grad()
    trainer.train()
    for name, weight in trainer.model.named_parameters():
        step = before[name] - weight.detach()
        assert torch.allclose(step, expected.get(name, torch.zeros(())), atol=1e-5), name
    assert trainer.state.log_history[0]["contrastive_batch"] == 4


def test_evaluation_is_the_protocol_and_embeds_everything_once(data_root, tmp_path):
    trainer = build(data_root, tmp_path, per_device_eval_batch_size=5)
    seen = {"images": 0, "captions": 0}
    model = trainer.model.scmm
    model.vision_model.register_forward_hook(lambda _, args, out: seen.update(images=seen["images"] + len(out[0])))
    model.text_model.register_forward_hook(lambda _, args, out: seen.update(captions=seen["captions"] + len(out[0])))
    dataset = trainer.eval_dataset
    metrics = trainer.evaluate()
    assert seen == {"images": len(dataset), "captions": 2 * len(dataset)}

    processor = trainer.processing_class
    captions = [caption for captions in dataset["captions"] for caption in captions]
    with torch.no_grad():
        inputs = processor(text=captions, images=list(dataset["image"]), return_tensors="pt")
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
    ids = torch.tensor(dataset["person_id"])
    expected = retrieval_metrics(text, image, ids.repeat_interleave(2), ids)
    for name in ("rank1", "rank5", "rank10", "mAP", "mINP"):
        assert metrics[f"eval_{name}"] == pytest.approx(expected[name], abs=1e-3)
    assert metrics["eval_num_queries"] == len(captions)


def test_the_best_checkpoint_is_kept(data_root, tmp_path, caplog):
    trainer = build(data_root, tmp_path, num_train_epochs=3, save_total_limit=5)
    logging.getLogger("transformers").addHandler(caplog.handler)
    trainer.train()
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "missing keys" not in caplog.text, "the tied head is not missing"
    rank1 = [entry["eval_rank1"] for entry in trainer.state.log_history if "eval_rank1" in entry]
    assert len(rank1) == 3 and trainer.state.best_metric == max(rank1)
    best = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    for name, weight in trainer.model.state_dict().items():
        if name in best:
            assert torch.equal(weight, best[name]), name
    dual = SCMMModel.from_pretrained(trainer.state.best_model_checkpoint)
    assert torch.equal(dual.text_projection.weight, trainer.model.scmm.text_projection.weight)
    processor = SCMMProcessor.from_pretrained(trainer.state.best_model_checkpoint)
    assert processor.caption_quality(["a man"]) == trainer.processing_class.caption_quality(["a man"])


def run_setup(*arguments: object, expected: int = 0) -> None:
    command = [sys.executable, str(SETUP), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert finished.returncode == expected, finished.stderr[-4000:]


@pytest.mark.parametrize(
    "options", [{}, {"muon_learning_rate": 3e-3, "train_sampling_strategy": "group_by_length"}], ids=str
)
def test_a_killed_run_resumes_to_the_same_result(data_root, tmp_path, options):
    """Killed in the middle of an epoch, two steps after its last checkpoint; with loading workers."""
    options = ["--options", json.dumps(options)]
    run_setup("train", data_root, tmp_path / "whole", *options)
    run_setup("train", data_root, tmp_path / "killed", *options, "--kill-at", 8, expected=-signal.SIGKILL)
    assert not (tmp_path / "killed" / "final.safetensors").exists()
    run_setup("train", data_root, tmp_path / "killed", *options, "--resume")
    whole, resumed = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    states = [json.loads((tmp_path / name / "state.json").read_text()) for name in ("whole", "killed")]
    assert states[0] == states[1]


def run_twice(*arguments: object) -> None:
    """Runs the setup in two processes at once."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SETUP)]
    finished = subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]


def test_two_processes_share_each_batch(data_root, tmp_path):
    run_twice("order", data_root, tmp_path)
    shares = [json.loads((tmp_path / f"order_{rank}.json").read_text()) for rank in range(2)]
    items = build(data_root, tmp_path).train_dataset
    for strategy, epochs in shares[0].items():
        for epoch, batches in enumerate(epochs):
            others = shares[1][strategy][epoch]
            assert [len(batch) for batch in (*batches, *others)] == [4] * 12, "48 captions, 8 at once"
            whole = [[*batch, *other] for batch, other in zip(batches, others, strict=True)]
            assert sorted(index for batch in whole for index in batch) == list(range(48)), "every caption once"
            if strategy == "identity_balanced":
                for batch in whole:
                    people = [items.person_ids[items.rows[index]] for index in batch]
                    assert len(set(people)) == 4 and people[::2] == people[1::2], "4 people with 2 captions each"
                    assert all(items.rows[a] != items.rows[b] for a, b in zip(batch[::2], batch[1::2], strict=True))
        assert epochs[0] != epochs[1], strategy
    # One process draws the same order, so that a run does not depend on how many there are.
    for strategy in ("identity_balanced", "group_by_length"):
        options = {"train_sampling_strategy": strategy, "images_per_identity": 2}
        trainer = build(data_root, tmp_path, seed=3, **options)
        alone = [trainer._get_train_sampler()] * 2
        for epoch in range(2):
            trainer.train_dataset.set_epoch(epoch)
            batches = zip(*(share[strategy][epoch] for share in shares), strict=True)
            assert list(alone[epoch]) == [index for pair in batches for batch in pair for index in batch]


def test_two_processes_give_the_gradients_of_one(data_root, tmp_path):
    run_setup("gradients", data_root, tmp_path / "one")
    run_twice("gradients", data_root, tmp_path / "two")
    one, two = (load_file(tmp_path / name / "gradients.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and len(one) > 50
    for name, gradient in one.items():
        error = (two[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-12)
        # A bias of the keys shifts all of a query's scores alike: its gradient is rounding noise around 0.
        assert error <= 1e-5 or (name.endswith("k_proj.bias") and gradient.abs().max() < 1e-6), (name, error)


@pytest.mark.parametrize("options", [{"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_mixed_precision_and_gradient_checkpointing(data_root, tmp_path, options):
    plain = build(data_root, tmp_path / "plain", max_steps=2, logging_steps=2)
    other = build(data_root, tmp_path / "other", max_steps=2, logging_steps=2, **options)
    for trainer in (plain, other):
        trainer.train()
    losses = [trainer.state.log_history[0]["loss"] for trainer in (plain, other)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert all(weight.dtype == torch.float32 for weight in other.model.parameters())


def test_lora_trains_the_adapters_alone(data_root, tmp_path):
    peft = pytest.importorskip("peft")
    plain = build(data_root, tmp_path)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    adapted = peft.get_peft_model(plain.model, config)
    before = {name: weight.detach().clone() for name, weight in adapted.named_parameters()}
    trainer = build(data_root, tmp_path, model=adapted, num_train_epochs=1)
    trainer.train()
    changed = {name for name, weight in adapted.named_parameters() if not torch.equal(weight, before[name])}
    assert changed and all("lora_" in name for name in changed)
    saved = Path(trainer.state.best_model_checkpoint)
    assert (saved / "adapter_model.safetensors").is_file() and not (saved / "model.safetensors").exists()
    assert "eval_rank1" in trainer.state.log_history[-2] or "eval_rank1" in trainer.state.log_history[-1]


class TestLearningRateMultipliers:
    def test_groups(self, data_root, tmp_path):
        trainer = build(data_root, tmp_path, learning_rate=1e-3, learning_rate_multipliers={"decoder": 5.0})
        trainer.create_optimizer()
        rate_of = {id(weight): group["lr"] for group in trainer.optimizer.param_groups for weight in group["params"]}
        assert len(rate_of) == len(list(trainer.model.parameters()))
        for name, weight in trainer.model.named_parameters():
            assert rate_of[id(weight)] == pytest.approx(5e-3 if name.startswith("decoder.") else 1e-3), name
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3), "the logged rate is the plain one"

    def test_they_outlive_a_checkpoint(self, data_root, tmp_path):
        options = {"learning_rate_multipliers": {"decoder": 5.0}, "lr_scheduler_type": "constant", "warmup_steps": 0}
        build(
            data_root,
            tmp_path,
            max_steps=2,
            save_strategy="steps",
            eval_strategy="steps",
            save_steps=1,
            eval_steps=1,
            **options,
        ).train()
        trainer = build(
            data_root,
            tmp_path,
            max_steps=3,
            save_strategy="steps",
            eval_strategy="steps",
            save_steps=1,
            eval_steps=1,
            **options,
        )
        trainer.train(resume_from_checkpoint=True)
        rates = {group["lr"] for group in trainer.optimizer.param_groups}
        assert sorted(rates) == pytest.approx([1e-3, 5e-3])

    def test_a_weight_by_its_name(self, data_root, tmp_path):
        trainer = build(data_root, tmp_path, learning_rate_multipliers={"logit_scale": 0}, max_steps=3, warmup_steps=0)
        before = trainer.model.scmm.logit_scale.item()
        others = trainer.model.scmm.visual_projection.weight.detach().clone()
        trainer.train()
        assert trainer.model.scmm.logit_scale.item() == before
        assert not torch.equal(trainer.model.scmm.visual_projection.weight, others)

    def test_an_unknown_module_is_an_error(self, data_root, tmp_path):
        trainer = build(data_root, tmp_path, learning_rate_multipliers={"decodr": 5.0})
        with pytest.raises(ValueError, match="no module or weight 'decodr'"):
            trainer.create_optimizer()


class TestMuon:
    def test_takes_the_matrices_inside_the_layers(self, data_root, tmp_path):
        trainer = build(data_root, tmp_path, learning_rate=1e-3, muon_learning_rate=6e-3)
        trainer.create_optimizer()
        rate_of = {id(weight): group["lr"] for group in trainer.optimizer.param_groups for weight in group["params"]}
        assert len(rate_of) == len(list(trainer.model.parameters()))
        for name, weight in trainer.model.named_parameters():
            inside = ".layers." in name and name.endswith("weight") and "norm" not in name
            assert rate_of[id(weight)] == pytest.approx(6e-3 if inside else 1e-3), name

    def test_with_multipliers(self, data_root, tmp_path):
        options = {"learning_rate_multipliers": {"decoder": 5.0}, "learning_rate": 1e-3, "muon_learning_rate": 6e-3}
        trainer = build(data_root, tmp_path, **options)
        trainer.create_optimizer()
        rates = {group["lr"] for group in trainer.optimizer.param_groups}
        assert sorted(rates) == pytest.approx([1e-3, 5e-3, 6e-3, 3e-2])


def test_captions_that_are_cut_are_counted(data_root, tmp_path, caplog):
    captions = [caption for captions in paperdoll_splits(data_root)["train"]["captions"] for caption in captions]
    processor = SCMMProcessor.from_captions(captions, image_size=(32, 16), max_length=30)
    expected = processor.count_truncated(captions)
    assert 0 < expected < len(captions)
    build(data_root, tmp_path, processor=processor, max_steps=1).train()
    assert f"{expected} of 48 training captions are longer than 30 tokens" in caplog.text


def test_paper_mode_warns_from_random_weights(data_root, tmp_path, caplog):
    trainer = build(data_root, tmp_path, max_steps=1, align=None)
    trainer.train()
    assert "set align='itc'" in caplog.text
    caplog.clear()
    trainer = build(data_root, tmp_path, max_steps=1, align=None)
    trainer.model.name_or_path = "openai/clip-vit-base-patch16"
    trainer.train()
    assert "set align='itc'" not in caplog.text


def test_a_collapse_is_reported_once(data_root, tmp_path, caplog):
    trainer = build(data_root, tmp_path, max_steps=3, logging_steps=1, warmup_steps=0)
    with torch.no_grad():  # every image and every caption at the same point
        trainer.model.scmm.vision_model.post_layernorm.weight.zero_()
        trainer.model.scmm.vision_model.post_layernorm.bias.fill_(1.0)
    trainer.args.learning_rate = 0.0
    trainer.train()
    assert caplog.text.count("The embeddings have collapsed") == 1
    assert trainer.state.log_history[0]["image_cosine"] == pytest.approx(1.0, abs=1e-4)


def test_mean_pairwise_cosine_equals_the_loop():
    from scmm.trainer import _mean_pairwise_cosine

    embeds = torch.randn(7, 5)
    pairs = [F.cosine_similarity(embeds[i], embeds[j], dim=0) for i in range(7) for j in range(7) if i != j]
    assert _mean_pairwise_cosine(embeds) == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)
    assert _mean_pairwise_cosine(embeds[:1]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3]], ids=["one item", "one identity"])
def test_degenerate_batches_train(data_root, tmp_path, rows):
    trainer = build(data_root, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients(trainer.model).values())


def test_masked_global_branch_needs_no_decoder(data_root, tmp_path):
    trainer = build(data_root, tmp_path, mask_global_branch=True, mcm_weight=0.0)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    assert (batch["input_ids"] == trainer.processing_class.tokenizer.mask_token_id).any()
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert outputs.mcm_logits is None and loss.isfinite()


class TestMisfits:
    def test_vocabulary(self, data_root, tmp_path):
        processor = build(data_root, tmp_path).processing_class
        processor.tokenizer.add_tokens(["a_new_token"])
        with pytest.raises(ValueError, match=r"vocab_size=len\(processor.tokenizer\)"):
            build(data_root, tmp_path, processor=processor, vocab_size=len(processor.tokenizer) - 1)

    def test_image_size(self, data_root, tmp_path):
        with pytest.raises(ValueError, match="images of 32x16, the model takes 64x32"):
            build(data_root, tmp_path, image_size=[64, 32])

    def test_identities(self, data_root, tmp_path):
        with pytest.raises(ValueError, match="num_identities=6"):
            build(data_root, tmp_path, id_weight=1.0, num_identities=3)

    def test_dual_encoder(self, data_root, tmp_path):
        with pytest.raises(ValueError, match="trains SCMMForPreTraining, got SCMMModel"):
            build(data_root, tmp_path, model=build(data_root, tmp_path).model.scmm)

    def test_arguments(self, tmp_path):
        with pytest.raises(ValueError, match="margin_min"):
            SCMMTrainingArguments(str(tmp_path), margin_min=0.5, margin_max=0.2)
        with pytest.raises(ValueError, match="mask_probability must lie in"):
            SCMMTrainingArguments(str(tmp_path), mask_probability=1.5)
        with pytest.raises(ValueError, match="crop_padding"):
            SCMMTrainingArguments(str(tmp_path), crop_padding=-1)
        with pytest.raises(ValueError, match="images_per_identity must be at least 1, got 0"):
            SCMMTrainingArguments(str(tmp_path), images_per_identity=0)
        with pytest.raises(ValueError, match=r"must be one of .*'identity_balanced'\), got 'balanced'"):
            SCMMTrainingArguments(str(tmp_path), train_sampling_strategy="balanced")
        with pytest.raises(ValueError, match="Set mcm_weight to 0"):
            SCMMTrainingArguments(str(tmp_path), mask_probability=0.0)


def test_model_is_the_training_model(data_root, tmp_path):
    assert isinstance(build(data_root, tmp_path).model, SCMMForPreTraining)
