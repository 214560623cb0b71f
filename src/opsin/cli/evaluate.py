"""`opsin evaluate RUN`: score a trained model, with the protocol beside the score."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsin.cli.baselines import baseline_rows, note_next, warn
from opsin.cli.class_scores import accuracy_rows, classes_document, print_classes
from opsin.cli.evaluate_options import EvaluateOptions
from opsin.cli.options import UsageError, parse
from opsin.cli.output import note, note_unlike, print_json, print_skipped, print_table
from opsin.systems import load, system_of_kind

if TYPE_CHECKING:
    from opsin.captioning.evaluation import Evaluation as CaptionEvaluation
    from opsin.classification.evaluation import Evaluation


def main(argv: list[str]) -> int:
    """Run `opsin evaluate`; returns the exit code."""
    options = parse(EvaluateOptions, argv, "opsin evaluate", "Score a trained model on a data source.")
    if options.picture is not None and options.picture.suffix.lower() != ".png":
        raise UsageError(f"--picture writes PNG; give it a name that ends in .png, not {options.picture.name!r}")
    if options.mistakes is not None and options.mistakes.suffix.lower() != ".png":
        raise UsageError(f"--mistakes writes PNG; give it a name that ends in .png, not {options.mistakes.name!r}")
    if options.zero_shot:
        _refuse(options, ("protocol", *OF_PROTOCOLS), "evaluating features, not for --zero-shot")
        _refuse(options, ("mistakes", "near_duplicates"), "trained models, not for --zero-shot")
        from opsin.cli.zero_shot import evaluate_labels

        return evaluate_labels(options)
    if options.template:
        raise UsageError("--template is for --zero-shot")
    from opsin.checkpoint import read_model_config, resolve_model
    from opsin.encoders.loading import is_pretrained_encoder

    if options.protocol is not None:
        return evaluate_encoder(options)
    if is_pretrained_encoder(options.run):
        raise UsageError(
            f"{options.run} is an encoder; give --protocol knn to evaluate its features, or --zero-shot to evaluate "
            "its labels"
        )
    kind = str(read_model_config(resolve_model(options.run))["kind"])
    evaluate: Callable[[EvaluateOptions], int] = load(system_of_kind(kind, options.run).evaluate)
    if kind != "vit-classifier":
        _refuse(options, ("mistakes",), f"classifiers, and {options.run} is none")
    if kind == "text-diffusion":
        _refuse(options, ("near_duplicates",), f"models that are evaluated on images, and {options.run} makes them")
    if kind != "simclr":
        _refuse(options, OF_PROTOCOLS, "--protocol")
        if kind != "text-diffusion":
            _refuse(options, OF_TEXT_TO_IMAGE, f"text-to-image models, and {options.run} is none")
    return evaluate(options)


def _refuse(options: EvaluateOptions, names: Sequence[str], purpose: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} is for {purpose}")


def evaluate_classifier(options: EvaluateOptions) -> int:
    """Evaluate a Vision Transformer on labelled images; returns the exit code."""
    if options.beams is not None or options.worst is not None:
        raise UsageError(f"--beams and --worst are for captioners, and {options.run} is a classifier")
    from opsin.classification import evaluation as scores
    from opsin.classification.inference import Classifier

    classifier = Classifier.from_pretrained(options.run, device=options.device, precision=options.precision)
    evaluation = scores.evaluate_classifier(
        classifier, options.data, options.split, exclude=options.exclude, near_duplicates=options.near_duplicates
    )
    if options.json:
        print_json(_document(evaluation))
    else:
        _print_tables(evaluation)
    note_unlike(classifier, options.run, "opsin classify without --model", options.quiet)
    if evaluation.overlap is not None:
        warn(evaluation.overlap.warnings)
    _draw(evaluation, options)  # after the scores: a picture that cannot be written does not cost them
    command = f"opsin classify IMAGES --model {shlex.quote(options.run)}"
    note_next(command, evaluation.baselines, quiet=options.quiet)
    return 0


def _document(evaluation: Evaluation) -> dict[str, Any]:
    metrics = evaluation.metrics
    return {
        "protocol": evaluation.protocol,
        "accuracy": metrics.accuracy,
        "top5_accuracy": metrics.top5_accuracy,
        "loss": metrics.loss,
        "calibration_error": metrics.calibration_error,
        "mean_confidence": metrics.mean_confidence,
        "count": metrics.count,
        "baselines": [comparison.document() for comparison in evaluation.baselines],
        **classes_document(metrics, evaluation.class_names),
        **(evaluation.overlap.document() if evaluation.overlap is not None else {}),
        "skipped": [{"id": row.id, "reason": row.reason} for row in evaluation.skipped],
    }


def _print_tables(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    rows = [
        *accuracy_rows(metrics),
        *baseline_rows(evaluation.baselines),
        ("loss", metrics.loss),
        ("mean confidence", metrics.mean_confidence),
        ("calibration error", metrics.calibration_error),
    ]
    print_table(("metric", "value"), rows, title=evaluation.protocol)
    print_classes(metrics, evaluation.class_names)
    print_skipped(evaluation.skipped)


def _draw(evaluation: Evaluation, options: EvaluateOptions) -> None:
    from opsin.pictures import confusion_figure, save_figure

    if options.picture is not None:
        save_figure(confusion_figure(evaluation.metrics.confusion, evaluation.class_names), options.picture)
        note(f"confusion matrix: {options.picture}", quiet=options.quiet)
    if options.mistakes is None:
        return
    from opsin.classification.pictures import mistakes_figure
    from opsin.pictures import LARGEST_PICTURE

    mistakes = evaluation.mistakes(MOST_MISTAKES)
    if not mistakes:
        note(f"no image was classified wrong: {options.mistakes} is not written", quiet=options.quiet)
        return
    images = [evaluation.image(mistake, LARGEST_PICTURE) for mistake in mistakes]
    save_figure(mistakes_figure(images, mistakes), options.mistakes)
    note(f"most confident mistakes: {options.mistakes}", quiet=options.quiet)


def evaluate_captioner(options: EvaluateOptions) -> int:
    """Evaluate a captioner on images with captions; returns the exit code."""
    from opsin.captioning.evaluation import evaluate_all
    from opsin.captioning.inference import Captioner

    captioner = Captioner.from_pretrained(options.run, device=options.device, precision=options.precision)
    if options.picture is not None and not captioner.takes_images:
        raise UsageError(f"--picture needs images, and {options.run} was trained on features")
    if options.near_duplicates and not captioner.takes_images:
        raise UsageError(f"--near-duplicates needs images, and {options.run} was trained on features")
    evaluations = evaluate_all(
        captioner,
        options.data,
        options.split,
        beams=options.beams,
        exclude=options.exclude,
        near_duplicates=options.near_duplicates,
    )
    count = options.worst or 5
    if options.json:
        print_json({"evaluations": [_caption_document(evaluation, count) for evaluation in evaluations]})
    else:
        for evaluation in evaluations:
            _print_caption_tables(evaluation, count)
    note_unlike(captioner, options.run, "opsin train captioner --frozen-encoder imagenet", options.quiet)
    for evaluation in evaluations:
        collapse = evaluation.result.collapse(evaluation.split)
        warn([*([collapse] if collapse else []), *(evaluation.overlap.warnings if evaluation.overlap else [])])
    if options.picture is not None:  # after the scores: a picture that cannot be written does not cost them
        _draw_worst_captions(evaluations, count, options.picture)
        note(f"worst captions: {options.picture}", quiet=options.quiet)
    command = f"opsin caption IMAGES --model {shlex.quote(options.run)}" if captioner.takes_images else None
    baselines = [comparison for evaluation in evaluations for comparison in evaluation.baselines]
    note_next(command, baselines, quiet=options.quiet)
    return 0


CAPTION_SCORES = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D (of 10)",
    "exact_match": "exact match",
    "distinct_ratio": "different captions / captions",
}


def _caption_document(evaluation: CaptionEvaluation, worst: int) -> dict[str, Any]:
    metrics = evaluation.result.metrics
    return {
        "protocol": evaluation.protocol,
        "data": evaluation.data,
        "split": evaluation.split,
        "count": metrics.count,
        **{name: getattr(metrics, name) for name in CAPTION_SCORES},
        "loss": evaluation.result.loss,
        "collapsed": metrics.collapsed,
        "diversity": asdict(metrics.diversity),
        "reference_diversity": asdict(metrics.reference_diversity),
        "baselines": [comparison.document() for comparison in evaluation.baselines],
        **(evaluation.overlap.document() if evaluation.overlap is not None else {}),
        "worst": [
            {
                "id": evaluation.ids[place],
                "caption": evaluation.result.captions[place].text,
                "references": evaluation.result.references[place],
                **asdict(metrics.per_image[place]),
            }
            for place in evaluation.result.worst(worst)
        ],
        "skipped": [{"id": row.id, "reason": row.reason} for row in evaluation.skipped],
    }


def _print_caption_tables(evaluation: CaptionEvaluation, worst: int) -> None:
    result = evaluation.result
    scores = [(name, float(getattr(result.metrics, field))) for field, name in CAPTION_SCORES.items()]
    own, people = result.metrics.diversity, result.metrics.reference_diversity
    diversity = [
        (f"{name}{whose}", value)
        for name, field in (("distinct-1", "distinct1"), ("distinct-2", "distinct2"), ("repeated words", "repetition"))
        for whose, value in (("", getattr(own, field)), (" of people's captions", getattr(people, field)))
    ]
    table = [*scores, *diversity, ("loss (nats per word)", result.loss), *baseline_rows(evaluation.baselines)]
    print_table(("metric", "value"), table, title=evaluation.protocol)
    rows = [
        (
            evaluation.ids[place],
            result.captions[place].text,
            result.references[place][0],
            result.metrics.per_image[place].cider_d,
        )
        for place in result.worst(worst)
    ]
    print_table(("image", "caption", "a person's", "CIDEr-D"), rows, title="worst captions")
    print_skipped(evaluation.skipped)


def _draw_worst_captions(evaluations: tuple[CaptionEvaluation, ...], count: int, path: Path) -> None:
    from opsin.captioning.pictures import captions_figure
    from opsin.pictures import LARGEST_PICTURE, save_figure

    shown = [(evaluation, place) for evaluation in evaluations for place in evaluation.result.worst(count)]
    figure = captions_figure(
        [evaluation.image(place, LARGEST_PICTURE) for evaluation, place in shown],
        [evaluation.result.captions[place].text for evaluation, place in shown],
        [evaluation.result.references[place] for evaluation, place in shown],
    )
    save_figure(figure, path)


def evaluate_clip(options: EvaluateOptions) -> int:
    """Evaluate a model of images and texts by retrieval; returns the exit code."""
    from opsin.cli.retrieval import evaluate_model

    return evaluate_model(options)


def evaluate_encoder(options: EvaluateOptions) -> int:
    """Evaluate the features of an encoder by labels; returns the exit code."""
    _refuse(options, ("beams", "worst"), "captioners, not for encoders")
    _refuse(options, ("mistakes",), "classifiers, not for encoders")
    _refuse(options, [name for name in OF_TEXT_TO_IMAGE if name != "seed"], "text-to-image models, not for encoders")
    from opsin.cli.protocols import evaluate_features

    return evaluate_features(options)


def evaluate_text_to_image(options: EvaluateOptions) -> int:
    """Evaluate the images that a model makes of prompts; returns the exit code."""
    if options.beams is not None or options.worst is not None:
        raise UsageError(f"--beams and --worst are for captioners, and {options.run} is a text-to-image model")
    from opsin.cli.text_to_image import evaluate_drawings

    return evaluate_drawings(options)


OF_TEXT_TO_IMAGE = ("guidances", "steps", "samplers", "prompts", "samples", "seed", "judge", "report", "text_encoder")
MOST_MISTAKES = 24
OF_PROTOCOLS = ("train_data", "labels_fraction", "k", "temperature")
