"""Evaluation of the course's Vision Transformer: scores of 256 images of 32 x 32 pixels, without gradients.

opsin is `Classifier.predict_pixels`, which evaluation and `opsin classify` run: from uint8 pixels to float32 scores,
in bf16 where the hardware has it. The peers are those of vit_training.py in evaluation mode, in float32 and from
normalised floats, which spares them work; torch.nn takes its own fused inference path. The textbook and the torch.nn
model carry opsin's weights, and their scores are compared with opsin's before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from harness.vision_transformers import COURSE_VIT, IMAGE_SIZE, NUM_CLASSES, TextbookViT, TorchViT, timm_vit
from torch import Tensor, nn

from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.images.preprocessing import Preprocessing
from opsin.runtime import autocast, resolve_device, resolve_precision

BATCH_SIZE = 256
PREPROCESSING = Preprocessing(image_size=IMAGE_SIZE)


def plain_scores(model: nn.Module, images: Tensor, precision: str = "32") -> Callable[[], Tensor]:
    """Scores as a first script would compute them."""
    model.to(images.device).eval()

    def score() -> Tensor:
        with torch.no_grad(), autocast(images.device, precision):
            return model(images).float().cpu()

    return score


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=30)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    torch.manual_seed(0)
    batch_size = 4 if arguments.quick else BATCH_SIZE
    pixels = torch.randint(256, (batch_size, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, device=device)
    images = PREPROCESSING.prepare(pixels)
    names = [str(index) for index in range(NUM_CLASSES)]
    model = build_model(COURSE_VIT, IMAGE_SIZE, NUM_CLASSES).to(device)
    content = ClassifierContent(model=COURSE_VIT, class_names=tuple(names), preprocessing=PREPROCESSING)
    classifier = Classifier(model, content)
    textbook, torch_nn = TextbookViT(COURSE_VIT), TorchViT(COURSE_VIT)
    textbook.copy_weights(model)
    torch_nn.copy_weights(model)
    ways = {
        "opsin": lambda: classifier.predict_pixels(pixels),
        "textbook": plain_scores(textbook, images),
        "torch.nn": plain_scores(torch_nn, images),
        "timm": plain_scores(timm_vit(COURSE_VIT), images),
    }
    if precision != "32":
        ways["timm, autocast"] = plain_scores(timm_vit(COURSE_VIT), images, precision)
        ways["opsin, float32"] = plain_scores(model, images)
    expected = plain_scores(model, images)()
    for name in ("textbook", "torch.nn"):
        torch.testing.assert_close(ways[name](), expected, rtol=1e-3, atol=1e-4, msg=f"{name} computes something else")
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print_machine(precision)
    print_timings(timings, "opsin", per_call=batch_size, unit="images/s")


if __name__ == "__main__":
    main()
