"""The losses once more, in plain Python loops over lists of floats, and random batches to compare them on."""

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass
class Batch:
    image_embeds: Tensor
    text_embeds: Tensor
    person_ids: Tensor
    caption_quality: Tensor

    def permuted(self, order: Tensor) -> "Batch":
        return Batch(*(tensor[order] for tensor in vars(self).values()))

    def requires_grad(self) -> "Batch":
        images, texts = (t.clone().requires_grad_() for t in (self.image_embeds, self.text_embeds))
        return Batch(images, texts, self.person_ids, self.caption_quality)

    @property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.image_embeds, self.text_embeds, self.person_ids

    @property
    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (*self.pairs, self.caption_quality)


def random_batch(seed: int, size: int, num_people: int, dim: int = 4, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(2, size, dim, generator=generator, dtype=torch.float64).to(dtype)
    person_ids = torch.randint(num_people, (size,), generator=generator)
    return Batch(embeds[0], embeds[1], person_ids, torch.rand(size, generator=generator, dtype=torch.float64))


@st.composite
def batches(draw: st.DrawFn, min_size: int = 1) -> Batch:
    size = draw(st.integers(min_size, 7))
    return random_batch(draw(st.integers(0, 2**31)), size, num_people=draw(st.integers(1, size)))


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def unit(x: list[float]) -> list[float]:
    return [a / math.sqrt(dot(x, x)) for a in x]


def margin_term(anchors, others, ids, margin, *, same_modality, mining, tau):
    """L_XY: `margin(anchor, positive)` gives the margin of a pair."""
    losses = []
    everyone = range(len(ids))
    for i in everyone:
        similarity = [dot(unit(anchors[i]), unit(others[j])) for j in everyone]
        positives = [j for j in everyone if ids[j] == ids[i] and not (same_modality and j == i)]
        negatives = [j for j in everyone if ids[j] != ids[i]]
        if not positives or not negatives:
            continue
        if mining == "all":
            for p in positives:
                losses += [max(0.0, margin(i, p) - similarity[p] + similarity[n]) for n in negatives]
            continue
        p = min(positives, key=lambda j: similarity[j])
        z = margin(i, p) - similarity[p] + max(similarity[n] for n in negatives)
        losses.append(tau * math.log(1 + math.exp(z / tau)) if mining == "softplus" else max(0.0, z))
    return sum(losses) / len(losses) if losses else 0.0


def sew_reference(
    batch: Batch, *, margin_min, margin_max, margin_single, mining, tau=0.1, weight_cross=1.0, weight_single=1.0
) -> float:
    images, texts, ids, quality = (tensor.tolist() for tensor in batch.all)

    def adaptive(caption):
        return margin_min + (margin_max - margin_min) * quality[caption]

    options = {"mining": mining, "tau": tau}
    text_to_image = margin_term(texts, images, ids, lambda i, p: adaptive(i), same_modality=False, **options)
    image_to_text = margin_term(images, texts, ids, lambda i, p: adaptive(p), same_modality=False, **options)
    image_to_image = margin_term(images, images, ids, lambda i, p: margin_single, same_modality=True, **options)
    text_to_text = margin_term(texts, texts, ids, lambda i, p: margin_single, same_modality=True, **options)
    cross, single = (text_to_image + image_to_text) / 2, (image_to_image + text_to_text) / 2
    return weight_cross * cross + weight_single * single


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def both_directions(batch: Batch, row_loss) -> list[float]:
    """Mean over the anchors of `row_loss(anchor, others, same)`, images first, then captions."""
    images, texts, ids = (tensor.tolist() for tensor in batch.pairs)
    directions = []
    for anchors, others in ((images, texts), (texts, images)):
        rows = [row_loss(i, anchors[i], others, [float(y == ids[i]) for y in ids]) for i in range(len(ids))]
        directions.append(sum(rows) / len(rows))
    return directions


def itc_reference(batch: Batch, scale: float, targets: str) -> float:
    def row(i, anchor, others, same):
        predicted = softmax([scale * dot(unit(anchor), unit(other)) for other in others])
        if targets == "pair":
            return -math.log(predicted[i])
        return -sum(s / sum(same) * math.log(p) for s, p in zip(same, predicted, strict=True))

    return sum(both_directions(batch, row)) / 2


def sdm_reference(batch: Batch, scale: float) -> float:
    def row(i, anchor, others, same):
        predicted = softmax([scale * dot(unit(anchor), unit(other)) for other in others])
        target = [s / sum(same) for s in same]
        return sum(p * (math.log(p) - math.log(q + 1e-8)) for p, q in zip(predicted, target, strict=True))

    return sum(both_directions(batch, row))


def cmpm_reference(batch: Batch) -> float:
    def row(i, anchor, others, same):
        predicted = softmax([dot(anchor, unit(other)) for other in others])
        target = [s / math.sqrt(sum(same)) for s in same]
        return sum(p * (math.log(p) - math.log(q + 1e-8)) for p, q in zip(predicted, target, strict=True))

    return sum(both_directions(batch, row))
