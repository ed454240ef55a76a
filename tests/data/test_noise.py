"""Noisy correspondence: what a permutation moves, how many, and which files are none."""

import numpy as np
import pytest
from datasets import Dataset, Image
from hypothesis import given
from hypothesis import strategies as st

from scmm.data.noise import count_other_person, noise_permutation, permute_captions, read_noise_file


def pairs(dataset: Dataset) -> list[tuple[int, str, str]]:
    """Person, image and caption of every pair, in order."""
    rows = dataset.cast_column("image", Image(decode=False))
    return [(row["person_id"], row["image"]["path"], caption) for row in rows for caption in row["captions"]]


class TestPermutation:
    @given(st.integers(0, 300), st.floats(0, 1), st.integers(0, 2**32 - 1))
    def test_the_ratio_is_exact(self, num_captions, noise_ratio, seed):
        num_noisy = round(noise_ratio * num_captions)
        if num_noisy == 1:
            with pytest.raises(ValueError, match="with none to swap with"):
                noise_permutation(num_captions, noise_ratio, seed)
            return
        permutation = noise_permutation(num_captions, noise_ratio, seed)
        assert permutation.dtype == np.int64 and sorted(permutation) == list(range(num_captions))
        assert sum(source != target for target, source in enumerate(permutation)) == num_noisy

    def test_a_seed_names_the_same_noise_everywhere(self):
        expected = list(range(10))
        # RandomState(0) draws 2, 8, 4, 9 and 1, in this order.
        expected[2], expected[8], expected[4], expected[9], expected[1] = 8, 4, 9, 1, 2
        assert noise_permutation(10, 0.5, seed=0).tolist() == expected
        assert noise_permutation(10, 0.5, seed=1).tolist() != expected

    def test_every_pair_is_as_likely(self):
        moved = np.zeros(20)
        for seed in range(400):
            moved += noise_permutation(20, 0.3, seed) != np.arange(20)
        assert moved.sum() == 400 * 6
        assert np.abs(moved / 400 - 0.3).max() < 0.1  # four standard deviations

    @pytest.mark.parametrize("noise_ratio", [-0.1, 1.01, float("nan")])
    def test_a_ratio_out_of_range(self, noise_ratio):
        with pytest.raises(ValueError, match=r"noise_ratio must lie in \[0, 1\]"):
            noise_permutation(10, noise_ratio)


class TestPermuteCaptions:
    def test_only_captions_move(self, paperdoll):
        before = paperdoll["train"]
        permutation = noise_permutation(48, 0.8, seed=3)
        after = permute_captions(before, permutation)
        assert after.features == before.features and after.column_names == before.column_names
        for column in ("person_id", "image_id", "camera_id", "file_name"):
            assert list(after[column]) == list(before[column])
        # The field's code, pair by pair: the image and its person stay, the caption comes from elsewhere.
        clean = pairs(before)
        assert pairs(after) == [(*clean[i][:2], clean[permutation[i]][2]) for i in range(48)]
        assert [len(captions) for captions in after["captions"]] == [len(captions) for captions in before["captions"]]

    def test_uneven_rows_and_a_selection_of_them(self):
        rows = Dataset.from_dict({"captions": [["x"], ["a", "b", "c"], [], ["d"]], "person_id": [9, 0, 1, 2]})
        selected = rows.select([3, 2, 1])
        assert list(permute_captions(selected, np.array([3, 1, 0, 2]))["captions"]) == [["c"], [], ["a", "d", "b"]]

    def test_no_noise_changes_nothing(self, paperdoll):
        after = permute_captions(paperdoll["train"], noise_permutation(48, 0.0))
        assert pairs(after) == pairs(paperdoll["train"])


def test_other_persons_captions_are_counted(paperdoll):
    people = [person for person, _, _ in pairs(paperdoll["train"])]
    for ratio in (0.0, 0.2, 0.5, 0.8, 1.0):
        permutation = noise_permutation(48, ratio, seed=1)
        expected = sum(people[source] != people[target] for target, source in enumerate(permutation))
        assert count_other_person(paperdoll["train"], permutation) == expected <= round(48 * ratio)


class TestFile:
    def test_what_numpy_saves_is_read(self, tmp_path):
        permutation = noise_permutation(30, 0.5)
        np.save(tmp_path / "noise.npy", permutation)
        assert np.array_equal(read_noise_file(tmp_path / "noise.npy", 30), permutation)

    @pytest.mark.parametrize(
        "values, message",
        [
            (np.arange(3), "permutes 3 captions, but the training split has 4: it belongs to another data set"),
            (np.arange(0), "permutes 0 captions"),
            (np.array([0, 1, 2, 2]), "is no permutation: caption 2 occurs more than once"),
            (np.array([0, 1, 2, 4]), r"is no permutation: entry 3 is 4, outside 0\.\.3"),
            (np.array([0, -1, 2, 3]), r"is no permutation: entry 1 is -1, outside 0\.\.3"),
            (np.arange(4, dtype=np.int32), "must hold one int64 permutation, .* holds 1-dimensional int32"),
            (np.arange(4.0), "holds 1-dimensional float64"),
            (np.arange(4).reshape(2, 2), "holds 2-dimensional int64"),
            (np.array(3), "holds 0-dimensional int64"),
            (np.array([0, 1, 2, None]), "is not a .npy file of integers"),  # pickled
        ],
    )
    def test_wrong_contents(self, tmp_path, values, message):
        path = tmp_path / "noise.npy"
        np.save(path, values)
        with pytest.raises(ValueError, match=f"^{path} .*{message}"):
            read_noise_file(path, 4)

    def test_what_is_no_such_file(self, tmp_path):
        np.savez(tmp_path / "many.npz", np.arange(4))
        (tmp_path / "empty.npy").touch()
        (tmp_path / "text.npy").write_text("0 1 2 3")
        np.save(tmp_path / "cut.npy", np.arange(1000))
        (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:500])
        header = {"descr": "<i8", "fortran_order": False, "shape": (10**15,)}
        with open(tmp_path / "huge.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
        for name in ("many.npz", "empty.npy", "text.npy", "cut.npy", "huge.npy"):
            with pytest.raises(ValueError, match=rf"^{tmp_path / name} "):
                read_noise_file(tmp_path / name, 4)
        with pytest.raises(FileNotFoundError, match=r"none\.npy"):
            read_noise_file(tmp_path / "none.npy", 4)
