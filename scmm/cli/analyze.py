"""Commands that analyze embeddings: the spectra of two checkpoints, and how one's modalities share their space."""

import json
from pathlib import Path
from typing import Annotated

import typer

from scmm.cli.checkpoints import Checkpoint, load_checkpoint


app = typer.Typer(help="Look into the embeddings of checkpoints.", no_args_is_help=True)

Dataset = Annotated[str, typer.Argument(help="cuhk-pedes, icfg-pedes, rstpreid or paperdoll.")]
DataRoot = Annotated[Path, typer.Argument(help="The folder that contains the data set's own folder.")]
Split = Annotated[str, typer.Option(help="Which split.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at once.")]


@app.command(epilog="Example:  scmm analyze spectrum runs/baseline runs/scmm paperdoll runs/demo/data --split val")
def spectrum(
    checkpoint_a: Checkpoint,
    checkpoint_b: Checkpoint,
    dataset: Dataset,
    data_root: DataRoot,
    split: Split = "test",
    output_dir: Annotated[Path, typer.Option(help="Gets spectrum.png and spectrum.csv.")] = Path("runs/spectrum"),
    labels: Annotated[
        tuple[str, str], typer.Option(metavar="A B", help="What the figure calls the two checkpoints.")
    ] = ("A", "B"),
    batch_size: BatchSize = 64,
) -> None:
    """Compare the singular values of two checkpoints' image and text embeddings, the paper's Figure 4.

    Embeddings are normalized and centered. The difference of the logarithms is B minus A."""
    from rich.console import Console
    from rich.table import Table

    from scmm.analysis.spectrum import effective_rank, embedding_spectrum, log_difference, spectrum_figure
    from scmm.analysis.tables import write_csv

    spectra = []
    for label, checkpoint in zip(labels, (checkpoint_a, checkpoint_b), strict=True):
        encoded, _ = _encode(checkpoint, dataset, data_root, split, batch_size)
        of_both = (embedding_spectrum(encoded.image_embeds), embedding_spectrum(encoded.text_embeds))
        spectra.append((label, of_both))
    picture = spectrum_figure(spectra, output_dir / "spectrum.png")
    columns, table = {}, Table(title=f"Spectra on {dataset}, {split}")
    for header in ("", "values", f"effective rank, {labels[0]}", labels[1], "mean log difference"):
        table.add_column(header, justify="right" if header else "left")
    for modality, values_a, values_b in zip(("image", "text"), spectra[0][1], spectra[1][1], strict=True):
        difference = log_difference(values_a, values_b)
        columns |= {f"{modality}_a": values_a, f"{modality}_b": values_b, f"{modality}_log_difference": difference}
        ranks = (f"{effective_rank(values):.1f}" for values in (values_a, values_b))
        table.add_row(modality, str(len(difference)), *ranks, f"{difference.nanmean():+.3f}")
    names = ["index", *columns]
    length = max(map(len, columns.values()))
    rows = [[i + 1, *(_cell(values, i) for values in columns.values())] for i in range(length)]
    write_csv(output_dir / "spectrum.csv", names, rows)
    Console().print(table)
    typer.echo(f"{labels[0]} is {checkpoint_a}, {labels[1]} is {checkpoint_b}. Look at {picture}.")


@app.command(epilog="Example:  scmm analyze gap runs/demo/checkpoint paperdoll runs/demo/data --split test")
def gap(
    checkpoint: Checkpoint,
    dataset: Dataset,
    data_root: DataRoot,
    split: Split = "test",
    batch_size: BatchSize = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Measure the modality gap, and the alignment and uniformity of the embeddings."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from scmm.analysis.gap import alignment, modality_gap, uniformity

    encoded, image_of_caption = _encode(checkpoint, dataset, data_root, split, batch_size, progress=not as_json)
    both = (encoded.image_embeds, encoded.text_embeds)
    own_image = torch.arange(len(encoded.image_embeds))
    report = {
        "modality_gap": modality_gap(*both),
        "alignment_own_image": alignment(*both, own_image, image_of_caption),
        "alignment_same_person": alignment(*both, encoded.image_person_ids, encoded.text_person_ids),
        "uniformity_image": uniformity(encoded.image_embeds),
        "uniformity_text": uniformity(encoded.text_embeds),
    }
    if as_json:
        typer.echo(json.dumps({"dataset": dataset, "split": split, **report}, indent=2))
        return
    table = Table(title=f"{dataset}, {split}: {checkpoint}")
    for header in ("", "value", "range"):
        table.add_column(header, justify="right" if header == "value" else "left")
    explained = {
        "modality_gap": ("distance of the mean image and the mean caption", "0 to 2"),
        "alignment_own_image": ("alignment, caption and its own image", "0 (equal) to 4"),
        "alignment_same_person": ("alignment, caption and every image of its person", "0 (equal) to 4"),
        "uniformity_image": ("uniformity of images", "0 (all equal) down to -4 (spread evenly)"),
        "uniformity_text": ("uniformity of captions", "0 (all equal) down to -4 (spread evenly)"),
    }
    for name, (meaning, bounds) in explained.items():
        table.add_row(meaning, f"{report[name]:.4f}", bounds)
    Console().print(table)


def _encode(checkpoint: str, dataset: str, data_root: Path, split: str, batch_size: int, progress: bool = True):
    """The embeddings of a split, and the position of each caption's image."""
    import torch

    from scmm.data.benchmarks import load_benchmark
    from scmm.retrieval.encode import encode_dataset

    splits = load_benchmark(dataset, data_root)
    if split not in splits:
        raise ValueError(
            f"{dataset} in {data_root} has no split {split!r}, only {', '.join(sorted(map(str, splits)))}."
        )
    model, processor = load_checkpoint(checkpoint)
    encoded = encode_dataset(model, processor, splits[split], batch_size=batch_size, progress=progress)
    counts = torch.tensor([len(captions) for captions in splits[split]["captions"]])
    return encoded, torch.arange(len(counts)).repeat_interleave(counts)


def _cell(values, index: int) -> float | None:
    """A value of a column that may be shorter than others, or have nothing there."""
    return float(values[index]) if index < len(values) and values[index].isfinite() else None
