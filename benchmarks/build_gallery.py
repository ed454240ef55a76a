"""
Speed of embedding a gallery and its queries, each against the plain way.

    python benchmarks/build_gallery.py
    python benchmarks/build_gallery.py --presets tiny --rounds 5

1. Preparing images (reading, decoding, resizing) against embedding them: the share of the time.
2. `Gallery.add`, the table on the disk included, against a loop around `CLIPModel` with the same weights: PIL
   processor, batches of one, float32; and with the towers in int8 (`--backend onnx-int8`) against itself.
3. `encode_captions`, whose batches are sorted by length, against batches padded to 77 tokens.

The weights are random, which changes nothing of the speed. The images are drawn: 128x64 for the small model, which is
the demo's size, and 384x128 for ViT-B/16. Both ways run in turn; the median of the rounds counts, by the
clock and by the processor's time, on which other work on the machine tells less. Fails if the embeddings disagree.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from scmm import Gallery, SCMMConfig, SCMMModel, SCMMProcessor
from scmm.data.paperdoll import paperdoll_records, render_paperdoll
from scmm.data.transforms import load_pixels
from scmm.hub.onnx import OnnxModel, export_onnx
from scmm.retrieval.encode import embed_pixels, encode_captions, encode_images
from scmm.retrieval.gallery.building import batch_size_for
from scmm.retrieval.search import find_images


MAX_LENGTH = 77
# Drawn size, number of images and number of captions for each preset.
SIZES = {"tiny": ((128, 64), 4096, 6156), "base": ((384, 128), 60, 1024)}


class RectangularEmbeddings(CLIPVisionEmbeddings):
    """CLIP's own refuse what is not square."""

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([class_token, patches], dim=1) + self.position_embedding.weight


def make_clip(model: SCMMModel) -> CLIPModel:
    """A `CLIPModel` with the weights of an SCMM model."""
    config = model.config
    fields = {name: getattr(config, name).to_dict() for name in ("text_config", "vision_config")}
    fields["vision_config"]["image_size"] = config.vision_config.patch_size  # of one patch; the table is replaced
    clip = CLIPModel(CLIPConfig(**fields, projection_dim=config.projection_dim))
    embeddings = clip.vision_model.embeddings
    embeddings.position_embedding = nn.Embedding(*model.vision_model.embeddings.position_embedding.weight.shape)
    embeddings.__class__ = RectangularEmbeddings
    clip.load_state_dict(model.state_dict())
    return clip.eval()


@torch.inference_mode()
def plain_images(clip: CLIPModel, processor: SCMMProcessor, paths: list[Path]) -> Tensor:
    rows = []
    for path in paths:
        pixel_values = processor.image_processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
        rows.append(F.normalize(clip.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1))
    return torch.cat(rows)


@torch.inference_mode()
def padded_captions(model: SCMMModel, processor: SCMMProcessor, captions: list[str]) -> Tensor:
    rows = []
    for start in range(0, len(captions), 256):
        inputs = processor.tokenizer(
            captions[start : start + 256],
            padding="max_length",
            max_length=MAX_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        rows.append(F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1))
    return torch.cat(rows)


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """The result, and the seconds by the clock and of the processor."""
    clock, processor_time = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - clock, time.process_time() - processor_time)


