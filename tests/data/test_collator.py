"""Training items and batches: complete, reproducible, and robust against what data sets contain."""

from collections import Counter

import pytest
import torch
from datasets import Dataset, Image
from torch.utils.data import DataLoader

from scmm import SCMMDataCollator, SCMMProcessor
from scmm.data.collator import CaptionItems
from scmm.data.schema import FEATURES
from scmm.data.transforms import TrainingAugmentation
from scmm.processing import ImageError


ODD_CAPTIONS = {
    "empty": "",
    "whitespace": " \n\t ",
    "emoji": "a 👩🏽‍🦰 🧥",
    "CJK": "穿红衣服的女人",
    "10,000 words": "red coat " * 5000,
    "special token": "a <|mask|> man <|endoftext|>",
}


@pytest.fixture(scope="module")
def train(paperdoll) -> Dataset:
    return paperdoll["train"]


@pytest.fixture(scope="module")
def items(train, processor) -> CaptionItems:
    return CaptionItems(train, processor, seed=3)


@pytest.fixture(scope="module")
def item(items) -> dict:
    return items[0]


def assert_same_batch(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


class TestCaptionItems:
    def test_every_caption_once_with_its_image(self, items, train):
        expected = [
            (caption, row["file_name"], row["person_id"]) for row in train for caption in row["captions"]
        ]  # a caption may occur twice, its item may not
        found = [(item["caption"], item["file_name"], item["person_id"]) for item in map(items.__getitem__, range(48))]
        assert len(items) == len(expected) == 48
        assert Counter(found) == Counter(expected)
        for index in (0, 17, 47):
            item = items[index]
            assert item["image"]["path"].endswith(item["file_name"]) and item["image"]["bytes"] is None

    def test_identity_labels_are_contiguous(self, train, processor):
        odd_ids = {0: 90, 1: 7, 2: -5, 3: 2**40, 4: 8, 5: 1000}
        rows = train.remove_columns("person_id").add_column("person_id", [odd_ids[i] for i in train["person_id"]])
        items = CaptionItems(rows.select_columns(list(FEATURES)), processor)
        label_of = {item["person_id"]: item["identity_label"] for item in map(items.__getitem__, range(len(items)))}
        assert label_of == {-5: 0, 7: 1, 8: 2, 90: 3, 1000: 4, 2**40: 5}

    def test_quality_is_the_scorers(self, items, processor):
        quality = [items[index]["caption_quality"] for index in range(len(items))]
        assert quality == processor.caption_quality([items[index]["caption"] for index in range(len(items))])
        assert len(set(quality)) > 10

    def test_quality_is_1_without_a_scorer(self, train, processor):
        plain = SCMMProcessor(processor.image_processor, processor.tokenizer)
        assert plain.caption_quality is None
        items = CaptionItems(train, plain)
        assert {items[index]["caption_quality"] for index in range(len(items))} == {1.0}

    def test_rows_without_captions(self, train, processor):
        rows = train.select(range(4)).map(
            lambda row, index: {"captions": row["captions"][: index % 2]},
            with_indices=True,
            load_from_cache_file=False,
        )
        items = CaptionItems(rows, processor)
        assert [item["file_name"] for item in map(items.__getitem__, range(len(items)))] == [
            train[1]["file_name"],
            train[3]["file_name"],
        ]

    def test_a_long_caption_is_cut_at_the_models_length_and_counted(self, train, processor):
        caption = ODD_CAPTIONS["10,000 words"]
        rows = train.select(range(2)).remove_columns("captions").add_column("captions", [["a man"], [caption]])
        items = CaptionItems(rows.select_columns(list(FEATURES)), processor)
        whole = processor.tokenizer(caption, verbose=False)["input_ids"]
        assert len(whole) > 10_000 > processor.tokenizer.model_max_length == 40
        assert items[1]["input_ids"] == [*whole[:39], processor.tokenizer.eos_token_id]
        assert items.num_truncated == 1

    def test_no_captions_at_all(self, train, processor):
        rows = train.select(range(2)).remove_columns("captions").add_column("captions", [[], []])
        assert len(CaptionItems(rows.cast(FEATURES), processor)) == 0

    def test_seeds_follow_from_run_epoch_and_item(self, train, processor):
        def seeds(run: int, epoch: int) -> list[int]:
            items = CaptionItems(train, processor, seed=run)
            items.set_epoch(epoch)
            return [items[index]["seed"] for index in range(len(items))]

        assert seeds(3, 0) == seeds(3, 0)
        together = [*seeds(3, 0), *seeds(3, 1), *seeds(4, 0), *seeds(0, 3)]
        assert len(set(together)) == len(together) and all(0 <= seed < 2**63 for seed in together)


class TestBatch:
    def test_keys_shapes_and_dtypes(self, items, processor):
        batch = SCMMDataCollator(processor)([items[index] for index in (0, 9, 30)])
        length = batch["input_ids"].shape[1]
        assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()} == {
            "pixel_values": ((3, 3, 32, 16), torch.float32),
            "input_ids": ((3, length), torch.int64),
            "attention_mask": ((3, length), torch.int64),
            "person_ids": ((3,), torch.int64),
            "identity_labels": ((3,), torch.int64),
            "caption_quality": ((3,), torch.float32),
            "mcm_input_ids": ((3, length), torch.int64),
            "mcm_labels": ((3, length), torch.int64),
        }

    def test_values_are_the_items(self, items, train, processor):
        chosen = [items[index] for index in (0, 9, 30)]
        batch = SCMMDataCollator(processor)(chosen)
        images = [row["image"] for row in train for _ in row["captions"]]
        expected = processor(
            images=[images[index] for index in (0, 9, 30)],
            text=[item["caption"] for item in chosen],
            return_tensors="pt",
        )
        assert (batch["pixel_values"] - expected["pixel_values"]).abs().max() <= 1e-6
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        for key, name in (("person_id", "person_ids"), ("identity_label", "identity_labels")):
            assert batch[name].tolist() == [item[key] for item in chosen]
        assert torch.allclose(batch["caption_quality"], torch.tensor([item["caption_quality"] for item in chosen]))

    def test_masked_copy_and_labels(self, items, processor):
        tokenizer = processor.tokenizer
        batch = SCMMDataCollator(processor)([items[index] for index in range(48)])
        chosen = batch["mcm_labels"] != -100
        assert torch.equal(batch["mcm_labels"][chosen], batch["input_ids"][chosen])
        assert torch.equal(batch["mcm_input_ids"][~chosen], batch["input_ids"][~chosen])
        special = torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
        assert not (chosen & (special | (batch["attention_mask"] == 0))).any()
        assert chosen.any(dim=1).all()
        assert 0.11 < chosen.sum() / (~special).sum() < 0.19
        assert 0.6 < (batch["mcm_input_ids"][chosen] == tokenizer.mask_token_id).float().mean() < 0.95
        assert not (batch["input_ids"] == tokenizer.mask_token_id).any()

    def test_random_tokens_are_ordinary_ones(self, processor):
        ordinary = SCMMDataCollator(processor).ordinary_ids.tolist()
        assert sorted([*ordinary, *processor.tokenizer.all_special_ids]) == list(range(len(processor.tokenizer)))

    def test_whole_words(self, items, processor):
        chosen = [items[index] for index in range(48)]
        collator = SCMMDataCollator(processor, mask_probability=0.3, whole_word_masking=True)
        encoding = processor.tokenizer([item["caption"] for item in chosen], padding=True, truncation=True)
        words = [[-1 if word is None else word for word in encoding.word_ids(row)] for row in range(len(chosen))]

        def split_words(labels: torch.Tensor) -> int:
            """Words of several tokens of which some are masked and some are not."""
            found = 0
            for row_words, row_labels in zip(words, labels.tolist(), strict=True):
                states = [{label != -100 for w, label in zip(row_words, row_labels, strict=True) if w == word}
                          for word in set(row_words) - {-1}]  # fmt: skip
                found += sum(len(state) == 2 for state in states)
            return found

        assert split_words(collator(chosen)["mcm_labels"]) == 0
        assert split_words(SCMMDataCollator(processor, mask_probability=0.3)(chosen)["mcm_labels"]) > 0

    def test_global_branch_masked(self, items, processor):
        chosen = [items[index] for index in range(4)]
        apart = SCMMDataCollator(processor)(chosen)
        together = SCMMDataCollator(processor, mask_global_branch=True)(chosen)
        assert "mcm_input_ids" not in together
        assert torch.equal(together["input_ids"], apart["mcm_input_ids"])
        assert torch.equal(together["mcm_labels"], apart["mcm_labels"])

    def test_without_masking(self, items, processor):
        chosen = [items[index] for index in range(4)]
        batch = SCMMDataCollator(processor, mask_probability=0)(chosen)
        assert not {"mcm_input_ids", "mcm_labels"} & batch.keys()
        assert torch.equal(batch["input_ids"], SCMMDataCollator(processor)(chosen)["input_ids"])

    def test_one_item(self, item, processor):
        batch = SCMMDataCollator(processor, TrainingAugmentation())([item])
        assert {len(tensor) for tensor in batch.values()} == {1}

    def test_decoded_images(self, item, train, processor):
        collator = SCMMDataCollator(processor, TrainingAugmentation())
        assert_same_batch(collator([{**item, "image": train[0]["image"]}]), collator([item]))


