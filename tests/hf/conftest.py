"""
Makes transformers' common tests importable, from the folder that `make test-hf` fetches and names in
`TRANSFORMERS_TESTS`. Without it the tests here are skipped: they need a download.
"""

import importlib
import os
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES


# What the source distribution leaves out: it holds `tests/test_*.py` alone, without the folders that those import
# from. Exporting has tests of its own here, nothing of SCMM generates text, and no test that we run opens a URL.
STAND_INS = {
    "transformers_tests.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "transformers_tests.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "transformers_tests.utils.test_configuration_utils": {
        "config_common_kwargs": {
            "return_dict": False,
            "output_hidden_states": True,
            "output_attentions": True,
            "dtype": "float16",
            "chunk_size_feed_forward": 5,
            "architectures": ["SCMMModel"],
            "id2label": {0: "label"},
            "label2id": {"label": "0"},
            "problem_type": "regression",
        }
    },
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}
MARKS = "accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test slow torch_compile_test".split()


def pytest_configure(config):
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers' common tests")
    if "TRANSFORMERS_TESTS" not in os.environ:
        return
    sys.path.insert(0, str(Path(os.environ["TRANSFORMERS_TESTS"], version("transformers")).resolve()))
    for name, contents in STAND_INS.items():
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module
    # The library's own models stand in this table of names; `AutoModel.register` fills another one.
    MODEL_MAPPING_NAMES.update(scmm="SCMMModel", scmm_text_model="SCMMTextModel", scmm_vision_model="SCMMVisionModel")
    importlib.import_module("transformers_tests.test_modeling_common")  # what fails here must not count as skipped


def pytest_collection_modifyitems(items):
    """Skips the tests that a class names in `exceptions`, each with its reason."""
    for item in items:
        exceptions = getattr(getattr(item, "cls", None), "exceptions", {})
        for name in exceptions:
            if not hasattr(item.cls, name):
                raise pytest.UsageError(f"{item.cls.__name__}.exceptions: there is no test {name!r}.")
        if item.name in exceptions:
            item.add_marker(pytest.mark.skip(reason=exceptions[item.name]))
