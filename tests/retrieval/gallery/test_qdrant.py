"""A gallery in Qdrant against one on the disk, with the same data. The client's local mode runs; no server does."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from scmm import Gallery, SCMMModel, SCMMProcessor
from scmm.retrieval.gallery import Filter, GalleryError, Query, Range, is_gallery
from scmm.retrieval.gallery.identity import identify


pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: pip install 'scmm[qdrant]'")

Pair = tuple[Gallery, Gallery]

NOW = datetime.now(UTC).replace(microsecond=123456)


@pytest.fixture(scope="module")
def models(checkpoint: Path) -> tuple[SCMMModel, SCMMProcessor]:
    return SCMMModel.from_pretrained(checkpoint), SCMMProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def embeddings(models: tuple[SCMMModel, SCMMProcessor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 400 embeddings of dimension 8, of which many are equal, with columns of every type."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 8)) + 1
    vectors[200:300] = vectors[:100]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    def some(values: list) -> list:
        return [None if rng.random() < 0.1 else value for value in values]

    columns = {
        "id": [f"{number * 7919 % 400:03d}" for number in range(400)],
        "path": [None] * 400,
        "camera": some([str(value) for value in rng.integers(0, 4, 400)]),
        "time": some([NOW - timedelta(hours=int(value)) for value in rng.integers(0, 200, 400)]),
        "person_id": some([str(value) for value in rng.integers(0, 60, 400)]),
        "gate": some([("north", "east", "süd")[value] for value in rng.integers(0, 3, 400)]),
        "floor": some(rng.integers(-2, 3, 400).tolist()),
        "height": some((1.5 + rng.integers(0, 8, 400) / 16).tolist()),
        "hat": some([bool(value) for value in rng.integers(0, 2, 400)]),
        "seen": some([NOW + timedelta(days=int(value)) for value in rng.integers(0, 3, 400)]),
        "content_hash": [str(number) for number in range(400)],
    }
    table = pa.table(columns)
    table = table.append_column("embedding", pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8))
    file = tmp_path_factory.mktemp("embeddings") / "embeddings.parquet"
    pq.write_table(table.replace_schema_metadata({"scmm_model": json.dumps(identify(*models).to_dict())}), file)
    return file


Pair = tuple[Gallery, Gallery]


def make_pair(source: Path, models: tuple[SCMMModel, SCMMProcessor], folder: Path) -> Pair:
    """The same gallery on the disk and in Qdrant."""
    pair = Gallery.create(folder / "disk", *models), Gallery.create(f"qdrant://{folder}/qdrant/people", *models)
    reports = [gallery.add(source) for gallery in pair]
    assert reports[0] == reports[1] and reports[0].added > 0
    return pair


@pytest.fixture(scope="module")
def pair(models: tuple[SCMMModel, SCMMProcessor], embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair with the 400 embeddings. Not to be written to."""
    return make_pair(embeddings, models, tmp_path_factory.mktemp("pair"))


@pytest.fixture
def own_pair(models: tuple[SCMMModel, SCMMProcessor], embeddings: Path, tmp_path: Path) -> Pair:
    """A pair with the 400 embeddings, anew for each test."""
    return make_pair(embeddings, models, tmp_path)


def assert_same(pair: Pair, queries: list, **options: Any) -> list:
    disk, qdrant = (gallery.search_batch(queries, **options) for gallery in pair)
    assert disk == qdrant
    return disk


QUERIES = list(torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), dim=1))
CONDITIONS = [
    Filter(cameras=["1", 2]),
    Filter(cameras=[]),
    Filter(person_ids=[3, 5, 8, 13]),
    Filter(ids=["007", "100", "nobody"]),
    Filter(after=NOW - timedelta(hours=100)),
    Filter(before=NOW - timedelta(hours=100)),
    Filter(after=NOW - timedelta(hours=120), before=NOW - timedelta(hours=20), cameras=["0"]),
    Filter(columns={"gate": "süd"}),
    Filter(columns={"gate": ["north", "east"], "floor": [-1, 2]}),
    Filter(columns={"gate": Range(low="f")}),
    Filter(columns={"gate": Range(low="a", high="b")}),
    Filter(columns={"floor": Range(low=-1, high=1)}),
    Filter(columns={"height": Range(high=1.625)}),
    Filter(columns={"height": [1.5, 1.75]}),
    Filter(columns={"height": []}),
    Filter(columns={"hat": True}),
    Filter(columns={"hat": Range(low=False, high=False)}),
    Filter(columns={"seen": Range(low=NOW + timedelta(days=1))}),
    Filter(columns={"seen": NOW}),
]


@pytest.mark.parametrize("top_k", [1, 10, 500])
def test_searches_find_the_same(pair: Pair, top_k: int) -> None:
    found = assert_same(pair, QUERIES, top_k=top_k)
    assert [len(hits) for hits in found] == [min(top_k, 400)] * 5
    assert_same(pair, QUERIES, top_k=top_k, min_score=0.3)
    for group_by in ("person", "gate", "hat", "seen", "near-duplicates"):
        assert_same(pair, QUERIES, top_k=top_k, group_by=group_by)


def test_ties_are_broken_by_id(pair: Pair) -> None:
    (hits,) = assert_same(pair, [Query(like="000")], top_k=2)
    assert hits[0].score == hits[1].score and [hit.id for hit in hits] == ["000", "200"]


