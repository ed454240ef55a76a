"""The recipes in recipes/, each of them run, and the way of every option from YAML to what acts on it."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.data import RandomSampler

from scmm import CaptionQuality, SCMMTrainer
from scmm.data.paperdoll import export_paperdoll
from scmm.data.samplers import IdentityBalancedSampler
from scmm.data.transforms import TrainingAugmentation
from scmm.losses import sew_calibration_loss
from scmm.recipes import RecipeError, build_trainer, read_recipe


FOLDER = Path(__file__).parent.parent / "recipes"
DATA_SETS = ("cuhk-pedes", "icfg-pedes", "rstpreid")
ON_PAPERDOLL = ("paperdoll", "paperdoll-ablation")
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

        def train(dataset: str, *baseline: str) -> tuple[SCMMTrainer, set[str]]:
            values = {"data_root": layouts, "output_dir": tmp_path, "use_cpu": True, "disable_tqdm": True}
            values.update(image_size=[32, 16], max_length=40, per_device_train_batch_size=8, dataloader_num_workers=0)
            values.update(max_steps=20, logging_steps=10, eval_strategy="steps", eval_steps=20)
            values.update(save_strategy="no", load_best_model_at_end=False, crop_padding=2)
            if dataset in ON_PAPERDOLL:
                values.update(data_root=paperdoll_root)
            else:
                values.update(model_name_or_path=clip)
            if dataset == "icfg-pedes":
                values.update(hold_out_identities=2)
            trainer, splits = build_trainer(read_recipe(*shipped(dataset, *baseline), **values))
            trainer.train()
            losses = [entry for entry in trainer.state.log_history if "loss" in entry]
            assert trainer.state.global_step == 20 and len(losses) == 2
            assert all(torch.isfinite(torch.tensor(list(entry.values()))).all() for entry in losses)
            evaluated = next(entry for entry in trainer.state.log_history if "eval_rank1" in entry)
            assert evaluated["eval_num_queries"] == sum(map(len, splits["val"]["captions"]))
            return trainer, {name.removeprefix("loss_") for name in losses[0] if name.startswith("loss_")}

        return train

    @pytest.mark.parametrize("dataset", [*DATA_SETS, *ON_PAPERDOLL])
    def test_a_data_set(self, train, dataset):
        trainer, terms = train(dataset)
        assert terms == {"sew", "itc"} | (set() if dataset == "paperdoll" else {"mcm"})
        assert trainer.eval_dataset.num_rows == (8 if dataset == "icfg-pedes" else 12)

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
        assert names == {*DATA_SETS, *ON_PAPERDOLL, *(f"baselines/{name}" for name in BASELINES)}

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
    def build(self, paperdoll_root, checkpoint, tmp_path):
        def build(*lines: str) -> SCMMTrainer:
            places = (f"data_root: {paperdoll_root}", f"output_dir: {tmp_path}", f"model_name_or_path: {checkpoint}")
            path = tmp_path / "mine.yaml"
            path.write_text("\n".join(["dataset: paperdoll", "use_cpu: true", *places, *lines]))
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do():
    with pytest.raises(RecipeError, match=r"bf16 needs a GPU .* lay a YAML file with `bf16: false` over"):
        read_recipe(*shipped("cuhk-pedes"))
