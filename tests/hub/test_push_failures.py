"""What goes wrong between a client and the Hub: it is told, nothing half-written stays, and a retry completes it."""

from pathlib import Path

import pytest
from test_push import COMPLETE, PUSH, loads, train


def push(client, checkpoint, name, **options):
    return client.run(PUSH, folder=str(checkpoint), name=name, **options)


def last_line(result) -> str:
    """The message of the exception that ended a job; the Hub's own words stand below its first line."""
    return result.errors[result.errors.rindex("Error") :]


@pytest.mark.parametrize("token", [None, "hf_some_other_token"])
def test_401_without_a_valid_token(hub, client, checkpoint, token):
    result = push(client, checkpoint, "tester/unauthorized", token=token)
    assert not result.ok and "401" in result.errors
    assert ("models", "tester/unauthorized") not in hub.repositories


def test_401_stops_a_training_before_it_starts(client, paperdoll_root, tmp_path):
    result = train(client, paperdoll_root, tmp_path, "tester/unauthorized", hub_token="hf_some_other_token")
    assert not result.ok and "401" in result.errors
    assert "eval_rank1" not in result.output


def test_404_for_what_does_not_exist(client, pushed_once):
    load = "from transformers import AutoModel; AutoModel.from_pretrained(name, trust_remote_code=True, **options)"
    result = client.run(load, name="tester/nothing", options={})
    assert not result.ok and "tester/nothing is not a local folder" in result.errors
    result = client.run(load, name=pushed_once, options={"revision": "v9"})
    assert not result.ok and "v9" in last_line(result)


def test_404_when_the_repository_is_gone_in_the_middle_of_training(hub, client, paperdoll_root, tmp_path):
    """Training goes on, the failed push is told, and the next one brings everything."""
    hub.fail("POST /api/models/tester/gone/commit/", 404)
    result = train(client, paperdoll_root, tmp_path, "tester/gone")
    assert result.ok, result.errors
    assert "A push to the Hub failed; training goes on, and the next push sends all: " in result.errors
    assert hub.messages("tester/gone") == ["initial commit", "Training in progress, epoch 2"]
    assert set(hub.files("tester/gone")) >= COMPLETE


def test_409_a_repository_that_exists_is_used(hub, client, pushed_once, checkpoint):
    before = hub.messages(pushed_once)
    assert push(client, checkpoint, pushed_once).ok
    assert hub.messages(pushed_once)[: len(before)] == before
    result = client.run("from huggingface_hub import create_repo; create_repo(name)", name=pushed_once)
    assert not result.ok and "409" in result.errors and "already created" in result.errors


def test_409_of_a_commit_changes_nothing(hub, client, clean, checkpoint, tmp_path):
    hub.fail("POST /api/models/tester/conflict/commit/", 409)
    result = push(client, checkpoint, "tester/conflict")
    assert not result.ok and "409" in result.errors
    assert set(hub.files("tester/conflict")) == {".gitattributes"}
    assert push(client, checkpoint, "tester/conflict").ok
    loads(clean, "tester/conflict", checkpoint, tmp_path)


def test_a_connection_cut_in_the_upload_of_the_weights(hub, client, clean, checkpoint, tmp_path):
    """huggingface_hub sends the file again by itself."""
    hub.lfs_objects.clear()
    hub.fail("PUT /lfs/", "cut")
    puts = len([request for request in hub.requests if request.startswith("PUT /lfs/")])
    result = push(client, checkpoint, "tester/cut-weights")
    assert result.ok, result.errors
    assert len([request for request in hub.requests if request.startswith("PUT /lfs/")]) == puts + 2
    assert hub.files("tester/cut-weights")["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    loads(clean, "tester/cut-weights", checkpoint, tmp_path)


def test_a_connection_cut_in_a_commit(hub, client, clean, checkpoint, tmp_path):
    """No file of a cut commit is there; the same push again completes the repository."""
    hub.fail("POST /api/models/tester/cut-commit/commit/", "cut")
    result = push(client, checkpoint, "tester/cut-commit")
    assert not result.ok
    assert set(hub.files("tester/cut-commit")) == {".gitattributes"}
    assert push(client, checkpoint, "tester/cut-commit").ok
    assert set(hub.files("tester/cut-commit")) >= COMPLETE
    loads(clean, "tester/cut-commit", checkpoint, tmp_path)


def test_a_checksum_that_does_not_match(hub, client, clean, checkpoint, tmp_path):
    """Weights that change on their way are refused, and no commit names them."""
    hub.lfs_objects.clear()
    hub.fail("PUT /lfs/", "corrupt")
    result = push(client, checkpoint, "tester/corrupt")
    assert not result.ok
    assert "Error while uploading 'model.safetensors'" in result.errors and "SHA-256" in result.errors
    assert set(hub.files("tester/corrupt")) == {".gitattributes"}
    assert push(client, checkpoint, "tester/corrupt").ok
    loads(clean, "tester/corrupt", checkpoint, tmp_path)


def test_a_connection_cut_in_a_download(hub, clean, pushed_once, checkpoint, tmp_path):
    """The rest is fetched, and the weights are whole."""
    oid = hub.repositories["models", pushed_once].branches["main"][-1]
    hub.fail(f"GET /{pushed_once}/resolve/{oid}/model.safetensors", "cut")
    loads(clean, pushed_once, checkpoint, tmp_path, revision=oid)
    assert hub.faults == []


@pytest.fixture(scope="module")
def pushed_once(client, checkpoint: Path) -> str:
    assert push(client, checkpoint, "tester/once").ok
    return "tester/once"
