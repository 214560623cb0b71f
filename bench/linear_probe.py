"""A linear classifier on a frozen ResNet-18 for 200 labelled images, evaluated on 300 others, from pixels to accuracy.

The peer is the course's loop: in each of ten epochs all labelled images are augmented and go through the network again,
one layer is trained on top by Adam in batches of 128, and all test images go through the network to be evaluated.

- opsin linear: features once per image, then logistic regression with the best of 13 strengths;
- opsin linear-course: the course's training, on features of ten augmented views, and test features once.

All in the precision that opsin chooses. Before anything is timed, each way has to tell dark images from bright ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from torch import Tensor, nn

from opsin.images.preprocessing import Preprocessing
from opsin.nn.resnet import ResNet
from opsin.probing.linear_probe import accuracy, choose_logistic_regression, standardisation
from opsin.runtime import autocast, resolve_device, resolve_precision
from opsin.simclr.config import AugmentConfig
from opsin.simclr.data import random_view
from opsin.simclr.protocols import train_course_probe

LABELLED, TESTED, SIZE, EPOCHS, BATCH = 200, 300, 32, 10, 128
QUICK_LABELLED, QUICK_TESTED = 24, 12
LEAST = 0.9
PREPROCESSING = Preprocessing(image_size=SIZE)


class Probing:
    """The three ways, on the same images, labels and network; each gives the accuracy of its last classifier."""

    def __init__(self, labelled: int, tested: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels, self.truths = torch.arange(labelled) % 2, torch.arange(tested) % 2
        noise = [0.3 * torch.rand(count, 3, SIZE, SIZE, generator=generator) for count in (labelled, tested)]
        self.images, self.tests = (
            (part + 0.7 * label[:, None, None, None]).to(device)
            for part, label in zip(noise, (self.labels, self.truths), strict=True)
        )
        torch.manual_seed(0)
        self.network = ResNet("resnet18", small_images=True).to(device).eval().requires_grad_(False)
        self.device = device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        with autocast(self.device):
            batches = (PREPROCESSING.normalize(batch) for batch in images.split(BATCH))
            return torch.cat([self.network(batch).float() for batch in batches]).cpu()

    def views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        # Brightness is what the classes differ in, so it stays.
        return random_view(images, SIZE, AugmentConfig(brightness=0.0, contrast=0.0), generator)

    def linear(self) -> float:
        features, tests = self.encode(self.images), self.encode(self.tests)
        scale = standardisation(features)
        held_out = torch.arange(len(features)) % 10 < 2
        chosen = choose_logistic_regression(scale(features), self.labels, 2, held_out)
        return accuracy(chosen.probe.scores(scale(tests)), self.truths)

    def linear_course(self) -> float:
        generator = torch.Generator(self.device).manual_seed(0)
        views = ((self.encode(self.views(self.images, generator)), self.labels) for _ in range(EPOCHS))
        tests, found = self.encode(self.tests), 0.0
        for probe in train_course_probe(views, 2, torch.Generator().manual_seed(0)):
            found = accuracy(probe.scores(tests), self.truths)
        return found

    def course(self) -> float:
        torch.manual_seed(0)
        layer = nn.Linear(self.network.feature_dim, 2).to(self.device)
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3, weight_decay=1e-6)
        generator, found = torch.Generator(self.device).manual_seed(0), 0.0
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(self.images)).split(BATCH):
                with autocast(self.device):
                    views = PREPROCESSING.normalize(self.views(self.images[rows], generator))
                    scores = layer(self.network(views))
                loss = F.cross_entropy(scores.float(), self.labels[rows].to(self.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                scores = torch.cat([layer(self.encode(batch).to(self.device)) for batch in self.tests.split(BATCH)])
            found = accuracy(scores.cpu(), self.truths)
        return found


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=60)
    device = resolve_device()
    sizes = (QUICK_LABELLED, QUICK_TESTED) if arguments.quick else (LABELLED, TESTED)
    probing = Probing(*sizes, device)
    ways: dict[str, Callable[[], float]] = {
        "opsin linear": probing.linear,
        "opsin linear-course": probing.linear_course,
        "course's loop": probing.course,
    }
    for name, way in ways.items():
        reached = way()
        assert reached >= LEAST, f"{name} tells only {reached:.0%} right"
    print_machine(resolve_precision("auto", device))
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print(f"{sizes[0]} labelled images, {sizes[1]} to evaluate on")
    print_timings(timings, "opsin linear", per_call=sum(sizes), unit="images/s")


if __name__ == "__main__":
    main()