def compare(ways: dict[str, Callable[[], Any]], count: int, unit: str, rounds: int) -> dict[str, Any]:
    """Runs all ways in turn and prints their speeds, each with its ratio to the one before; returns the results."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    results = {}
    for _ in range(rounds):
        for name, work in ways.items():
            results[name], taken = timed(work)
            seconds[name].append(taken)
    medians = {
        name: [statistics.median(values) for values in zip(*taken, strict=True)] for name, taken in seconds.items()
    }
    print(f"  {f'{unit} per second':32}{'clock':>10}{'ratio':>8}{'processor':>12}{'ratio':>8}")
    before = None
    for name, taken in medians.items():
        ratios = [
            "" if before is None else f"{was / now:.2f}" for was, now in zip(before or taken, taken, strict=True)
        ]
        print(f"  {name:32}{count / taken[0]:10.1f}{ratios[0]:>8}{count / taken[1]:12.1f}{ratios[1]:>8}")
        before = taken
    return results


def check(name: str, one: Tensor, other: Tensor, limit: float) -> None:
    difference = (one - other).abs().max().item()
    print(f"  {name}: largest difference {difference:.1e} (at most {limit:.0e})")
    if difference > limit:
        sys.exit("the embeddings disagree")


def measure(preset: str, rounds: int, folder: Path) -> None:
    drawn, num_images, num_captions = SIZES[preset]
    records = paperdoll_records(train_identities=-(-num_captions // 8), val_identities=0, test_identities=0)
    captions = [caption for record in records for caption in record["captions"]][:num_captions]
    render_paperdoll(
        folder,
        train_identities=num_images // 4,
        val_identities=0,
        test_identities=0,
        image_size=drawn,
        num_workers=1,
        progress=False,
    )
    paths = find_images(folder)
    torch.manual_seed(0)
    height, width = SCMMConfig.from_preset(preset).vision_config.image_size
    processor = SCMMProcessor.from_captions(captions, image_size=(height, width), max_length=MAX_LENGTH)
    model = SCMMModel(SCMMConfig.from_preset(preset, text_config=processor.text_config_fields())).eval()
    clip = make_clip(model)
    size = batch_size_for(model)
    print(f"\n{preset}: {len(paths)} images of {drawn[0]}x{drawn[1]} to {height}x{width} in batches of {size}")

    few = paths[: max(size, 2 * (len(paths) // 3))]
    pixels, preparing = timed(lambda: torch.stack([load_pixels(path, processor.image_processor) for path in few]))
    _, embedding = timed(lambda: [embed_pixels(model, processor, batch) for batch in pixels.split(size)])
    rates = [len(few) / seconds for _, seconds in (preparing, embedding)]
    print(f"  preparing {rates[0]:.0f}, embedding {rates[1]:.1f} images per second of the processor")
    print(f"  preparing takes {100 * preparing[1] / embedding[1]:.1f} % of the time of embedding")

    model.config.save_pretrained(folder / "onnx")
    export_onnx(model, folder / "onnx")
    int8 = OnnxModel.from_pretrained(folder / "onnx", "int8")
    built = []

    def build(model: SCMMModel | OnnxModel) -> Gallery:
        gallery = Gallery.create(folder / f"gallery-{len(built)}", model, processor)
        gallery.add(folder / "PaperDoll")
        built.append(gallery)
        return gallery

    ways = {
        "CLIPModel, batches of one": lambda: plain_images(clip, processor, paths),
        "Gallery.add": lambda: build(model),
        "Gallery.add, onnx-int8": lambda: build(int8),
    }
    results = compare(ways, len(paths), "images", rounds)
    plain = results["CLIPModel, batches of one"]
    check(
        "float32 embeddings of a batch",
        encode_images(model, processor, paths[:size], batch_size=size),
        plain[:size],
        1e-4,
    )
    stored = torch.stack([results["Gallery.add"].embedding(str(path)) for path in paths[:size]])
    check("stored ones, which have half precision", stored.float(), plain[:size], 1e-4 + 2**-12)
    stored = torch.stack([results["Gallery.add, onnx-int8"].embedding(str(path)) for path in paths])
    print(f"  int8: lowest cosine with float32 {F.cosine_similarity(stored.float(), plain).min().item():.5f}")

    lengths = [len(ids) for ids in processor.tokenizer(captions, truncation=True)["input_ids"]]
    print(f"  {num_captions} captions of {statistics.mean(lengths):.1f} tokens on average, at most {max(lengths)}")
    results = compare(
        {
            "padded to 77": lambda: padded_captions(model, processor, captions),
            "encode_captions": lambda: encode_captions(model, processor, captions),
        },
        num_captions,
        "captions",
        rounds,
    )
    check("captions", results["encode_captions"], results["padded to 77"], 1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=1, help="runs of each way, in turn; the median counts")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for preset in args.presets:
        with tempfile.TemporaryDirectory() as folder:
            measure(preset, args.rounds, Path(folder))


if __name__ == "__main__":
    main()
