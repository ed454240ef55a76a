"""Embeds the images of a source into files, on as many machines as there are; a gallery is then built of the files."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from tqdm import tqdm

from scmm.extras import import_extra
from scmm.modeling_scmm import SCMMModel
from scmm.processing import SCMMProcessor
from scmm.retrieval.checkpoints import Backend, load_dual_encoder
from scmm.retrieval.gallery.building import embed_source, record_hashes
from scmm.retrieval.gallery.identity import ModelIdentity, identify
from scmm.retrieval.gallery.shards import Part, Shard, ShardError, shard_files
from scmm.retrieval.gallery.sources import EMBEDDINGS_KEY, SKIPPED_KEY, Source, SourceError, read_source


# In the metadata of a part: a hash of what the source said of its images.
_RECORDS_KEY = b"scmm_records"
PART_SIZE = 1024
EVERYTHING = Shard(0, 1)


@dataclass
class ShardReport:
    """
    What became of the images of a shard.

    Args:
        embedded (`int`): images that are embedded now.
        present (`int`): images in files that were there already.
        skipped (`list[tuple[str, str]]`): the ids of images that could not be read, and why; those of files that were
            there already are not counted again.
    """

    embedded: int = 0
    present: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def embed_shard(
    source: str | os.PathLike | Dataset,
    model: SCMMModel,
    processor: SCMMProcessor,
    folder: str | os.PathLike,
    *,
    shard: Shard = EVERYTHING,
    part_size: int = PART_SIZE,
    progress: bool = False,
) -> ShardReport:
    """
    Embeds a shard of a source, part by part into Parquet files, which [`Gallery.add`] takes in.

    A part's file is there whole or not at all, and is not made again: after a kill the same call goes on where it
    ended. The shards of a source share the folder, and no process needs to know of another.

    Args:
        source (`str`, `os.PathLike` or `datasets.Dataset`):
            See [`~scmm.retrieval.gallery.sources.read_source`]. Every shard has to find the same images there.
        model ([`SCMMModel`]): the dual encoder.
        processor ([`SCMMProcessor`]): the processor saved with it.
        folder (`str` or `os.PathLike`): the folder of the files, made if it does not exist.
        shard ([`Shard`], defaults to everything): which share.
        part_size (`int`, defaults to 1024): images in a file; a kill loses at most so many.
        progress (`bool`, defaults to `False`): whether to show a progress bar.

    Returns:
        [`ShardReport`]: corrupt, oversized and vanished images are skipped and named there.

    Raises:
        SourceError: if the source cannot be used, or differs from that of files that are there already.
        ShardError: if the folder holds shards of another division, or of another model.
        OSError: if the source does not exist, or is a folder without images.

    Example:

    ```python
    >>> import tempfile
    >>> from PIL import Image
    >>> from scmm import Gallery, SCMMConfig, SCMMModel, SCMMProcessor
    >>> from scmm.retrieval.gallery import Shard, embed_shard
    >>> processor = SCMMProcessor.from_captions(["a man in a red coat"] * 3)
    >>> model = SCMMModel(SCMMConfig.from_preset("tiny", text_config=processor.text_config_fields()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for color in ("red", "blue"):
    ...         Image.new("RGB", (32, 64), color).save(f"{folder}/{color}.png")
    ...     for index in range(2):  # on two machines
    ...         _ = embed_shard(folder, model, processor, f"{folder}/shards", shard=Shard(index, 2))
    ...     Gallery.create(f"{folder}/gallery", model, processor).add(f"{folder}/shards").added
    2

    ```
    """
    listed = read_source(source)
    folder = Path(folder)
    identity = identify(model, processor)
    report, parts = _remaining(listed, identity, folder, shard, part_size)
    images = sum(len(part.rows) for part in parts)
    with tqdm(total=images, desc=f"Shard {shard}", unit="img", disable=not progress) as bar:
        for part in parts:
            embedded, skipped = _embed_part(listed, model, processor, identity, folder, part, bar)
            report.embedded += embedded
            report.skipped += skipped
    return report


def embed_shard_with_ray(
    source: str | os.PathLike | Dataset,
    checkpoint: str,
    folder: str | os.PathLike,
    *,
    workers: int,
    shard: Shard = EVERYTHING,
    part_size: int = PART_SIZE,
    backend: Backend = "torch",
    progress: bool = False,
) -> ShardReport:
    """
    As [`embed_shard`], by the workers of a Ray cluster, which see the same files. A worker that dies is started again
    and its part is embedded again.

    Args:
        source (`str`, `os.PathLike` or `datasets.Dataset`): as for [`embed_shard`], on a disk that all workers share.
        checkpoint (`str`): folder or Hub id of the model with its processor.
        folder (`str` or `os.PathLike`): the folder of the files, on a disk that all workers share.
        workers (`int`): how many, each on a GPU of its own where the cluster has some, else on a core of its own.
        shard ([`Shard`], defaults to everything): which share.
        part_size (`int`, defaults to 1024): images in a file.
        backend (`str`, defaults to `"torch"`): see [`~scmm.retrieval.checkpoints.load_dual_encoder`].
        progress (`bool`, defaults to `False`): whether to show Ray's progress bars.

    Returns:
        [`ShardReport`]

    Raises:
        ExtraNotInstalledError: if Ray is not installed.
        SourceError, ShardError, OSError: as [`embed_shard`].
    """
    ray = import_extra("ray", "ray")
    data = import_extra("ray.data", "ray")
    source = source if isinstance(source, Dataset) else os.path.abspath(source)
    folder = Path(os.path.abspath(folder))
    if os.path.isdir(checkpoint):
        checkpoint = os.path.abspath(checkpoint)
    identity = identify(*load_dual_encoder(checkpoint, backend=backend))
    report, parts = _remaining(read_source(source), identity, folder, shard, part_size)
    if not parts:
        return report
    workers = min(workers, len(parts))
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False)
    context = data.DataContext.get_current()
    context.enable_progress_bars = progress
    try:
        rows = [{"part": part.index} for part in parts]
        # One block for each part: what Ray repeats after a worker's death is a part.
        embedded = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _RayWorker,
            fn_constructor_args=(source, checkpoint, backend, str(folder), str(shard), part_size),
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
        )
        for row in embedded.iter_rows():
            report.embedded += row["embedded"]
            report.skipped += [tuple(entry) for entry in json.loads(row["skipped"])]
    finally:
        if started_here:
            ray.shutdown()
    return report


def use_local_gpu(environment: Mapping[str, str] = os.environ) -> None:
    """
    Takes one GPU of the machine, where the launcher started several processes on it.

    Args:
        environment (`Mapping[str, str]`, defaults to `os.environ`): the environment variables of torchrun or SLURM.
    """
    number = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID"))
    if number is not None and torch.cuda.is_available():
        torch.cuda.set_device(int(number) % torch.cuda.device_count())


class _RayWorker:
    """What a worker of Ray holds: the model and the listed source."""

    def __init__(
        self, source: str | Dataset, checkpoint: str, backend: Backend, folder: str, shard: str, part_size: int
    ):
        self.model, self.processor = load_dual_encoder(checkpoint, backend=backend)
        self.identity = identify(self.model, self.processor)
        self.source, self.folder = read_source(source), Path(folder)
        self.parts = Shard.parse(shard).parts(len(self.source), part_size)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        part = self.parts[int(batch["part"][0])]
        with tqdm(disable=True) as bar:
            embedded, skipped = _embed_part(
                self.source, self.model, self.processor, self.identity, self.folder, part, bar
            )
        return {"embedded": np.array([embedded]), "skipped": np.array([json.dumps(skipped)])}


def _remaining(
    source: Source, identity: ModelIdentity, folder: Path, shard: Shard, part_size: int
) -> tuple[ShardReport, list[Part]]:
    """What the shard's files say that are there already, and the parts that are missing."""
    if part_size < 1:
        raise ValueError(f"part_size must be at least 1, got {part_size}.")
    if source.identity is not None:
        raise SourceError(f"{source.name} holds embeddings already.")
    parts = shard.parts(len(source), part_size)
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob(f".{parts[0].prefix}*.partial"):  # left behind by a kill
        partial.unlink()
    files = {file.name: file for file in shard_files(folder)}
    for name in files:
        if f"-of-{shard.count:05d}-part-" not in name or (
            name.startswith(parts[0].prefix) and name not in {part.file_name for part in parts}
        ):
            raise ShardError(
                f"{folder} holds {name}, which is not of {shard.count} shards of this source with {part_size} images "
                "in a part: finish it as it was begun, or use another folder."
            )
    report, missing = ShardReport(), []
    for part in parts:
        if part.file_name in files:
            _check_part(files[part.file_name], source, identity, part)
            report.present += len(part.rows)
        else:
            missing.append(part)
    return report, missing


