import pytest
from huggingface_hub.errors import StrictDataclassError

from scmm import SCMMConfig, SCMMTextConfig, SCMMVisionConfig


def test_save_and_load_gives_the_same_configuration(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    loaded = SCMMConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == tiny_config.to_dict()
    assert loaded.vision_config.image_size == [16, 8]


def test_parts_are_taken_as_objects_and_as_dicts():
    from_objects = SCMMConfig(
        text_config=SCMMTextConfig(hidden_size=64), vision_config=SCMMVisionConfig(image_size=(64, 32))
    )
    from_dicts = SCMMConfig(text_config={"hidden_size": 64}, vision_config={"image_size": [64, 32]})
    assert from_objects.to_dict() == from_dicts.to_dict()
    assert from_dicts.vision_config.grid_size == (4, 2)


def test_an_integer_size_is_a_square():
    assert SCMMVisionConfig(image_size=224).image_size == [224, 224]


@pytest.mark.parametrize("image_size", [(100, 64), (96, 100), [1, 2, 3], (0, 16), 100])
def test_sizes_that_the_patch_does_not_divide_are_refused(image_size):
    with pytest.raises(StrictDataclassError, match="multiples of patch_size"):
        SCMMVisionConfig(image_size=image_size)


def test_a_stride_makes_patches_overlap():
    assert SCMMVisionConfig(image_size=(384, 128), patch_size=16, patch_stride=12).grid_size == (31, 10)
    assert SCMMVisionConfig(image_size=(384, 128), patch_size=14, patch_stride=14).grid_size == (27, 9)
    assert SCMMVisionConfig(image_size=(16, 16), patch_size=16, patch_stride=1).grid_size == (1, 1)


@pytest.mark.parametrize("stride", [0, -1, 17])
def test_strides_that_repeat_or_skip_pixels_are_refused(stride):
    with pytest.raises(StrictDataclassError, match=r"patch_stride .* must be from 1 to patch_size .16."):
        SCMMVisionConfig(patch_stride=stride)


@pytest.mark.parametrize("image_size", [(8, 64), [1, 2, 3], 8])
def test_sizes_below_the_patch_are_refused(image_size):
    with pytest.raises(StrictDataclassError, match="no smaller than patch_size"):
        SCMMVisionConfig(image_size=image_size, patch_stride=4)


@pytest.mark.parametrize("part", ["text_config", "vision_config", "decoder_config"])
def test_heads_that_do_not_divide_the_width_are_refused(part):
    with pytest.raises(StrictDataclassError, match=f"{part}: hidden_size .30. is not a multiple"):
        SCMMConfig(**{part: {"hidden_size": 30, "num_attention_heads": 4}})


def test_a_wrong_type_is_refused():
    with pytest.raises(StrictDataclassError, match="projection_dim"):
        SCMMConfig(projection_dim="wide")


def test_presets():
    base = SCMMConfig.from_preset("base")
    assert base.vision_config.image_size == [384, 128] and base.vision_config.grid_size == (24, 8)
    assert base.to_dict() == SCMMConfig().to_dict()
    tiny = SCMMConfig.from_preset("tiny", text_config={"vocab_size": 500})
    assert tiny.text_config.vocab_size == 500 and tiny.text_config.hidden_size == tiny.decoder_config.hidden_size
    assert SCMMConfig.from_preset("tiny").text_config.vocab_size == 49409, "an override must not leak into the preset"
    with pytest.raises(ValueError, match="no preset 'huge'"):
        SCMMConfig.from_preset("huge")
