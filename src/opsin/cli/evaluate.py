"""`opsin evaluate RUN`: score a trained model, with the protocol beside the score."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsin.cli.evaluate_options import EvaluateOptions
from opsin.cli.options import UsageError, parse
from opsin.cli.output import note, print_confusion, print_json, print_table
from opsin.errors import CheckpointError

if TYPE_CHECKING:
    from opsin.captioning.evaluation import Evaluation as CaptionEvaluation
    from opsin.classification.evaluation import Evaluation


def main(argv: list[str]) -> int:
    """Run `opsin evaluate`; returns the exit code."""
    options = parse(EvaluateOptions, argv, "opsin evaluate", "Score a trained model on a data source.")
    if options.picture is not None and options.picture.suffix.lower() != ".png":
        raise UsageError(f"--picture writes PNG; give it a name that ends in .png, not {options.picture.name!r}")
    for name in ("beams", "worst", "prompts", "samples", "k"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}")
    if options.zero_shot:
        _refuse(options, ("protocol", *OF_PROTOCOLS), "judging features, not for --zero-shot")
        from opsin.cli.zero_shot import evaluate_labels

        return evaluate_labels(options)
    if options.template:
        raise UsageError("--template is for --zero-shot")
    from opsin.checkpoint import read_model_config, resolve_model
    from opsin.encoders.loading import is_pretrained_encoder

    if options.protocol is not None:
        return _evaluate_encoder(options)
    if is_pretrained_encoder(options.run):
        raise UsageError(
            f"{options.run} is an encoder; give --protocol knn to judge its features, or --zero-shot to judge its "
            "labels"
        )
    kind = str(read_model_config(resolve_model(options.run))["kind"])
    evaluate = EVALUATORS.get(kind)
    if evaluate is None:
        raise CheckpointError(f"{options.run} is a model of kind {kind!r}, which this verb cannot judge")
    if kind != "simclr":
        _refuse(options, OF_PROTOCOLS, "--protocol")
        if kind != "text-diffusion":
            _refuse(options, OF_TEXT_TO_IMAGE, f"text-to-image models, and {options.run} is none")
    return evaluate(options)


def _refuse(options: EvaluateOptions, names: Sequence[str], purpose: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for {purpose}")


def _evaluate_classifier(options: EvaluateOptions) -> int:
    if options.beams is not None or options.worst is not None:
        raise UsageError(f"--beams and --worst are for captioners, and {options.run} is a classifier")
    from opsin.classification.evaluation import evaluate_classifier
    from opsin.classification.inference import Classifier

    classifier = Classifier.from_pretrained(options.run, device=options.device, precision=options.precision)
    evaluation = evaluate_classifier(classifier, options.data, options.split, exclude=options.exclude)
    protocol = f"{evaluation.metrics.count} images of {evaluation.data!r}, split {evaluation.split!r}, one centre crop"
    if options.json:
        _print_json(evaluation, protocol)
    else:
        _print_tables(evaluation, protocol)
    if options.picture is not None:  # after the scores: a picture that cannot be written does not cost them
        from opsin.pictures import confusion_figure, save_figure

        save_figure(confusion_figure(evaluation.metrics.confusion, evaluation.class_names), options.picture)
        note(f"confusion matrix: {options.picture}", quiet=options.quiet)
    note(f"next: opsin classify IMAGES --model {shlex.quote(options.run)}", quiet=options.quiet)
    return 0


def _print_json(evaluation: Evaluation, protocol: str) -> None:
    metrics = evaluation.metrics
    document: dict[str, Any] = {
        "protocol": protocol,
        "accuracy": metrics.accuracy,
        "top5_accuracy": metrics.top5_accuracy,
        "loss": metrics.loss,
        "count": metrics.count,
        "class_names": evaluation.class_names,
        "confusion": metrics.confusion.tolist(),
        "skipped": [{"id": row.id, "reason": row.reason} for row in evaluation.skipped],
    }
    print_json(document)


def _print_tables(evaluation: Evaluation, protocol: str) -> None:
    metrics, names = evaluation.metrics, evaluation.class_names
    rows = [("accuracy", metrics.accuracy), ("top-5 accuracy", metrics.top5_accuracy), ("loss", metrics.loss)]
    if len(names) <= 5:  # any order of so few classes has the right one among its first five
        del rows[1]
    print_table(("metric", "value"), rows, title=protocol)
    print_confusion(metrics.confusion, names, metrics.per_class_accuracy())
    for row in evaluation.skipped:
        print(f"left out  {row.id}: {row.reason}")


def _evaluate_captioner(options: EvaluateOptions) -> int:
    from opsin.captioning.evaluation import evaluate_all
    from opsin.captioning.inference import Captioner

    captioner = Captioner.from_pretrained(options.run, device=options.device, precision=options.precision)
    if options.picture is not None and not captioner.takes_images:
        raise UsageError(f"--picture needs images, and {options.run} was trained on features")
    evaluations = evaluate_all(captioner, options.data, options.split, beams=options.beams, exclude=options.exclude)
    count = options.worst or 5
    if options.json:
        print_json({"evaluations": [_caption_document(evaluation, count) for evaluation in evaluations]})
    else:
        for evaluation in evaluations:
            _print_caption_tables(evaluation, count)
    for evaluation in evaluations:
        if evaluation.result.metrics.collapsed:
            note(
                f"warning: the captions have collapsed: all {evaluation.result.metrics.count} images of the split "
                f"{evaluation.split!r} got {evaluation.result.captions[0].text!r}"
            )
    if options.picture is not None:  # after the scores: a picture that cannot be written does not cost them
        _draw_worst_captions(evaluations, count, options.picture)
        note(f"worst captions: {options.picture}", quiet=options.quiet)
    if captioner.takes_images:
        note(f"next: opsin caption IMAGES --model {shlex.quote(options.run)}", quiet=options.quiet)
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
    print_table(("metric", "value"), [*scores, ("loss (nats per word)", result.loss)], title=evaluation.protocol)
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
    for row in evaluation.skipped:
        print(f"left out  {row.id}: {row.reason}")


def _draw_worst_captions(evaluations: tuple[CaptionEvaluation, ...], count: int, path: Path) -> None:
    from opsin.captioning.pictures import captions_figure
    from opsin.pictures import save_figure

    shown = [(evaluation, place) for evaluation in evaluations for place in evaluation.result.worst(count)]
    figure = captions_figure(
        [evaluation.image(place) for evaluation, place in shown],
        [evaluation.result.captions[place].text for evaluation, place in shown],
        [evaluation.result.references[place] for evaluation, place in shown],
    )
    save_figure(figure, path)


def _evaluate_clip(options: EvaluateOptions) -> int:
    from opsin.cli.retrieval import evaluate_model

    return evaluate_model(options)


def _evaluate_encoder(options: EvaluateOptions) -> int:
    _refuse(options, ("beams", "worst"), "captioners, not for encoders")
    _refuse(options, [name for name in OF_TEXT_TO_IMAGE if name != "seed"], "text-to-image models, not for encoders")
    from opsin.cli.protocols import evaluate_features

    return evaluate_features(options)


def _evaluate_text_to_image(options: EvaluateOptions) -> int:
    if options.beams is not None or options.worst is not None:
        raise UsageError(f"--beams and --worst are for captioners, and {options.run} is a text-to-image model")
    from opsin.cli.text_to_image import evaluate_drawings

    return evaluate_drawings(options)


OF_TEXT_TO_IMAGE = ("guidances", "steps", "samplers", "prompts", "samples", "seed", "judge", "report", "text_encoder")
OF_PROTOCOLS = ("train_data", "labels_fraction", "k", "temperature")
EVALUATORS: dict[str, Callable[[EvaluateOptions], int]] = {
    "vit-classifier": _evaluate_classifier,
    "captioner": _evaluate_captioner,
    "clip": _evaluate_clip,
    "simclr": _evaluate_encoder,
    "text-diffusion": _evaluate_text_to_image,
}
