"""Embedding into shards: the gallery built of them is the one built directly, after kills and on several processes."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from scmm import Gallery, SCMMModel, SCMMProcessor
from scmm.retrieval.gallery import GalleryError, Shard, ShardError, ShardReport, SourceError, embed_shard


needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'scmm[ray]'")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RANK", "WORLD_SIZE"))},
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[3]),
}


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A folder of 23 images with metadata, one of which is broken."""
    folder = tmp_path / "crops"
    folder.mkdir()
    lines = ["file_name,camera,time,person_id,gate,height"]
    for number in range(23):
        color = (number * 10, 255 - number * 7, number * number % 256)
        Image.new("RGB", (16, 32), color).save(folder / f"{number:02d}.png")
        lines.append(f"{number:02d}.png,{number % 3},2026-03-{number + 1:02d},{number // 2},north,1.{number:02d}")
    (folder / "07.png").write_bytes(b"not an image")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def contents(gallery: Gallery, tmp_path: Path) -> list[dict]:
    """Every row of a gallery, embeddings included, by id."""
    gallery.export(tmp_path / "export.parquet")
    return sorted(pq.read_table(tmp_path / "export.parquet").to_pylist(), key=lambda row: row["id"])


@pytest.fixture
def built(crops: Path, model: SCMMModel, processor: SCMMProcessor, tmp_path: Path) -> list[dict]:
    """What a gallery holds that was built of the images directly."""
    gallery = Gallery.create(tmp_path / "direct", model, processor)
    gallery.add(crops)
    return contents(gallery, tmp_path)


def built_of(shards: Path, model: SCMMModel, processor: SCMMProcessor, tmp_path: Path) -> list[dict]:
    gallery = Gallery.create(tmp_path / "gallery", model, processor)
    report = gallery.add(shards)
    assert report.added == 22 and len(report.skipped) == 1 and report.skipped[0][0].endswith("07.png")
    return contents(gallery, tmp_path)


def command(crops: Path, checkpoint: Path, output: Path, *options: str) -> list[str]:
    arguments = [str(crops), "--model", str(checkpoint), "--output", str(output), *options]
    return ["-m", "scmm.cli", "index", "embed", *arguments]


