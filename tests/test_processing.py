"""The processor: what it computes, what it learns from captions, what it saves and loads, what it takes from CLIP."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import regex
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.tokenization_auto import AutoTokenizer

from scmm.caption_quality import CaptionQuality
from scmm.configuration import SCMMTextConfig
from scmm.processing import SCMMProcessor


PERSON_CAPTIONS = Path(__file__).parents[2] / "shared" / "data" / "person_captions.json"

CAPTIONS = [
    "A man in a red shirt and blue jeans carries a black backpack.",
    "The woman wears a white dress, black shoes and a hat.",
    "A man with short black hair wears a blue jacket and gray trousers.",
    "She's walking; her T-shirt is white, her skirt is blue, her shoes are red.",
    "An old man in a black coat, gray trousers and white shoes.",
    "A young woman in a red coat with a white backpack and 2 bags.",
]
CLIP_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
TEXTS = [CAPTIONS[0], "", " \n\t ", "a 👩🏽‍🦰 in rot", "穿红衣服的女人", "رجل يرتدي قميصا", "word " * 10_000]


@pytest.fixture(scope="module")
def processor():
    return SCMMProcessor.from_captions(CAPTIONS, image_size=(32, 16), vocab_size=700, max_length=77)


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in [(40, 20), (7, 90)]
    ]


def assert_same_outputs(left, right, images):
    left_batch, right_batch = (p(images=images, text=TEXTS, return_tensors="pt") for p in (left, right))
    assert set(left_batch) == set(right_batch) == {"pixel_values", "input_ids", "attention_mask"}
    for name in left_batch:
        assert torch.equal(left_batch[name], right_batch[name]), name


class TestCall:
    def test_images_and_captions_become_tensors(self, processor, images):
        batch = processor(images=images, text=CAPTIONS[:3], return_tensors="pt")
        assert batch["pixel_values"].shape == (2, 3, 32, 16)
        assert batch["pixel_values"].dtype == torch.float32
        assert batch["input_ids"].shape == batch["attention_mask"].shape
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
        assert len(batch["input_ids"]) == 3

    def test_pixels_are_bicubic_and_normalized_as_clip_does(self, processor, images):
        mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
        pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
        for image, pixels in zip(images, pixel_values, strict=True):
            resized = np.asarray(image.resize((16, 32), Image.Resampling.BICUBIC), dtype=np.float64)
            reference = ((resized / 255 - mean) / std).transpose(2, 0, 1)
            np.testing.assert_allclose(pixels.numpy(), reference, atol=1e-5)

    def test_one_image_and_one_caption(self, processor, images):
        batch = processor(images=images[0], text="a hat", return_tensors="pt")
        assert batch["pixel_values"].shape == (1, 3, 32, 16)
        assert batch["input_ids"].shape[0] == 1

    def test_captions_alone_are_padded_to_the_longest_and_end_with_eos(self, processor):
        tokenizer = processor.tokenizer
        batch = processor(text=CAPTIONS, return_tensors="pt")
        lengths = batch["attention_mask"].sum(dim=1)
        assert batch["input_ids"].shape[1] == lengths.max()
        assert lengths.min() < lengths.max()
        for ids, length in zip(batch["input_ids"], lengths, strict=True):
            assert ids[0] == tokenizer.bos_token_id
            assert ids[length - 1] == tokenizer.eos_token_id
            assert tokenizer.eos_token_id not in ids[: length - 1]

    def test_a_long_caption_is_cut_and_keeps_its_end_token(self, processor):
        ids = processor(text="word " * 10_000)["input_ids"]
        whole = processor.tokenizer("word " * 10_000, verbose=False)["input_ids"]
        assert len(ids) == 77 < len(whole)
        assert ids == [*whole[:76], processor.tokenizer.eos_token_id]

    def test_options_of_a_call_override_the_defaults(self, processor, images):
        batch = processor(
            images=images, text=["a hat"], padding="max_length", max_length=12, size={"height": 8, "width": 4}
        )
        assert len(batch["input_ids"][0]) == 12
        assert batch["pixel_values"][0].shape == (3, 8, 4)

    def test_paths_bytes_and_pil_images_give_the_same(self, processor, images, tmp_path):
        path = tmp_path / "person.png"
        images[0].save(path)
        expected = processor(images=images[0], return_tensors="pt")["pixel_values"]
        for source in (str(path), path, path.read_bytes()):
            assert torch.equal(processor(images=[source], return_tensors="pt")["pixel_values"], expected)

    def test_arrays_pass_through_to_the_image_processor(self, processor, images):
        expected = processor(images=images, return_tensors="pt")["pixel_values"]
        arrays = [np.asarray(image) for image in images]
        assert torch.equal(processor(images=arrays, return_tensors="pt")["pixel_values"], expected)
        tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
        assert torch.equal(processor(images=tensors, return_tensors="pt")["pixel_values"], expected)


class TestVocabulary:
    def test_layout_is_clips_with_the_mask_last(self, processor):
        tokenizer = processor.tokenizer
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        assert len(set(tokens)) == len(tokens)
        assert all(len(token) == 1 for token in tokens[:256])
        assert tokens[256:512] == [token + "</w>" for token in tokens[:256]]
        assert tokens[-3:] == ["<|startoftext|>", "<|endoftext|>", "<|mask|>"]
        assert tokenizer.mask_token_id == len(tokenizer) - 1
        assert tokenizer.all_special_tokens == tokens[-3:]
        assert tokenizer.pad_token_id == tokenizer.eos_token_id

    def test_merges_follow_a_naive_byte_pair_encoding(self):
        """Every merge joins a most frequent pair, counted from scratch on words spelled as letters."""
        processor = SCMMProcessor.from_captions(CAPTIONS, vocab_size=560)
        merges = json.loads(processor.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        words = [[*word[:-1], word[-1] + "</w>"] for text in CAPTIONS for word in CLIP_WORDS.findall(text.lower())]
        assert len(merges) == 560 - 512 - 3
        for left, right in merges:
            pairs = [pair for word in words for pair in pairwise(word)]
            assert pairs.count((left, right)) == max(map(pairs.count, set(pairs)))
            for word in words:
                for i in range(len(word) - 2, -1, -1):
                    if word[i : i + 2] == [left, right]:
                        word[i : i + 2] = [left + right]
        tokens = [token for word in words for token in word]
        assert tokens == [token for text in CAPTIONS for token in processor.tokenizer.tokenize(text)]

    def test_a_smaller_vocabulary_holds_the_first_merges_of_a_larger(self, processor):
        small = SCMMProcessor.from_captions(CAPTIONS, vocab_size=550).tokenizer
        assert len(small) == 550
        large = processor.tokenizer.get_vocab()
        assert all(large[token] == index for token, index in small.get_vocab().items() if index < 547)

    def test_rare_pairs_are_not_merged(self):
        captions = ["zebra hat", "hat", "hat"]
        often = SCMMProcessor.from_captions(captions, min_frequency=2, quality_measure="constant").tokenizer
        assert often.tokenize("zebra hat") == ["z", "e", "b", "r", "a</w>", "hat</w>"]
        once = SCMMProcessor.from_captions(captions, min_frequency=1, quality_measure="constant").tokenizer
        assert once.tokenize("zebra hat") == ["zebra</w>", "hat</w>"]

    def test_training_is_deterministic(self, processor):
        again = SCMMProcessor.from_captions(iter(CAPTIONS), vocab_size=700)
        assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()

    @given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=30))
    def test_any_text_is_encoded_without_loss(self, processor, text):
        tokenizer = processor.tokenizer
        ids = tokenizer(text)["input_ids"]
        if not any(token in text for token in tokenizer.all_special_tokens):
            assert not set(ids[1:-1]) & set(tokenizer.all_special_ids)
            normalized = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
            decoded = tokenizer.decode(ids, skip_special_tokens=True)
            assert decoded.replace(" ", "") == normalized.replace(" ", "")

    def test_the_mask_token_in_a_text_is_one_token(self, processor):
        ids = processor(text="a <|mask|> shirt")["input_ids"]
        assert ids.count(processor.tokenizer.mask_token_id) == 1

    @pytest.mark.skipif(not PERSON_CAPTIONS.is_file(), reason="the real captions are not at hand")
    def test_real_captions(self):
        captions = [text for person in json.loads(PERSON_CAPTIONS.read_text()) for text in person["captions"]]
        processor = SCMMProcessor.from_captions(captions, vocab_size=2000)
        tokenizer = processor.tokenizer
        encoded = tokenizer(captions, return_special_tokens_mask=True, verbose=False)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        # A person's description takes about one token a word: measured here 25 to 40 at the median.
        assert 25 <= np.median(lengths) <= 40
        assert processor.count_truncated(captions) == (lengths > 77).sum() < 0.01 * len(captions)
        assert all(mask.count(1) == 2 for mask in encoded["special_tokens_mask"])
        for caption, ids in zip(captions, encoded["input_ids"], strict=True):
            assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(CLIP_WORDS.findall(caption.lower()))


class TestHelpers:
    def test_count_truncated_compares_with_the_whole_length(self, processor):
        assert processor.count_truncated([]) == 0
        assert processor.count_truncated(TEXTS) == 1
        tokens_that_fit = 77 - 2
        assert processor.count_truncated(["! " * tokens_that_fit, "! " * (tokens_that_fit + 1)]) == 1

    def test_text_config_fields_agree_with_the_tokenizer(self, processor):
        fields = processor.text_config_fields()
        config = SCMMTextConfig(**fields)
        assert config.vocab_size == len(processor.tokenizer) == max(processor.tokenizer.get_vocab().values()) + 1
        assert config.max_position_embeddings == len(processor(text="word " * 100)["input_ids"])
        assert processor.tokenizer.convert_ids_to_tokens(
            [config.bos_token_id, config.eos_token_id, config.pad_token_id, config.mask_token_id]
        ) == ["<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "<|mask|>"]


class TestSaveAndLoad:
    def test_round_trip_is_identical(self, processor, images, tmp_path):
        processor.save_pretrained(tmp_path)
        assert not (tmp_path / "preprocessor_config.json").exists()
        loaded = SCMMProcessor.from_pretrained(tmp_path)
        assert type(loaded.image_processor) is CLIPImageProcessorPil
        assert type(loaded.tokenizer) is CLIPTokenizer
        assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
        assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        assert_same_outputs(loaded, processor, images)
        loaded.save_pretrained(tmp_path / "again")
        assert_same_outputs(SCMMProcessor.from_pretrained(tmp_path / "again"), processor, images)

    def test_options_of_an_earlier_call_do_not_outlive_saving(self, processor, images, tmp_path):
        processor(text=TEXTS, padding="max_length", max_length=24, pad_to_multiple_of=8, stride=3)
        processor.save_pretrained(tmp_path)
        assert_same_outputs(SCMMProcessor.from_pretrained(tmp_path), processor, images)

    def test_auto_classes_load_the_parts(self, processor, images, tmp_path):
        processor.save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert tokenizer(TEXTS)["input_ids"] == processor.tokenizer(TEXTS)["input_ids"]
        assert tokenizer.mask_token_id == processor.tokenizer.mask_token_id
        image_processor = AutoImageProcessor.from_pretrained(tmp_path)
        expected = processor(images=images, return_tensors="pt")["pixel_values"]
        assert torch.equal(image_processor(images, return_tensors="pt")["pixel_values"], expected)

    def test_saved_code_loads_as_remote_code(self, processor, images, tmp_path, monkeypatch):
        monkeypatch.setattr(SCMMProcessor, "_auto_class", "AutoProcessor")
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        processor.save_pretrained(tmp_path / "checkpoint")
        assert (tmp_path / "checkpoint" / "caption_quality.py").is_file()
        config = json.loads((tmp_path / "checkpoint" / "processor_config.json").read_text())
        assert config["auto_map"] == {"AutoProcessor": "processing.SCMMProcessor"}
        # By the class, since AutoProcessor prefers the registered one where this package is imported.
        remote_class = get_class_from_dynamic_module("processing.SCMMProcessor", tmp_path / "checkpoint")
        assert remote_class is not SCMMProcessor
        loaded = remote_class.from_pretrained(tmp_path / "checkpoint")
        assert_same_outputs(loaded, processor, images)
        assert loaded.caption_quality(CAPTIONS) == processor.caption_quality(CAPTIONS)

    def test_an_image_processor_of_torchvision_is_replaced_by_pillows(self, processor, images, tmp_path, monkeypatch):
        class TorchvisionLike(CLIPImageProcessorPil):
            backend = "torchvision"

        processor.save_pretrained(tmp_path)
        load = AutoImageProcessor.from_pretrained
        monkeypatch.setattr(
            AutoImageProcessor,
            "from_pretrained",
            lambda *args, **kwargs: TorchvisionLike.from_dict(load(*args, **kwargs).to_dict()),
        )
        loaded = SCMMProcessor.from_pretrained(tmp_path)
        assert type(loaded.image_processor) is CLIPImageProcessorPil
        assert_same_outputs(loaded, processor, images)


class TestCaptionQuality:
    def test_it_is_fitted_on_the_captions(self, processor):
        assert processor.caption_quality(TEXTS) == CaptionQuality("information").fit(CAPTIONS)(TEXTS)
        by_length = SCMMProcessor.from_captions(CAPTIONS, quality_measure="length")
        assert by_length.caption_quality(TEXTS) == CaptionQuality("length").fit(CAPTIONS)(TEXTS)

    def test_it_is_saved_and_loaded_beside_the_processor(self, processor, tmp_path):
        processor.save_pretrained(tmp_path)
        loaded = SCMMProcessor.from_pretrained(tmp_path)
        assert loaded.caption_quality(CAPTIONS) == processor.caption_quality(CAPTIONS)

    def test_without_one_none_is_saved_nor_loaded(self, processor, tmp_path):
        processor.save_pretrained(tmp_path)
        SCMMProcessor(processor.image_processor, processor.tokenizer).save_pretrained(tmp_path)
        assert not (tmp_path / "caption_quality.json").exists()
        assert SCMMProcessor.from_pretrained(tmp_path).caption_quality is None

    def test_a_broken_file_is_an_error(self, processor, tmp_path):
        processor.save_pretrained(tmp_path)
        (tmp_path / "caption_quality.json").write_text("{")
        with pytest.raises(ValueError, match=r"caption_quality\.json"):
            SCMMProcessor.from_pretrained(tmp_path)

    def test_it_is_found_in_a_subfolder_and_in_the_cache_of_the_hub(self, processor, tmp_path):
        commit = "0123456789abcdef0123456789abcdef01234567"
        repository = tmp_path / "models--someone--persons"
        snapshot = repository / "snapshots" / commit
        processor.save_pretrained(snapshot / "part")
        (snapshot / "part" / "config.json").write_text('{"model_type": "clip"}')
        (repository / "refs").mkdir()
        (repository / "refs" / "release").write_text(commit)
        hub_kwargs = {"cache_dir": tmp_path, "revision": "release", "local_files_only": True, "subfolder": "part"}
        loaded = SCMMProcessor.from_pretrained("someone/persons", **hub_kwargs)
        assert loaded.caption_quality(CAPTIONS) == processor.caption_quality(CAPTIONS)
        (snapshot / "part" / "caption_quality.json").unlink()
        assert SCMMProcessor.from_pretrained("someone/persons", **hub_kwargs).caption_quality is None

    def test_it_is_uploaded_with_the_processor(self, processor, tmp_path, monkeypatch):
        commits = []
        hub = SimpleNamespace(
            create_repo=lambda repo_id, **_: SimpleNamespace(repo_id=repo_id),
            create_commit=lambda repo_id, operations, **_: commits.append((repo_id, operations)),
        )
        monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: hub)
        processor.save_pretrained(tmp_path / "persons", push_to_hub=True, repo_id="someone/persons")
        ((repo_id, operations),) = commits
        assert repo_id == "someone/persons"
        assert {"processor_config.json", "tokenizer.json", "caption_quality.json"} <= {
            operation.path_in_repo for operation in operations
        }


class TestFromClip:
    @pytest.fixture
    def clip_folder(self, processor, tmp_path):
        """A CLIP checkpoint's tokenizer and image processor: no mask token, and values of its own."""
        vocab = {token: index for token, index in processor.tokenizer.get_vocab().items() if token != "<|mask|>"}
        merges = json.loads(processor.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        tokenizer = CLIPTokenizer(vocab=vocab, merges=[tuple(pair) for pair in merges], model_max_length=77)
        tokenizer.save_pretrained(tmp_path / "clip")
        CLIPImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=2).save_pretrained(
            tmp_path / "clip"
        )
        return tmp_path / "clip"

    def test_tokens_stay_and_the_mask_is_appended(self, clip_folder):
        clip_tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
        tokenizer = SCMMProcessor.from_clip_pretrained(clip_folder).tokenizer
        assert tokenizer.mask_token == "<|mask|>"
        assert tokenizer.mask_token_id == len(clip_tokenizer) == len(tokenizer) - 1
        assert "<|mask|>" in tokenizer.all_special_tokens
        assert tokenizer(TEXTS)["input_ids"] == clip_tokenizer(TEXTS)["input_ids"]

    def test_a_mask_token_that_is_there_is_kept(self, clip_folder):
        SCMMProcessor.from_clip_pretrained(clip_folder).save_pretrained(clip_folder)
        again = SCMMProcessor.from_clip_pretrained(clip_folder).tokenizer
        assert len(again) == again.mask_token_id + 1 == len(CLIPTokenizer.from_pretrained(clip_folder))

    def test_images_keep_the_normalization_and_get_a_rectangle(self, clip_folder, images):
        processor = SCMMProcessor.from_clip_pretrained(clip_folder)
        assert processor(images=images, return_tensors="pt")["pixel_values"].shape == (2, 3, 384, 128)
        pixels = SCMMProcessor.from_clip_pretrained(clip_folder, (24, 12))(images=images[0])["pixel_values"][0]
        resized = np.asarray(images[0].resize((12, 24), Image.Resampling.BILINEAR)) / 255
        reference = (resized - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
        np.testing.assert_allclose(pixels, reference.transpose(2, 0, 1), atol=1e-5)
        assert processor.caption_quality is None

    @pytest.mark.parametrize("saved_type", ["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"])
    def test_any_kind_of_saved_image_processor_gives_pillows(self, clip_folder, images, saved_type):
        path = clip_folder / "preprocessor_config.json"
        config = json.loads(path.read_text())
        config["feature_extractor_type" if "Extractor" in saved_type else "image_processor_type"] = saved_type
        path.write_text(json.dumps(config))
        processor = SCMMProcessor.from_clip_pretrained(clip_folder, (24, 12))
        assert type(processor.image_processor) is CLIPImageProcessorPil
        assert processor(images=images, return_tensors="pt")["pixel_values"].shape == (2, 3, 24, 12)

    def test_round_trip(self, clip_folder, images, tmp_path):
        processor = SCMMProcessor.from_clip_pretrained(clip_folder, (24, 12))
        processor.save_pretrained(tmp_path / "saved")
        assert_same_outputs(SCMMProcessor.from_pretrained(tmp_path / "saved"), processor, images)

    def test_length_is_the_checkpoints_or_the_given_one(self, clip_folder, tmp_path):
        assert len(SCMMProcessor.from_clip_pretrained(clip_folder)(text="word " * 100)["input_ids"]) == 77
        short = SCMMProcessor.from_clip_pretrained(clip_folder, max_length=16)
        short.save_pretrained(tmp_path / "short")
        for processor in (short, SCMMProcessor.from_pretrained(tmp_path / "short")):
            ids = processor(text="word " * 100)["input_ids"]
            assert len(ids) == 16
            assert ids[-1] == processor.tokenizer.eos_token_id

    def test_an_unknown_length_is_asked_for(self, clip_folder):
        path = clip_folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        del config["model_max_length"]
        path.write_text(json.dumps(config))
        with pytest.raises(ValueError, match="max_length"):
            SCMMProcessor.from_clip_pretrained(clip_folder)
        assert SCMMProcessor.from_clip_pretrained(clip_folder, max_length=9).tokenizer.model_max_length == 9


def test_the_same_captions_give_the_same_vocabulary(paperdoll):
    """Among them are merges of equal frequency, whose order is easily a matter of chance."""
    captions = [caption for captions in paperdoll["train"]["captions"] for caption in captions]
    first, *others = (SCMMProcessor.from_captions(captions).tokenizer.get_vocab() for _ in range(25))
    assert all(other == first for other in others)