class TestReproducibility:
    @pytest.fixture
    def collator(self, processor) -> SCMMDataCollator:
        return SCMMDataCollator(processor, TrainingAugmentation(crop_padding=4, erasing_probability=0.5))

    @pytest.fixture
    def own_items(self, train, processor) -> CaptionItems:
        return CaptionItems(train, processor, seed=3)

    def test_an_epoch_has_choices_of_its_own(self, own_items, collator):
        batches = []
        for epoch in (0, 1, 0):
            own_items.set_epoch(epoch)
            batches.append(collator([own_items[index] for index in range(8)]))
        assert_same_batch(batches[0], batches[2])
        for name in ("pixel_values", "mcm_labels"):
            different = [not torch.equal(*rows) for rows in zip(batches[0][name], batches[1][name], strict=True)]
            assert sum(different) >= 6, name
        assert torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])

    def test_equal_items_are_augmented_apart(self, item, collator):
        batch = collator([item, {**item, "seed": item["seed"] + 1}])
        assert not torch.equal(*batch["pixel_values"])

    def test_cached_images_are_the_same_and_are_not_read_again(self, own_items, processor, collator, monkeypatch):
        cached = SCMMDataCollator(processor, collator.augmentation, cache_images=True)
        rows = [own_items[index] for index in range(8)]
        assert_same_batch(cached(rows), collator(rows))
        monkeypatch.setattr("scmm.data.collator.load_pixels", None)  # calling it would fail
        assert_same_batch(cached(rows), cached(rows))
        with pytest.raises(TypeError):
            collator(rows)

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_workers_make_no_difference(self, own_items, collator, num_workers):
        alone = DataLoader(own_items, batch_size=10, collate_fn=collator)
        options = {"num_workers": num_workers, "persistent_workers": True}
        shared = DataLoader(own_items, batch_size=10, collate_fn=collator, **options)
        for epoch in (0, 1):  # the workers of epoch 0 outlive it
            own_items.set_epoch(epoch)
            batches, expected = list(shared), list(alone)
            assert len(batches) == len(expected) == 5
            for batch, same in zip(batches, expected, strict=True):
                assert_same_batch(batch, same)


