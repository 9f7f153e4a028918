"""The network at the start of a stage: earlier stages' results, and initial weights for the stage's part."""

from pathlib import Path

import torch
from torch import nn

from lesioncli.errors import InputError
from lesioncli.models.network import Stage
from lesioncli.models.registry import find_network
from lesioncli.shipped import find_checkpoint, shipped_models
from lesioncli.training.checkpoint import make_network
from lesioncli.training.datasets import list_diagnoses
from lesioncli.training.initial import imagenet_file, load_initial
from lesioncli.training.recipe import Auxiliary
from lesioncli.training.run import BEST, LAST, TrainingRun
from lesioncli.training.samples import DIAGNOSIS
from lesioncli.training.stages import StageNetwork, copy_earlier_part, load_parts


def initialize_stage(run: TrainingRun, stage: Stage, device: torch.device) -> StageNetwork:
    """The network on its device: parts of earlier stages loaded, the stage's part with its initial weights."""
    spec, settings = run.recipe.model, run.recipe.for_stage(stage.name).train
    checkpoint = _checkpoint_before(run, stage)
    network = make_network(spec)
    loaded = load_parts(network, stage, spec, checkpoint) if checkpoint else None
    is_loaded = loaded is not None and stage.name in loaded.stages
    if settings.keep_start and not is_loaded:
        raise InputError(f"{stage.name}: [train] keep_start is set, but this stage takes no weights from --start")
    part = StageNetwork(network, stage)
    if stage.starts_from:
        count = len(copy_earlier_part(network, stage))
        notes = [f"initial weights: those of {stage.starts_from}; {count} tensors are new"]
    elif is_loaded and run.start and settings.initial == "none":
        notes = [f"initial weights: those of {checkpoint}"]
    else:
        notes = _initialize(part.part, settings.initial)
        if is_loaded and checkpoint == run.start:
            notes.append(
                f'[train] initial = "{settings.initial}" replaced weights of {checkpoint}; to keep all: "none"'
            )
    if not (run.folder / stage.name / LAST).exists():  # a stage that continues does not begin with them
        if loaded:
            notes.insert(0, loaded.note if checkpoint == run.start else f"earlier stages: {checkpoint}")
        for note in notes:
            run.on_note(f"{stage.name}: {note}")
    if settings.auxiliary == Auxiliary.DIAGNOSIS:
        diagnoses = list_diagnoses(run.training)
        if len(diagnoses) < 2:
            raise InputError(
                f"{stage.name}: [train] auxiliary needs several diagnoses in the column {DIAGNOSIS} of the tables of"
                f" labels, which have {', '.join(diagnoses) or 'none'}"
            )
        part.add_auxiliary_head(len(diagnoses), spec.height, spec.width)
        run.on_note(f"{stage.name}: auxiliary head for {len(diagnoses)} diagnoses: {', '.join(diagnoses)}")
    part.to(device)
    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return part


def _checkpoint_before(run: TrainingRun, stage: Stage) -> Path | None:
    """The checkpoint that a stage builds on: of the nearest earlier stage in this run, else --start."""
    stages = find_network(run.recipe.model.network).stages
    earlier = stages[: stages.index(stage)]
    for other in reversed(earlier):
        if (run.folder / other.name / BEST).exists():
            return run.folder / other.name / BEST
    if earlier and run.start is None:
        raise InputError(
            f"{run.folder}: {stage.name} builds on {earlier[-1].name}, which is not trained here;"
            " train it first, or name a checkpoint with --start"
        )
    return run.start


def _initialize(part: nn.Module, initial: str) -> list[str]:
    """Load the recipe's initial weights into a part; returns lines that describe what was loaded."""
    if initial == "none":
        return ["initial weights: random"]
    if initial == "imagenet":
        return load_initial(part, imagenet_file(part)).lines()
    path = find_checkpoint(initial) if initial in shipped_models() else Path(initial)
    return load_initial(part, path).lines()