def _check_part(file: Path, source: Source, identity: ModelIdentity, part: Part) -> None:
    try:
        metadata = pq.read_schema(file).metadata or {}
        theirs = ModelIdentity(**json.loads(metadata[EMBEDDINGS_KEY]))
    except (pa.ArrowException, KeyError) as error:
        raise ShardError(f"{file} is broken: {error}. Remove it, and it is made again.") from None
    if not theirs.is_same_model(identity):
        raise ShardError(f"{file} was embedded with {theirs}, not with {identity}: use another folder.")
    if metadata.get(_RECORDS_KEY) != _hash_of(source, part):
        raise SourceError(f"{source.name} has changed since {file} was made of it: use another folder.")


def _embed_part(
    source: Source,
    model: SCMMModel,
    processor: SCMMProcessor,
    identity: ModelIdentity,
    folder: Path,
    part: Part,
    bar: Any,
) -> tuple[int, Sequence[tuple[str, str]]]:
    """Writes a part's file; returns how many images it holds, and which it lacks."""
    chosen = source.take(part.rows)
    ids = chosen.table["id"].to_pylist()
    skipped = list(source.skipped) if (part.shard.index, part.index) == (0, 0) else []
    done = []
    for item in embed_source(model, processor, chosen, lambda identifier: None):
        if item.error is None:
            done.append(item)
        else:
            skipped.append((ids[item.row], str(item.error)))
        bar.update()
    done.sort(key=lambda item: item.row)
    table = chosen.table.take(pa.array([item.row for item in done], pa.int64()))
    table = table.append_column("content_hash", pa.array([item.content_hash for item in done], pa.string()))
    flat = pa.array(np.concatenate([np.empty(0, np.float16), *(item.embedding for item in done)]))
    vectors = pa.FixedSizeListArray.from_arrays(flat, model.config.projection_dim)
    metadata = {
        EMBEDDINGS_KEY: json.dumps(identity.to_dict()),
        SKIPPED_KEY: json.dumps(skipped),
        _RECORDS_KEY: _hash_of(source, part),
    }
    table = table.append_column("embedding", vectors).replace_schema_metadata(metadata)
    partial = folder / f".{part.file_name}.{os.getpid()}.partial"
    with open(partial, "wb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / part.file_name)
    return len(done), skipped


def _hash_of(source: Source, part: Part) -> bytes:
    records = record_hashes(source.table.slice(part.rows.start, len(part.rows)))
    return hashlib.blake2b("".join(records).encode(), digest_size=16).hexdigest().encode()
