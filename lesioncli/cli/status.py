"""The command `status`."""

from datetime import UTC, datetime

from lesioncli.cli.arguments import MASKS, JsonOption, MasksPlaceArgument
from lesioncli.cli.console import print_json, print_line
from lesioncli.urls import parse_place


def status(masks: MasksPlaceArgument = str(MASKS), json_output: JsonOption = False) -> None:
    """Show how far a run is, or each of its shards.

    Reads the folder while `segment` writes to it. A run that was killed is shown as running: its last sign of life, by
    the clock of the machine that has the folder, is then old.
    """
    from lesioncli.inference.bucket_shards import read_progress_of
    from lesioncli.inference.status import RunProgress, RunState
    from lesioncli.progress import describe_duration

    def describe(one: RunProgress) -> str:
        title = f"shard {one.shard}: {one.state}" if one.shard else one.state.value
        if one.state == RunState.NOT_STARTED:
            return title
        counts = f"{one.done} of {one.images} images done, {one.failed} failed, {one.left} left"
        speed = f", {one.images_per_second:.3g} images/s" if one.images_per_second else ""
        age = max((datetime.now(UTC) - one.last_sign).total_seconds(), 0) if one.last_sign else 0
        return f"{title}, {counts}{speed}; last sign of life {describe_duration(age)} ago"

    progress = read_progress_of(parse_place(masks))
    if json_output:
        print_json({"out": masks, "runs": [one.to_dict() for one in progress]})
        return
    for one in progress:
        print_line(describe(one))
    if progress[0].shard:
        finished = sum(one.state == RunState.FINISHED for one in progress)
        done, failed = sum(one.done for one in progress), sum(one.failed for one in progress)
        images = sum(one.images or 0 for one in progress)
        speed = sum(one.images_per_second for one in progress if one.state == RunState.RUNNING)
        print_line(
            f"{finished} of {len(progress)} shards finished; {done} of {images} images of the shards that have started"
            f" done, {failed} failed{f', {speed:.3g} images/s' if speed else ''}"
        )
