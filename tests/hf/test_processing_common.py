"""transformers' own common tests of processors, run against SCMM's."""

import unittest
import unittest.mock

import pytest
from transformers import CLIPImageProcessorPil

from scmm import SCMMProcessor


common = pytest.importorskip("transformers_tests.test_processing_common", reason="run `make test-hf`")


class SCMMProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = SCMMProcessor
    exceptions = {
        "test_subprocessor_defaults_preserved_by_kwargs_0_images": (
            "a tokenizer saved after use carries the `max_length` of its last call; SCMMProcessor drops it, "
            "and cuts captions at the model's length alone"
        ),
    }

    @classmethod
    def setUpClass(cls):
        # Saved with its code, as for the Hub, a processor gains an `auto_map` that it has lost when it is loaded; the
        # library's own processors are saved without.
        patch = unittest.mock.patch.object(SCMMProcessor, "_auto_class", None)
        patch.start()
        cls.addClassCleanup(patch.stop)
        super().setUpClass()

    @classmethod
    def _setup_image_processor(cls):
        return CLIPImageProcessorPil(size={"height": 64, "width": 32}, do_center_crop=False)

    @classmethod
    def _setup_tokenizer(cls):
        return SCMMProcessor.from_captions(["lower newer", "upper older longer string"] * 3).tokenizer
