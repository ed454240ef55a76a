"""Recipes: what a file may say, what it is told when it is wrong, and the run that comes of it."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.utils.data import RandomSampler
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from scmm import CaptionQuality, SCMMProcessor, SCMMTrainer, load_benchmark
from scmm.data.benchmarks import BenchmarkError
from scmm.data.noise import noise_permutation
from scmm.data.paperdoll import export_paperdoll, render_paperdoll
from scmm.data.samplers import IdentityBalancedSampler
from scmm.data.transforms import TrainingAugmentation
from scmm.losses import sew_calibration_loss
from scmm.recipes import RecipeError, build_trainer, parse_recipe, read_recipe


VALUES = {"dataset": "paperdoll", "data_root": "data", "preset": "tiny", "output_dir": "run", "use_cpu": True}


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def recipe(paperdoll_root, tmp_path):
    """Parses a recipe for the tiny PaperDoll; `None` leaves a value out."""

    def recipe(**values):
        values = {**VALUES, "data_root": paperdoll_root, "output_dir": tmp_path / "run", **values}
        return parse_recipe({key: value for key, value in values.items() if value is not None})

    return recipe


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """The folder of a tiny CLIP with its tokenizer and image processor."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = SCMMProcessor.from_captions(["a man in a red coat"] * 3).tokenizer
    CLIPImageProcessorPil(image_mean=[0.5, 0.4, 0.3], size={"shortest_edge": 16}).save_pretrained(folder)
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": len(tokenizer) - 1,
        "max_position_embeddings": 40,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    # A tokenizer as CLIP's own, which knows no mask token.
    vocab = {token: index for token, index in tokenizer.get_vocab().items() if token != tokenizer.mask_token}
    merges = [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=40).save_pretrained(folder)
    return folder


class TestParse:
    def test_values_reach_their_groups(self):
        data, model, args = parse_recipe({**VALUES, "eval_split": "test", "image_size": [64, 32], "margin_max": 0.9})
        assert (data.dataset, data.data_root, data.eval_split) == ("paperdoll", "data", "test")
        assert (model.preset, model.model_name_or_path, model.image_size) == ("tiny", None, [64, 32])
        assert (args.output_dir, args.margin_max, args.margin_min) == ("run", 0.9, 0.1)

    @pytest.mark.parametrize(
        "key, advice",
        [
            ("learningrate", " Did you mean 'learning_rate'?"),
            ("marginmin", " Did you mean 'margin_min'?"),
            ("modelname_or_path", " Did you mean 'model_name_or_path'?"),
            ("qqq", ""),
            (3, ""),
            (None, ""),
        ],
    )
    def test_an_unknown_key(self, key, advice):
        with pytest.raises(RecipeError) as error:
            parse_recipe({**VALUES, key: 1}, source="mine.yaml")
        assert str(error.value) == f"mine.yaml: unknown key {key!r}.{advice}"

    @pytest.mark.parametrize("key", ["dataset", "data_root"])
    def test_a_missing_key(self, key):
        values = {name: value for name, value in VALUES.items() if name != key}
        with pytest.raises(RecipeError, match=f"mine.yaml: the key '{key}' is missing"):
            parse_recipe(values, source="mine.yaml")

    @pytest.mark.parametrize(
        "values, message",
        [
            ({"learning_rate": "fast"}, "learning_rate must be float, got 'fast'"),
            ({"learning_rate": None}, "learning_rate must be float, got None"),
            ({"learning_rate": True}, "learning_rate must be float, got True"),
            ({"seed": 1.5}, "seed must be int, got 1.5"),
            ({"seed": "1"}, "seed must be int, got '1'"),
            ({"max_length": "long"}, r"max_length must be int \| None, got 'long'"),
            ({"image_size": 128}, r"image_size must be list\[int\] \| None, got 128"),
            ({"image_size": [128, "x"]}, r"image_size must be list\[int\] \| None, got \[128, 'x'\]"),
            ({"whole_word_masking": "yes"}, "whole_word_masking must be bool, got 'yes'"),
            ({"preset": 3}, r"preset must be str \| None, got 3"),
            ({"hold_out_identities": "many"}, "hold_out_identities must be int, got 'many'"),
            ({"fields": "mals"}, r"fields must be dict \| None, got 'mals'"),
            ({"learning_rate_multipliers": [5]}, r"learning_rate_multipliers must be dict \| None, got \[5\]"),
        ],
    )
    def test_a_wrong_type(self, values, message):
        with pytest.raises(RecipeError, match=f"mine.yaml: {message}"):
            parse_recipe({**VALUES, **values}, source="mine.yaml")

    @pytest.mark.parametrize(
        "values, message",
        [
            ({"margin_min": 0.5, "margin_max": 0.4}, r"margin_min \(0.5\) must not exceed margin_max \(0.4\)"),
            ({"mining": "easy"}, "mining must be one of .*'easy'"),
            ({"align": "clip"}, "align must be one of .*'clip'"),
            ({"mask_probability": 1.5}, "mask_probability must lie in .*1.5"),
            ({"erasing_probability": -0.1}, "erasing_probability must lie in .*-0.1"),
            ({"crop_padding": -1}, "crop_padding must not be negative, got -1"),
            ({"mask_probability": 0}, "Set mcm_weight to 0 as well"),
            ({"image_size": [128]}, r"image_size is \[height, width\], got \[128\]"),
            ({"model_name_or_path": "clip"}, "either preset or model_name_or_path"),
            ({"preset": None}, "either preset or model_name_or_path"),
            ({"eval_strategy": "never"}, "never"),
            ({"noise_ratio": 1.2}, r"noise_ratio must lie in \[0, 1\], got 1.2"),
            ({"noise_ratio": -0.5}, r"noise_ratio must lie in \[0, 1\], got -0.5"),
            ({"noise_ratio": 0.2, "noise_file": "noise.npy"}, "give either noise_ratio or noise_file"),
            ({"temperature": 0.001}, r"temperature must lie in \[0.01, 1\], got 0.001"),
            ({"train_sampling_strategy": "balanced"}, "train_sampling_strategy must be one of .*'balanced'"),
        ],
    )
    def test_a_value_out_of_range(self, values, message):
        with pytest.raises(RecipeError, match=f"mine.yaml: .*{message}"):
            parse_recipe({**VALUES, **values}, source="mine.yaml")


