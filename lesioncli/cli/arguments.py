"""Arguments and flags that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from lesioncli.options import Backend, ProtocolName, TableFormat

MASKS = Path("masks")
COPY_COMMANDS = {
    "s3": "aws s3 sync s3://{bucket}/{key} masks/",
    "gs": "gcloud storage rsync --recursive gs://{bucket}/{key} masks/",
    "az": "az storage blob download-batch --source {bucket} --pattern '{key}*' --destination masks/",
}


def refuse_bucket(path: Path) -> Path:
    """Return a path; a usage error says how to copy results that are in a bucket. A Path has lost a slash of a URL."""
    scheme, mark, rest = str(path).partition(":/")
    if not (mark and scheme in COPY_COMMANDS):
        return path
    bucket, _, key = rest.lstrip("/").partition("/")
    command = COPY_COMMANDS[scheme].format(bucket=bucket, key=key and f"{key}/")
    raise typer.BadParameter(f"is not read in a bucket; copy it first: {command}, then give masks/")


MasksArgument = Annotated[
    Path, typer.Argument(metavar="MASKS", help="Output folder of `segment`.", callback=refuse_bucket)
]
MasksPlaceArgument = Annotated[
    str, typer.Argument(metavar="MASKS", help="Output folder of `segment`, or its URL, as s3://bucket/folder/.")
]

_IMAGES_HELP = (
    "Image files, folders of them with sub-folders, tar and zip archives, and URLs such as s3://bucket/folder/."
)
ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGES", help=_IMAGES_HELP)]
OptionalImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGES", help=_IMAGES_HELP, show_default=False),
]
RootOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder or URL that the names of images are relative to.",
        show_default="the deepest folder that holds all IMAGES",
    ),
]
SourcesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        metavar="PATH",
        help="The images, or a folder of them. Repeatable.",
        show_default="those named in run.json",
    ),
]
GroundTruthOption = Annotated[
    Path,
    typer.Option(
        "--gt",
        metavar="PATH",
        help="Ground truth: a folder of masks and labels, a data set, or a CSV of pairs or labels.",
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="CSV of labels: image, and 0 or 1 for each class.", show_default="the one in --gt"
    ),
]
ProtocolOption = Annotated[
    ProtocolName,
    typer.Option(help="Rules: plain, or those of a challenge or data set, with its official figures."),
]
ByOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Also evaluate groups: by a column of --metadata or of the labels, lesion_size, or contrast. Repeatable.",
        metavar="COLUMN",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        help="Resample images with the same value of this column, such as a patient, together for the intervals.",
        metavar="COLUMN",
        show_default="every image by itself",
    ),
]
MetadataOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="CSV with more columns per image, for --by and --cluster.")
]
ReadWorkersOption = Annotated[int, typer.Option(min=0, metavar="N", help="Threads that read masks; 0: one per core.")]
DrawWorkersOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="Threads that read and draw images; 0: one per core.")
]
SeedOption = Annotated[int, typer.Option(min=0, metavar="N", help="Random seed of the bootstrap intervals.")]
BackendOption = Annotated[
    Backend,
    typer.Option(help="Library that runs the engine: openvino on CPUs, tensorrt and tensorrt-rtx on NVIDIA GPUs."),
]
TableFormatOption = Annotated[
    TableFormat,
    typer.Option("--format", help="Format of the tables: text for a terminal, Markdown or LaTeX for a document."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
