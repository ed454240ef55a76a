"""`scmm data check`: the report, and the exit code that scripts rely on."""

import json
import shutil

import pytest

from scmm.data.check import check_benchmark
from scmm.data.paperdoll import read_paperdoll


@pytest.fixture
def copy(paperdoll_root, tmp_path):
    shutil.copytree(paperdoll_root / "PaperDoll", tmp_path / "PaperDoll")
    return tmp_path


def test_json(scmm, paperdoll_root):
    code, out, err = scmm("data", "check", "paperdoll", paperdoll_root, "--images", "--json")
    assert code == 0 and err == ""
    report = json.loads(out)
    assert report == check_benchmark("paperdoll", paperdoll_root, decode_images=True).to_dict()
    assert report["can_train"] is True and report["counts"]["train"] == {"identities": 6, "images": 24, "captions": 48}


def test_tables(scmm, paperdoll_root):
    code, out, err = scmm("data", "check", "paperdoll", paperdoll_root, "--images")
    assert code == 0 and out.rstrip().endswith("Training on this data set can start.")
    assert "Decoding: 100%" in err and "52/52" in err


def test_exit_code_1_if_training_would_fail(scmm, copy):
    next((copy / "PaperDoll" / "imgs").rglob("*.jpg")).write_bytes(b"no image")
    assert scmm("data", "check", "paperdoll", copy)[0] == 0
    code, out, _ = scmm("data", "check", "paperdoll", copy, "--images")
    assert code == 1 and "1 image(s) are unreadable" in out
    (copy / "PaperDoll" / "paperdoll.json").write_text("[{")
    code, out, _ = scmm("data", "check", "paperdoll", copy, "--json")
    assert code == 1 and "is broken at line 1, column 3" in json.loads(out)["problems"][0]


def test_exit_code_2_for_a_user_s_mistake(mistake, copy):
    assert "no benchmark 'market'" in mistake("data", "check", "market", copy)
    assert "CUHK-PEDES is not a folder" in mistake("data", "check", "cuhk-pedes", copy)
    assert "--field caption must be NAME=KEY" in mistake("data", "check", "json", copy, "--field", "caption")
    assert "nowhere is not a folder" in mistake("data", "check", "paperdoll", copy, "--checkpoint", copy / "nowhere")


def test_a_set_of_the_user_s_own(scmm, copy):
    records = [
        {"image": record["file_path"], "caption": record["captions"][0], "person": f"p{record['id']}"}
        for record in read_paperdoll(copy)
    ]
    (copy / "mine.json").write_text(json.dumps(records))
    options = ("--field", "image=image", "--field", "captions=caption", "--field", "person_id=person")
    images = ("--image-root", copy / "PaperDoll" / "imgs")
    code, out, _ = scmm("data", "check", "json", copy / "mine.json", *options, *images, "--json")
    assert code == 0
    assert json.loads(out)["counts"] == {"train": {"identities": 13, "images": 52, "captions": 52}}


def test_tokens_of_a_checkpoint(scmm, paperdoll_root, checkpoint, processor):
    args = ("data", "check", "paperdoll", paperdoll_root, "--checkpoint", checkpoint, "--json")
    report = json.loads(scmm(*args)[1])
    captions = [caption for record in read_paperdoll(paperdoll_root) for caption in record["captions"]]
    assert (report["max_length"], report["long_captions_exact"]) == (40, True)
    assert report["long_captions"] == processor.count_truncated(captions) > 0