def test_the_gallery_of_shards_is_the_gallery_of_the_images(
    crops: Path, built: list[dict], model: SCMMModel, processor: SCMMProcessor, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    reports = [embed_shard(crops, model, processor, shards, shard=Shard(i, 3), part_size=4) for i in range(3)]
    assert sum(report.embedded for report in reports) == 22
    assert [name for report in reports for name, _ in report.skipped] == [str(crops / "07.png")]
    assert len(list(shards.iterdir())) == 6
    assert built_of(shards, model, processor, tmp_path) == built
    assert len(built) == 22 and built[0]["gate"] == "north" and any(built[0]["embedding"])
    # The images themselves are no news to a gallery that was built of shards, and its export builds another one.
    gallery = Gallery.open(tmp_path / "gallery", model=model, processor=processor)
    assert gallery.add(crops).unchanged == gallery.add(shards).unchanged == 22
    copy = Gallery.create(tmp_path / "copy", model, processor)
    assert copy.add(tmp_path / "export.parquet").added == 22
    assert contents(copy, tmp_path) == built


def test_what_is_there_is_not_embedded_again(
    crops: Path, model: SCMMModel, processor: SCMMProcessor, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    embed_shard(crops, model, processor, shards, part_size=5)
    before = {file.name: file.stat().st_mtime_ns for file in shards.iterdir()}
    lost = sorted(before)[2]
    (shards / lost).unlink()
    (shards / f".{lost}.1.partial").write_bytes(b"left behind by a kill")
    assert embed_shard(crops, model, processor, shards, part_size=5) == ShardReport(embedded=5, present=18)
    after = {file.name: file.stat().st_mtime_ns for file in shards.iterdir()}
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [lost]


def test_an_incomplete_folder_is_refused(crops: Path, model, processor, tmp_path: Path) -> None:
    embed_shard(crops, model, processor, tmp_path / "shards", shard=Shard(0, 2))
    gallery = Gallery.create(tmp_path / "gallery", model, processor)
    with pytest.raises(ShardError, match=r"no part of shard 1/2.*--shard 1/2"):
        gallery.add(tmp_path / "shards")


def test_another_model_division_or_source_is_refused(crops: Path, model, processor, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    embed_shard(crops, model, processor, shards, part_size=8)
    for options in ({"part_size": 4}, {"part_size": 8, "shard": Shard(0, 2)}):
        with pytest.raises(ShardError, match="use another folder"):
            embed_shard(crops, model, processor, shards, **options)
    other = SCMMModel(model.config)
    with pytest.raises(ShardError, match=r"was embedded with .* not with"):
        embed_shard(crops, other, processor, shards, part_size=8)
    with pytest.raises(GalleryError, match="cannot be compared"):
        Gallery.create(tmp_path / "other", other, processor).add(shards)
    with pytest.raises(SourceError, match="embeddings already"):
        embed_shard(shards, model, processor, tmp_path / "again")
    metadata = crops / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("north", "south"))
    with pytest.raises(SourceError, match="has changed since"):
        embed_shard(crops, model, processor, shards, part_size=8)
    file = min(shards.iterdir())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ShardError, match="broken"):
        embed_shard(crops, model, processor, shards, part_size=8)


def test_retention_leaves_old_embeddings_out(crops: Path, model, processor, tmp_path: Path) -> None:
    embed_shard(crops, model, processor, tmp_path / "shards", part_size=4)
    gallery = Gallery.create(tmp_path / "gallery", model, processor)
    (newest,) = pq.read_table(max((tmp_path / "shards").iterdir()))["time"][-1:].to_pylist()
    gallery.set_retention((datetime.now(UTC) - newest) / timedelta(days=1) + 1.5)
    assert gallery.add(tmp_path / "shards").added == 2
    assert sorted(Path(hit.id).name for hit in gallery.search(torch.ones(8), top_k=9)) == ["21.png", "22.png"]


def test_torchrun_and_slurm_run_the_same_command(
    crops: Path, built: list[dict], checkpoint: Path, model: SCMMModel, processor: SCMMProcessor, tmp_path: Path
) -> None:
    line = command(crops, checkpoint, tmp_path / "shards", "--part-size", "4")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, *line], env=ENVIRONMENT, check=True, capture_output=True)
    # A task of a SLURM array that has the same shard finds everything done.
    slurm = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1"}
    task = subprocess.run([sys.executable, *line], env={**ENVIRONMENT, **slurm}, check=True, capture_output=True)
    assert b"shard 1/2: 0 images embedded, 12 were there" in task.stdout
    assert {name.name[:20] for name in (tmp_path / "shards").iterdir()} == {
        f"shard-{i:05d}-of-00002" for i in range(2)
    }
    assert built_of(tmp_path / "shards", model, processor, tmp_path) == built


@needs_ray
@pytest.mark.slow
def test_a_worker_of_ray_is_killed_and_nothing_is_lost(
    crops: Path, built: list[dict], checkpoint: Path, model: SCMMModel, processor: SCMMProcessor, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    line = command(crops, checkpoint, shards, "--part-size", "1", "--ray-workers", "2")
    environment = {**ENVIRONMENT, "RAY_TMPDIR": "/tmp"}
    with subprocess.Popen(
        [sys.executable, *line], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        killed = None
        while process.poll() is None:
            if killed is None and shards.is_dir() and any(shards.glob("shard-*")):
                killed = next(iter(workers_below(process.pid)), None)
                if killed is not None:
                    os.kill(killed, signal.SIGKILL)
                    parts_then = len(list(shards.glob("shard-*")))
            time.sleep(0.01)
        assert process.stdout is not None
        output = process.stdout.read()
    assert process.returncode == 0, output
    assert killed is not None and parts_then < 23
    assert "22 images embedded" in output
    assert built_of(shards, model, processor, tmp_path) == built


def workers_below(pid: int) -> list[int]:
    """The processes of Ray's map workers that a process has started, as far as /proc tells."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:  # it has ended
                continue

    def is_below(child: int) -> bool:
        return child == pid or (child in parents and is_below(parents[child]))

    return [child for child, name in names.items() if name.startswith("ray::") and "Map" in name and is_below(child)]