def test_conditions_find_the_same(pair: Pair) -> None:
    counts = set()
    for where in CONDITIONS:
        (hits, *_) = assert_same(pair, QUERIES[:2], top_k=400, where=where)
        counts.add(len(hits))
    assert len(counts) > 10 and 0 in counts
    assert_same(pair, QUERIES, top_k=7, where=CONDITIONS[0], group_by="person_id")


@pytest.mark.parametrize(
    "options",
    [
        {"where": Filter(columns={"color": "red"})},
        {"where": Filter(columns={"floor": "upstairs"})},
        {"where": Filter(columns={"floor": True})},
        {"where": Filter(cameras="12")},
        {"group_by": "color"},
        {"top_k": 0},
    ],
)
def test_wrong_options_are_refused_alike(pair: Pair, options: dict) -> None:
    messages = []
    for gallery in pair:
        with pytest.raises(ValueError) as error:
            gallery.search(QUERIES[0], **options)
        messages.append(str(error.value).partition(", only")[0])
    assert messages[0] == messages[1]


def test_records_embeddings_and_figures_are_the_same(pair: Pair, tmp_path: Path) -> None:
    disk, qdrant = pair
    assert len(disk) == len(qdrant) == 400
    assert disk.get("123") == qdrant.get("123")
    assert disk.embedding("123").equal(qdrant.embedding("123"))
    for gallery in pair:
        with pytest.raises(GalleryError, match="no image with the id 'nobody'"):
            gallery.get("nobody")
    figures = [gallery.stats() for gallery in pair]
    for name in set(figures[0]) - {"path", "files", "bytes", "version"}:
        assert figures[0][name] == figures[1][name], name
    rows = []
    for number, gallery in enumerate(pair):
        gallery.export(tmp_path / f"{number}.parquet")
        rows.append(sorted(pq.read_table(tmp_path / f"{number}.parquet").to_pylist(), key=lambda row: row["id"]))
    assert rows[0] == rows[1]
    assert qdrant.recall(QUERIES, top_k=5).recall == 1  # local mode has no approximate search
    assert disk.parse_value("seen", "2026-01-01") == qdrant.parse_value("seen", "2026-01-01")


def test_the_same_images_are_removed(own_pair: Pair) -> None:
    disk, qdrant = own_pair
    for where in CONDITIONS[::-3]:
        assert disk.remove(where) == qdrant.remove(where)
        assert len(disk) == len(qdrant)
        assert_same(own_pair, QUERIES[:1], top_k=400)
    assert 0 < len(disk) < 400


def test_retention_holds_alike_and_erasing_is_not_promised(own_pair: Pair, embeddings: Path) -> None:
    pair = own_pair
    for gallery in pair:
        gallery.set_retention(4)
    (hits, *_) = assert_same(pair, QUERIES, top_k=400)
    assert 0 < len(hits) < 400
    assert_same(pair, QUERIES, top_k=400, where=CONDITIONS[0])
    with pytest.raises(GalleryError, match="erasing cannot be promised"):
        pair[1].remove(Filter(cameras=["1"]), erase=True)
    assert_same(pair, QUERIES, top_k=400)
    assert pair[0].compact() == pair[1].compact() == 400 - len(hits)
    assert len(pair[0]) == len(pair[1]) == len(hits)
    assert pair[0].add(embeddings) == pair[1].add(embeddings)


def test_images_are_embedded_updated_and_left_alone_alike(
    models: tuple[SCMMModel, SCMMProcessor], tmp_path: Path
) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    for number in range(9):
        Image.new("RGB", (16, 32), (number * 25, 99, 200 - number * 20)).save(crops / f"{number}.png")
    pair = make_pair(crops, models, tmp_path)
    Image.new("RGB", (16, 32), "yellow").save(crops / "3.png")
    (crops / "metadata.csv").write_text("file_name,gate\n" + "".join(f"{n}.png,g{n // 4}\n" for n in range(9)))
    reports = [gallery.add(crops) for gallery in pair]
    assert reports[0] == reports[1] and reports[0].updated == 9
    assert [gallery.add(crops).unchanged for gallery in pair] == [9, 9]
    assert_same(pair, ["a man in red", Query("a man", without="a bag")], top_k=9, where=Filter(columns={"gate": "g1"}))
    assert is_gallery(pair[1].path)
    reopened = Gallery.open(pair[1].path, model=models[0], processor=models[1])
    assert reopened.search("a man", top_k=9) == pair[0].search("a man", top_k=9)
    with pytest.raises(GalleryError, match="cannot be compared"):
        Gallery.open(pair[1].path, model=SCMMModel(models[0].config), processor=models[1])
    with pytest.raises(FileExistsError, match="exists already"):
        Gallery.create(pair[1].path, *models)


@pytest.mark.filterwarnings("ignore:Failed to obtain server version")
def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    assert not is_gallery("qdrant://:memory:/nothing")
    with pytest.raises(FileNotFoundError, match="is not a gallery"):
        Gallery.open("qdrant://:memory:/nothing")
    with pytest.raises(GalleryError, match="is not qdrant://HOST:PORT/COLLECTION"):
        Gallery.open("qdrant://localhost:6333")
    with pytest.raises(GalleryError, match="local disk, or qdrant"):
        Gallery.open("s3://bucket/gallery")
    with pytest.raises(GalleryError, match=r"127\.0\.0\.1:9/people cannot be used"):
        Gallery.open("qdrant://127.0.0.1:9/people")
