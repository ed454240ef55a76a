"""The command line: help, results, and one clear line for every mistake."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from PIL import Image
from torch._utils import ExceptionWrapper
from typer.testing import CliRunner

from scmm import cli
from scmm.data.paperdoll import export_paperdoll
from scmm.processing import ImageError, load_image
from scmm.retrieval.encode import encode_dataset
from scmm.retrieval.metrics import retrieval_metrics


COMMANDS = (
    "serve",
    "demo",
    "train",
    "ablate",
    "results",
    "evaluate",
    "search",
    *(f"index {name}" for name in ("build", "add", "remove", "stats", "compact", "recall", "export")),
    "convert",
    "card",
    "data check",
    "data stats",
    "data export",
    "analyze spectrum",
    "analyze gap",
)
RECIPE = """
dataset: paperdoll
data_root: {root}
output_dir: {output}
preset: tiny
image_size: [32, 16]
use_cpu: true
per_device_train_batch_size: 8
disable_tqdm: true
max_steps: 2
save_strategy: steps
save_steps: 1
eval_strategy: steps
eval_steps: 1
"""


@pytest.fixture
def images(paperdoll_root) -> Path:
    return paperdoll_root / "PaperDoll" / "imgs"


@pytest.fixture
def mixed(images, tmp_path) -> Path:
    """A folder of three images and two that cannot be read."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, path in enumerate(sorted(images.rglob("*.jpg"))[:3]):
        shutil.copy(path, folder / f"good_{number}.jpg")
    (folder / "broken.jpg").write_bytes((folder / "good_0.jpg").read_bytes()[:300])
    (folder / "empty.png").touch()
    return folder


@pytest.fixture
def recipe(paperdoll_root, tmp_path):
    def write(*lines: str, root: Path = paperdoll_root) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text("\n".join([RECIPE.format(root=root, output=tmp_path / "run"), *lines]))
        return path

    return write


