"""transformers' own common tests of configurations and models, run against SCMM's."""

import unittest

import pytest
import torch

from scmm import SCMMConfig, SCMMForPreTraining, SCMMModel
from scmm.configuration import SCMMTextConfig, SCMMVisionConfig
from scmm.modeling_scmm import SCMMTextModel, SCMMVisionModel


common = pytest.importorskip("transformers_tests.test_modeling_common", reason="run `make test-hf`")
ConfigTester = pytest.importorskip("transformers_tests.test_configuration_common").ConfigTester

TOWER = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
END, VOCAB_SIZE = 97, 99

NO_LOSS = "the model returns embeddings and logits; SCMMLoss makes a loss of them"
IN_THE_TOWERS = "the towers' outputs carry them, each within its own field; the towers are tested by themselves"

VISION_EXCEPTIONS = {
    "test_model_get_set_embeddings": "patches are embedded by a convolution, not by an nn.Embedding",
}
DUAL_EXCEPTIONS = {
    "test_attention_outputs": IN_THE_TOWERS,
    "test_hidden_states_output": IN_THE_TOWERS,
    "test_retain_grad_hidden_states_attentions": IN_THE_TOWERS,
}
PRETRAINING_EXCEPTIONS = {
    **DUAL_EXCEPTIONS,
    **dict.fromkeys(
        [
            "test_training",
            "test_training_gradient_checkpointing",
            "test_training_gradient_checkpointing_use_reentrant_false",
            "test_training_gradient_checkpointing_use_reentrant_true",
        ],
        NO_LOSS,
    ),
    **{
        name: "it compares hidden states; ours are compared by their embeddings in tests/test_modeling_scmm.py"
        for name in dir(common.ModelTesterMixin)
        if name.startswith("test_eager_matches_sdpa_inference")
    },
}


class TextTester:
    is_training = True
    batch_size = 7  # as many as the tests ask for: what they fill up with has no end token
    seq_length = 7
    vocab_size = VOCAB_SIZE

    def __init__(self):
        vars(self).update(TOWER)

    def get_config(self) -> SCMMTextConfig:
        special = {"bos_token_id": 96, "eos_token_id": END, "pad_token_id": END, "mask_token_id": 98}
        return SCMMTextConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=12, **special, **TOWER)

    def prepare_config_and_inputs_for_common(self):
        """Captions of different lengths, ended and padded with the end token."""
        ends = torch.arange(self.batch_size) % (self.seq_length - 3) + 3
        positions = torch.arange(self.seq_length)
        input_ids = common.ids_tensor([self.batch_size, self.seq_length], 96).masked_fill(
            positions >= ends[:, None], END
        )
        return self.get_config(), {"input_ids": input_ids, "attention_mask": (positions <= ends[:, None]).long()}


class VisionTester:
    is_training = True
    batch_size = 7  # as many as the tests ask for: what they fill up with has no end token
    image_size = [16, 8]
    seq_length = 1 + 4 * 2

    def __init__(self):
        vars(self).update(TOWER)

    def get_config(self) -> SCMMVisionConfig:
        return SCMMVisionConfig(image_size=self.image_size, patch_size=4, **TOWER)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": common.floats_tensor([self.batch_size, 3, *self.image_size])}


class DualTester:
    is_training = True

    def __init__(self):
        self.text_model_tester, self.vision_model_tester = TextTester(), VisionTester()
        self.batch_size = TextTester.batch_size

    def get_config(self) -> SCMMConfig:
        return SCMMConfig(
            text_config=self.text_model_tester.get_config(),
            vision_config=self.vision_model_tester.get_config(),
            decoder_config={**TOWER, "num_hidden_layers": 1},
            projection_dim=24,
        )

    def prepare_config_and_inputs_for_common(self):
        inputs = {}
        for tester in (self.text_model_tester, self.vision_model_tester):
            inputs.update(tester.prepare_config_and_inputs_for_common()[1])
        return self.get_config(), inputs


class PreTrainingTester(DualTester):
    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        inputs["mcm_labels"] = inputs["input_ids"].clone()
        inputs["mcm_labels"][:, 2:] = -100
        return config, inputs


class CommonTests(common.ModelTesterMixin):
    test_can_init_all_missing_weights_before_2023 = True  # or it runs only under a copyright line of a later year

    def test_config(self):
        self.config_tester.run_common_tests()


class SCMMTextModelTest(CommonTests, unittest.TestCase):
    all_model_classes = (SCMMTextModel,)

    def setUp(self):
        self.model_tester = TextTester()
        self.config_tester = ConfigTester(self, config_class=SCMMTextConfig, **TOWER)


class SCMMVisionModelTest(CommonTests, unittest.TestCase):
    exceptions = VISION_EXCEPTIONS
    all_model_classes = (SCMMVisionModel,)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = VisionTester()
        self.config_tester = ConfigTester(self, config_class=SCMMVisionConfig, has_text_modality=False, **TOWER)


class SCMMModelTest(CommonTests, unittest.TestCase):
    exceptions = DUAL_EXCEPTIONS
    all_model_classes = (SCMMModel,)
    additional_model_inputs = ["pixel_values"]
    _is_composite = True

    def setUp(self):
        self.model_tester = DualTester()
        self.config_tester = ConfigTester(self, config_class=SCMMConfig, has_text_modality=False, projection_dim=24)


class SCMMForPreTrainingTest(CommonTests, unittest.TestCase):
    exceptions = PRETRAINING_EXCEPTIONS
    all_model_classes = (SCMMForPreTraining,)
    additional_model_inputs = ["pixel_values", "mcm_labels"]
    _is_composite = True

    def setUp(self):
        self.model_tester = PreTrainingTester()
        self.config_tester = ConfigTester(self, config_class=SCMMConfig, has_text_modality=False, projection_dim=24)