class TestRead:
    TEXT = "dataset: paperdoll\ndata_root: data\npreset: tiny\noutput_dir: run\nuse_cpu: true\nseed: 5\n"

    @pytest.mark.parametrize("number, value", [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("0.5", 0.5), ("1", 1)])
    def test_every_way_to_write_a_number(self, write, number, value):
        _, _, args = read_recipe(write(f"{self.TEXT}learning_rate: {number}"))
        assert args.learning_rate == value and not isinstance(args.learning_rate, str)

    def test_overrides(self, write, tmp_path):
        path = write(self.TEXT)
        data, _, args = read_recipe(path, data_root=tmp_path, output_dir=None, seed=0)
        assert (data.data_root, args.output_dir, args.seed) == (str(tmp_path), "run", 0)
        assert read_recipe(str(path))[2].seed == 5

    @pytest.mark.parametrize(
        "text, message",
        [
            ("a: [1, 2\nb: 3", "is not YAML: .*line 2"),
            ("a: b: c", "is not YAML: .*line 1"),
            ("when: 2024-99-99", "is not YAML: .*month"),
            (b"a: \xff", "is not YAML: .*utf-8"),
            ("!!python/object/apply:os.getcwd []", "is not YAML: .*python/object"),
            ("", "must be a list of `key: value` lines"),
            ("just text", "must be a list of `key: value` lines"),
            ("- a\n- b", "must be a list of `key: value` lines"),
        ],
    )
    def test_what_is_no_recipe(self, write, text, message):
        with pytest.raises(RecipeError, match=rf"mine\.yaml {message}") as error:
            read_recipe(write(text))
        assert "\n" not in str(error.value)

    def test_a_later_file_wins(self, write, tmp_path):
        later = tmp_path / "later.yaml"
        later.write_text("seed: 7\nalign: sdm\n")
        data, _, args = read_recipe(write(self.TEXT), later, output_dir="other")
        assert (data.dataset, args.seed, args.align, args.output_dir) == ("paperdoll", 7, "sdm", "other")
        later.write_text("learning: 1")
        with pytest.raises(RecipeError, match=rf"mine\.yaml \+ {later}: unknown key 'learning'"):
            read_recipe(write(self.TEXT), later)
        later.write_text("")
        with pytest.raises(RecipeError, match=f"{later} must be a list"):
            read_recipe(write(self.TEXT), later)

    def test_errors_name_the_file(self, write):
        path = write(f"{self.TEXT}learning: 1")
        with pytest.raises(RecipeError, match=f"{path}: unknown key 'learning'"):
            read_recipe(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
            read_recipe(tmp_path / "none.yaml")


class TestBuild:
    def test_from_a_preset(self, recipe, paperdoll):
        trainer, splits = build_trainer(recipe(image_size=[32, 16], max_length=30, decoder_layers=2, seed=4))
        assert isinstance(trainer, SCMMTrainer)
        assert {split: rows.num_rows for split, rows in splits.items()} == {"train": 24, "val": 12, "test": 16}
        assert len(trainer.train_dataset) == 48 and trainer.eval_dataset.num_rows == 12
        processor, config = trainer.processing_class, trainer.model.config
        captions = [caption for captions in paperdoll["train"]["captions"] for caption in captions]
        assert processor.caption_quality.num_captions == len(captions)
        assert config.text_config.vocab_size == len(processor.tokenizer)
        assert config.text_config.max_position_embeddings == processor.tokenizer.model_max_length == 30
        assert config.vision_config.image_size == [32, 16]
        assert len(trainer.model.decoder.layers) == 2 and config.num_identities == 0
        assert trainer.model.num_parameters() < 5_000_000

    def test_the_batches_fit_the_model(self, recipe):
        trainer, _ = build_trainer(recipe(image_size=[32, 16], id_weight=0.5, per_device_train_batch_size=4))
        loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
        assert torch.isfinite(loss) and trainer.model.config.num_identities == 6

    def test_the_seed_sets_the_weights(self, recipe):
        def weights(seed: int) -> torch.Tensor:
            return build_trainer(recipe(image_size=[32, 16], seed=seed))[0].model.scmm.visual_projection.weight

        assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))

    def test_from_clip(self, recipe, clip):
        trainer, _ = build_trainer(
            recipe(preset=None, model_name_or_path=clip, image_size=[32, 16], max_length=20, decoder_layers=1)
        )
        state, processor = load_file(clip / "model.safetensors"), trainer.processing_class
        name = "vision_model.encoder.layers.0.mlp.fc1.weight"
        assert torch.equal(trainer.model.scmm.state_dict()[name], state[name])
        assert trainer.model.config.vision_config.image_size == [32, 16]
        assert processor.image_processor.size == {"height": 32, "width": 16}
        assert list(processor.image_processor.image_mean) == [0.5, 0.4, 0.3]
        assert processor.tokenizer.model_max_length == 20
        assert processor.tokenizer.mask_token_id == trainer.model.config.text_config.mask_token_id
        assert processor.caption_quality.is_fitted and len(trainer.model.decoder.layers) == 1
        assert torch.isfinite(trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))))

    def test_clip_takes_no_longer_captions(self, recipe, clip):
        with pytest.raises(RecipeError, match=rf"{clip} cannot be used: it takes 40 tokens.*max_length cannot be 41"):
            build_trainer(recipe(preset=None, model_name_or_path=clip, max_length=41))

    def test_from_an_scmm_checkpoint(self, recipe, checkpoint):
        trainer, _ = build_trainer(recipe(preset=None, model_name_or_path=checkpoint, quality_measure="length"))
        state = load_file(checkpoint / "model.safetensors")
        assert all(torch.equal(tensor, state[name]) for name, tensor in trainer.model.scmm.state_dict().items())
        assert trainer.processing_class.caption_quality.measure == "length"
        for values in ({"image_size": [64, 32]}, {"max_length": 20}):
            with pytest.raises(RecipeError, match="image_size and max_length cannot be changed"):
                build_trainer(recipe(preset=None, model_name_or_path=checkpoint, **values))

    def test_other_people_get_a_classifier_of_their_own(self, recipe, checkpoint, tmp_path):
        trainer, _ = build_trainer(recipe(preset=None, model_name_or_path=checkpoint, id_weight=1.0))
        trainer.save_model(tmp_path / "six")
        again, _ = build_trainer(recipe(preset=None, model_name_or_path=tmp_path / "six", id_weight=1.0))
        assert torch.equal(again.model.id_classifier.weight, trainer.model.id_classifier.weight)
        people = {"train_identities": 2, "val_identities": 1, "test_identities": 0}
        render_paperdoll(tmp_path, image_size=(32, 16), num_workers=1, progress=False, **people)
        other, _ = build_trainer(
            recipe(preset=None, model_name_or_path=tmp_path / "six", id_weight=1.0, data_root=tmp_path)
        )
        assert other.model.id_classifier.weight.shape == (2, 8)
        assert torch.equal(other.model.decoder.head.weight, trainer.model.decoder.head.weight)

    def test_a_missing_split_is_named(self, recipe, paperdoll_root, tmp_path):
        with pytest.raises(BenchmarkError, match=r"paperdoll has no split 'dev', only test, train, val"):
            build_trainer(recipe(eval_split="dev"))
        export_paperdoll(paperdoll_root, tmp_path, "icfg-pedes")
        with pytest.raises(BenchmarkError, match=r"icfg-pedes has no split 'val'.*hold_out_identities.*eval_split"):
            build_trainer(recipe(dataset="icfg-pedes", data_root=tmp_path))
        _, splits = build_trainer(recipe(dataset="icfg-pedes", data_root=tmp_path, hold_out_identities=2, seed=1))
        _, again = build_trainer(recipe(dataset="icfg-pedes", data_root=tmp_path, hold_out_identities=2, seed=2))
        assert len(set(splits["val"]["person_id"])) == 2
        assert list(again["val"]["image_id"]) == list(splits["val"]["image_id"])  # a run's seed moves nobody

    def test_a_set_of_the_user_s_own(self, recipe, paperdoll_root):
        folder = paperdoll_root / "PaperDoll"
        values = {"dataset": "json", "data_root": folder / "paperdoll.json", "image_root": folder / "imgs"}
        _, splits = build_trainer(recipe(**values, fields={"camera_id": "camera"}))
        assert splits["train"].to_list() == load_benchmark("paperdoll", paperdoll_root)["train"].to_list()
        with pytest.raises(BenchmarkError, match="unknown name 'caption'"):
            build_trainer(recipe(**values, fields={"caption": "caption"}))

    def test_temperature(self, recipe, checkpoint):
        for start in ({"preset": "tiny", "image_size": [32, 16]}, {"preset": None, "model_name_or_path": checkpoint}):
            trainer, _ = build_trainer(recipe(**start, temperature=0.02))
            assert trainer.model.scmm.logit_scale.exp().item() == pytest.approx(50)

    def test_what_is_no_model(self, recipe, checkpoint, tmp_path):
        for config, message in [
            (None, "model_type"),
            ('{"model_type": "bert"}', "it is a 'bert' checkpoint"),
            ("{", "JSON"),
        ]:
            folder = tmp_path / message
            folder.mkdir()
            if config is not None:
                (folder / "config.json").write_text(config)
            with pytest.raises(RecipeError, match=f"{folder} cannot be used: .*{message}"):
                build_trainer(recipe(preset=None, model_name_or_path=folder))
        shutil.copytree(checkpoint, tmp_path / "cut")
        os.truncate(tmp_path / "cut" / "model.safetensors", 20_000)
        with pytest.raises(RecipeError, match=f"{tmp_path / 'cut'} cannot be used: .*deserializing"):
            build_trainer(recipe(preset=None, model_name_or_path=tmp_path / "cut"))

    def test_an_unknown_preset(self, recipe):
        with pytest.raises(ValueError, match="no preset 'huge'; choose one of"):
            build_trainer(recipe(preset="huge"))


