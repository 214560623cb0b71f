"""What a run's report shows of its captioner: captions of held-out images."""

from __future__ import annotations

from opsin.captioning.evaluation import evaluate_captioner
from opsin.captioning.inference import Captioner
from opsin.captioning.pictures import captions_figure
from opsin.report import Picture, Section, spread

SHOWN = 12


def held_out_section(captioner: Captioner) -> Section:
    """Some of the images that were held out from training, with their captions. Raises DataError when there are
    none."""
    evaluation = evaluate_captioner(captioner)
    result = evaluation.result
    places = spread(range(len(result.captions)), SHOWN)
    pictures = []
    if captioner.takes_images:
        figure = captions_figure(
            [evaluation.image(place) for place in places],
            [result.captions[place].text for place in places],
            [result.references[place] for place in places],
        )
        pictures.append(
            Picture(figure, "Held-out images, evenly spread over all, with the captions that the model wrote.")
        )
    return Section(
        title="Captions",
        introduction=f"{evaluation.protocol}: CIDEr-D {result.metrics.cider_d:.3f} of 10, different captions "
        f"{result.metrics.distinct_ratio:.1%}.",
        pictures=pictures,
    )