class TestBadInput:
    @pytest.mark.parametrize("kind", ODD_CAPTIONS)
    @pytest.mark.parametrize("whole_word_masking", [False, True])
    def test_odd_captions(self, item, processor, kind, whole_word_masking):
        tokenizer = processor.tokenizer
        collator = SCMMDataCollator(processor, whole_word_masking=whole_word_masking)
        odd = {**item, "input_ids": tokenizer(ODD_CAPTIONS[kind], truncation=True)["input_ids"]}
        for batch in (collator([odd]), collator([item, odd])):
            input_ids = batch["input_ids"][-1][batch["attention_mask"][-1] == 1]
            assert input_ids[0] == tokenizer.bos_token_id and input_ids[-1] == tokenizer.eos_token_id
            assert len(input_ids) <= tokenizer.model_max_length
            labels = batch["mcm_labels"][-1]
            if kind in ("empty", "whitespace"):
                assert len(input_ids) == 2 and (labels == -100).all()
            else:
                assert (labels != -100).any()

    @pytest.mark.parametrize("content", [b"", b"no image", None])
    def test_a_broken_image_is_named(self, train, processor, tmp_path, content):
        path = tmp_path / "broken.png"
        if content is not None:
            path.write_bytes(content)
        rows = {**train.cast_column("image", Image(decode=False)).select([0]).to_dict(), "image": [str(path)]}
        items = CaptionItems(Dataset.from_dict(rows, features=FEATURES), processor)
        with pytest.raises(FileNotFoundError if content is None else ImageError, match=r"broken\.png"):
            SCMMDataCollator(processor)([items[0]])

    def test_a_broken_image_without_a_file_is_named(self, item, processor):
        with pytest.raises(ImageError, match=item["file_name"]):
            SCMMDataCollator(processor)([{**item, "image": {"path": None, "bytes": b"no image"}}])