class TestNoise:
    @staticmethod
    def pairs(trainer: SCMMTrainer) -> list[tuple[str, int, str]]:
        items = (trainer.train_dataset[index] for index in range(len(trainer.train_dataset)))
        return [(item["file_name"], item["person_id"], item["caption"]) for item in items]

    def test_a_share_of_training_captions_changes_places(self, recipe, caplog):
        clean, splits = build_trainer(recipe(image_size=[32, 16]))
        noisy, noisy_splits = build_trainer(recipe(image_size=[32, 16], noise_ratio=0.5, seed=3))
        permutation = noise_permutation(48, 0.5, seed=3)
        before, after = self.pairs(clean), self.pairs(noisy)
        assert after == [(*pair[:2], before[permutation[i]][2]) for i, pair in enumerate(before)] != before
        assert list(noisy_splits["val"]["captions"]) == list(splits["val"]["captions"])
        assert list(noisy_splits["test"]["captions"]) == list(splits["test"]["captions"])
        other = sum(before[source][1] != before[target][1] for target, source in enumerate(permutation))
        assert [record.message for record in caplog.records if "Noisy" in record.message] == [
            "Noisy correspondence: of 48 training captions 24 stand beside another pair's image, "
            f"{other} ({other / 48:.1%}) beside another person's."
        ]

    def test_from_a_file(self, recipe, tmp_path):
        permutation = np.roll(np.arange(48), 1)
        np.save(tmp_path / "noise.npy", permutation)
        before = self.pairs(build_trainer(recipe(image_size=[32, 16]))[0])
        after = self.pairs(build_trainer(recipe(image_size=[32, 16], noise_file=tmp_path / "noise.npy"))[0])
        assert [caption for _, _, caption in after] == [before[i - 1][2] for i in range(48)]
        np.save(tmp_path / "noise.npy", np.arange(50))
        with pytest.raises(ValueError, match=r"noise\.npy permutes 50 captions, but the training split has 48"):
            build_trainer(recipe(noise_file=tmp_path / "noise.npy"))


