"""Statistics of a data set, against counting by hand."""

from collections import Counter

import pytest
from datasets import Dataset

from scmm.caption_quality import CaptionQuality
from scmm.data.stats import dataset_stats, sample_rows


def test_counts(paperdoll):
    stats = dataset_stats(paperdoll)
    assert list(stats) == ["train", "val", "test"]
    quality = CaptionQuality().fit(caption for row in paperdoll["train"] for caption in row["captions"])
    for split, rows in paperdoll.items():
        captions = [caption for row in rows for caption in row["captions"]]
        summary = stats[split].summary()
        assert summary["images"] == len(rows) and summary["captions"] == len(captions)
        assert summary["identities"] == len(set(rows["person_id"])) and summary["identities_with_one_image"] == 0
        assert stats[split].quality.tolist() == quality(captions)
        assert summary["quality"]["mean"] == pytest.approx(sum(quality(captions)) / len(captions))
        assert stats[split].images_per_identity.tolist() == list(Counter(rows["person_id"]).values())
        assert summary["captions_per_image"] == dict.fromkeys(("mean", "min", "p5", "median", "p95", "max"), 2.0)


def test_words_and_percentiles():
    captions = [["red " * n] for n in range(1, 102)]
    captions[0] = ["A man's T-shirt, size 42!", "穿红色外套的女人"]
    stats = dataset_stats({"val": Dataset.from_dict({"captions": captions, "person_id": [0, *range(100)]})})
    summary = stats["val"].summary()
    assert stats["val"].words[:4].tolist() == [7, 1, 2, 3]  # a man s t shirt size 42; without spaces, one word
    # 1 to 101, and 7 once more: the 51st of the 102 in order is 50, the 52nd is 51.
    assert (summary["words"]["min"], summary["words"]["median"], summary["words"]["max"]) == (1, 50.5, 101)
    assert summary["captions_per_image"]["max"] == 2
    assert (summary["identities"], summary["identities_with_one_image"]) == (100, 99)


def test_splits_without_anything():
    rows = {"captions": [["a man in red", "a man", "a man walks"]], "person_id": [1]}
    empty = {"captions": [[]], "person_id": [2]}
    stats = dataset_stats({"train": Dataset.from_dict(rows), "test": Dataset.from_dict(empty)})
    summary = stats["test"].summary()
    assert summary["captions"] == 0 and summary["words"] == summary["quality"] == {}
    assert summary["captions_per_image"]["max"] == 0
    with pytest.raises(ValueError, match="leave nothing to measure"):
        dataset_stats({"train": Dataset.from_dict(empty)})


class TestSamples:
    ROWS = Dataset.from_dict({"person_id": [0] * 20 + [1, 2, 2], "number": list(range(23))})

    def test_everybody_comes_before_anybody_comes_again(self):
        for seed in range(20):
            people = sample_rows(self.ROWS, 6, seed)["person_id"]
            assert sorted(people[:3]) == [0, 1, 2] and sorted(people[3:]) == [0, 0, 2]

    def test_rows_are_drawn_at_random_once_each(self):
        first = {sample_rows(self.ROWS, 1, seed)["number"][0] for seed in range(40)}
        assert len(first) > 10
        assert sorted(sample_rows(self.ROWS, 99)["number"]) == list(range(23))
        assert list(sample_rows(self.ROWS, 5)["number"]) == list(sample_rows(self.ROWS, 5)["number"])
