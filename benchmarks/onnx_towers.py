"""
Speed of the two towers: PyTorch against onnxruntime in float32 and int8, and how far int8 is off.

    python benchmarks/onnx_towers.py
    python benchmarks/onnx_towers.py --presets tiny --rounds 10

The weights are random, which changes nothing of the speed; the images are noise, the captions random tokens padded to
`--tokens`. All ways compute the same batches in turn, in this process and on one thread each, and what counts is the
processor time of the fastest round: other work on the machine then matters least. Figures are therefore per second of
one core.
"""

import argparse
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable

import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional as F

from scmm import SCMMConfig, SCMMModel
from scmm.hub.onnx import OnnxModel, export_onnx


WAYS = ("torch fp32", "onnx fp32", "onnx int8")


def batches(config: SCMMConfig, images: int, captions: int, tokens: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    text, vision = config.text_config, config.vision_config
    lengths = torch.randint(tokens // 2, tokens + 1, (captions,), generator=generator)
    lengths[0] = tokens
    inside = torch.arange(tokens) < lengths[:, None]
    input_ids = torch.randint(text.bos_token_id, (captions, tokens), generator=generator)
    input_ids[torch.arange(tokens) >= lengths[:, None] - 1] = text.eos_token_id
    return {
        "images": {"pixel_values": torch.randn(images, 3, *vision.image_size, generator=generator)},
        "captions": {"input_ids": input_ids, "attention_mask": inside.long()},
    }


def measure(preset: str, args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    model = SCMMModel(SCMMConfig.from_preset(preset)).eval()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        export_onnx(model, folder)
        print(f"\n{preset}: exported, quantized and checked in {time.perf_counter() - start:.1f} s")
        model.config.save_pretrained(folder)
        models = dict(
            zip(WAYS, (model, *(OnnxModel.from_pretrained(folder, of) for of in ("fp32", "int8"))), strict=True)
        )
        sizes = [sum(parameter.nbytes for parameter in model.parameters())]
        for marker in ("_model.onnx", "_int8.onnx"):
            sizes.append(
                sum(file.stat().st_size for file in os.scandir(f"{folder}/onnx") if file.name.endswith(marker))
            )
    print("MB: " + ", ".join(f"{way} {size / 1e6:.1f}" for way, size in zip(WAYS, sizes, strict=True)))
    for kind, inputs in batches(model.config, args.images, args.captions, args.tokens).items():
        compute: dict[str, Callable[[], Tensor]] = {}
        for way, one in models.items():
            features = one.get_image_features if kind == "images" else one.get_text_features
            compute[way] = lambda features=features, inputs=inputs: features(**inputs).pooler_output
        with torch.inference_mode():
            embeds = {way: run() for way, run in compute.items()}  # the first call also warms up
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(args.rounds):
                for way, run in compute.items():
                    start = time.process_time()
                    run()
                    seconds[way].append(time.process_time() - start)
        count, base = len(next(iter(inputs.values()))), min(seconds[WAYS[0]])
        headers = "".join(f"{name:>10}" for name in ("a second", "ratio", "slowest", "cosine", "largest"))
        print(f"{f'{kind}, {count} at once':24}{headers}")
        for way in WAYS:
            cosine = F.cosine_similarity(embeds[way], embeds[WAYS[0]]).min().item()
            difference = (embeds[way] - embeds[WAYS[0]]).abs().max().item()
            fast, slow = min(seconds[way]), max(seconds[way])
            print(
                f"{way:24}{count / fast:10.1f}{base / fast:10.2f}{count / slow:10.1f}{cosine:10.6f}{difference:10.1e}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "base"])
    parser.add_argument("--images", type=int, default=16, help="images at once")
    parser.add_argument("--captions", type=int, default=64, help="captions at once")
    parser.add_argument("--tokens", type=int, default=40, help="tokens of the longest caption")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    print(f"{platform.machine()}, one thread, {versions}")
    for preset in args.presets:
        measure(preset, args)


if __name__ == "__main__":
    main()