FOLDER = Path(__file__).parent.parent / "recipes"
DATA_SETS = ("cuhk-pedes", "icfg-pedes", "rstpreid")
BASELINES = ("itc", "sdm", "sdm+mcm+id", "triplet")


def shipped(*names: str) -> list[Path]:
    return [FOLDER / f"{name}.yaml" for name in names]


@pytest.fixture(scope="module")
def layouts(paperdoll_root, tmp_path_factory) -> Path:
    """PaperDoll in the layouts of all data sets."""
    root = tmp_path_factory.mktemp("layouts")
    for layout in DATA_SETS:
        export_paperdoll(paperdoll_root, root, layout)
    return root


class TestShipped:
    """The recipes of the repository, on PaperDoll in the layout of each data set, with a tiny CLIP."""

    @pytest.fixture
    def train(self, layouts, paperdoll_root, clip, tmp_path):
        """Runs 20 steps of a recipe with everything made tiny, and checks the log."""

        def train(name: str, *baseline: str) -> tuple[SCMMTrainer, set[str]]:
            values = {"data_root": layouts, "output_dir": tmp_path, "use_cpu": True, "disable_tqdm": True}
            values.update(image_size=[32, 16], max_length=40, per_device_train_batch_size=8, dataloader_num_workers=0)
            values.update(max_steps=20, logging_steps=10, eval_strategy="steps", eval_steps=20)
            values.update(save_strategy="no", load_best_model_at_end=False, crop_padding=2)
            if name.startswith("paperdoll"):
                values.update(data_root=paperdoll_root)
            else:
                values.update(model_name_or_path=clip)
            if name == "icfg-pedes":
                values.update(hold_out_identities=2)
            trainer, splits = build_trainer(read_recipe(*shipped(name, *baseline), **values))
            trainer.train()
            losses = [entry for entry in trainer.state.log_history if "loss" in entry]
            assert trainer.state.global_step == 20 and len(losses) == 2
            assert all(torch.isfinite(torch.tensor(list(entry.values()))).all() for entry in losses)
            evaluated = next(entry for entry in trainer.state.log_history if "eval_rank1" in entry)
            assert evaluated["eval_num_queries"] == sum(map(len, splits["val"]["captions"]))
            return trainer, {name.removeprefix("loss_") for name in losses[0] if name.startswith("loss_")}

        return train

    @pytest.mark.parametrize("name", [*DATA_SETS, "paperdoll", "paperdoll-ablation"])
    def test_a_data_set(self, train, name):
        trainer, terms = train(name)
        assert terms == {"sew", "itc"} | ({"mcm"} if name != "paperdoll" else set())
        assert trainer.eval_dataset.num_rows == (8 if name == "icfg-pedes" else 12)

    @pytest.mark.parametrize("dataset, baseline", list(zip([*DATA_SETS, "cuhk-pedes"], BASELINES, strict=True)))
    def test_a_baseline(self, train, dataset, baseline):
        trainer, terms = train(dataset, f"baselines/{baseline}")
        assert terms == set(baseline.split("+"))
        fixed = trainer.model.scmm.logit_scale.item() == pytest.approx(math.log(50), abs=1e-6)
        assert fixed == ("sdm" in baseline)
        assert trainer.args.mask_global_branch == (baseline == "sdm+mcm+id")
        balanced = isinstance(trainer._get_train_sampler(), IdentityBalancedSampler)
        assert balanced == (baseline == "triplet")

    def test_every_file_is_tried(self):
        names = {str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml")}
        assert names == {*DATA_SETS, "paperdoll", "paperdoll-ablation", *(f"baselines/{name}" for name in BASELINES)}

    def test_data_sets_differ_in_nothing_else(self):
        recipes = [yaml.safe_load(path.read_text()) for path in shipped(*DATA_SETS)]
        own = {"dataset", "output_dir", "hold_out_identities"}
        common = [{name: value for name, value in recipe.items() if name not in own} for recipe in recipes]
        assert common[0] == common[1] == common[2]

    @pytest.mark.parametrize("dataset", DATA_SETS)
    @pytest.mark.parametrize("baseline", [None, *BASELINES])
    def test_as_they_stand(self, dataset, baseline):
        names = [dataset] if baseline is None else [dataset, f"baselines/{baseline}"]
        data, model, args = read_recipe(*shipped(*names), bf16=False)  # not every machine has it
        assert (data.dataset, model.image_size, model.max_length) == (dataset, [384, 128], 77)
        assert (args.num_train_epochs, args.per_device_train_batch_size, args.learning_rate) == (60, 64, 1e-5)
        steps_of_an_epoch = 1000
        assert args.get_warmup_steps(60 * steps_of_an_epoch) == pytest.approx(5 * steps_of_an_epoch, rel=1e-3)
        assert args.lr_scheduler_type == "cosine"


class TestOptionsReachTheirComponents:
    """From a line of YAML to the object that acts on it."""

    @pytest.fixture
    def build(self, write, paperdoll_root, checkpoint, tmp_path):
        def build(*lines: str) -> SCMMTrainer:
            places = (f"data_root: {paperdoll_root}", f"output_dir: {tmp_path}", f"model_name_or_path: {checkpoint}")
            path = write("\n".join(["dataset: paperdoll", "use_cpu: true", *places, *lines]))
            return build_trainer(read_recipe(path))[0]

        return build

    def batch(self, trainer: SCMMTrainer) -> dict[str, torch.Tensor]:
        return trainer.data_collator([trainer.train_dataset[index] for index in range(48)])

    def test_masking(self, build):
        batch = self.batch(build("mask_global_branch: true", "mask_probability: 0.5"))
        masked = batch["mcm_labels"] != -100
        assert 0.45 < masked.sum() / (batch["attention_mask"].sum() - 2 * 48) < 0.55
        assert "mcm_input_ids" not in batch, "all branches see the masked caption"
        assert "mcm_input_ids" in self.batch(build())
        assert build("whole_word_masking: true").data_collator.whole_word_masking

    def test_augmentation(self, build):
        trainer = build("flip_probability: 0.25", "crop_padding: 3", "erasing_probability: 0.75", "cache_images: true")
        assert trainer.data_collator.augmentation == TrainingAugmentation(0.25, 3, 0.75)
        assert trainer.data_collator.cache == {}

    def test_decoder(self, build):
        assert len(build("decoder_layers: 3").model.decoder.layers) == 3

    def test_objective(self, build):
        values = {"margin_min": 0.15, "margin_max": 0.35, "margin_single": 0.3, "mining": "softplus", "tau": 0.7}
        values |= {"weight_cross": 0.5, "weight_single": 0.25}
        lines = [f"{name}: {value}" for name, value in values.items()]
        loss = build("sew_weight: 2", "align: cmpm", *lines).loss_function
        assert loss.weights == {"sew": 2.0, "mcm": 1.0, "cmpm": 1.0}
        embeds = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
        batch = (*embeds, torch.tensor([1, 1, 2, 2, 3, 3]), torch.linspace(0, 1, 6))
        found = loss.sew_calibration_loss(*batch)
        assert found == sew_calibration_loss(*batch, **values)
        for name in values:  # each of them has a say
            other = "all" if name == "mining" else 0.2
            assert found != sew_calibration_loss(*batch, **{**values, name: other}), name

    def test_other_losses(self, build):
        loss = build("align: triplet", "triplet_margin: 0.6", "id_weight: 0.5", "mcm_weight: 0").loss_function
        assert loss.weights == {"sew": 4.0, "triplet": 1.0, "id": 0.5} and loss.triplet_margin == 0.6
        assert build("itc_targets: pair").loss_function.itc_targets == "pair"

    @pytest.mark.parametrize("measure", ["information", "length", "distinct", "constant"])
    def test_quality(self, build, measure):
        trainer = build(f"quality_measure: {measure}")
        captions = trainer.train_dataset.captions
        assert trainer.train_dataset.caption_quality == CaptionQuality(measure).fit(captions)(captions)

    def test_sampling(self, build):
        lines = ("train_sampling_strategy: identity_balanced", "images_per_identity: 2")
        sampler = build(*lines, "per_device_train_batch_size: 6")._get_train_sampler()
        assert isinstance(sampler, IdentityBalancedSampler)
        assert (sampler.people_per_batch, sampler.images_per_identity) == (3, 2)
        assert isinstance(build()._get_train_sampler(), RandomSampler)
