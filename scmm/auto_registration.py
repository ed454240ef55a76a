"""
Registers SCMM with transformers' auto classes at the moment that those are imported.

Registering takes the classes themselves, and those take seconds to import (torch). Done in `scmm/__init__.py`, that
would slow every `import scmm` and every `scmm --help`; left to the first use of a name, `import scmm` followed by
`AutoModel.from_pretrained` would not know the model. An import hook does it exactly when it is needed.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType


def _register_configuration(module: ModuleType) -> None:
    from .configuration import SCMMConfig, SCMMTextConfig, SCMMVisionConfig

    for config_class in (SCMMConfig, SCMMTextConfig, SCMMVisionConfig):
        module.AutoConfig.register(config_class.model_type, config_class)


def _register_models(module: ModuleType) -> None:
    from .configuration import SCMMConfig, SCMMTextConfig, SCMMVisionConfig
    from .modeling_scmm import SCMMForPreTraining, SCMMModel, SCMMTextModel, SCMMVisionModel

    module.AutoModel.register(SCMMConfig, SCMMModel)
    module.AutoModel.register(SCMMTextConfig, SCMMTextModel)
    module.AutoModel.register(SCMMVisionConfig, SCMMVisionModel)
    module.AutoModelForPreTraining.register(SCMMConfig, SCMMForPreTraining)
    module.AutoModelForZeroShotImageClassification.register(SCMMConfig, SCMMModel)
    # The pipeline checks the class's name against this table before it looks at the registered ones.
    module.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES[SCMMConfig.model_type] = "SCMMModel"


def _register_processor(module: ModuleType) -> None:
    from .configuration import SCMMConfig
    from .processing import SCMMProcessor

    module.AutoProcessor.register(SCMMConfig, SCMMProcessor)


# The auto module, our module that it needs, and what to do once both are there.
_REGISTRATIONS: dict[str, tuple[str, Callable[[ModuleType], None]]] = {
    "transformers.models.auto.configuration_auto": ("scmm.configuration", _register_configuration),
    "transformers.models.auto.modeling_auto": ("scmm.modeling_scmm", _register_models),
    "transformers.models.auto.processing_auto": ("scmm.processing", _register_processor),
}


class _RegisteringFinder(importlib.abc.MetaPathFinder):
    """
    Finds the modules above where Python would, and registers once they are executed. Ours are watched too: importing
    `scmm.modeling_scmm` makes transformers import its auto classes half-way, and registering must wait for the end.
    """

    def __init__(self):
        self.pending = dict(_REGISTRATIONS)
        self.executing: set[str] = set()

    def find_spec(self, fullname, path=None, target=None):
        if not any(fullname in (auto_name, own_name) for auto_name, (own_name, _) in self.pending.items()):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.executing.add(fullname)
            try:
                execute(module)
            finally:
                self.executing.discard(fullname)
            self.register_what_is_ready()

        spec.loader.exec_module = exec_module  # an attribute of this loader alone
        return spec

    def register_what_is_ready(self) -> None:
        for auto_name, (own_name, register) in list(self.pending.items()):
            if auto_name in sys.modules and not {auto_name, own_name} & self.executing:
                del self.pending[auto_name]
                register(sys.modules[auto_name])


def install() -> None:
    """Registers with the auto modules that are loaded already, and with the others when they are."""
    if not any(isinstance(finder, _RegisteringFinder) for finder in sys.meta_path):
        finder = _RegisteringFinder()
        sys.meta_path.insert(0, finder)
        finder.register_what_is_ready()