class TestHelp:
    def help_of(self, *args: str) -> str:
        result = CliRunner().invoke(cli.app, [*args, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert result.exit_code == 0
        return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())

    def command(self, command: str) -> click.Command:
        found = typer.main.get_command(cli.app)
        for name in command.split():
            found = found.commands[name]
        return found

    def test_the_commands_are_listed(self):
        text = self.help_of()
        assert "Find the images of a person from a sentence." in text
        assert all(command.split()[0] in text for command in COMMANDS)
        assert all(command in self.help_of("data") for command in ("check", "stats", "export"))

    @pytest.mark.parametrize("command", COMMANDS)
    def test_the_example_is_one_that_works(self, command):
        example = re.search(rf"Example: scmm {command} (.*)$", self.help_of(*command.split()))[1]
        args = shlex.split(example)
        context = self.command(command).make_context(command, list(args))
        assert len(context.params) >= len(args) / 2

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_option_is_explained(self, command):
        for parameter in self.command(command).params:
            assert parameter.name == "help" or parameter.help, parameter.name

    def test_no_arguments_show_the_help(self, scmm):
        code, out, err = scmm()
        assert code == 2 and "search" in out + err

    def test_help_imports_nothing_heavy(self):
        script = f"""
import sys
from scmm.cli import main
for args in [], *(command.split() for command in {COMMANDS}):
    sys.argv = ["scmm", *args, "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code
print("loaded:", sorted({{"torch", "transformers", "datasets", "matplotlib", "numpy", "PIL"}} & set(sys.modules)))
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "loaded: []"


class TestEvaluate:
    def test_json(self, scmm, checkpoint, paperdoll_root, paperdoll, model, processor):
        code, out, _ = scmm("evaluate", checkpoint, "paperdoll", paperdoll_root, "--image-to-text", "--json")
        (report,) = json.loads(out)
        assert code == 0
        encoded = encode_dataset(model, processor, paperdoll["test"])
        text, image = (encoded.text_embeds, encoded.text_person_ids), (encoded.image_embeds, encoded.image_person_ids)
        assert report["text_to_image"] == pytest.approx(retrieval_metrics(text[0], image[0], text[1], image[1]))
        assert report["image_to_text"] == pytest.approx(retrieval_metrics(image[0], text[0], image[1], text[1]))
        captions = [caption for captions in paperdoll["test"]["captions"] for caption in captions]
        assert report["truncated_captions"] == processor.count_truncated(captions) > 0
        assert (report["dataset"], report["split"]) == ("paperdoll", "test")

    def test_table(self, scmm, checkpoint, paperdoll_root, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        args = ("evaluate", checkpoint, "paperdoll", paperdoll_root, "--split", "val", "--batch-size", 5)
        code, out, _ = scmm(*args)
        figures = json.loads(scmm(*args, "--json")[1])[0]["text_to_image"]
        assert code == 0
        row = next(line for line in out.splitlines() if "text to image" in line)
        shown = [cell.strip() for cell in row.split("│")[3:-1]]
        percents = [f"{figures[name]:.2f}" for name in ("rank1", "rank5", "rank10", "mAP", "mINP")]
        assert shown == [*percents, "24", "0"]
        assert "image to text" not in out
        assert re.search(r"\d+ of 24 captions were longer", out)

    @pytest.fixture
    def exported(self, paperdoll_root, tmp_path) -> Path:
        for layout in ("cuhk-pedes", "icfg-pedes", "rstpreid"):
            export_paperdoll(paperdoll_root, tmp_path, layout)
        return tmp_path

    def test_several_data_sets(self, scmm, checkpoint, exported, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        names = ["cuhk-pedes", "icfg-pedes", "rstpreid"]
        args = ("evaluate", checkpoint, ", ".join([*names, "cuhk-pedes"]), exported, "--image-to-text")
        reports = json.loads(scmm(*args, "--json")[1])
        assert [report["dataset"] for report in reports] == names
        assert [report["text_to_image"]["num_queries"] for report in reports] == [32, 16, 32]
        for name, report in zip(names, reports, strict=True):  # as each alone
            assert json.loads(scmm("evaluate", checkpoint, name, exported, "--image-to-text", "--json")[1]) == [report]
        code, out, err = scmm(*args)
        rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in out.splitlines() if " to " in line]
        assert code == 0 and "warning" not in err
        assert rows == [
            [report["dataset"], direction.replace("_", " "), f"{report[direction]['rank1']:.2f}"]
            for report in reports
            for direction in ("text_to_image", "image_to_text")
        ]

    def test_people_who_may_have_been_trained_on(self, scmm, checkpoint, exported, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        trained = Path(shutil.copytree(checkpoint, exported / "trained"))
        (trained / "results.json").write_text('{"data": {"dataset": "icfg-pedes"}}')
        code, out, err = scmm("evaluate", trained, "cuhk-pedes,icfg-pedes,rstpreid", exported)
        (warning,) = (line for line in err.splitlines() if "warning" in line)
        assert code == 0 and "test split, trained on icfg-pedes" in " ".join(out.split())
        assert f"{trained} was trained on icfg-pedes, which like rstpreid is cut from MSMT17" in warning
        for text in ("{", "[]", '{"data": {}}', '{"data": {"dataset": null}}'):
            (trained / "results.json").write_text(text)
            code, out, err = scmm("evaluate", trained, "rstpreid", exported, "--json")
            assert code == 0 and len(json.loads(out)) == 1
            assert f"warning: {trained}/results.json does not say on which data set" in err

    def test_mistakes(self, mistake, checkpoint, paperdoll_root, tmp_path):
        assert "no benchmark 'market'; choose one of" in mistake("evaluate", checkpoint, "market", paperdoll_root)
        assert "no benchmark ''" in mistake("evaluate", checkpoint, "paperdoll,", paperdoll_root)
        line = mistake("evaluate", checkpoint, "paperdoll", paperdoll_root, "--split", "dev")
        assert line.endswith("has no split 'dev', only test, train, val.")
        assert f"{tmp_path}/PaperDoll is not a folder" in mistake("evaluate", checkpoint, "paperdoll", tmp_path)

    def test_a_broken_image_is_a_mistake(self, mistake, checkpoint, paperdoll_root, tmp_path):
        shutil.copytree(paperdoll_root / "PaperDoll", tmp_path / "PaperDoll")
        for path in (tmp_path / "PaperDoll" / "imgs").rglob("00012_01.jpg"):
            path.write_bytes(b"no image")
        assert "00012_01.jpg: the image cannot be read" in mistake("evaluate", checkpoint, "paperdoll", tmp_path)


class TestSearch:
    """In a folder, embedding on the fly; tests/cli/test_index.py has the search in a gallery."""

    def test_json(self, scmm, checkpoint, images):
        queries = ["a man in a red coat", "a woman"]
        code, out, err = scmm("search", checkpoint, images, *queries, "--top-k", 3, "--json")
        results = json.loads(out)
        assert code == 0 and "kipped" not in err
        assert [result["query"] for result in results] == [query for query in queries for _ in range(3)]
        assert [result["rank"] for result in results] == [1, 2, 3, 1, 2, 3]
        for first in (0, 3):
            scores = [result["score"] for result in results[first : first + 3]]
            assert scores == sorted(scores, reverse=True)
        assert all(Path(result["path"]).is_file() for result in results)

    def test_the_table_says_the_same(self, scmm, checkpoint, images):
        args = ("search", checkpoint, images, "a man", "a woman", "--top-k", 4)
        code, out, _ = scmm(*args)
        expected = json.loads(scmm(*args, "--json")[1])
        assert code == 0
        assert [line.strip() for line in out.splitlines() if line.startswith("a ")] == ["a man", "a woman"]
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
        assert rows == [[str(result["rank"]), f"{result['score']:.3f}", result["path"]] for result in expected]

    def test_unreadable_images_are_named_skipped_and_counted(self, scmm, checkpoint, mixed):
        code, out, err = scmm("search", checkpoint, mixed, "a man")
        assert code == 0
        assert sorted(re.findall(r"good_\d\.jpg", out)) == ["good_0.jpg", "good_1.jpg", "good_2.jpg"]
        assert re.search(rf"^skipped {mixed}/broken\.jpg: ", err, re.MULTILINE)
        assert re.search(rf"^skipped {mixed}/empty\.png: .*empty", err, re.MULTILINE)
        assert "Skipped 2 of 5 images." in err
        code, out, err = scmm("search", checkpoint, mixed, "a man", "--json")
        assert len(json.loads(out)) == 3 and "Skipped 2 of 5 images." in err

    def test_picture(self, scmm, checkpoint, mixed, tmp_path):
        path = tmp_path / "new" / "results.png"
        code, _, err = scmm("search", checkpoint, mixed, "a man", "a woman", "--save-image", path)
        assert code == 0 and f"The picture is {path}." in err
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width > 500 and len(set(picture.convert("L").tobytes())) > 20

    def test_a_long_sentence_is_cut_and_counted(self, scmm, checkpoint, mixed):
        code, out, err = scmm("search", checkpoint, mixed, "word " * 1000, "a man", "--json")
        assert code == 0 and len(json.loads(out)) == 6
        assert "1 of 2 sentences are longer than the model takes" in err

    def test_mistakes(self, mistake, checkpoint, images, tmp_path):
        assert "query is empty" in mistake("search", checkpoint, images, "a man", " ")
        assert f"{tmp_path} holds no images" in mistake("search", checkpoint, tmp_path, "a man")
        assert f"{tmp_path}/none is not a folder" in mistake("search", checkpoint, tmp_path / "none", "a man")
        assert f"{checkpoint} is not a gallery. Search in" in mistake("search", checkpoint, images)
        conditions = ("search", checkpoint, images, "a man", "--camera", 1)
        assert f"{checkpoint} is not a gallery, and conditions" in mistake(*conditions)
        (tmp_path / "broken.jpg").touch()
        assert "None of the 1 images" in mistake("search", checkpoint, tmp_path, "a man")

    def test_a_wrong_option_is_no_traceback_either(self, scmm, checkpoint, images):
        for args in (["--top-k", 0], ["--top-k", "x"], ["--topk", 1]):
            code, out, err = scmm("search", checkpoint, images, "a man", *args)
            assert code == 2 and out == "" and "Traceback" not in err and "--top" in err


class TestCheckpoints:
    @pytest.fixture
    def damaged(self, checkpoint, tmp_path) -> Path:
        return Path(shutil.copytree(checkpoint, tmp_path / "damaged"))

    @pytest.mark.parametrize("name", ["none", "some/none", "a/longer/none"])
    def test_no_folder(self, mistake, images, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        assert f"error: {name} is not a folder, and not found on the Hub" in mistake("search", name, images, "a man")

    @pytest.mark.parametrize(
        "config, message",
        [
            (None, "model_type"),
            ("{}", "model_type"),
            ('{"model_type": "bert"}', "it is a 'bert' checkpoint, not an SCMM one"),
            ('{"model_type"', "not a valid JSON"),
            ("[1]", ""),
            ('{"model_type": "scmm", "vision_config": {"image_size": [33, 16]}}', "multiples of patch_size"),
            ('{"model_type": "scmm"}', "model.safetensors"),
        ],
    )
    def test_no_scmm_model(self, mistake, images, tmp_path, config, message):
        folder = tmp_path / "model"
        folder.mkdir()
        if config is not None:
            (folder / "config.json").write_text(config)
        line = mistake("search", folder, images, "a man")
        assert line.startswith(f"scmm: error: {folder} cannot be loaded: ") and message in line

    @pytest.mark.parametrize(
        "name, message",
        [
            ("model.safetensors", "deserializing"),
            ("processor_config.json", "not a valid JSON"),
            ("tokenizer.json", "line"),
            ("caption_quality.json", "is broken"),
        ],
    )
    def test_a_truncated_file(self, mistake, images, damaged, name, message):
        os.truncate(damaged / name, (damaged / name).stat().st_size // 2)
        line = mistake("search", damaged, images, "a man")
        assert line.startswith(f"scmm: error: {damaged} cannot be loaded: ") and message in line

    def test_a_missing_tokenizer_is_not_made_up(self, mistake, images, damaged):
        (damaged / "tokenizer.json").unlink()
        assert re.search(
            r"its tokenizer has \d tokens, its model \d{3}\.", mistake("search", damaged, images, "a man")
        )

    def test_a_training_checkpoint_will_do(self, scmm, recipe, mixed, tmp_path):
        code, out, _ = scmm("train", recipe())
        assert code == 0 and f"best by rank1 on val is in {tmp_path / 'run'}." in out
        assert scmm("search", tmp_path / "run", mixed, "a man")[0] == 0


class TestTrain:
    def test_figures_and_where_they_come_from(self, scmm, recipe, tmp_path, paperdoll_root, mistake, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        over = tmp_path / "over.yaml"
        over.write_text("align: sdm")
        code, out, _ = scmm("train", recipe(), over, "--output-dir", tmp_path / "other", "--seed", 3)
        assert code == 0 and not (tmp_path / "run").exists()
        saved = json.loads((tmp_path / "other" / "results.json").read_text())
        assert saved["data"]["selection_split"] == "val" and saved["seed"] == 3
        assert saved["recipe"] == f"{tmp_path / 'mine.yaml'} + {over}" and not saved["resumed"]
        assert saved["arguments"]["align"] == "sdm" and f"{saved['best']['test']['mAP']:.2f}" in out
        evaluated = scmm("evaluate", tmp_path / "other", "paperdoll", paperdoll_root, "--json")[1]
        for name, value in json.loads(evaluated)[0]["text_to_image"].items():
            assert saved["best"]["test"][name] == pytest.approx(value), name

        assert f"{tmp_path / 'other'} already holds a run: resume it (--resume)" in mistake(
            "train", recipe(), "--output-dir", tmp_path / "other"
        )
        assert scmm("train", recipe("num_train_epochs: 1"), "--output-dir", tmp_path / "other", "--resume")[0] == 0

    def test_nothing_to_resume(self, mistake, recipe, tmp_path):
        assert f"{tmp_path / 'run'} has no checkpoint to resume from" in mistake("train", recipe(), "--resume")

    def test_mistakes(self, mistake, recipe, tmp_path):
        assert "none.yaml" in mistake("train", tmp_path / "none.yaml")
        assert str(tmp_path) in mistake("train", tmp_path)
        path = tmp_path / "mine.yaml"
        line = mistake("train", recipe("marginmin: 0.1"))
        assert line == f"scmm: error: {path}: unknown key 'marginmin'. Did you mean 'margin_min'?"
        line = mistake("train", recipe("margin_min: 0.9"))
        assert line == f"scmm: error: {path}: margin_min (0.9) must not exceed margin_max (0.4)."
        assert f"{path} is not YAML: " in mistake("train", recipe("a: [1"))
        assert "has no split 'dev'" in mistake("train", recipe("eval_split: dev"))
        assert "is not a folder" in mistake("train", recipe(), "--data-root", tmp_path)
        assert not (tmp_path / "run").exists()

    def test_a_broken_image_is_named(self, mistake, recipe, paperdoll_root, tmp_path):
        shutil.copytree(paperdoll_root / "PaperDoll", tmp_path / "PaperDoll")
        for path in (tmp_path / "PaperDoll" / "imgs").rglob("0000[0-5]_*.jpg"):
            path.write_bytes(b"no image")
        line = mistake("train", recipe(root=tmp_path))
        assert re.match(r"scmm: error: \S+/0000\d_0\d\.jpg: the image cannot be read: not an image", line)

    def test_so_it_is_by_a_data_loaders_worker(self, mistake, recipe, monkeypatch):
        def fail(*args, **kwargs):
            try:
                load_image(b"no image")
            except ImageError:
                wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
            wrapped.reraise()  # as DataLoader does in the main process

        monkeypatch.setattr("scmm.runs.build_trainer", fail)
        line = mistake("train", recipe())
        assert line.startswith(
            "scmm: error: image of 8 bytes: the image cannot be read: not an image of a known format"
        )


class TestProcess:
    """As a user runs it, in a process of its own."""

    def run(self, *args: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "scmm.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    def test_search(self, checkpoint, mixed):
        result = self.run("search", checkpoint, mixed, "a man", "--json")
        assert result.returncode == 0
        assert len(json.loads(result.stdout)) == 3
        assert len(result.stderr.splitlines()) == 3 and "Skipped 2 of 5 images." in result.stderr

    def test_a_mistake(self, checkpoint, images, tmp_path):
        shutil.copytree(checkpoint, tmp_path / "damaged")
        os.truncate(tmp_path / "damaged" / "model.safetensors", 20_000)
        result = self.run("search", tmp_path / "damaged", images, "a man")
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("scmm: error: ")


def test_a_fault_of_our_own_keeps_its_traceback(scmm, monkeypatch, checkpoint, images):
    monkeypatch.setattr("scmm.retrieval.search.search_folder", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scmm("search", checkpoint, images, "a man")
