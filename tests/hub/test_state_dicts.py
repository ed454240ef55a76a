"""Reading weights: what is found, and that nothing runs."""

import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scmm.hub.state_dicts import CheckpointError, read_state_dict


WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7, dtype=torch.float16)}
SAID = "A pickle ran this."


class Payload:
    """An object whose unpickling runs code."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return exec, (f"open({str(self.trace)!r}, 'w').write({SAID!r})",)


def assert_same(state: dict[str, torch.Tensor]) -> None:
    assert state.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


class TestFormats:
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize(
        "wrap",
        [
            dict,
            OrderedDict,
            lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 60},
            lambda state: {"epoch": 2, "state_dict": {f"module.{name}": value for name, value in state.items()}},
        ],
    )
    def test_pickles(self, tmp_path, wrap, legacy):
        torch.save(wrap(WEIGHTS), tmp_path / "best.pth", _use_new_zipfile_serialization=not legacy)
        assert_same(read_state_dict(tmp_path / "best.pth"))

    def test_safetensors(self, tmp_path):
        save_file(WEIGHTS, tmp_path / "best.safetensors")
        assert_same(read_state_dict(tmp_path / "best.safetensors"))

    def test_module_is_dropped_only_where_all_have_it(self, tmp_path):
        torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "best.pth")
        assert read_state_dict(tmp_path / "best.pth").keys() == {"module.a", "b"}

    def test_an_easydict_beside_the_weights(self, tmp_path, monkeypatch):
        """TBPS-CLIP saves its configuration so. This class has easydict's form: items are attributes too."""

        class EasyDict(dict):
            def __init__(self, values: dict):
                super().__init__(values)
                self.__dict__.update(values)

        EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"
        module = types.ModuleType("easydict")
        module.EasyDict = EasyDict
        monkeypatch.setitem(sys.modules, "easydict", module)
        config = EasyDict({"schedule": EasyDict({"lr": 1e-4}), "sizes": [224, 224]})
        torch.save({"model": WEIGHTS, "config": config}, tmp_path / "checkpoint_best.pth")
        monkeypatch.delitem(sys.modules, "easydict")
        assert_same(read_state_dict(tmp_path / "checkpoint_best.pth"))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0))
        self.register_buffer("count", torch.tensor(5))
        self.sizes = [3, 4]
        self.name = "inner"
        self.mask = torch.full((2, 2), -torch.inf)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.weight + self.count + self.sizes[0]


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.blocks = nn.Sequential(Inner(), Inner())
        self.attention = nn.MultiheadAttention(4, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = self.blocks(values) * self.scale
        return self.attention(values, values, values)[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
class TestTorchScript:
    @pytest.fixture(params=["script", "trace"])
    def archive(self, request, tmp_path) -> tuple[Outer, Path]:
        model = Outer().eval()
        make = {"script": torch.jit.script, "trace": lambda model: torch.jit.trace(model, torch.ones(3, 1, 4))}
        make[request.param](model).save(str(tmp_path / "model.pt"))
        return model, tmp_path / "model.pt"

    def test_the_tensors_are_those_of_the_state_dict(self, archive):
        model, path = archive
        state = read_state_dict(path)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
        others = state.keys() - model.state_dict().keys()
        assert others <= {"blocks.0.mask", "blocks.1.mask"}

    def test_compressed_tensors_are_refused(self, archive, tmp_path):
        """A small file could otherwise fill the memory."""
        path = rewrite(archive[1], tmp_path / "bomb.pt", compression=zipfile.ZIP_DEFLATED)
        with pytest.raises(CheckpointError, match=r"bomb\.pt: model/.* is compressed"):
            read_state_dict(path)

    def test_a_pickle_that_runs_code_is_refused(self, archive, tmp_path):
        trace = tmp_path / "trace"
        path = rewrite(archive[1], tmp_path / "evil.pt", pickled=pickle.dumps(Payload(trace), protocol=2))
        with pytest.raises(CheckpointError, match=r"evil\.pt is refused: it needs (builtins\.|__builtin__\.)?exec"):
            read_state_dict(path)
        assert not trace.exists()


def rewrite(archive: Path, target: Path, pickled: bytes | None = None, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w", compression) as copy:
        for name in source.namelist():
            is_pickle = pickled is not None and name.endswith("/data.pkl")
            copy.writestr(name, pickled if is_pickle else source.read(name))
    return target


class TestRefusals:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_pickle_that_runs_code(self, tmp_path, legacy):
        trace = tmp_path / "trace"
        torch.save(
            {"model": WEIGHTS, "args": Payload(trace)},
            tmp_path / "evil.pth",
            _use_new_zipfile_serialization=not legacy,
        )
        with pytest.raises(CheckpointError) as refusal:
            read_state_dict(tmp_path / "evil.pth")
        assert "evil.pth is refused: it needs exec, and a pickle" in str(refusal.value)
        assert "\n" not in str(refusal.value) and not trace.exists()
        torch.load(tmp_path / "evil.pth", weights_only=False)
        assert trace.read_text() == SAID, "the payload was never one"

    def test_a_whole_model(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match=r"refused: it needs torch\.nn\.modules\.linear\.Linear"):
            read_state_dict(tmp_path / "model.pt")

    def test_what_is_no_state_dict(self, tmp_path):
        for value, reason in (
            (torch.ones(2), "but a Tensor"),
            ({}, "but a dict"),
            ({"a": torch.ones(1), "epoch": 3}, "not named tensors are epoch"),
            ({7: torch.ones(1)}, "not named tensors are 7"),
        ):
            torch.save(value, tmp_path / "best.pth")
            with pytest.raises(CheckpointError, match=f"best.pth holds no state dict.*{reason}"):
                read_state_dict(tmp_path / "best.pth")

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04" + bytes(40), bytes(200)])
    def test_files_that_are_no_checkpoint(self, tmp_path, content, suffix):
        path = tmp_path / f"best.{suffix}"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"best\.{suffix} cannot be read as a checkpoint: .") as refusal:
            read_state_dict(path)
        assert "\n" not in str(refusal.value)

    def test_a_truncated_file(self, tmp_path):
        torch.save(WEIGHTS, tmp_path / "best.pth")
        (tmp_path / "best.pth").write_bytes((tmp_path / "best.pth").read_bytes()[:600])
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_state_dict(tmp_path / "best.pth")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_state_dict(tmp_path / "best.pth")
